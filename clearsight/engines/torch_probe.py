"""What a probe needs of a PyTorch module: what goes through its layers, and the gradient of its loss. Its numbers stay."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clearsight.engines.probe import LayerProbe, probe_layer
from clearsight.engines.torch_tools import run_module
from clearsight.models.modules import DenseLayer

_PLACES = 64  # of a map that are looked at
Seen = dict[str, tuple[NDArray[Any], NDArray[Any]]]
"""What each layer gives and gets, (n, units) or (n, places, channels) at up to 64 places, by its name, in the order of use."""


def measure_parts(
    module: nn.Module, parts: Sequence[tuple[Tensor, Tensor]], row_losses: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Seen, Tensor, Tensor, float]:
    """Run inputs and goals through a module in evaluation mode, part by part.

    Returns:
        What its layers saw; the logits; the mean of the parts' gradients as one vector; and their mean square norm.
    """
    module.eval()
    parameters, logits, squares = list(module.parameters()), [], []
    mean = torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)
    with _watch_layers(module) as seen:
        for inputs, goals in parts:
            logits.append(run_module(module, inputs))
            loss = row_losses(logits[-1], goals).mean()
            found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
            logits[-1] = logits[-1].detach()
            grad = torch.cat([values.reshape(-1) for values in found])
            squares.append(float(torch.linalg.vector_norm(grad)) ** 2)
            mean.add_(grad, alpha=1 / len(parts))
    return seen, torch.cat(logits), mean, float(np.mean(squares))


def probe_layers(
    module: nn.Module, seen: Seen, *, weight: Tensor, gradient: Tensor, step: Tensor | None
) -> list[LayerProbe]:
    """The numbers of all layers that were seen, from flat vectors in the order of the module's parameters."""
    named = list(module.named_parameters())
    edges = np.cumsum([0, *(p.numel() for _, p in named)])
    places = {name: slice(int(a), int(b)) for (name, _), (a, b) in zip(named, pairwise(edges), strict=True)}

    def part(values: Tensor, name: str) -> NDArray[Any]:
        return np.array(values[places[f"{name}.weight"]].cpu().numpy())

    return [
        probe_layer(
            name,
            z=z,
            x=x,
            weight=part(weight, name),
            gradient=part(gradient, name),
            step=None if step is None else part(step, name),
        )
        for name, (z, x) in seen.items()
    ]


@contextmanager
def _watch_layers(module: nn.Module) -> Iterator[Seen]:
    """What the layers with weights see while inside; several batches follow each other."""
    seen: dict[str, list[list[NDArray[Any]]]] = {}
    joined: Seen = {}

    def keep(name: str, inner: Any, inputs: Any, output: Tensor) -> None:
        for kept, values in zip(seen.setdefault(name, [[], []]), (output, inputs[0]), strict=True):
            kept.append(_spread_out(values))

    kinds = (nn.Conv2d, nn.Linear, DenseLayer)
    layers = [(name, inner) for name, inner in module.named_modules() if isinstance(inner, kinds)]
    hooks = [inner.register_forward_hook(partial(keep, name)) for name, inner in layers]
    try:
        yield joined
    finally:
        for hook in hooks:
            hook.remove()
    joined |= {name: (np.concatenate(z), np.concatenate(x)) for name, (z, x) in seen.items()}


def _spread_out(values: Tensor) -> NDArray[Any]:
    values = values.detach()
    if values.ndim == 4:
        values = values.flatten(2)
        values = values[:, :, :: -(-values.shape[2] // _PLACES)].transpose(1, 2)
    return np.array(values.float().cpu().numpy())
