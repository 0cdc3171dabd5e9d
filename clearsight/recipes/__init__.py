"""Published experiments as TOML files, run over several seeds and held against their published numbers."""

import hashlib
import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clearsight.actions.evaluate import evaluate
from clearsight.actions.train import train
from clearsight.config.build import build_config
from clearsight.config.files import merge
from clearsight.config.schema import RunConfig
from clearsight.core.intervals import mean_interval
from clearsight.data.dataset import Dataset
from clearsight.data.named.counting import make_counting, parse_counts
from clearsight.errors import DivergedError, UsageError
from clearsight.evaluation.metrics import Evaluation
from clearsight.pipeline.data import load_dataset
from clearsight.pipeline.judge import Run
from clearsight.pipeline.train_in_memory import train_dataset
from clearsight.recipes.table import Published, find_verdict, parse_published, render_row
from clearsight.report.plots import draw_side_by_side
from clearsight.runs.store import write_text

FOLDER = Path(__file__).parent
METRICS = ("accuracy", "mae")
Make = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """One setting of a recipe: its configuration, what is judged, the published number, and where the mean must stay.

    Args:
        split: of the data that is judged. expect: least and greatest mean, by which `make slow` sees that something broke.
        published: what the study found, or this project's mark; None without a number.
        make: synthetic counting pictures to train on, as arguments of `make_counting`; empty for the source's own data.
        judge: others to be judged by in place of the split; empty for none.
    """

    name: str
    config: RunConfig
    split: str
    expect: tuple[float, float]
    published: Published | None = None
    make: Make = field(default_factory=dict)
    judge: Make = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A published experiment. `published` is its number in words, `seeds` how many runs a variant gets by default.

    `metric` is what is measured: `accuracy`, or `mae`, the mean absolute error of a regression.
    """

    name: str
    title: str
    source: str
    published: str
    seeds: int
    metric: str
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Measured:
    """The metric of one variant, one value a seed. `low, high`: 95 % interval of their mean (Student's t), None for n = 1.

    `diverged` of the runs ended with a loss that was not finite; their value is that of their last good weights. `first`
    is the run with seed 0, which has a directory.
    """

    variant: Variant
    metric: str
    values: tuple[float, ...]
    train_values: tuple[float, ...]
    seconds: float
    low: float | None
    high: float | None
    diverged: int
    first: Run

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(self.values))

    @property
    def as_expected(self) -> bool:
        """Whether the mean lies in the range that the recipe states."""
        return self.variant.expect[0] <= self.mean <= self.variant.expect[1]


def list_experiments() -> list[str]:
    """Names of all recipes."""
    return sorted((path.stem for path in FOLDER.glob("*.toml")), key=lambda n: (n[0], n))


def find_name(name: str) -> str:
    """The name of a recipe as it is written.

    Raises:
        UsageError: there is none of that name.
    """
    names = list_experiments()
    match = next((n for n in names if n.lower() == name.lower()), None)
    if match is None:
        raise UsageError(f"recipe must be one of {', '.join(names)}, got {name!r}. See `clearsight recipe list`.")
    return match


def load_experiment(name: str) -> Experiment:
    """A recipe by name.

    Raises:
        UsageError: there is none of that name.
    """
    match = find_name(name)
    raw = tomllib.loads((FOLDER / f"{match}.toml").read_text(encoding="utf-8"))
    about = raw["recipe"]
    variants = tuple(
        Variant(
            name=item["name"],
            config=build_config(merge(raw["config"], item.get("config", {})), where=f"recipe {match}"),
            split=about.get("split", "valid"),
            expect=(item["expect"][0], item["expect"][1]),
            published=_read_published(item),
            make=raw.get("make", {}) | item.get("make", {}),
            judge=item.get("judge", {}),
        )
        for item in raw.get("variant", ())
    )
    metric = about.get("metric", METRICS[0])
    return Experiment(
        match, about["title"], about["source"], about["published"], about.get("seeds", 1), metric, variants
    )


def _read_published(item: dict[str, Any]) -> Published | None:
    found = [parse_published(item[key], mark=key == "mark") for key in ("published", "mark") if key in item]
    return found[0] if found else None


def build_made(make: Make, *, root: Path) -> Path:
    """Counting pictures with these settings as an NPZ below `root`, made unless they are there already."""
    key = hashlib.sha256(json.dumps(make, sort_keys=True).encode()).hexdigest()[:12]
    path = root / "made" / f"counting-{key}.npz"
    if not path.exists():
        make_counting(path, **make | {"counts": parse_counts(str(make["counts"]))})
    return path


def train_seeds(variant: Variant, *, dataset: Dataset, seeds: int, root: Path) -> tuple[list[Run], int]:
    """Runs with seeds 0, 1, .. and how many diverged; the first leaves a directory below `root`, the others stay in memory."""
    runs: list[Run] = []
    diverged = 0
    for seed in range(seeds):
        settings = merge(variant.config.model_dump(exclude_unset=True), {"train": {"seed": seed}})
        config = build_config(settings)
        try:
            runs.append(train(dataset, config=config, root=root) if seed == 0 else train_dataset(config, dataset))
        except DivergedError as error:
            runs.append(error.run)
            diverged += 1
    return runs, diverged


def measure(variant: Variant, runs: list[Run], diverged: int, *, judged: Dataset | None, metric: str) -> Measured:
    """The metric of trained runs on the variant's split, or on other pictures."""
    found = [run.evaluations()[variant.split] if judged is None else evaluate(run.bundle, judged) for run in runs]
    values = tuple(_read_metric(evaluation, metric) for evaluation in found)
    low, high = mean_interval(values, most=1.0 if metric == "accuracy" else np.inf)
    return Measured(
        variant,
        metric,
        values,
        train_values=tuple(_read_metric(run.train, metric) for run in runs),
        seconds=float(np.mean([run.history.seconds for run in runs])),
        low=low,
        high=high,
        diverged=diverged,
        first=runs[0],
    )


def _read_metric(evaluation: Evaluation, metric: str) -> float:
    found = evaluation.accuracy if metric == "accuracy" else evaluation.mae
    if found is None:
        raise UsageError(f"metric must exist for the data, got {metric}. Correct the recipe.")
    return found


def run_experiment(experiment: Experiment, *, seeds: int | None, root: Path) -> Iterator[Measured]:
    """Measure each variant in turn; at the end, draw the losses of all side by side into `root/<recipe>.svg`."""
    losses: dict[str, Any] = {}
    loaded: dict[Any, Dataset] = {}
    trained: dict[Any, tuple[list[Run], int]] = {}
    for variant in experiment.variants:
        dataset = _load(variant, variant.make, loaded, root=root)
        key = variant.config, json.dumps(variant.make)
        if key not in trained:  # the variant before may only be judged by other pictures
            trained = {key: train_seeds(variant, dataset=dataset, seeds=seeds or experiment.seeds, root=root)}
        judged = _load(variant, variant.judge, {}, root=root) if variant.judge else None
        measured = measure(variant, *trained[key], judged=judged, metric=experiment.metric)
        losses[variant.name] = measured.first.history.step_losses
        yield measured
    if len(losses) > 1:
        write_text(root / f"{experiment.name}.svg", draw_side_by_side(losses))


def _load(variant: Variant, make: Make, loaded: dict[Any, Dataset], *, root: Path) -> Dataset:
    """The data of a variant, or pictures made for it; of those loaded before, the last is kept."""
    config = variant.config
    if make:
        source = str(build_made(make, root=root))
        config = config.change("data", source=source)
    key = config.data, config.preprocess
    if key not in loaded:
        loaded.clear()
        loaded[key] = load_dataset(config)
    return loaded[key]


def describe_measured(measured: Measured) -> dict[str, object]:
    """The object that `recipe run --json` holds for each variant."""
    accuracy = measured.metric == "accuracy"
    return {
        "variant": measured.variant.name,
        "split": measured.variant.split,
        "metric": measured.metric,
        "mean": measured.mean,
        "interval": [measured.low, measured.high],
        "n": len(measured.values),
        "values": measured.values,
        "train_values": measured.train_values,
        "accuracies": measured.values if accuracy else [],
        "train_accuracies": measured.train_values if accuracy else [],
        "seconds": measured.seconds,
        "diverged": measured.diverged,
        "expect": measured.variant.expect,
        "as_expected": measured.as_expected,
        **_describe_published(measured),
        "run": str(measured.first.path),
    }


def _describe_published(measured: Measured) -> dict[str, object]:
    published = measured.variant.published
    return {
        "number": published and str(published),
        "difference": published and published.difference(measured.mean),
        "verdict": find_verdict(published, low=measured.low, high=measured.high, metric=measured.metric),
    }


def render_measured(recipe: str, measured: Measured) -> str:
    """The row of the experiments' table."""
    return render_row(
        recipe,
        measured.variant.name,
        measured.variant.published,
        split=measured.variant.split,
        metric=measured.metric,
        mean=measured.mean,
        low=measured.low,
        high=measured.high,
        n=len(measured.values),
        train=float(np.mean(measured.train_values)),
        seconds=measured.seconds,
        diverged=measured.diverged,
    )
