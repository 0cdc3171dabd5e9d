"""EfficientNet-Lite, whose parameter names are those of published weights without their leading underscores.

Source: Tan & Le 2019, "EfficientNet", table 1, without squeeze-and-excitation and with relu6, as the authors' Lite variants are.
It must not know how a network is trained.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from clearsight.models.layers import BatchNorm2d, Dropout, Pad, PoolPlaces

KERNELS, STRIDES, GROWTH = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1), (1, 6, 6, 6, 6, 6, 6)  # of the seven stages
STEM, HEAD = 32, 1280  # channels before the first stage and after the last
_EPS = 1e-3


class _SameConv(nn.Conv2d):
    """A convolution that pads as TensorFlow's SAME does: the odd row and column after."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        down, across = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:])
        if down % 2 == 0 and across % 2 == 0:
            return F.conv2d(x, self.weight, None, stride, (down // 2, across // 2), 1, self.groups)
        x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        return F.conv2d(x, self.weight, None, stride, 0, 1, self.groups)


def _conv(fan_in: int, units: int, kernel: int, stride: int = 1, *, groups: int = 1) -> nn.Conv2d:
    return _SameConv(fan_in, units, kernel, stride, groups=groups, bias=False)


def _norm(units: int) -> BatchNorm2d:
    return BatchNorm2d(units, eps=_EPS)


class _InvertedResidual(nn.Module):
    """1x1 convolution to more channels, one depthwise, 1x1 to few again, and a shortcut (Sandler et al. 2018, fig. 4)."""

    def __init__(self, fan_in: int, units: int, kernel: int, stride: int, growth: int) -> None:
        super().__init__()
        wide = fan_in * growth
        self.expand_conv = _conv(fan_in, wide, 1) if growth > 1 else None
        self.bn0 = _norm(wide) if growth > 1 else None
        self.depthwise_conv = _conv(wide, wide, kernel, stride, groups=wide)
        self.bn1 = _norm(wide)
        self.project_conv = _conv(wide, units, 1)
        self.bn2 = _norm(units)
        self.shortcut = stride == 1 and fan_in == units

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x
        if self.expand_conv is not None and self.bn0 is not None:
            out = F.relu6(self.bn0(self.expand_conv(out)))
        out = F.relu6(self.bn1(self.depthwise_conv(out)))
        out = self.bn2(self.project_conv(out))
        return out + x if self.shortcut else out


class EfficientNetLite(nn.Module):
    """Seven stages of inverted residuals; `early` and `late` are the parts before and after the fifth."""

    def __init__(self, net: Any, dropout: float) -> None:
        super().__init__()
        self.pad = Pad(net.pad_to) if net.pad_to else nn.Identity()
        self.conv_stem, self.bn0 = _conv(net.input_shape[2], STEM, 3, 2), _norm(STEM)
        blocks, channels = [], STEM
        for units, depth, kernel, stride, growth in zip(net.widths, net.depths, KERNELS, STRIDES, GROWTH, strict=True):
            for k in range(depth):
                blocks.append(_InvertedResidual(channels, units, kernel, stride if k == 0 else 1, growth))
                channels = units
        self.blocks = nn.ModuleDict(
            {str(k): block for k, block in enumerate(blocks)}
        )  # names stay where some are left out
        self.cut = sum(net.depths[:5])
        self.conv_head, self.bn1 = _conv(channels, HEAD, 1), _norm(HEAD)
        self.pool, self.drop = PoolPlaces(net.pooling), Dropout(dropout, 0)
        self.fc = nn.Linear(HEAD, net.outputs)

    @staticmethod
    def find_depths(net: Any) -> dict[str, int]:
        """How many stages from the head, which is 0, each tensor lies."""
        stages = [len(net.widths) + 1 - k for k, depth in enumerate(net.depths) for _ in range(depth)]
        ends = {"fc": 0, "conv_head": 1, "bn1": 1}
        parts = {name: name.split(".") for name in net.layout()}
        return {
            name: stages[int(rest[0])] if first == "blocks" else ends.get(first, len(net.widths) + 2)
            for name, (first, *rest) in parts.items()
        }

    def early(self, x: Tensor) -> Tensor:
        """(n, H, W, C) to the maps (n, C', H', W') that enter the last two stages."""
        x = F.relu6(self.bn0(self.conv_stem(self.pad(x.permute(0, 3, 1, 2)))))
        for name, block in self.blocks.items():
            if int(name) < self.cut:
                x = block(x)
        return x

    def late(self, x: Tensor) -> Tensor:
        """Such maps to features (n, F)."""
        for name, block in self.blocks.items():
            if int(name) >= self.cut:
                x = block(x)
        out: Tensor = self.pool(F.relu6(self.bn1(self.conv_head(x))))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(n, H, W, C) to (n, K)."""
        out: Tensor = self.fc(self.drop(self.late(self.early(x))))
        return out


class EfficientNetTail(EfficientNetLite):
    """The last two stages and the head alone."""

    def __init__(self, net: Any, dropout: float) -> None:
        super().__init__(net, dropout)
        del self.pad, self.conv_stem, self.bn0
        for k in range(self.cut):
            del self.blocks[str(k)]

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, C, H, W) to (n, K)."""
        out: Tensor = self.fc(self.drop(self.late(x)))
        return out
