"""The learning-rate finder: one batch at each of rising rates, and what the losses say. It leaves the engine as it was.

Sources: Smith 2017, "Cyclical learning rates for training neural networks", section 3.3, for the test; fastai for `valley`
and `steepest`, which stay for comparison; the suggestion is our own (docs/log.md says why). It must not know files or runs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.engines.base import Engine, Rows
from clearsight.errors import UsageError
from clearsight.training.order import epoch_order

LOW, HIGH, STEPS = 1e-7, 10.0, 100
_STOP_FACTOR = 4.0  # times the best loss
_BLUR = 2.0  # steps, deviation of the smoothing
_FEWEST = 8
_LEAST_FALL = 0.03  # of the first loss
_MOST_OF_FALL = 0.8
_NOISE_FALLS = 7.0  # a fall must be so many times the standard error of the smoothed loss
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RateSearch:
    """What a search saw.

    Args:
        lrs, losses: the rates tried, rising, and the loss of the batch before each step.
        smoothed: losses without spikes and noise.
        suggestion: the rate to train with; None where there is none to give, for a `reason`. On a log scale it lies half
            way between where four fifths of the fall are done and where the smoothed loss is lowest.
        valley: two thirds down the longest fall of the smoothed loss. steepest: where it falls fastest. lowest: where the
            smoothed loss is lowest.
        reason: why there is no suggestion, as the end of a sentence; empty otherwise.
    """

    lrs: Floats
    losses: Floats
    smoothed: Floats
    suggestion: float | None = None
    valley: float | None = None
    steepest: float | None = None
    lowest: float | None = None
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "suggestion": self.suggestion, "valley": self.valley, "steepest": self.steepest, "lowest": self.lowest,
            "reason": self.reason,
            "lrs": self.lrs.tolist(), "losses": self.losses.tolist(), "smoothed": self.smoothed.tolist(),
        }  # fmt: skip


def find_lr(
    engine: Engine,
    *,
    train_rows: Rows,
    batch_size: int,
    seed: int,
    low: float = LOW,
    high: float = HIGH,
    steps: int = STEPS,
    shuffle: bool = True,
    classes: NDArray[np.int64] | None = None,
) -> RateSearch:
    """Train one batch at each of `steps` rates from `low` to `high`, then put everything back as it was.

    It stops early once the smoothed loss is four times its best, or a loss is not finite.

    Args:
        engine: left with the very same weights and memory of the optimiser as before.
        train_rows, batch_size, seed, shuffle, classes: as `fit` would take the batches, from its first epoch on.
        low, high, steps: the rates, evenly spaced on a log scale.

    Raises:
        UsageError: rates or steps that make no search.
    """
    if not 0 < low < high < float("inf") or not _FEWEST <= steps <= 10_000:
        raise UsageError(
            f"rates must rise from above 0 over {_FEWEST} to 10,000 steps, got {low} to {high} in {steps}. "
            f"Try {LOW} to {HIGH} in {STEPS}."
        )
    lrs, losses = np.geomspace(low, high, steps), np.zeros(steps)
    batches, before, done = -(-len(train_rows) // batch_size), engine.state(), 0
    order, best, running = train_rows, np.inf, 0.0
    try:
        for i in range(steps):
            epoch, batch = divmod(i, batches)
            if batch == 0:
                order = epoch_order(train_rows, seed=seed, epoch=epoch, shuffle=shuffle, classes=classes)
            found, _ = engine.train_steps(
                order, epoch=epoch, first_batch=batch, first_step=i, lrs=lrs[i : i + 1].copy()
            )
            losses[i], done = found[0], i + 1
            running = 0.7 * running + 0.3 * losses[i] if i else losses[i]
            best = min(best, running)
            if not np.isfinite(losses[i]) or (i >= _FEWEST and running > _STOP_FACTOR * best):
                break
    finally:
        engine.load_state(before)
    return read_losses(lrs[:done], losses[:done])


def read_losses(lrs: Floats, losses: Floats) -> RateSearch:
    """What the losses of rising rates say: a suggestion, or why there is none."""
    finite = np.isfinite(losses)
    if not finite.any():
        return RateSearch(
            lrs, losses, losses, reason="the very first loss is not finite; look at the data and the weights"
        )
    end = int(np.argmin(finite)) if not finite.all() else len(losses)
    smoothed = np.full(len(losses), np.nan)
    smoothed[:end] = smooth(losses[:end])
    if end < _FEWEST:
        reason = f"the loss is not finite after {end} batches at rates below {lrs[min(end, len(lrs) - 1)]:.2g}"
        return RateSearch(lrs, losses, smoothed, reason=f"{reason}; look at the scale of pixels and weights")
    curve = smoothed[:end]
    lowest = int(curve.argmin())
    first = float(curve[: max(1, min(lowest, max(5, lowest // 3)))].mean())
    error = _scatter(losses[:end], curve) / np.sqrt(2 * np.sqrt(np.pi) * _BLUR)  # of a mean under the bell
    fall = first - float(curve[lowest])
    if lowest < 2 or fall < max(_LEAST_FALL * abs(first), _NOISE_FALLS * error):
        flat = "stays flat" if float(curve.max()) < first + max(fall, 0.5 * abs(first)) else "only rises"
        reason = f"the loss {flat} over all rates tried, {lrs[0]:.2g} to {lrs[end - 1]:.2g}"
        return RateSearch(lrs, losses, smoothed, reason=f"{reason}; try other weights, another optimiser or more steps")
    slopes = np.gradient(curve[: lowest + 1], np.log(lrs[: lowest + 1]))
    start, stop = find_longest_fall(curve[: lowest + 1])
    valley = float(lrs[round(start + (stop - start) * 2 / 3)])
    fallen = lrs[int(np.argmax(curve <= first - _MOST_OF_FALL * fall))]
    suggestion = float(np.sqrt(fallen * lrs[lowest]))
    return RateSearch(lrs, losses, smoothed, suggestion, valley, float(lrs[int(slopes.argmin())]), float(lrs[lowest]))


def smooth(losses: Floats) -> Floats:
    """The losses (n,) without spikes (median of five) and noise (a bell curve of deviation 2 steps)."""
    padded = np.pad(losses, 2, mode="edge")
    calm = np.median(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1)
    reach = int(4 * _BLUR)
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / _BLUR) ** 2)
    sums = np.convolve(calm, bell)[reach : reach + len(losses)]
    return np.asarray(sums / np.convolve(np.ones(len(losses)), bell)[reach : reach + len(losses)])


def _scatter(losses: Floats, curve: Floats) -> float:
    """Typical distance of the losses from their curve, by its median, that spikes do not move."""
    return float(1.4826 * np.median(np.abs(losses - curve)))


def find_longest_fall(curve: Floats) -> tuple[int, int]:
    """First and last place of the longest subsequence of falling values, (n,) with n >= 1."""
    length, before = np.ones(len(curve), int), np.arange(len(curve))
    for i in range(1, len(curve)):
        lower = np.flatnonzero(curve[:i] > curve[i])
        if len(lower):
            before[i] = lower[length[lower].argmax()]
            length[i] = length[before[i]] + 1
    last = int(length.argmax())
    first = last
    while before[first] != first:
        first = int(before[first])
    return first, last
