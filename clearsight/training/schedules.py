"""Learning rate of every step of a run, worked out before it starts. It must not know engines or data."""

from collections.abc import Callable
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from clearsight.config.schema import Schedule
from clearsight.errors import UsageError

SCHEDULES: tuple[str, ...] = get_args(Schedule)
MAX_STEPS = 100_000_000
Curve = NDArray[np.float64]


def _constant(t: Curve) -> Curve:
    return np.ones_like(t)


def _cosine(t: Curve) -> Curve:
    """Half a cosine from 1 to 0 (Loshchilov & Hutter 2017, eq. 5, without restarts)."""
    return 0.5 * (1 + np.cos(np.pi * t))


def _linear(t: Curve) -> Curve:
    return 1 - t


def _one_cycle(t: Curve) -> Curve:
    """Up from 1/25 over the first 30 %, then down to 1/250,000, both along cosines (Smith 2018; PyTorch's settings)."""
    up, start, end = 0.3, 1 / 25, 1 / 25e4
    rise = start + (1 - start) * 0.5 * (1 - np.cos(np.pi * np.minimum(t / up, 1)))
    fall = end + (1 - end) * 0.5 * (1 + np.cos(np.pi * np.maximum((t - up) / (1 - up), 0)))
    return np.where(t < up, rise, fall)


_CURVES: dict[str, Callable[[Curve], Curve]] = {
    "constant": _constant,
    "cosine": _cosine,
    "linear": _linear,
    "one-cycle": _one_cycle,
}


def learning_rates(
    schedule: str,
    *,
    lr: float,
    epochs: int,
    steps_per_epoch: int,
    unit: str = "step",
    warmup_epochs: float = 0.0,
    step_epochs: int = 10,
    step_gamma: float = 0.1,
) -> NDArray[np.float64]:
    """The learning rate of each step.

    Args:
        schedule: `constant`; `step`, times `step_gamma` every `step_epochs`; `cosine` and `linear`, down to 0;
            `one-cycle`, up and down.
        lr: the largest rate.
        epochs, steps_per_epoch: length of the run.
        unit: `step` changes the rate at every step, `epoch` holds it through each epoch.
        warmup_epochs: first part, in epochs, in which the rate also grows linearly from near 0.
        step_epochs, step_gamma: of `step`.

    Returns:
        float64 (epochs * steps_per_epoch,), all finite, in [0, lr].

    Raises:
        UsageError: an unknown name or a number outside its range.
    """
    if schedule not in SCHEDULES:
        raise UsageError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}. Choose one of them.")
    if unit not in ("step", "epoch"):
        raise UsageError(f"schedule_unit must be step or epoch, got {unit!r}. Choose one of them.")
    if not (np.isfinite(lr) and lr >= 0):
        raise UsageError(f"lr must be a number of 0 or more, got {lr}. Try 0.001 with adam or 0.1 with sgd.")
    if not 0 <= warmup_epochs <= epochs:
        raise UsageError(f"warmup_epochs must lie in [0, epochs = {epochs}], got {warmup_epochs}. Choose fewer.")
    if step_epochs < 1 or not 0 < step_gamma <= 1:
        raise UsageError(
            f"step_epochs must be 1 or more and step_gamma lie in (0, 1], got {step_epochs} and {step_gamma}. Try 10 and 0.1."
        )
    total = epochs * steps_per_epoch
    if total > MAX_STEPS:
        raise UsageError(
            f"epochs must make at most {MAX_STEPS:,} steps, got {epochs:,} epochs of {steps_per_epoch:,}. Train fewer."
        )
    step = np.arange(total, dtype=np.float64)
    epoch = np.floor(step / steps_per_epoch)
    at = epoch * steps_per_epoch if unit == "epoch" else step
    if schedule == "step":
        rates = lr * step_gamma ** np.floor(epoch / step_epochs)
    else:
        last = max(total - 1, 1) if schedule == "one-cycle" else total  # cosine and linear would reach 0 after the end
        rates = lr * _CURVES[schedule](at / last)
    warmup = warmup_epochs * steps_per_epoch
    if warmup > 1:  # a shorter one ends within the first step
        done = (at + (steps_per_epoch if unit == "epoch" else 1)) / warmup
        rates = rates * np.minimum(done, 1)
    return np.asarray(rates)
