"""Outputs of any trained network on stored pictures: the one way for engines, model files and evaluation."""

import ctypes
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clearsight.core.numerics import allow_infinities
from clearsight.data.preprocess import Preprocess
from clearsight.engines.dense import reference
from clearsight.models.convnet import ConvNet, Tail
from clearsight.models.mlp import MLP

if TYPE_CHECKING:
    from torch import Tensor, device, nn

_CHUNK = 2048
_VALUES = 2**25  # of the largest layer of a convolutional net at a time
_MOST_ROWS = 1024
_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1


class Predictor:
    """A network with its numbers, ready to answer.

    A dense net with float64 `params` is computed in float64 but for the preprocessing, so that a row's answer does not
    depend, in float32, on which rows stand beside it. A convolutional net is computed by PyTorch on the CPU in float32.

    Args:
        net, params: architecture and its numbers, (net.num_values,); those of a dense net are looked up at each call.
        preprocess: pixels to inputs.
    """

    def __init__(self, net: MLP | ConvNet, params: NDArray[np.floating], preprocess: Preprocess) -> None:
        self._net, self._params, self._preprocess = net, params, preprocess
        self._module = None if isinstance(net, MLP) else build_bound(net, params.astype(np.float32))

    def __call__(self, images: NDArray[Any], rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Outputs before the softmax, (n, K) float32, of stored pictures (N, H, W, C); few rows become floats at a time."""
        chosen = np.arange(len(images)) if rows is None else rows
        found = np.empty((len(chosen), self._net.outputs), np.float32)
        size = rows_at_once(self._net)
        for start in range(0, len(chosen), size):
            found[start : start + size] = self._answer(images[chosen[start : start + size]])
        return found

    def look(
        self, images: NDArray[Any], rows: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Outputs (n, K) as when called, and what entered the last layer on the way, (n, F)."""
        chosen = np.arange(len(images)) if rows is None else rows
        size = rows_at_once(self._net)
        parts = [self._look(images[chosen[at : at + size]]) for at in range(0, len(chosen), size)]
        outputs, features = (np.concatenate(values) for values in zip(*parts, strict=True))
        return outputs, features

    def _look(self, images: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        if isinstance(self._net, MLP):
            inputs = self._preprocess.apply(images).astype(self._params.dtype, copy=False)
            with allow_infinities():
                passed = reference.forward(self._net, self._params, inputs)[0]
                return passed[-1].astype(np.float32), passed[-2].astype(np.float32)
        import torch

        assert self._module is not None
        entered: list[Tensor] = []
        last = [m for m in self._module.modules() if isinstance(m, torch.nn.Linear)][-1]
        hook = last.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
        try:
            return self._answer(images), np.asarray(entered[0].numpy())
        finally:
            hook.remove()

    def _answer(self, images: NDArray[Any]) -> NDArray[Any]:
        if isinstance(self._net, MLP):
            inputs = self._preprocess.apply(images).astype(self._params.dtype, copy=False)
            with allow_infinities():
                return reference.logits(self._net, self._params, inputs).astype(np.float32)
        import torch

        with torch.no_grad(), telling_memory():
            pictures = Inputs(self._preprocess)(as_tensor(self._preprocess.check_shape(images)))
            return np.asarray(run_module(self._module, pictures).numpy())


def rows_at_once(net: MLP | ConvNet | Tail) -> int:
    """How many pictures go through a network together, so that its largest layer stays small."""
    return _CHUNK if isinstance(net, MLP) else max(1, min(_MOST_ROWS, _VALUES // net.largest_map))


@contextmanager
def telling_memory() -> Iterator[None]:
    """What PyTorch raises where memory runs out becomes a MemoryError."""
    try:
        yield
    except RuntimeError as error:
        if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
            raise MemoryError from None
        raise


def build_bound(net: MLP | ConvNet, params: NDArray[np.float32]) -> "nn.Module":
    """A module on the CPU that holds these numbers and does not train."""
    import torch

    from clearsight.models.modules import bind, build_module

    trained, kept = torch.from_numpy(np.array(params)).tensor_split([net.num_parameters])
    module = build_module(net, device="cpu")
    bind(module, trained, kept)
    return module.eval()


class Inputs:
    """Stored pictures on a device to network inputs, as `Preprocess.apply` computes them."""

    def __init__(self, preprocess: Preprocess, device: "device | str" = "cpu") -> None:
        self._scale, self._offset = as_tensor(preprocess.scale, device), as_tensor(preprocess.offset, device)
        self._shape = preprocess.height, preprocess.width, preprocess.channels

    def __call__(self, images: "Tensor") -> "Tensor":
        """Float32 (n, H, W, C) of pictures (n, H, W, C) or rows (n, inputs)."""
        flat = images.reshape(len(images), -1) * self._scale + self._offset  # 8-bit times float is float
        return flat.view(len(images), *self._shape)


def run_module(module: Any, inputs: "Tensor", *, bfloat16: bool = False) -> "Tensor":
    """Logits (n, K) float32 of inputs (n, H, W, C)."""
    import torch

    with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=bfloat16):
        logits: Tensor = module(inputs)
    return logits.float()


def as_tensor(array: NDArray[Any], device: "device | str" = "cpu") -> "Tensor":
    """An array as a tensor, without a copy on the CPU, even where the array may not be written to."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nobody writes to it
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Let the C library keep what large arrays free: to ask the system again at each step costs a sixth of the time."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):
            library.mallopt(_MMAP_THRESHOLD, 32 * 2**20)
            library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
