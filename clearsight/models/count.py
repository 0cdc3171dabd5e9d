"""How many weights and multiply-adds the kinds of networks have. It must not know how they are trained."""

from math import prod
from typing import Any

from clearsight.config.schema import DEFAULT_HIDDEN
from clearsight.errors import UsageError
from clearsight.models.convnet import FAMILIES, ConvNet
from clearsight.models.mlp import MLP

MLP_TITLE = "dense layers, from scratch; needs no PyTorch"


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
    if net.family == "speednet":  # its first filters are no module
        height, width = (net.pad_to, net.pad_to) if net.pad_to else net.input_shape[:2]
        total += (height - 1) * (width - 1) * prod(net.layout()["whiten"][0])
    return total


def list_models(input_shape: tuple[int, int, int], *, outputs: int) -> list[dict[str, Any]]:
    """Each kind of network at its usual sizes: `model`, `title`, `fits`, and its numbers, or `why` it does not fit."""
    height, width, channels = input_shape
    hidden = DEFAULT_HIDDEN["mlp"]
    nets: dict[str, Any] = {"mlp": MLP((height * width * channels, *hidden, outputs), ("relu",) * len(hidden))}
    found = []
    for name in ("mlp", *FAMILIES):
        row: dict[str, Any] = {"model": name, "title": FAMILIES[name].title if name in FAMILIES else MLP_TITLE}
        try:
            net = nets.get(name) or ConvNet(name, input_shape, outputs, hidden=DEFAULT_HIDDEN.get(name, ()))
        except UsageError as error:
            found.append(row | {"fits": False, "why": str(error).partition(", got")[0]})
            continue
        numbers = {"parameters": net.num_parameters, "multiply_adds": count_multiply_adds(net)}
        found.append(row | {"fits": True, **numbers})
    return found
