"""Published searches: a grid run again by cross-validation, its means and its winner held against the published ones."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearsight.actions.train import train
from clearsight.actions.tune import Tuned, resolve_final, tune
from clearsight.config.build import build_config
from clearsight.config.files import merge
from clearsight.pipeline.judge import Run
from clearsight.recipes import FOLDER
from clearsight.recipes.table import Published, find_verdict, parse_published
from clearsight.search.space import render_params


@dataclass(frozen=True)
class SearchRecipe:
    """A search as published.

    Args:
        means: published for the trials in the order of the grid. within: how far ours may be from them.
        published_test: accuracy of the best, retrained with the settings `final` over its own. test: where ours must lie.
    """

    name: str
    title: str
    source: str
    published: str
    config: dict[str, Any]
    search: dict[str, Any]
    options: dict[str, Any]
    final: dict[str, Any]
    means: tuple[Published, ...]
    within: float
    published_test: Published
    test: tuple[float, float]


@dataclass(frozen=True, eq=False)
class SearchMeasured:
    """What came out: the search, and the run of the best on all but the test rows."""

    recipe: SearchRecipe
    tuned: Tuned
    run: Run

    @property
    def same_winner(self) -> bool:
        """Whether the best settings are those with the best published mean."""
        means = self.recipe.means
        return self.tuned.best.number == max(range(len(means)), key=lambda number: means[number].low)

    @property
    def verdicts(self) -> list[str | None]:
        """Of the trials, in the order of the grid."""
        return [
            find_verdict(published, low=trial.low, high=trial.high, metric="accuracy")
            for trial, published in zip(self.tuned.trials, self.recipe.means, strict=True)
        ]

    @property
    def test_verdict(self) -> str | None:
        """Of the best, retrained."""
        test = self.run.test
        if test is None:
            return None
        return find_verdict(self.recipe.published_test, low=test.low, high=test.high, metric="accuracy")

    def describe(self) -> dict[str, Any]:
        """The object that `recipe run --json` prints for a search."""
        test = self.run.test
        return {
            "recipe": self.recipe.name, "published": self.recipe.published, "search": self.tuned.summary(),
            "means": [float(published.text) for published in self.recipe.means], "within": self.recipe.within,
            "verdicts": self.verdicts, "same_winner": self.same_winner, "test": test.as_dict() if test else None,
            "published_test": self.recipe.published_test.text, "test_verdict": self.test_verdict,
            "expect": list(self.recipe.test),
        }  # fmt: skip

    def render(self) -> str:
        """Markdown rows, and what they come to."""
        recipe = self.recipe
        lines = ["| settings | published | mean | 95 % interval | difference | verdict |", "|---|-:|-:|---|-:|---|"]
        for trial, published, verdict in zip(self.tuned.trials, recipe.means, self.verdicts, strict=True):
            interval = "-" if trial.low is None else f"{trial.low:.4f} to {trial.high:.4f}"
            apart = published.difference(trial.score)
            row = f"| {render_params(trial.params)} | {published} | {trial.score:.4f} | {interval} | {apart:+.4f} | {verdict} |"
            lines.append(row if trial.status == "complete" else f"{row} {trial.status}")
        lines.append(
            f"\nthe same winner: {'yes' if self.same_winner else 'NO'}, {render_params(self.tuned.best.params)}"
        )
        test = self.run.test
        if test and test.accuracy is not None:
            lines.append(
                f"retrained: test accuracy {test.accuracy:.4f} ({test.low:.4f} to {test.high:.4f}, n = {test.n:,}), "
                f"published {recipe.published_test}: {self.test_verdict}"
            )
        return "\n".join(lines)


def load_search(name: str) -> SearchRecipe | None:
    """A recipe by its exact name, if it is a search."""
    raw = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    if "search" not in raw:
        return None
    about, expect = raw["recipe"], raw["expect"]
    return SearchRecipe(
        name, about["title"], about["source"], about["published"], raw["config"], raw["search"], raw["tune"],
        raw.get("final", {}), tuple(map(parse_published, expect["means"])), expect["within"],
        parse_published(expect["published"]), (expect["test"][0], expect["test"][1]),
    )  # fmt: skip


def run_search_recipe(recipe: SearchRecipe, *, root: Path, quiet: bool, note: Callable[[str], None]) -> SearchMeasured:
    """Search as published, and train and judge the best."""
    tuned = tune(
        config=recipe.config,
        search=recipe.search,
        root=root,
        retrain=False,
        quiet=quiet,
        note=note,
        **recipe.options,
    )
    best = resolve_final(build_config(recipe.config), tuned.best.params, tuned.best.epochs).model_dump(
        exclude_unset=True
    )
    run = train(
        config=build_config(merge(best, recipe.final)), out=tuned.path / "best", root=root, quiet=quiet, note=note
    )
    return SearchMeasured(recipe, tuned, run)
