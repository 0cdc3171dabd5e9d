"""PyTorch's optimisers over flat tensors: the same updates as the dense engine's, and Muon.

They must not know networks, losses or schedules.
"""

import inspect
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from clearsight.engines.objective import Objective

SWEEP = 32  # steps between two looks for slots that have all but vanished
_TINY = 1e-36  # a slot that decays by 0.9 a step needs more than 32 of them from here to the first denormal, 1.18e-38
MUON_REST = 0.15  # of the learning rate, for vectors and the last layer, which Adam moves
Slots = dict[str, Tensor]


class Stepper:
    """Some optimisers of PyTorch that are stepped together, each at its own share of the learning rate.

    Args:
        parts: optimiser and share.
    """

    def __init__(self, *parts: tuple[torch.optim.Optimizer, float]) -> None:
        self._parts = parts

    def step(self, lr: float) -> None:
        """Move the parameters along their gradients."""
        for optimizer, share in self._parts:
            for group in optimizer.param_groups:
                group["lr"] = lr * share
            with torch.no_grad():
                optimizer.step()

    def drop_tiny(self) -> None:
        """Set to zero what is remembered of weights that have long had no gradient, before it becomes denormal and slow.

        A rule and not the processor's switch, because PyTorch's own threads would not follow that: see `denormals`.
        """
        for optimizer, _ in self._parts:
            for state in optimizer.state.values():
                for value in state.values():
                    if isinstance(value, Tensor) and value.ndim > 0:
                        value.masked_fill_(value.abs() < _TINY, 0)

    def slots(self) -> Slots:
        """All that is remembered from step to step, copied."""
        found: Slots = {}
        for i, (optimizer, _) in enumerate(self._parts):
            for k, values in optimizer.state_dict()["state"].items():
                found |= {f"{i}.{k}.{name}": value.clone() for name, value in values.items() if value is not None}
        return found

    def load_slots(self, slots: Slots) -> None:
        """Go back to such a copy."""
        for i, (optimizer, _) in enumerate(self._parts):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in slots.items():
                part, k, name = key.split(".")
                if int(part) == i:
                    state.setdefault(int(k), {})[name] = value.clone()
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


@cache
def _uncompiled(kind: type[torch.optim.Optimizer]) -> type[Any]:
    """A class of PyTorch's optimisers without the wrappers that import PyTorch's compiler, seconds, to tell it to keep out."""
    names = ("add_param_group", "load_state_dict", "state_dict", "step")
    return type(kind.__name__, (kind,), {name: inspect.unwrap(getattr(kind, name)) for name in names})


def build_optimizer(
    objective: Objective, trained: Tensor, grad: Tensor, *, shapes: list[tuple[int, ...]], inputs_first: bool = False
) -> Stepper:
    """The optimiser that a objective names, over a flat tensor and its flat gradient. Decay and penalties are not its affair.

    Args:
        trained, grad: (P,), which it reads and moves in place.
        shapes: of the tensors that lie in them one after another. `muon` (Jordan 2024, "Muon: an optimizer for hidden
            layers in neural networks") moves those of two and more axes but the last along orthogonalised momentum, the
            others by Adam at a fraction of the rate.
        inputs_first: matrices are (inputs, outputs), as dense nets have them, and not the other way round.
    """
    if objective.optimizer == "muon":
        return _build_muon(objective, trained, grad, shapes, inputs_first)
    whole = [_leaf(trained, grad)]
    fused: dict[str, Any] = {"fused": True}
    if objective.optimizer in ("adam", "adamw"):
        betas = (objective.beta1, objective.beta2)
        return Stepper((_uncompiled(torch.optim.Adam)(whole, betas=betas, eps=objective.eps, **fused), 1.0))
    if objective.optimizer == "rmsprop":
        return Stepper((_uncompiled(torch.optim.RMSprop)(whole, alpha=objective.rho, eps=objective.eps), 1.0))
    momentum = 0.0 if objective.optimizer == "sgd" else objective.momentum
    nesterov = objective.optimizer == "nesterov" and momentum > 0
    return Stepper((_uncompiled(torch.optim.SGD)(whole, lr=1.0, momentum=momentum, nesterov=nesterov, **fused), 1.0))


def _leaf(values: Tensor, grad: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(values)
    parameter.grad = grad
    return parameter


def _build_muon(
    objective: Objective, trained: Tensor, grad: Tensor, shapes: list[tuple[int, ...]], inputs_first: bool
) -> Stepper:
    matrices, others, at = [], [], 0
    last = max((i for i, shape in enumerate(shapes) if len(shape) > 1), default=-1)
    for i, shape in enumerate(shapes):
        part = slice(at, at + prod(shape))
        at = part.stop
        if len(shape) > 1 and i != last:
            pair = [flat[part].view(shape[0], -1) for flat in (trained, grad)]
            matrices.append(_leaf(*(matrix.t() if inputs_first else matrix for matrix in pair)))
        else:
            others.append(_leaf(trained[part], grad[part]))
    parts: list[tuple[torch.optim.Optimizer, float]] = []
    if others:
        betas = (objective.beta1, objective.beta2)
        parts.append((_uncompiled(torch.optim.Adam)(others, betas=betas, eps=objective.eps), MUON_REST))
    if matrices:
        parts.append((_uncompiled(torch.optim.Muon)(matrices, momentum=objective.momentum, weight_decay=0.0), 1.0))
    return Stepper(*parts)
