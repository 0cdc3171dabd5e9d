"""What the numbers of a run say, in plain sentences that claim no more than the intervals support. Plain text, no HTML."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.training.fit import advise_diverged

Metrics = dict[str, Any]
_GROWN, _HUGE = 30.0, 1000.0
_GROWN_BACK, _SILENT = 1000.0, 0.5  # of gradients between layers; share of units
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
            "without an interval, these numbers cannot show a gap."
        )
    gap = 100 * (train["accuracy"] - other["accuracy"])
    side = f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}" if abs(gap) >= 0.05 else "about equal to"
    (low, high), (other_low, other_high) = train["interval"], other["interval"]
    if low > other_high:
        return f"Training accuracy is {side} {name}, and the intervals do not overlap: a sign of overfitting."
    if high < other_low:
        return f"Training accuracy is {side} {name}, and the intervals do not overlap: the {name} rows are easier for this model."
    return f"Training accuracy is {side} {name}, but the intervals overlap: no gap shown."


def describe_divergence(losses: NDArray[np.float64], *, steps_per_epoch: int, epoch: int) -> str:
    """Where training broke off, and which weights are in force."""
    bad = np.flatnonzero(~np.isfinite(losses))
    step = int(bad[0]) if len(bad) else max(len(losses) - 1, 0)
    kept = f"the weights of epoch {epoch}" if epoch else "the first, untrained weights"
    if len(bad):
        what = f"the loss was not a finite number at step {step} (epoch {step // steps_per_epoch + 1})"
    else:
        what = f"weights were no longer finite numbers after step {step}"
    advice = advise_diverged(step=step, finite_loss=not len(bad))
    return f"{what}. The model and every number here are of {kept}. {advice[0].upper()}{advice[1:]}."


def describe_activations(signals: dict[str, Any], *, when: str) -> str:
    """Whether what goes through the layers keeps its size, and how sure the answers are."""
    layers = [layer for layer in signals["layers"] if layer["std"] is not None]
    loss = number(signals["loss"]) if signals["loss"] is not None else "not finite"
    sure = (
        ""
        if signals["sure"] is None
        else f" {percent(signals['sure'], digits=0)} of the answers have a confidence above 99 %."
    )
    if len(layers) < len(signals["layers"]):
        return f"{when.capitalize()}: some layers give numbers that are not finite; the loss is {loss}.{sure}"
    first, last = layers[0]["std"], layers[-1]["std"]
    ratio = last / first if first else float("inf")
    size = "keep their size"
    if ratio > _GROWN or last > _HUGE:
        size = f"grow to {last:.3g}"
    elif ratio < 1 / _GROWN or last < 1 / _HUGE:
        size = f"shrink to {last:.3g}"
    text = f"{when.capitalize()}: deviations {size} from the first layer ({first:.3g}) to the last; the loss is {loss}.{sure}"
    return " ".join([text, *_describe_way_back(layers), *_describe_silence(layers)])


def _describe_way_back(layers: list[dict[str, Any]]) -> list[str]:
    """Where the gradient dies or grows on its way from the last layer to the first; empty where it was not measured."""
    if any(layer.get("gradient") is None for layer in layers):
        return []
    if not any(layer["gradient"] for layer in layers):
        return ["No gradient reaches the weights."]
    first, last = (layer["gradient"] / layer["weight"] if layer["weight"] else 0.0 for layer in (layers[0], layers[-1]))
    if not (first and last):  # weights that begin at 0 say nothing of the way back
        return []
    if 1 / _GROWN_BACK <= first / last <= _GROWN_BACK:
        return []
    what = "grows" if first > last else "shrinks"
    return [
        f"As a share of the weights, the gradient {what} from {last:.3g} in the last layer to {first:.3g} in the first."
    ]


def _describe_silence(layers: list[dict[str, Any]]) -> list[str]:
    """The layer with the largest share of silent inputs, if above one half; not the first, whose inputs are pixels."""
    found = max(layers[1:], key=lambda layer: layer.get("silent", 0.0), default=None)
    if found is None or found.get("silent", 0.0) <= _SILENT:
        return []
    share = percent(found["silent"], digits=0)
    return [f"{share} of the units before {found['name']} are 0 for every picture looked at."]


def describe_bias(evaluations: dict[str, Metrics], judged: str, *, floor: float | None, head: bool = False) -> str:
    """How far training lies from the best possible error and the judged split from training, and what would help.

    Args:
        head: whether only the last layer of a pretrained network was trained.
    """
    train, other = (1 - evaluations[split]["accuracy"] for split in ("train", judged))
    bias, variance = train - (floor or 0.0), other - train
    low, high = evaluations[judged]["interval"]
    above = "the best possible error" if floor is not None else "zero (the best possible error is not known)"
    text = (
        f"The training error is {percent(train)}, {100 * bias:.2f} points above {above}: this is the bias. The {NAMES[judged]} "
        f"error is {percent(other)}, {100 * abs(variance):.2f} points {'above' if variance >= 0 else 'below'} the training "
        "error: this is the variance. "
    )
    doubt = (high - low) / 2
    if max(bias, variance) <= doubt:
        return (
            f"{text}Neither is larger than the uncertainty of {100 * doubt:.2f} points, so these "
            f"{evaluations[judged]['n']:,} rows cannot show which of them matters."
        )
    if bias > variance:
        deeper = "larger pictures (--image-size) or training more of the network (--finetune last)"
        wider = "a bigger network, longer training or another architecture"
        return f"{text}Bias is the larger: {deeper if head else wider} may help. More data will not."
    return (
        f"{text}Variance is the larger: more {'pictures' if head else 'data, augmentation, L2 or dropout'} "
        f"may help. {'Training more of the' if head else 'A bigger'} network will not."
    )
