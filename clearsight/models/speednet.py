"""The net for the shortest way to high accuracy. It must not know how a network is trained.

Source: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU".
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from clearsight.models.convnet import ConvNet
from clearsight.models.layers import BatchNorm2d, Dropout, Pad


class _Group(nn.Module):
    """Convolution, pool, normalisation, gelu, and the same again without the pool (Jordan 2024)."""

    def __init__(self, fan_in: int, units: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, units, 3, padding=1, bias=False)
        self.norm1 = BatchNorm2d(units, momentum=0.4)
        self.conv2 = nn.Conv2d(units, units, 3, padding=1, bias=False)
        self.norm2 = BatchNorm2d(units, momentum=0.4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class _Ninth(nn.Linear):
    """A dense layer whose outputs are divided by 9 (Jordan 2024)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 9


class SpeedNet(nn.Module):
    """A net for the shortest way to high accuracy; its first layer is fitted to the data and never trained.

    Source: Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", section 3.
    """

    whiten: Tensor

    def __init__(self, net: ConvNet, dropout: float) -> None:
        super().__init__()
        channels = net.input_shape[2]
        filters = 2 * channels * 4
        self.pad = Pad(net.pad_to) if net.pad_to else nn.Identity()
        self.register_buffer("whiten", torch.zeros(filters, channels, 2, 2))
        self.whiten_bias = nn.Parameter(torch.zeros(filters))
        sizes = (filters, *net.widths)
        self.groups = nn.Sequential(*(_Group(i, o) for i, o in pairwise(sizes)))
        self.drop = Dropout(dropout, 0)
        self.head = _Ninth(sizes[-1], net.outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, H, W, C) to (n, K)."""
        x = F.gelu(F.conv2d(self.pad(x.permute(0, 3, 1, 2)), self.whiten, self.whiten_bias))
        out: Tensor = self.head(self.drop(self.groups(x).amax(dim=(2, 3))))
        return out
