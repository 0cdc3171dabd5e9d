"""Outputs of any trained network on stored pictures: the one way for engines, model files and evaluation."""

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clearsight.core.numerics import allow_infinities
from clearsight.data.preprocess import Preprocess
from clearsight.engines.dense import reference
from clearsight.engines.torch_tools import Inputs, as_memory_error, as_tensor, build_bound, run_module
from clearsight.models.convnet import ConvNet, Tail
from clearsight.models.mlp import MLP

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 2048
_VALUES = 2**25  # of the largest layer of a convolutional net at a time
_MOST_ROWS = 1024


class Backend(Protocol):
    """What computes a network: stored pictures (n, H, W, C) to outputs before the softmax (n, K) float32."""

    def outputs(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Outputs alone."""

    def outputs_and_features(self, images: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Outputs, and what entered the last layer on the way, (n, F)."""


class NumpyBackend:
    """A dense net. With float64 `params` it is computed in float64 but for the preprocessing, so that a row's answer does not
    depend, in float32, on which rows stand beside it.

    Args:
        net, params: architecture and its numbers, (net.num_values,), which are looked up at each call.
        preprocess: pixels to inputs.
    """

    def __init__(self, net: MLP, params: NDArray[np.floating], preprocess: Preprocess) -> None:
        self._net, self._params, self._preprocess = net, params, preprocess

    def outputs(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """See `Backend`."""
        with allow_infinities():
            return reference.logits(self._net, self._params, self._scale(images)).astype(np.float32)

    def outputs_and_features(self, images: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Backend`."""
        with allow_infinities():
            passed = reference.forward(self._net, self._params, self._scale(images))[0]
            return passed[-1].astype(np.float32), passed[-2].astype(np.float32)

    def _scale(self, images: NDArray[Any]) -> NDArray[np.floating]:
        return self._preprocess.apply(images).astype(self._params.dtype, copy=False)


class TorchBackend:
    """A convolutional net, by PyTorch on the CPU in float32. Arguments are those of `NumpyBackend`; `params` are copied."""

    def __init__(self, net: ConvNet, params: NDArray[np.floating], preprocess: Preprocess) -> None:
        self._module, self._preprocess = build_bound(net, params.astype(np.float32)), preprocess

    def outputs(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """See `Backend`."""
        import torch

        with torch.no_grad(), as_memory_error():
            pictures = Inputs(self._preprocess)(as_tensor(self._preprocess.check_shape(images)))
            return np.asarray(run_module(self._module, pictures).numpy())

    def outputs_and_features(self, images: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `Backend`."""
        import torch

        entered: list[Tensor] = []
        last = [m for m in self._module.modules() if isinstance(m, torch.nn.Linear)][-1]
        hook = last.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
        try:
            return self.outputs(images), np.asarray(entered[0].numpy())
        finally:
            hook.remove()


class Predictor:
    """A network with its numbers, ready to answer; few rows become floats at a time.

    Args:
        net, params, preprocess: see `NumpyBackend` and `TorchBackend`, of which the network decides.
        backend: another one, in their place.
    """

    def __init__(
        self, net: MLP | ConvNet, params: NDArray[np.floating], preprocess: Preprocess, backend: Backend | None = None
    ) -> None:
        self._net = net
        if backend is None:
            kind = NumpyBackend if isinstance(net, MLP) else TorchBackend
            backend = kind(net, params, preprocess)  # type: ignore[arg-type]
        self._backend: Backend = backend

    def __call__(self, images: NDArray[Any], rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Outputs before the softmax, (n, K) float32, of stored pictures (N, H, W, C), or of some rows of them."""
        parts = [self._backend.outputs(images[some]) for some in self._cut(len(images), rows)]
        return np.concatenate(parts) if parts else np.empty((0, self._net.outputs), np.float32)

    def outputs_and_features(
        self, images: NDArray[Any], rows: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Outputs (n, K) as when called, and what entered the last layer on the way, (n, F)."""
        parts = [self._backend.outputs_and_features(images[some]) for some in self._cut(len(images), rows)]
        outputs, features = (np.concatenate(values) for values in zip(*parts, strict=True))
        return outputs, features

    def _cut(self, count: int, rows: NDArray[np.int64] | None) -> list[NDArray[np.int64]]:
        chosen, size = np.arange(count) if rows is None else rows, rows_at_once(self._net)
        return [chosen[at : at + size] for at in range(0, len(chosen), size)]


def rows_at_once(net: MLP | ConvNet | Tail) -> int:
    """How many pictures go through a network together, so that its largest layer stays small."""
    return _CHUNK if isinstance(net, MLP) else max(1, min(_MOST_ROWS, _VALUES // net.largest_map))
