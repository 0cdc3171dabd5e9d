"""Which pictures a probe of a training takes, and how many."""

import numpy as np

from clearsight.config.schema import RunConfig
from clearsight.data.split import Rows
from clearsight.engines.base import Engine
from clearsight.engines.probe import PARTS
from clearsight.models.convnet import ConvNet
from clearsight.models.mlp import MLP

_ROWS, _LEAST_ROWS, _SHARE = 256, 32, 100  # of a probe: at most; where less than a hundredth of the training rows
_MAP_VALUES = 2**22  # of the largest layer, over the pictures that go through it together


def choose_probe_rows(config: RunConfig, net: MLP | ConvNet, engine: Engine, train_rows: Rows) -> Rows:
    """A mixed few of the training rows, always the same ones: 256 where a dense net or a head alone is trained, else few enough
    for little time and the memory of a step.
    """
    some = np.random.default_rng([config.train.seed, 0x9A0BE]).permutation(train_rows)
    if isinstance(net, MLP) or engine.features is not None:
        return some[:_ROWS]
    together = max(1, min(config.train.batch_size // config.train.accumulate, _MAP_VALUES // net.largest_map))
    return some[: min(_ROWS, max(_LEAST_ROWS, len(train_rows) // _SHARE), PARTS * together)]
