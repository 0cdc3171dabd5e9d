"""Residual networks, whose parameter names are those of published checkpoints. It must not know how a network is trained."""

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from clearsight.config.families import find_family
from clearsight.models.convnet import ConvNet
from clearsight.models.layers import BatchNorm2d, Dropout, Pad, PoolPlaces

_NARROW = 16  # channels


class _PickingConv2d(nn.Conv2d):
    """A strided 1x1 convolution, computed on the subsampled input; the result is the same.

    The gradient of the usual one writes outside its memory on a CPU where channels are fewer than 16, and may end the process
    (https://github.com/uxlfoundation/oneDNN/issues/6035).
    """

    def forward(self, x: Tensor) -> Tensor:
        down, across = self.stride
        return F.conv2d(x[:, :, ::down, ::across], self.weight, self.bias)


class _Basic(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, fig. 2)."""

    expansion = 1

    def __init__(self, fan_in: int, units: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, units, 3, stride, 1, bias=False)
        self.bn1 = BatchNorm2d(units)
        self.conv2 = nn.Conv2d(units, units, 3, 1, 1, bias=False)
        self.bn2 = BatchNorm2d(units)
        self.downsample = _shortcut(fan_in, units, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + (x if self.downsample is None else self.downsample(x)))


class _Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride, as in published weights) and 1x1 convolutions and a shortcut (He et al. 2016, fig. 5)."""

    expansion = 4

    def __init__(self, fan_in: int, units: int, stride: int) -> None:
        super().__init__()
        out = units * self.expansion
        self.conv1 = nn.Conv2d(fan_in, units, 1, bias=False)
        self.bn1 = BatchNorm2d(units)
        self.conv2 = nn.Conv2d(units, units, 3, stride, 1, bias=False)
        self.bn2 = BatchNorm2d(units)
        self.conv3 = nn.Conv2d(units, out, 1, bias=False)
        self.bn3 = BatchNorm2d(out)
        self.downsample = _shortcut(fan_in, out, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + (x if self.downsample is None else self.downsample(x)))


def _shortcut(fan_in: int, units: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and fan_in == units:
        return None
    kind = _PickingConv2d if fan_in < _NARROW else nn.Conv2d
    return nn.Sequential(kind(fan_in, units, 1, stride, bias=False), BatchNorm2d(units))


class ResNet(nn.Module):
    """Residual networks with the names of published checkpoints (`layer1.0.conv1.weight`, `fc.weight`)."""

    def __init__(self, net: ConvNet, dropout: float) -> None:
        super().__init__()
        block = _Bottleneck if find_family(net.family).expansion > 1 else _Basic
        first, large = net.widths[0], net.stem == "large"
        self.pad = Pad(net.pad_to) if net.pad_to else nn.Identity()
        self.conv1 = nn.Conv2d(net.input_shape[2], first, *((7, 2, 3) if large else (3, 1, 1)), bias=False)
        self.bn1 = BatchNorm2d(first)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        self.stages, channels = len(net.widths), first
        for stage, (units, depth) in enumerate(zip(net.widths, net.depths, strict=True)):
            blocks = []
            for k in range(depth):
                blocks.append(block(channels, units, 2 if stage and k == 0 else 1))
                channels = units * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.pool, self.drop = PoolPlaces(net.pooling), Dropout(dropout, 0)
        self.fc = nn.Linear(channels, net.outputs)

    @staticmethod
    def find_depths(net: ConvNet) -> dict[str, int]:
        """How many stages from the head, which is 0, each tensor lies."""
        stages = {f"layer{k + 1}": len(net.widths) - k for k in range(len(net.widths))} | {"fc": 0}
        return {name: stages.get(name.partition(".")[0], len(net.widths) + 1) for name in net.layout()}

    def early(self, x: Tensor) -> Tensor:
        """(n, H, W, C) to the maps (n, C', H', W') that enter the last stage."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(self.pad(x.permute(0, 3, 1, 2))))))
        for stage in range(1, self.stages):
            x = getattr(self, f"layer{stage}")(x)
        return x

    def late(self, x: Tensor) -> Tensor:
        """Such maps to features (n, F)."""
        out: Tensor = self.pool(getattr(self, f"layer{self.stages}")(x))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(n, H, W, C) to (n, K)."""
        out: Tensor = self.fc(self.drop(self.late(self.early(x))))
        return out


class ResNetTail(ResNet):
    """The last stage and the head alone."""

    def __init__(self, net: ConvNet, dropout: float) -> None:
        super().__init__(net, dropout)
        for name in ("pad", "conv1", "bn1", "maxpool", *(f"layer{stage}" for stage in range(1, self.stages))):
            delattr(self, name)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, C, H, W) to (n, K)."""
        out: Tensor = self.fc(self.drop(self.late(x)))
        return out
