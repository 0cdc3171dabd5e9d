"""What goes on inside a network that is about to be trained, or has been."""

from typing import Any

import numpy as np

from clearsight.core.threads import one_blas_thread
from clearsight.engines.probe import PARTS
from clearsight.models.mlp import MLP
from clearsight.pipeline.prepare import Prepared

_ROWS, _LEAST_ROWS, _SHARE = 256, 32, 100  # of a probe: at most; where less than a hundredth of the training rows
_MAP_VALUES = 2**22  # of the largest layer, over the pictures that go through it together


def measure_activations(prepared: Prepared, *, trial: int | None = None) -> dict[str, Any]:
    """A probe of the network with the weights as they are now, on a few training rows, as plain values; see `Probe`.

    Args:
        trial: steps done, to see what the next would do; None, or a training by several processes, for no such step.
    """
    some = np.random.default_rng([prepared.config.train.seed, 0x9A0BE]).permutation(prepared.split.train)
    step = None if trial is None or prepared.team.size > 1 else (trial, float(prepared.lrs[trial]))
    with one_blas_thread(), np.errstate(all="ignore"):  # weights may be far off
        return prepared.engine.probe(some[: _count_rows(prepared)], trial=step).as_dict()


def _count_rows(prepared: Prepared) -> int:
    """256 where a dense net or a head alone is trained; else few enough for little time and the memory of a step."""
    net, train = prepared.net, prepared.config.train
    if isinstance(net, MLP) or prepared.engine.features is not None:
        return _ROWS
    together = max(1, min(train.batch_size // train.accumulate, _MAP_VALUES // net.largest_map))
    return min(_ROWS, max(_LEAST_ROWS, len(prepared.split.train) // _SHARE), PARTS * together)
