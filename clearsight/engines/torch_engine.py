"""The PyTorch engine: any described network on a CPU or an accelerator, under the same fit loop as the dense engine.

The data set lies on the device as stored; rows are picked, varied and scaled there in batches. All trained numbers are one
flat tensor, and so are their gradients and what the optimiser remembers: an update is a few operations, a checkpoint a copy,
and several processes add their gradients in one call. It must not know epochs or files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from clearsight.augment.presets import Augmentation
from clearsight.augment.randomness import count_uses
from clearsight.augment.transforms import augment_rows
from clearsight.core.hashing import mix
from clearsight.data.preprocess import Preprocess
from clearsight.engines.base import Rows, State, check_ends
from clearsight.engines.objective import Objective
from clearsight.engines.predictor import rows_at_once
from clearsight.engines.probe import Probe, noise_scale, probe_network, split_rows, try_step
from clearsight.engines.team import Team
from clearsight.engines.torch_optimizers import SWEEP, build_optimizer
from clearsight.engines.torch_probe import measure_parts, measure_weights, probe_layers
from clearsight.engines.torch_tools import Inputs, as_memory_error, as_tensor, keep_freed_memory, run_module
from clearsight.errors import RunError
from clearsight.models.convnet import ConvNet, Tail
from clearsight.models.layers import Dropout
from clearsight.models.mlp import MLP
from clearsight.models.modules import bind, build_module


@dataclass(frozen=True, eq=False)
class _Batch:
    """One process's share of a batch, on its device.

    Args:
        images: (n, H, W, C) as stored, varied. labels: (n,) classes or standardised targets.
        goals: (n, K) shares of the classes that are wanted, or (n, 1) targets. weights: (n,) of the rows in the loss.
    """

    images: Tensor
    labels: Tensor
    goals: Tensor
    weights: Tensor

    def part(self, which: slice) -> "_Batch":
        return _Batch(self.images[which], self.labels[which], self.goals[which], self.weights[which])


@dataclass(frozen=True)
class TorchOptions:
    """How the engine computes, and what it does beside the objective's step.

    Args:
        device: `cpu`, `cuda` or `mps`, as PyTorch names them.
        bfloat16: compute products in bfloat16; sums, weights and losses stay float32.
        compile_module: compile the network with torch.compile.
        accumulate: parts in which each process computes its share of a batch.
        ema: decay of a running average of all weights, which is then what is judged and kept; 0 for none.
        lookahead: steps after which weights go half way back to where they were (Zhang et al. 2019); 0 for none.
        layer_decay: factor of the rate from each stage to the one before it (Howard & Ruder 2018, section 3.2).
        keep_statistics: normalise in training too by the means and variances that the network came with, which then stay.
    """

    device: str = "cpu"
    bfloat16: bool = False
    compile_module: bool = False
    accumulate: int = 1
    ema: float = 0.0
    lookahead: int = 0
    layer_decay: float = 1.0
    keep_statistics: bool = False


class TorchEngine:
    """A network of PyTorch trained on one device, by one process or several.

    Args:
        net, objective: architecture, and what a step minimises and how.
        images: (N, H, W, C) as stored; shared with the tensor on a CPU, copied once to an accelerator.
        labels: (N,) int64 classes, or float32 targets.
        preprocess: pixels to inputs.
        params: first parameters, (net.num_values,); copied.
        batch_size: rows of a step, over all processes together.
        seed: of dropout and augmentation.
        options: how it computes, and the like.
        augmentation: how training pictures are varied; None for as they are.
        pool: rows from which pictures to mix in are drawn.
        team: the processes that train together.

    Raises:
        UsageError: the network's ends do not fit the data.
    """

    name, partial = "torch", False
    features: NDArray[np.float32] | None = None

    def __init__(
        self,
        net: MLP | ConvNet | Tail,
        objective: Objective,
        *,
        images: NDArray[Any],
        labels: NDArray[Any],
        preprocess: Preprocess,
        params: NDArray[np.floating],
        batch_size: int,
        seed: int,
        options: TorchOptions = TorchOptions(),
        augmentation: Augmentation | None = None,
        pool: Rows | None = None,
        team: Team | None = None,
    ) -> None:
        check_ends(net, objective, labels, preprocess)
        if options.device == "cpu":
            keep_freed_memory()
        self.device = options.device
        self._net, self._recipe, self._preprocess = net, objective, preprocess
        self._batch_size, self._seed, self._accumulate = batch_size, seed, options.accumulate
        self._device, self._bfloat16 = torch.device(options.device), options.bfloat16
        self._ema, self._lookahead, self._team = options.ema, options.lookahead, team or Team()
        self._augmentation = augmentation if augmentation and augmentation.active() else None
        self._pool = np.arange(len(images)) if pool is None else pool
        self._images, self._inputs = as_tensor(images, self._device), Inputs(preprocess, self._device)
        self._sources = images if self._device.type == "cpu" else self._images  # arrays are varied by compiled code
        self._order: tuple[Rows, Rows, Tensor] | None = None
        if objective.is_regression:
            labels = preprocess.standardize_targets(labels).astype(np.float32)
        self._labels = as_tensor(labels, self._device)
        self._class_weights = torch.tensor(objective.class_weights or (1.0,) * net.outputs, device=self._device)
        values = as_tensor(params.astype(np.float32), self._device)
        self._trained, self._kept = (part.clone() for part in values.tensor_split([net.num_parameters]))
        self._grad = torch.zeros_like(self._trained)
        self._module = build_module(net, dropout=objective.dropout, device=self._device)
        bind(self._module, self._trained, self._kept, self._grad)
        self._drops = [m for m in self._module.modules() if isinstance(m, Dropout)]
        norms = [m for m in self._module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        self._norms = norms if options.keep_statistics else []
        self._forward = torch.compile(self._module) if options.compile_module else self._module
        parameters = list(self._module.parameters())
        decayed = torch.cat([torch.full((p.numel(),), float(p.ndim > 1)) for p in parameters])
        self._rates: Tensor | None = None  # of each number, as a share of the rate
        if options.layer_decay < 1 and not isinstance(net, MLP):
            shares = [options.layer_decay ** net.stage_depth(name) for name, _ in self._module.named_parameters()]
            flat = [torch.full((p.numel(),), s) for p, s in zip(parameters, shares, strict=True)]
            self._rates = torch.cat(flat).to(self._device)
        self._decayed = decayed.to(self._device)  # 1 for weights, 0 for biases and normalisation
        self._optimizer = build_optimizer(
            objective,
            self._trained,
            self._grad,
            shapes=[tuple(p.shape) for p in parameters],
            inputs_first=isinstance(net, MLP),
        )
        self._slow = self._trained.clone() if options.lookahead else None
        self._average = (self._trained.clone(), self._kept.clone()) if options.ema else (self._trained, self._kept)
        self._ema_module = self._module
        if options.ema:
            self._ema_module = build_module(net, device=self._device)
            bind(self._ema_module, *self._average)

    def train_steps(
        self, order: Rows, *, epoch: int, first_batch: int, first_step: int, lrs: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], int]:
        """See `Engine`. After a loss that is not finite the state is of no use: go back to one that was kept."""
        self._module.train()
        for norm in self._norms:
            norm.eval()
        losses = torch.zeros(len(lrs), device=self._device)
        hits = torch.zeros((), dtype=torch.int64, device=self._device)
        with _at_work():
            for i, lr in enumerate(lrs):
                first = (first_batch + i) * self._batch_size
                own = self._team.share(min(self._batch_size, len(order) - first))
                batch = self._pick(order, slice(first + own.start, first + own.stop), epoch)
                total = batch.weights.sum()
                self._team.sum(total)
                self._grad.zero_()
                for part in _split(len(batch.labels), self._accumulate):
                    self._place_dropout(first_step + i, own.start + part.start)
                    loss, right = self._backward(batch.part(part), total.clamp(min=1e-30))
                    losses[i] += loss
                    hits += right
                self._team.sum(self._grad)
                self._update(float(lr), first_step + i)
        self._team.sum(losses)
        self._team.sum(hits)
        found = losses.cpu().double().numpy()
        bad = np.flatnonzero(~np.isfinite(found))
        return (found[: bad[0] + 1] if len(bad) else found), int(hits)

    def _pick(self, order: Rows, chosen: slice, epoch: int) -> _Batch:
        """Some rows of an epoch as they are learnt from: varied, with goals and weights."""
        if self._order is None or self._order[0] is not order:
            uses = count_uses(order) if self._augmentation else order[:0]
            self._order = order, uses, as_tensor(order, self._device)
        _, uses, places = self._order
        labels, objective, p = self._labels[places[chosen]], self._recipe, self._preprocess
        others, shares = labels, torch.ones(len(labels), device=self._device)
        if self._augmentation is None or len(labels) == 0:
            images = self._images[places[chosen]]
        else:
            varied = augment_rows(
                self._sources, order[chosen], augmentation=self._augmentation, seed=self._seed, epoch=epoch,
                pool=self._pool, uses=uses[chosen], low=p.low, high=p.high,
            )  # fmt: skip
            images = torch.as_tensor(varied.images, device=self._device)
            if varied.partners is not None and varied.shares is not None:
                others = self._labels[as_tensor(varied.partners, self._device)]
                shares = as_tensor(varied.shares.astype(np.float32), self._device)
        if objective.is_regression:
            return _Batch(images, labels, (shares * labels + (1 - shares) * others)[:, None], torch.ones_like(shares))
        first, second = shares * self._class_weights[labels], (1 - shares) * self._class_weights[others]
        weights = first + second
        mine = torch.where(weights > 0, first / weights.clamp(min=1e-30), shares)[:, None]
        wanted = mine * F.one_hot(labels, self._net.outputs) + (1 - mine) * F.one_hot(others, self._net.outputs)
        smooth = objective.label_smoothing
        return _Batch(images, labels, (1 - smooth) * wanted + smooth / self._net.outputs, weights)

    def _backward(self, batch: _Batch, total: Tensor) -> tuple[Tensor, Tensor]:
        """Add the gradient of some rows; returns their part of the batch's mean loss, and how many are right."""
        logits = run_module(self._forward, self._inputs(batch.images), bfloat16=self._bfloat16)
        losses = batch.weights * self._row_losses(logits, batch.goals)
        mean = losses.sum() / total
        torch.autograd.backward(mean if self._recipe.reduction == "mean" else losses.sum())
        if self._recipe.is_regression:
            return mean.detach(), torch.zeros((), dtype=torch.int64, device=self._device)
        return mean.detach(), (logits.argmax(1) == batch.labels).sum()

    def _row_losses(self, logits: Tensor, goals: Tensor) -> Tensor:
        """Loss of each row, (n,): see `Objective`."""
        if self._recipe.loss == "cross_entropy":
            return -(goals * F.log_softmax(logits, 1)).sum(1)
        if self._recipe.loss == "huber":
            return F.huber_loss(logits, goals, reduction="none", delta=self._recipe.huber_delta).sum(1)
        return 0.5 * ((logits - goals) ** 2).sum(1)

    def _place_dropout(self, step: int, first_row: int) -> None:
        """Tell the masks which step and rows come next."""
        if self._recipe.dropout > 0:
            key = mix(np.array([self._seed], np.uint64)) ^ np.uint64(step * 64)
            moment = torch.tensor([int(key.view(np.int64)[0]), first_row])
            for drop in self._drops:
                drop.moment.copy_(moment)

    def _update(self, lr: float, step: int) -> None:
        """Penalties, clipping, decay, the optimiser's step, and the weights that broadcast from it."""
        objective, trained, grad = self._recipe, self._trained, self._grad
        if objective.l1 > 0:
            grad.addcmul_(trained.sign(), self._decayed, value=objective.l1)
        if objective.l2 > 0:
            grad.addcmul_(trained, self._decayed, value=objective.l2)
        if objective.clip_norm > 0:
            grad.mul_((objective.clip_norm / grad.norm().clamp(min=1e-30)).clamp(max=1))
        before = None if self._rates is None else trained.clone()
        if objective.decay > 0:
            trained.addcmul_(trained, self._decayed, value=-lr * objective.decay)
        self._optimizer.step(lr)
        if (step + 1) % SWEEP == 0:
            self._optimizer.drop_tiny()
        if before is not None and self._rates is not None:
            trained.copy_(before.lerp_(trained, self._rates))
        if self._slow is not None and (step + 1) % self._lookahead == 0:
            trained.copy_(self._slow.lerp_(trained, 0.5))
        if self._ema:
            share = 1 - min(self._ema, (1 + step) / (10 + step))  # so that the first weights are soon forgotten
            for average, now in zip(self._average, (trained, self._kept), strict=True):
                average.lerp_(now, share)

    def logits(self, rows: Rows) -> NDArray[np.float32]:
        """See `Engine`."""
        for values in self._average:
            self._team.broadcast(values)  # each process has normalised by the statistics of its own rows
        found = torch.zeros(len(rows), self._net.outputs, device=self._device)
        own = self._team.share(len(rows))
        mine = as_tensor(rows[own], self._device)
        self._ema_module.eval()
        size = rows_at_once(self._net)
        with torch.no_grad(), _at_work():
            for at in range(0, len(mine), size):
                logits = run_module(self._ema_module, self._inputs(self._images[mine[at : at + size]]))
                found[own.start + at : own.start + at + len(logits)] = logits
        self._team.sum(found)
        return np.asarray(found.cpu().numpy())

    def probe(self, rows: Rows, *, trial: tuple[int, float] | None = None) -> Probe:
        """See `Engine`."""
        parts, module, weights = split_rows(len(rows)), self._ema_module, self._average[0]
        rows = rows[: parts[-1].stop]
        labels = self._labels[as_tensor(rows, self._device)]
        goals = labels[:, None] if self._recipe.is_regression else F.one_hot(labels, self._net.outputs)
        pairs = [(self._inputs(self._images[as_tensor(rows[part], self._device)]), goals[part]) for part in parts]
        with _at_work():
            found = measure_parts(module, pairs, self._row_losses)
        tried, before, forward = None, self._trained.clone(), self._forward
        steps: dict[str, float] = {}
        if trial is not None:
            self._forward = self._module  # nothing is compiled for a batch that may be of another size
            try:
                loss, steps = try_step(
                    self, rows[: self._batch_size], step=trial[0], lr=trial[1],
                    look=lambda: measure_weights(module, self._trained - before),
                )  # fmt: skip
            finally:
                self._forward = forward
            tried = loss, self._batch_size
        layers = probe_layers(
            found.seen,
            weights=measure_weights(module, weights),
            gradients=measure_weights(module, found.gradient),
            steps=steps,
        )
        whole_square = float(torch.linalg.vector_norm(found.gradient)) ** 2
        noise = noise_scale(found.part_square, whole_square, n=len(rows), size=parts[0].stop)
        return probe_network(
            _copy(found.logits), _copy(labels), huber=self._recipe.huber, layers=layers, noise=noise, trial=tried
        )

    def params(self) -> NDArray[np.float32]:
        """See `Engine`."""
        return _copy(torch.cat(self._average))

    def state(self) -> State:
        """See `Engine`."""
        found = {"params": _copy(torch.cat([self._trained, self._kept]))}
        found |= {f"slots.{name}": _copy(value) for name, value in self._optimizer.slots().items()}
        if self._slow is not None:
            found["slow"] = _copy(self._slow)
        if self._ema:
            found["average"] = _copy(torch.cat(self._average))
        return found

    def load_state(self, state: State) -> None:
        """See `Engine`."""

        def fill(targets: tuple[Tensor, ...], values: NDArray[Any]) -> None:
            parts = torch.from_numpy(np.array(values)).tensor_split([len(targets[0])])
            for target, part in zip(targets, parts, strict=False):
                target.copy_(part)

        fill((self._trained, self._kept), state["params"])
        slots = {k.removeprefix("slots."): torch.from_numpy(np.array(v)) for k, v in state.items() if "slots." in k}
        self._optimizer.load_slots(slots)
        if self._slow is not None:
            fill((self._slow,), state["slow"])
        if self._ema:
            fill(self._average, state["average"])

    def is_finite(self) -> bool:
        """See `Engine`."""
        return bool(torch.isfinite(self._trained).all())

    def describe(self) -> dict[str, Any]:
        """See `Engine`."""
        return {
            "engine": self.name, "device": _name_device(self._device), "products": "bfloat16" if self._bfloat16 else "float32",
            "torch": torch.__version__, "threads": torch.get_num_threads(), "processes": self._team.size,
        }  # fmt: skip


def _name_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _split(count: int, parts: int) -> list[slice]:
    """`count` rows in so many parts of nearly equal size, none empty."""
    edges = np.linspace(0, count, min(parts, count) + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def _copy(tensor: Tensor) -> NDArray[Any]:
    return np.array(tensor.detach().cpu().numpy())


@contextmanager
def _at_work() -> Iterator[None]:
    """Only such algorithms on CUDA as give the same bits again, in full float32; memory that runs out is a MemoryError."""
    flags = {"enabled": True, "benchmark": False, "deterministic": True, "allow_tf32": False}
    try:
        with as_memory_error(), torch.backends.cudnn.flags(**flags):
            yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = str(error).strip().splitlines()[0][:160]
        raise RunError(f"compile must work on this machine, got: {reason}. Leave train.compile out.") from None
