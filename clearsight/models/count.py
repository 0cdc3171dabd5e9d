"""How many weights and multiply-adds the kinds of networks have. It must not know how they are trained."""

from math import prod
from typing import Any

from clearsight.config.families import FAMILIES, find_family
from clearsight.errors import UsageError
from clearsight.models.convnet import ConvNet
from clearsight.models.mlp import MLP


def count_multiply_adds(net: MLP | ConvNet) -> int:
    """Products that are summed up for one picture, in convolutions and dense layers."""
    if isinstance(net, MLP):
        return sum(a * b for a, b in zip(net.sizes[:-1], net.sizes[1:], strict=True))
    from clearsight.models.modules import build_module, import_torch, trace_shapes

    torch, total = import_torch(), 0

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal total
        total += prod(output.shape[1:]) * module.weight[0].numel()

    module = build_module(net)
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d | torch.nn.Linear):
            part.register_forward_hook(count)
    trace_shapes(module, net.input_shape)
    if find_family(net.family).whitened:  # its first filters are no module
        height, width = (net.pad_to, net.pad_to) if net.pad_to else net.input_shape[:2]
        total += (height - 1) * (width - 1) * prod(net.layout()["whiten"][0])
    return total


def list_models(input_shape: tuple[int, int, int], *, outputs: int) -> list[dict[str, Any]]:
    """Each kind of network at its usual sizes: `model`, `title`, `fits`, and its numbers, or `why` it does not fit."""
    height, width, channels = input_shape
    found = []
    for name, family in FAMILIES.items():
        row: dict[str, Any] = {"model": name, "title": family.title}
        sizes, names = (height * width * channels, *family.hidden, outputs), ("relu",) * len(family.hidden)
        try:
            net = MLP(sizes, names) if family.dense else ConvNet(name, input_shape, outputs, hidden=family.hidden)
        except UsageError as error:
            found.append(row | {"fits": False, "why": str(error).partition(", got")[0]})
            continue
        numbers = {"parameters": net.num_parameters, "multiply_adds": count_multiply_adds(net)}
        found.append(row | {"fits": True, **numbers})
    return found
