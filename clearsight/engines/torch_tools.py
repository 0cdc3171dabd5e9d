"""What the engine and the predictor of PyTorch share: tensors, inputs, forward passes, and memory that ran out."""

import ctypes
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clearsight.data.preprocess import Preprocess
from clearsight.models.convnet import ConvNet
from clearsight.models.mlp import MLP

if TYPE_CHECKING:
    from torch import Tensor, device, nn

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1


@contextmanager
def as_memory_error() -> Iterator[None]:
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
