"""Published experiments as TOML files, run over several seeds and held against their published numbers."""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clearsight.config import RunConfig, build_config
from clearsight.data.dataset import Dataset
from clearsight.data.load import load_data
from clearsight.errors import DivergedError, UsageError
from clearsight.pipeline import Run, train_dataset
from clearsight.report.plots import draw_side_by_side
from clearsight.run import train
from clearsight.settings import merge
from clearsight.store import write_text

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
    """Accuracies of one variant, one a seed. `low, high`: 95 % interval of their mean (Student's t), None for n = 1.

    `diverged` of the runs ended with a loss that was not finite; their accuracy is that of their last good weights. `first`
    is the run with seed 0, which has a directory.
    """

    variant: Variant
    accuracies: tuple[float, ...]
    train_accuracies: tuple[float, ...]
    seconds: float
    low: float | None
    high: float | None
    diverged: int
    first: Run

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
    """Student's t interval of the mean of independent accuracies, cut to 0..1; None for fewer than two."""
    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        return None, None
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * float(np.std(values, ddof=1)) / np.sqrt(n)
    return max(0.0, float(np.mean(values)) - half), min(1.0, float(np.mean(values)) + half)


def measure(variant: Variant, *, dataset: Dataset, seeds: int, root: Path) -> Measured:
    """Run one variant with seeds 0, 1, ..; the first leaves a run directory below `root`, the others stay in memory."""
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
    accuracies = tuple(run.evaluations()[variant.split].accuracy or 0.0 for run in runs)
    low, high = mean_interval(accuracies)
    return Measured(
        variant,
        accuracies,
        train_accuracies=tuple(run.train.accuracy or 0.0 for run in runs),
        seconds=float(np.mean([run.history.seconds for run in runs])),
        low=low,
        high=high,
        diverged=diverged,
        first=runs[0],
    )


def run_experiment(experiment: Experiment, *, seeds: int | None, root: Path) -> Iterator[Measured]:
    """Measure each variant in turn; at the end, draw the losses of all side by side into `root/<recipe>.svg`."""
    dataset = load_data(experiment.variants[0].config.data.source)
    losses = {}
    for variant in experiment.variants:
        measured = measure(variant, dataset=dataset, seeds=seeds or experiment.seeds, root=root)
        losses[variant.name] = measured.first.history.step_losses
        yield measured
    if len(losses) > 1:
        write_text(root / f"{experiment.name}.svg", draw_side_by_side(losses))


def describe_measured(measured: Measured) -> dict[str, object]:
    """The object that `recipe run --json` holds for each variant."""
    return {
        "variant": measured.variant.name,
        "split": measured.variant.split,
        "mean": measured.mean,
        "interval": [measured.low, measured.high],
        "n": len(measured.accuracies),
        "accuracies": measured.accuracies,
        "train_accuracies": measured.train_accuracies,
        "seconds": measured.seconds,
        "diverged": measured.diverged,
        "expect": measured.variant.expect,
        "as_expected": measured.as_expected,
        "run": str(measured.first.path),
    }


def render_row(experiment: Experiment, measured: Measured) -> str:
    """One Markdown table row: recipe, variant, split, mean, interval, n, seconds of training a run, expected range."""
    interval = "-" if measured.low is None else f"{measured.low:.4f} to {measured.high:.4f}"
    low, high = measured.variant.expect
    diverged = f" ({measured.diverged} of {len(measured.accuracies)} diverged)" if measured.diverged else ""
    name = f"{measured.variant.name}{diverged}"
    return (
        f"| {experiment.name} | {name} | {measured.variant.split} | {measured.mean:.4f} | {interval} | "
        f"{len(measured.accuracies)} | {np.mean(measured.train_accuracies):.4f} | {measured.seconds:.2f} | "
        f"{low:.3f} to {high:.3f} | {'yes' if measured.as_expected else 'NO'} |"
    )


TABLE_HEAD = (
    "| recipe | variant | split | mean accuracy | 95 % interval | n | train accuracy | s a run | expected | as expected |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)
