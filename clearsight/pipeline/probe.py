"""What goes on inside a network that is about to be trained, or has been."""

from typing import Any

import numpy as np

from clearsight.core.threads import one_blas_thread
from clearsight.engines.probe import choose_rows
from clearsight.pipeline.prepare import Prepared


def measure_activations(prepared: Prepared, *, trial: int | None = None) -> dict[str, Any]:
    """A probe of the network with the weights as they are now, on a few training rows, as plain values; see `Probe`.

    Args:
        trial: steps done, to see what the next would do; None, or a training by several processes, for no such step.
    """
    rows = choose_rows(prepared.net, prepared.split.train, seed=prepared.config.train.seed)
    step = None if trial is None or prepared.team.size > 1 else (trial, float(prepared.lrs[trial]))
    with one_blas_thread(), np.errstate(all="ignore"):  # weights may be far off
        return prepared.engine.probe(rows, trial=step).as_dict()
