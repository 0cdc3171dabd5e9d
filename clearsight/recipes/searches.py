"""Published searches: a grid run again by cross-validation, its means and its winner held against the published ones."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearsight.config import build_config
from clearsight.pipeline import Run
from clearsight.recipes import FOLDER
from clearsight.run import train
from clearsight.settings import merge
from clearsight.tuning.space import render_params
from clearsight.tuning.tune import Tuned, settle_final, tune


@dataclass(frozen=True)
class SearchRecipe:
    """A search as published.

    Args:
        means: of the trials in the order of the grid. within: how far ours may be from them. test: least and greatest accuracy of
            the best, retrained with the settings `final` over its own.
    """

    name: str
    title: str
    source: str
    published: str
    config: dict[str, Any]
    search: dict[str, Any]
    options: dict[str, Any]
    final: dict[str, Any]
    means: tuple[float, ...]
    within: float
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
        return self.tuned.best.number == max(range(len(means)), key=means.__getitem__)

    def describe(self) -> dict[str, Any]:
        """The object that `recipe run --json` prints for a search."""
        test = self.run.test
        return {
            "recipe": self.recipe.name, "published": self.recipe.published, "search": self.tuned.summary(),
            "means": list(self.recipe.means), "within": self.recipe.within, "same_winner": self.same_winner,
            "test": test.as_dict() if test else None, "expect": list(self.recipe.test),
        }  # fmt: skip

    def render(self) -> str:
        """Markdown rows, and what they come to."""
        recipe = self.recipe
        lines = ["| settings | mean | 95 % interval | published | difference | within |", "|---|-:|---|-:|-:|---|"]
        for trial, wanted in zip(self.tuned.trials, recipe.means, strict=True):
            interval = "-" if trial.low is None else f"{trial.low:.4f} to {trial.high:.4f}"
            apart = trial.score - wanted
            near = "yes" if abs(apart) <= recipe.within else "NO"
            row = f"| {render_params(trial.params)} | {trial.score:.4f} | {interval} | {wanted:.3f} | {apart:+.4f} | {near} |"
            lines.append(row if trial.status == "complete" else f"{row} {trial.status}")
        lines.append(
            f"\nthe same winner: {'yes' if self.same_winner else 'NO'}, {render_params(self.tuned.best.params)}"
        )
        if self.run.test and self.run.test.accuracy is not None:
            low, high = recipe.test
            found = self.run.test.accuracy
            fits = "yes" if low <= found <= high else "NO"
            lines.append(f"retrained: test accuracy {found:.4f}, expected {low:.3f} to {high:.3f}: {fits}")
        return "\n".join(lines)


def load_search(name: str) -> SearchRecipe | None:
    """A recipe by its exact name, if it is a search."""
    raw = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    if "search" not in raw:
        return None
    about, expect = raw["recipe"], raw["expect"]
    return SearchRecipe(
        name, about["title"], about["source"], about["published"], raw["config"], raw["search"], raw["tune"],
        raw.get("final", {}), tuple(expect["means"]), expect["within"], (expect["test"][0], expect["test"][1]),
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
    best = settle_final(build_config(recipe.config), tuned.best.params, tuned.best.epochs).model_dump(
        exclude_unset=True
    )
    run = train(
        config=build_config(merge(best, recipe.final)), out=tuned.path / "best", root=root, quiet=quiet, note=note
    )
    return SearchMeasured(recipe, tuned, run)
