"""What a probe needs of a PyTorch module: what goes through its layers, and the gradient of its loss. Its numbers stay."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clearsight.engines.probe import LayerProbe, probe_layer
from clearsight.engines.torch_tools import run_module
from clearsight.models.modules import DenseLayer

_PLACES = 16  # of a map, or tokens, that are looked at


@dataclass(eq=False)
class _Seen:
    """What a layer gives (z) and gets (x), (n, places, units) a part, and which units of x were ever other than 0."""

    woken: Tensor
    z: list[NDArray[Any]] = field(default_factory=list)
    x: list[NDArray[Any]] = field(default_factory=list)


class Measured(NamedTuple):
    """What layers saw by their name, in the order of use; the logits; the mean of the parts' gradients as one vector; their mean
    square norm.
    """

    seen: dict[str, _Seen]
    logits: Tensor
    gradient: Tensor
    part_square: float


def measure_parts(
    module: nn.Module, parts: Sequence[tuple[Tensor, Tensor]], row_losses: Callable[[Tensor, Tensor], Tensor]
) -> Measured:
    """Run inputs and goals through a module, part by part; it is left in evaluation mode."""
    module.eval()
    parameters, logits, squares = list(module.parameters()), [], []
    frozen = [p for p in parameters if not p.requires_grad]
    gradient = torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)
    places = torch.split(gradient, [p.numel() for p in parameters])
    with _watch_layers(module, n=len(parts[0][0])) as seen:
        for p in frozen:
            p.requires_grad_(True)
        try:
            for inputs, goals in parts:
                found = run_module(module, inputs)
                loss = row_losses(found, goals).mean()
                grads = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
                logits.append(found.detach())
                squares.append(sum(float(torch.linalg.vector_norm(grad)) ** 2 for grad in grads))
                for place, grad in zip(places, grads, strict=True):
                    place.add_(grad.reshape(-1), alpha=1 / len(parts))
        finally:
            for p in frozen:
                p.requires_grad_(False)
    return Measured(seen, torch.cat(logits), gradient, float(np.mean(squares)))


def measure_weights(module: nn.Module, values: Tensor) -> dict[str, float]:
    """Root mean square of each weight's share of a flat vector in the order of the module's parameters, by the layer's name."""
    named = list(module.named_parameters())
    edges = np.cumsum([0, *(p.numel() for _, p in named)])
    return {
        name.removesuffix(".weight"): float(torch.linalg.vector_norm(values[a:b])) / (b - a) ** 0.5
        for (name, _), (a, b) in zip(named, pairwise(edges.tolist()), strict=True)
    }


def probe_layers(
    seen: dict[str, _Seen], *, weights: dict[str, float], gradients: dict[str, float], steps: dict[str, float]
) -> list[LayerProbe]:
    """The numbers of all layers that were seen; `steps` is empty without a trial step."""
    return [
        probe_layer(
            name, z=np.concatenate(layer.z), x=np.concatenate(layer.x), silent=float((~layer.woken).float().mean()),
            weight=weights[name], gradient=gradients[name], step=steps.get(name),
        )
        for name, layer in seen.items()
    ]  # fmt: skip


@contextmanager
def _watch_layers(module: nn.Module, *, n: int) -> Iterator[dict[str, _Seen]]:
    """What the layers with weights see while inside, of batches of n pictures that follow each other."""
    seen: dict[str, _Seen] = {}

    def keep(name: str, inner: nn.Module, inputs: Any, output: Tensor) -> None:
        z, x = (_line_up(values.detach(), n, maps=isinstance(inner, nn.Conv2d)) for values in (output, inputs[0]))
        if z is None or x is None:
            return
        woken = (x != 0).flatten(0, 1).any(0)
        layer = seen.setdefault(name, _Seen(torch.zeros_like(woken)))
        layer.woken |= woken
        layer.z.append(_pick_places(z))
        layer.x.append(_pick_places(x))

    kinds = (nn.Conv2d, nn.Linear, DenseLayer)
    layers = [(name, inner) for name, inner in module.named_modules() if isinstance(inner, kinds)]
    hooks = [inner.register_forward_hook(partial(keep, name)) for name, inner in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _line_up(values: Tensor, n: int, *, maps: bool) -> Tensor | None:
    """Maps (n, C, H, W), or units last and whatever before, as (n, places, units); None of what is not a picture's own."""
    if len(values) % n:
        return None
    return values.flatten(2).transpose(1, 2) if maps else values.reshape(n, -1, values.shape[-1])


def _pick_places(values: Tensor) -> NDArray[Any]:
    """(n, up to 16, units), at places that are scattered but the same in every part."""
    places = np.random.default_rng(0).permutation(values.shape[1])[:_PLACES]
    return np.array(values[:, torch.as_tensor(places, device=values.device)].float().cpu().numpy())
