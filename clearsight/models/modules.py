"""PyTorch modules of the described networks, and how they share memory with one flat vector.

Every module maps float32 inputs (n, H, W, C), or (n, features) of a dense net, to logits (n, K). Parameter names of resnets are
those of published checkpoints. It must not know how a network is trained.
"""

from itertools import pairwise
from typing import Any, cast

from clearsight.core.timm_library import is_timm
from clearsight.errors import UsageError
from clearsight.models.convnet import ConvNet, Tail
from clearsight.models.mlp import MLP

try:
    import torch
    from torch import Tensor, nn
    from torch.func import functional_call
    from torch.nn import functional as F  # noqa: N812
except ImportError:
    raise UsageError(
        "this network must have PyTorch, got none installed. Install it with `pip install 'clearsight[torch]'`."
    ) from None

from clearsight.models.efficientnet import EfficientNetLite, EfficientNetTail
from clearsight.models.layers import ACTIVATE, Activation, BatchNorm1d, BatchNorm2d, Dropout, Pad, PoolPlaces


def import_torch() -> Any:
    """PyTorch itself."""
    return torch


class DenseLayer(nn.Module):
    """z = x W + b with W (in, out) as in the dense engine, and one bias a unit, one in all, or none."""

    def __init__(self, fan_in: int, units: int, biases: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(fan_in, units))
        self.bias = nn.Parameter(torch.zeros(biases)) if biases else None

    def forward(self, x: Tensor) -> Tensor:
        """(n, in) to (n, out)."""
        z = x @ self.weight
        return z if self.bias is None else z + self.bias


class DenseNet(nn.Module):
    """`MLP` in PyTorch."""

    def __init__(self, net: MLP, dropout: float) -> None:
        super().__init__()
        sizes = list(pairwise(net.sizes))
        self.layers = nn.ModuleList(DenseLayer(i, o, net.num_biases(k)) for k, (i, o) in enumerate(sizes))
        self.drops = nn.ModuleList(Dropout(dropout, k) for k in range(len(net.activations)))
        self.names = net.activations

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) to (n, K)."""
        x = x.flatten(1)
        for layer, drop, name in zip(self.layers, self.drops, self.names, strict=False):
            x = drop(ACTIVATE[name](layer(x)))
        out: Tensor = self.layers[-1](x)
        return out


class PlainNet(nn.Module):
    """cnn and vgg: stages of convolutions with a 2x2 pool after each, then one pool over all places or hidden layers."""

    def __init__(self, net: ConvNet, dropout: float) -> None:
        super().__init__()
        features: list[nn.Module] = [Pad(net.pad_to)] if net.pad_to else []
        height, width = (net.pad_to,) * 2 if net.pad_to else net.input_shape[:2]
        channels, flat = net.input_shape[2], net.family == "vgg"
        for stage, (units, depth) in enumerate(zip(net.widths, net.depths, strict=True)):
            for k in range(depth):
                features.append(
                    nn.Conv2d(channels, units, net.kernel, padding=net.kernel // 2, bias=net.norm == "none")
                )
                if k == depth - 1 and (flat or stage < len(net.widths) - 1):
                    features.append(nn.MaxPool2d(2))
                    height, width = height // 2, width // 2
                features += [BatchNorm2d(units)] if net.norm == "batch" else []
                features.append(Activation(net.activation))
                channels = units
        self.features = nn.Sequential(*features)
        sizes = (channels * height * width, *net.hidden) if flat else (channels,)
        head: list[nn.Module] = [nn.Flatten() if flat else PoolPlaces(net.pooling)]
        if net.pooling == "mean" and not flat and net.norm == "batch":
            head.append(BatchNorm1d(channels))  # means of many places differ little, yet that is what counts
        for k, (fan_in, units) in enumerate(pairwise(sizes)):
            head += [nn.Linear(fan_in, units), Activation(net.activation), Dropout(dropout, k)]
        head += [] if flat and net.hidden else [Dropout(dropout, 0)]
        self.classifier = nn.Sequential(*head, nn.Linear(sizes[-1], net.outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(n, H, W, C) to (n, K)."""
        out: Tensor = self.classifier(self.features(x.permute(0, 3, 1, 2)))
        return out


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
        block = _Bottleneck if net.family == "resnet50" else _Basic
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


def build_module(net: MLP | ConvNet | Tail, *, dropout: float = 0.0, device: Any = "meta") -> nn.Module:
    """The module of a described network; on a real device its values are whatever lay in memory, to be filled by `bind`."""
    if isinstance(net, ConvNet) and is_timm(net.family):
        return _build_timm(net, dropout, device)
    with torch.device("meta"):  # nothing is drawn from PyTorch's generator
        if isinstance(net, MLP):
            module: nn.Module = DenseNet(net, dropout)
        elif isinstance(net, Tail):
            module = (
                EfficientNetTail(net.net, dropout)
                if net.net.family == "efficientnet_lite0"
                else ResNetTail(net.net, dropout)
            )
        elif net.family in ("cnn", "vgg"):
            module = PlainNet(net, dropout)
        elif net.family == "efficientnet_lite0":
            module = EfficientNetLite(net, dropout)
        else:
            module = SpeedNet(net, dropout) if net.family == "speednet" else ResNet(net, dropout)
    if str(device) == "meta":
        return module
    # as module.to_empty does, whose empty_like takes half a second the first time
    apply: Any = module._apply
    return cast(nn.Module, apply(lambda tensor: _make_room(tensor, device)))


def _make_room(tensor: Tensor, device: Any) -> Tensor:
    """Floats of any value, and counts that are 0."""
    make = torch.empty if tensor.dtype.is_floating_point else torch.zeros
    return make(tensor.shape, dtype=tensor.dtype, device=device)


def _build_timm(net: ConvNet, dropout: float, device: Any) -> nn.Module:
    """One of timm's, built where it will compute, as tables inside it are no parameters."""
    from clearsight.models.timm_net import TimmNet

    with torch.random.fork_rng(devices=[]), torch.device("meta" if str(device) == "meta" else "cpu"):
        return TimmNet(net, dropout).to(device)


def trace_shapes(module: nn.Module, input_shape: tuple[int, ...], *, part: str = "forward") -> tuple[int, ...]:
    """Shape of what a method of a module makes of one picture, by a batch of none; hooks of its layers see their shapes.

    That costs nothing, while PyTorch's own way, the meta device, spends seconds on loading its compiler.
    """
    nothing = {
        f"inner.{name}": torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    called = functional_call(_Calling(module, part).eval(), nothing, (torch.zeros(0, *input_shape),))
    return tuple(called.shape[1:])


class _Calling(nn.Module):
    """A module whose forward is another's method."""

    def __init__(self, inner: nn.Module, part: str) -> None:
        super().__init__()
        self.inner, self.part = inner, part

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = getattr(self.inner, self.part)(x)
        return out


def bind(module: nn.Module, trained: Tensor, kept: Tensor, grad: Tensor | None = None) -> None:
    """Let a module's tensors be views into flat ones, in the order of `layout`; its gradients too, if `grad` is given."""
    at = 0
    for parameter in module.parameters():
        part = slice(at, at + parameter.numel())
        parameter.data = trained[part].view(parameter.shape)
        if grad is None:
            parameter.requires_grad_(False)
        else:
            parameter.grad = grad[part].view(parameter.shape)
        at = part.stop
    at = 0
    for buffer in module.buffers():
        if buffer.dtype.is_floating_point:
            buffer.data = kept[at : at + buffer.numel()].view(buffer.shape)
            at += buffer.numel()
