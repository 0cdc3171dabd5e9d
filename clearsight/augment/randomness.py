"""Random numbers that are a function of (seed, epoch, row) and of nothing else: not of batches, threads or devices."""

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014)."""
    with np.errstate(over="ignore"):
        x = x + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def draw_keys(
    rows: NDArray[np.int64], *, seed: int, epoch: int, uses: NDArray[np.int64] | None = None
) -> NDArray[np.uint64]:
    """A 64-bit key for each row of an epoch; `uses` counts how often the row came before in that epoch."""
    key = _mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64))
    key = _mix(key ^ np.uint64(epoch))
    found = _mix(key ^ rows.astype(np.uint64))
    return found if uses is None else np.where(uses > 0, _mix(found ^ uses.astype(np.uint64)), found)


def draw_uniforms(keys: NDArray[np.uint64], stream: int) -> NDArray[np.float64]:
    """One number in [0, 1) for each key; another `stream`, other numbers."""
    with np.errstate(over="ignore"):
        return (_mix(keys + np.uint64(stream) * _GOLDEN) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def count_uses(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each entry of an epoch's order came before in it, (n,)."""
    by_row = np.argsort(order, kind="stable")
    ordered = order[by_row]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    uses = np.empty(len(order), np.int64)
    uses[by_row] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return uses
