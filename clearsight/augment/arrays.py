"""The few operations in which NumPy arrays and PyTorch tensors differ, so that one text of transforms serves both.

All arithmetic on 8-bit pictures is in integers: a CPU and a GPU cannot round differently.
"""

from typing import Any

import numpy as np


class NumpyArrays:
    """Operations on NumPy arrays."""

    def integers(self, values: Any) -> Any:
        """Whole numbers as int32."""
        return np.asarray(values, np.int32)

    def longs(self, values: Any) -> Any:
        """Whole numbers as int64."""
        return np.asarray(values, np.int64)

    def floats(self, values: Any) -> Any:
        """Numbers as float32."""
        return np.asarray(values, np.float32)

    def widen(self, pixels: Any) -> Any:
        """Pixels as int32, or float32 where they are floats."""
        return pixels if pixels.dtype == np.float32 else pixels.astype(np.int32)

    def narrow(self, pixels: Any, like: Any) -> Any:
        """Pixels as the type of `like`."""
        return pixels.astype(like.dtype, copy=False)

    def is_float(self, pixels: Any) -> bool:
        """Whether pixels are floats."""
        return bool(pixels.dtype.kind == "f")

    def where(self, mask: Any, yes: Any, no: Any) -> Any:
        """Elementwise choice."""
        return np.where(mask, yes, no)


class TorchArrays:
    """The same on tensors of one device."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def integers(self, values: Any) -> Any:
        """See `NumpyArrays`."""
        import torch

        return torch.as_tensor(np.asarray(values, np.int32), device=self._device)

    def longs(self, values: Any) -> Any:
        """See `NumpyArrays`."""
        import torch

        return torch.as_tensor(np.asarray(values, np.int64), device=self._device)

    def floats(self, values: Any) -> Any:
        """See `NumpyArrays`."""
        import torch

        return torch.as_tensor(np.asarray(values, np.float32), device=self._device)

    def widen(self, pixels: Any) -> Any:
        """See `NumpyArrays`."""
        import torch

        return pixels if pixels.dtype == torch.float32 else pixels.to(torch.int32)

    def narrow(self, pixels: Any, like: Any) -> Any:
        """See `NumpyArrays`."""
        return pixels.to(like.dtype)

    def is_float(self, pixels: Any) -> bool:
        """See `NumpyArrays`."""
        return bool(pixels.dtype.is_floating_point)

    def where(self, mask: Any, yes: Any, no: Any) -> Any:
        """See `NumpyArrays`."""
        import torch

        return torch.where(mask, yes, no)


def arrays_of(images: Any) -> Any:
    """The operations for an array or a tensor."""
    return NumpyArrays() if isinstance(images, np.ndarray) else TorchArrays(images.device)
