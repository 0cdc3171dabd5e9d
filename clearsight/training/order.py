"""The order of rows in an epoch: a function of the seed and the epoch alone."""

import numpy as np
from numpy.typing import NDArray

from clearsight.engines.base import Rows


def epoch_order(
    rows: Rows, *, seed: int, epoch: int, shuffle: bool = True, classes: NDArray[np.int64] | None = None
) -> Rows:
    """The rows of epoch `epoch` (from 0) in the order of their use: a function of (seed, epoch) alone.

    Args:
        classes: (len(rows),) of the rows, to draw every class equally often (to within one): rows of small classes then
            come several times, each as often as the others of its class to within one, and some of large ones not at all.
    """
    rng = np.random.default_rng([seed, epoch, 0x0DE5])
    if classes is None:
        return rng.permutation(rows) if shuffle else rows
    present = np.unique(classes)
    wanted = np.full(len(present), len(rows) // len(present))
    wanted[rng.permutation(len(present))[: len(rows) % len(present)]] += 1
    chosen = []
    for k, count in zip(present, wanted, strict=True):
        own = rows[classes == k]
        rounds = [rng.permutation(own) for _ in range(-(-int(count) // len(own)))]
        chosen.append(np.concatenate(rounds)[:count] if rounds else own[:0])
    return np.asarray(rng.permutation(np.concatenate(chosen)))
