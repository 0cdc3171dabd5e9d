"""Building blocks of the PyTorch modules: activations, dropout that is a function of its place, padding.

They must not know how a network is trained.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from clearsight.models.mlp import LEAK

ACTIVATE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky_relu": lambda z: F.leaky_relu(z, LEAK),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "identity": lambda z: z,
}


def _signed(value: int) -> int:
    """A 64-bit pattern as the number that int64 reads from it."""
    return value - 2**64 if value >= 2**63 else value


_GOLDEN, _FIRST, _SECOND = (_signed(v) for v in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shift(x: Tensor, bits: int) -> Tensor:
    """Right shift of int64 that fills with zeros."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Tensor) -> Tensor:
    """`randomness.mix` on int64 tensors, which wrap around as uint64 does: the same bits on every device."""
    x = x + _GOLDEN
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


class Dropout(nn.Module):
    """Silences units at random, the others scaled by 1 / (1 - p): the same mask as `dense.reference.dropout_mask`.

    Before each step `moment` must hold, as int64, mix(seed) ^ (64 step), and the number of the batch's first row: so parts of
    a batch, computed one after another or on several devices, are silenced as the whole would be.

    Args:
        p: share of units silenced. layer: number of the layer, below 64.
    """

    moment: Tensor

    def __init__(self, p: float, layer: int) -> None:
        super().__init__()
        self.p, self.layer = p, layer
        self.register_buffer("moment", torch.zeros(2, dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, units) to (n, units); unchanged when not training."""
        if not self.training or self.p == 0:
            return x
        units = x.shape[1]
        key = mix(self.moment[0] ^ self.layer)
        places = self.moment[1] * units + torch.arange(x.numel(), device=x.device)
        bits = _shift(mix(key + places), 40).view(x.shape)
        return x * torch.where(bits < self.p * 2**24, 0.0, 1 / (1 - self.p)).to(x.dtype)


class Pad(nn.Module):
    """Zeros around (n, C, H, W) up to a side, the odd one after."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """(n, C, H, W) to (n, C, side, side)."""
        down, across = (self.side - s for s in x.shape[2:])
        return F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))


class Activation(nn.Module):
    """A named activation."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, z: Tensor) -> Tensor:
        """Elementwise."""
        return ACTIVATE[self.name](z)


class PoolPlaces(nn.Module):
    """(n, C, H, W) to (n, C): the largest or the mean value over all places."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.amax(dim=(2, 3)) if self.how == "max" else x.float().mean(dim=(2, 3))


class BatchNorm1d(nn.BatchNorm1d):
    """Batch normalisation; a single value a channel has no spread and is normalised by the running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return _normalise_one(self, x) if self.training and x.numel() == x.shape[1] else super().forward(x)


class BatchNorm2d(nn.BatchNorm2d):
    """The same over (n, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return _normalise_one(self, x) if self.training and x.numel() == x.shape[1] else super().forward(x)


def _normalise_one(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)
