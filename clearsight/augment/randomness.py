"""Random numbers that are a function of (seed, epoch, row) and of nothing else: not of batches, threads or devices."""

import numpy as np
from numpy.typing import NDArray

from clearsight.core.hashing import GOLDEN, mix


def draw_keys(
    rows: NDArray[np.int64], *, seed: int, epoch: int, uses: NDArray[np.int64] | None = None
) -> NDArray[np.uint64]:
    """A 64-bit key for each row of an epoch; `uses` counts how often the row came before in that epoch."""
    key = mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64))
    key = mix(key ^ np.uint64(epoch))
    found = mix(key ^ rows.astype(np.uint64))
    return np.asarray(found if uses is None else np.where(uses > 0, mix(found ^ uses.astype(np.uint64)), found))


def draw_uniforms(keys: NDArray[np.uint64], stream: int) -> NDArray[np.float64]:
    """One number in [0, 1) for each key; another `stream`, other numbers."""
    with np.errstate(over="ignore"):
        return np.asarray((mix(keys + np.uint64(stream) * GOLDEN) >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def count_uses(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each entry of an epoch's order came before in it, (n,)."""
    by_row = np.argsort(order, kind="stable")
    ordered = order[by_row]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    uses = np.empty(len(order), np.int64)
    uses[by_row] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return uses
