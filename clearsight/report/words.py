"""What the numbers of a run say, in plain sentences that claim no more than the intervals support. Plain text, no HTML."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Metrics = dict[str, Any]
NAMES = {"train": "training", "valid": "validation", "test": "test"}


def percent(value: float | None, *, digits: int = 2) -> str:
    """A ratio as `95.54 %`, a dash where it is missing."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def interval(metrics: Metrics) -> str:
    """The 95 % interval of an accuracy: `92.90 to 97.23 %`."""
    low, high = metrics["interval"]
    return f"{100 * low:.2f} to {percent(high)}"


def number(value: float | None) -> str:
    """A number with four digits or all before the point, a dash where it is missing."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:#.4g}"


def describe_accuracy(split: str, metrics: Metrics) -> str:
    """The judged accuracy with its n and interval."""
    low, high = metrics["interval"]
    hits = round(metrics["accuracy"] * metrics["n"])
    return (
        f"{hits:,} of {metrics['n']:,} {NAMES[split]} rows answered correctly. With 95 % confidence, the accuracy on "
        f"data like these lies between {percent(low)} and {percent(high)} (Wilson interval)."
    )


def describe_error(split: str, metrics: Metrics) -> str:
    """The same for a regression."""
    r2 = metrics["r2"]
    known = (
        "" if r2 is None else f" R² {r2:.3f}: {percent(max(r2, 0), digits=1)} of the targets' variance is explained."
    )
    return f"Over {metrics['n']:,} {NAMES[split]} rows, answers are off by {number(metrics['mae'])} on average.{known}"


def describe_gap(evaluations: dict[str, Metrics], judged: str) -> str:
    """How training accuracy (or error) stands against the judged split."""
    if judged == "train":
        return "No rows were held out, so these numbers do not show how the model does on new data."
    train, other = evaluations["train"], evaluations[judged]
    name = NAMES[judged]
    if "accuracy" not in train:
        return (
            f"Mean absolute error is {number(train['mae'])} on training and {number(other['mae'])} on {name} rows; "
            "it comes without an interval, so no gap is claimed."
        )
    gap = 100 * (train["accuracy"] - other["accuracy"])
    side = f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}"
    (low, high), (other_low, other_high) = train["interval"], other["interval"]
    if low > other_high:
        return f"Training accuracy is {side} {name}, and the intervals do not overlap: a sign of overfitting."
    if high < other_low:
        return f"Training accuracy is {side} {name}, and the intervals do not overlap: the {name} rows are easier for this model."
    return f"Training accuracy is {side} {name}, but the intervals overlap: no gap shown."


def describe_divergence(losses: NDArray[np.float64], *, steps_per_epoch: int, epoch: int) -> str:
    """Where training broke off, and which weights are in force."""
    bad = np.flatnonzero(~np.isfinite(losses))
    kept = f"the weights of epoch {epoch}" if epoch else "the first, untrained weights"
    if len(bad):
        step = int(bad[0])
        what = f"the loss was not a finite number at step {step} (epoch {step // steps_per_epoch + 1})"
    else:
        what = f"weights were no longer finite numbers after step {max(len(losses) - 1, 0)}"
    return f"{what}. The model and every number here are of {kept}. Try a tenth of the learning rate."
