"""Published experiments as TOML files, run over several seeds and held against their published numbers."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clearsight.config import RunConfig, build_config, merge
from clearsight.errors import DivergedError, UsageError

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Variant:
    """One setting of a recipe: its configuration, the split judged, and the range in which its mean accuracy must lie."""

    name: str
    config: RunConfig
    split: str
    expect: tuple[float, float]


@dataclass(frozen=True)
class Experiment:
    """A published experiment. `published` is its number in words, `seeds` how many runs a variant gets by default."""

    name: str
    title: str
    source: str
    published: str
    seeds: int
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Measured:
    """Accuracies of one variant, one a seed; `low, high` is the 95 % interval of their mean (Student's t), None for n = 1.

    `diverged` of the runs ended with a loss that was not finite; their accuracy is that of their last good weights.
    """

    variant: Variant
    accuracies: tuple[float, ...]
    train_accuracies: tuple[float, ...]
    seconds: float
    low: float | None
    high: float | None
    diverged: int

    @property
    def mean(self) -> float:
        """Mean accuracy over the seeds."""
        return float(np.mean(self.accuracies))

    @property
    def as_expected(self) -> bool:
        """Whether the mean lies in the range that the recipe states."""
        return self.variant.expect[0] <= self.mean <= self.variant.expect[1]


def list_experiments() -> list[str]:
    """Names of all recipes."""
    return sorted((path.stem for path in FOLDER.glob("*.toml")), key=lambda n: (n[0], n))


def load_experiment(name: str) -> Experiment:
    """A recipe by name.

    Raises:
        UsageError: there is none of that name.
    """
    names = list_experiments()
    match = next((n for n in names if n.lower() == name.lower()), None)
    if match is None:
        raise UsageError(f"recipe must be one of {', '.join(names)}, got {name!r}. See `clearsight recipe list`.")
    raw = tomllib.loads((FOLDER / f"{match}.toml").read_text(encoding="utf-8"))
    about = raw["recipe"]
    variants = tuple(
        Variant(
            name=item["name"],
            config=build_config(merge(raw["config"], item.get("config", {})), where=f"recipe {match}"),
            split=about["split"],
            expect=(item["expect"][0], item["expect"][1]),
        )
        for item in raw["variant"]
    )
    return Experiment(match, about["title"], about["source"], about["published"], about["seeds"], variants)


def mean_interval(values: tuple[float, ...], *, confidence: float = 0.95) -> tuple[float | None, float | None]:
    """Student's t interval of the mean of independent values; None for fewer than two."""
    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        return None, None
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * float(np.std(values, ddof=1)) / np.sqrt(n)
    return float(np.mean(values) - half), float(np.mean(values) + half)


def measure(variant: Variant, *, seeds: int, run: Callable[[RunConfig, int], Any], first_seed: int = 0) -> Measured:
    """Run one variant with seeds `first_seed ..`; `run(config, number)` trains and returns a `Run`."""
    accuracies, train_accuracies, seconds, diverged = [], [], 0.0, 0
    for number in range(seeds):
        settings = merge(variant.config.model_dump(exclude_unset=True), {"train": {"seed": first_seed + number}})
        try:
            done = run(build_config(settings), number)
        except DivergedError as error:
            done = error.run
            diverged += 1
        accuracies.append(done.evaluations()[variant.split].accuracy)
        train_accuracies.append(done.train.accuracy)
        seconds += done.history.seconds
    low, high = mean_interval(tuple(accuracies))
    return Measured(variant, tuple(accuracies), tuple(train_accuracies), seconds / seeds, low, high, diverged)


def render_row(experiment: Experiment, measured: Measured) -> str:
    """One Markdown table row: recipe, variant, split, mean, interval, n, seconds of training a run, expected range."""
    interval = "-" if measured.low is None else f"{measured.low:.4f} to {measured.high:.4f}"
    low, high = measured.variant.expect
    diverged = f" ({measured.diverged} of {len(measured.accuracies)} diverged)" if measured.diverged else ""
    return (
        f"| {experiment.name} | {measured.variant.name}{diverged} | {measured.variant.split} | {measured.mean:.4f} | {interval} | "
        f"{len(measured.accuracies)} | {np.mean(measured.train_accuracies):.4f} | {measured.seconds:.2f} | "
        f"{low:.3f} to {high:.3f} | {'yes' if measured.as_expected else 'NO'} |"
    )


TABLE_HEAD = (
    "| recipe | variant | split | mean accuracy | 95 % interval | n | train accuracy | s a run | expected | as expected |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)
