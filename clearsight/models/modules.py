"""PyTorch modules of the described networks, and how they share memory with one flat vector.

Every module maps float32 inputs (n, H, W, C), or (n, features) of a dense net, to logits (n, K). The family says which
one a network has. It must not know how a network is trained.
"""

from importlib import import_module
from itertools import pairwise
from typing import Any, cast

from clearsight.config.families import find_family
from clearsight.errors import UsageError
from clearsight.models.convnet import ConvNet, Tail
from clearsight.models.mlp import MLP

try:
    import torch
    from torch import Tensor, nn
    from torch.func import functional_call
except ImportError:
    raise UsageError(
        "this network must have PyTorch, got none installed. Install it with `pip install 'clearsight[torch]'`."
    ) from None

from clearsight.models.layers import ACTIVATE, Dropout


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


def find_layers(where: str) -> Any:
    """The class that a family names, `import.path:Class`."""
    place, _, name = where.partition(":")
    return getattr(import_module(place), name)


def build_module(net: MLP | ConvNet | Tail, *, dropout: float = 0.0, device: Any = "meta") -> nn.Module:
    """The module of a described network; on a real device its values are whatever lay in memory, to be filled by `bind`."""
    whole = net.net if isinstance(net, Tail) else net
    family = find_family(whole.family)
    layers = find_layers(family.layers if whole is net else family.tail)
    if family.library is not None:
        return _build_foreign(layers, whole, dropout, device)
    with torch.device("meta"):  # nothing is drawn from PyTorch's generator
        module: nn.Module = layers(whole, dropout)
    if str(device) == "meta":
        return module
    # as module.to_empty does, whose empty_like takes half a second the first time
    apply: Any = module._apply
    return cast(nn.Module, apply(lambda tensor: _make_room(tensor, device)))


def _make_room(tensor: Tensor, device: Any) -> Tensor:
    """Floats of any value, and counts that are 0."""
    make = torch.empty if tensor.dtype.is_floating_point else torch.zeros
    return make(tensor.shape, dtype=tensor.dtype, device=device)


def _build_foreign(layers: Any, net: MLP | ConvNet, dropout: float, device: Any) -> nn.Module:
    """One of a library's, built where it will compute, as tables inside it are no parameters."""
    with torch.random.fork_rng(devices=[]), torch.device("meta" if str(device) == "meta" else "cpu"):
        module: nn.Module = layers(net, dropout).to(device)
    return module


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
