"""What goes through the layers of a network that is about to be trained."""

from typing import Any

import numpy as np

from clearsight.core.threads import one_blas_thread
from clearsight.evaluation.losses import mean_loss
from clearsight.models.mlp import MLP
from clearsight.pipeline.build import find_huber
from clearsight.pipeline.prepare import Prepared
from clearsight.training.probes import describe_activations

_SIGNAL_ROWS, _SIGNAL_VALUES = 256, 2**23  # whose way through the layers is measured: rows, values of the largest layer


def measure_activations(prepared: Prepared) -> dict[str, Any]:
    """What goes through the layers with the weights as they are now, on a few training rows; see `describe_activations`."""
    p, rows = prepared.preprocess, prepared.split.train
    net = prepared.net
    count = _SIGNAL_ROWS if isinstance(net, MLP) else max(4, min(_SIGNAL_ROWS, _SIGNAL_VALUES // net.largest_map))
    some = np.sort(np.random.default_rng(0).permutation(rows)[:count])
    labels = prepared.dataset.labels[some]
    with one_blas_thread(), np.errstate(all="ignore"):  # weights may be far off
        outputs = prepared.engine.layer_outputs(some)
        loss = mean_loss(
            list(outputs.values())[-1], labels, mean=p.target_mean, std=p.target_std, huber=find_huber(prepared.config)
        )
        return describe_activations(outputs, labels, loss=loss)
