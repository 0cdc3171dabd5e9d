"""What it costs on this machine to train more of a pretrained network than its head: real steps, timed and carried forward.

It must not know runs.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clearsight.config.build import build_config
from clearsight.config.files import merge
from clearsight.config.schema import RunConfig
from clearsight.core.progress import render_seconds
from clearsight.data.dataset import Dataset
from clearsight.data.preprocess import Preprocess
from clearsight.data.split import Split
from clearsight.engines.base import Engine
from clearsight.engines.predictor import rows_at_once
from clearsight.engines.team import Team
from clearsight.engines.torch_tools import Inputs, as_tensor, build_bound
from clearsight.models.convnet import ConvNet, Tail
from clearsight.pipeline.build import build_objective, build_tail_engine, build_torch_engine, scale_features
from clearsight.pipeline.data import resolve_augmentation
from clearsight.pipeline.features import AT_ONCE, are_kept

_ROWS = 2  # pictures of a measured step
_REPEATS = 5  # of what is timed: the least counts, as other work on the machine only ever adds to it
_FLOAT = 4  # bytes
_MAPS = 3  # of the largest, that are in memory together on the way forwards
_COPIES = 6  # of the weights: they, their gradient, what the optimiser remembers, and what comes in between


@dataclass(frozen=True)
class Cost:
    """Seconds from now to the end, and bytes of memory at the most (of the device, if that is not the processor)."""

    seconds: float
    memory: float

    def __str__(self) -> str:
        return f"about {render_seconds(self.seconds)} and {self.memory / 2**30:.1f} GB of memory"


@dataclass(frozen=True)
class _Picture:
    """What one picture costs: seconds forwards `early` and `late`, of a training `step`; bytes that a step keeps of it."""

    early: float
    late: float
    step: float
    kept: float
    device: str


class _Training(NamedTuple):
    """What would be trained: by a configuration, a network with its first numbers, on rows of a data set."""

    config: RunConfig
    net: ConvNet
    dataset: Dataset
    split: Split
    preprocess: Preprocess
    params: NDArray[np.float32]


def measure_cost(
    config: RunConfig,
    net: ConvNet,
    dataset: Dataset,
    split: Split,
    preprocess: Preprocess,
    *,
    params: NDArray[np.float32],
) -> Cost:
    """What a run that trains a pretrained net's last stages, or all of it, costs, by steps on two pictures.

    Args:
        config: of that run. net, params: the network and its first numbers. split: rows to train and to judge on.

    Raises:
        UsageError: a device or an engine that cannot be had.
    """
    training = _Training(config, net, dataset, split, preprocess, params)
    return _carry_forward(_measure_picture(training), training)


def _carry_forward(one: _Picture, training: _Training) -> Cost:
    """From one picture to a run: features that are not kept yet, each epoch with its validation, and the judgement at the end."""
    config, net, dataset, split, preprocess, params = training
    train, last, n = config.train, config.depth == "last", len(dataset)
    whole = one.early + one.late
    forwards = one.late if last else whole
    seconds = n * forwards + train.epochs * (len(split.train) * one.step + len(split.valid) * forwards)
    for part, more in (("head", whole), ("last", one.early if last else 0.0)):
        if not are_kept(net, params, preprocess, dataset, part=part):
            seconds += n * more
    rows = min(train.batch_size, len(split.train)) / train.accumulate
    memory = _COPIES * _FLOAT * net.num_values + max(rows * one.kept, _forward_memory(net))
    if last:
        memory += n * _FLOAT * prod(Tail(net).input_shape)
    return Cost(seconds, memory + _used_memory() if one.device == "cpu" else memory + dataset.images.nbytes)


def _forward_memory(net: ConvNet, *, growth: int = 1) -> float:
    """Bytes of the largest maps of pictures that go through together; `growth` of larger pictures."""
    rows = max(1, min(AT_ONCE, rows_at_once(net) // growth))
    return float(_FLOAT * _MAPS * net.largest_map * growth * rows)


def describe_deeper(
    config: RunConfig,
    net: ConvNet,
    dataset: Dataset,
    split: Split,
    preprocess: Preprocess,
    *,
    params: NDArray[np.float32],
) -> str:
    """What larger pictures, or training more than the head, would cost after a run of the head alone."""
    costs = []
    for depth in ("last", "all") if config.network.tail else ("all",):
        deeper = build_config(merge(config.model_dump(exclude_unset=True), {"model": {"finetune": depth}}))
        training = _Training(deeper, net, dataset, split, preprocess, params)
        one = _measure_picture(training)
        costs.append(f"--finetune {depth} takes {_carry_forward(one, training)}")
    if config.network.library is None:  # whose sizes are fixed
        height, width = (2 * side for side in net.input_shape[:2])
        memory = _used_memory() + 4 * dataset.images.nbytes + _forward_memory(net, growth=4)
        cost = Cost(4 * len(dataset) * (one.early + one.late), memory)
        costs.insert(0, f"--image-size {height if height == width else f'{height}x{width}'} takes {cost}")
    return ", ".join(costs)


def _measure_picture(training: _Training) -> _Picture:
    import torch

    config, net, dataset, split, preprocess, params = training
    some = split.train[:_ROWS]
    images, labels = dataset.images[some], dataset.labels[some]
    module: Any = build_bound(net, params)
    inputs = Inputs(preprocess)(as_tensor(images))
    with torch.no_grad():
        maps = module.early(inputs)
        early = _time_least(lambda: module.early(inputs))
        late = _time_least(lambda: module.late(maps))
    plain = config.change("train", compile=False, accumulate=1)
    recipe = build_objective(config, dataset, split.train)
    shared: dict[str, Any] = {
        "params": params, "team": Team(), "labels": labels, "batch_size": len(some), "seed": 0, "pool": np.arange(len(some)),
    }  # fmt: skip
    engine: Engine
    if config.depth == "last":
        features = maps.numpy()
        own = scale_features(features, shared["pool"], preprocess, one=False)
        engine = build_tail_engine(plain, net, recipe, images=features, preprocess=own, **shared)
    else:
        varied, _ = resolve_augmentation(config, dataset)
        engine = build_torch_engine(
            plain, net, recipe, images=images, preprocess=preprocess, augmentation=varied, **shared
        )
    kept = _count_kept(engine, shared["pool"])
    step = _time_least(lambda: _take_step(engine, shared["pool"]))
    n = len(some)
    return _Picture(early / n, late / n, step / n, kept / n, engine.device)


def _time_least(work: Callable[[], object]) -> float:
    """The least of up to five timings of some work, in seconds; fewer where they take more than a second."""
    spent: list[float] = []
    while len(spent) < _REPEATS and sum(spent) < 1:
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return min(spent)


def _take_step(engine: Engine, order: NDArray[np.int64]) -> None:
    engine.train_steps(order, epoch=1, first_batch=0, first_step=0, lrs=np.zeros(1))


def _count_kept(engine: Engine, order: NDArray[np.int64]) -> int:
    """Bytes that a step keeps for the way back, weights not among them."""
    import torch

    found: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        if not tensor.is_leaf or not tensor.requires_grad:
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _take_step(engine, order)
    return sum(found.values())


def _used_memory() -> int:
    """Bytes of memory that this process has in use now; on other systems than Linux, at the most so far."""
    import resource

    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
