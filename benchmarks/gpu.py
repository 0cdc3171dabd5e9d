"""Seconds from first weights to a target accuracy, over ten and more runs, on Fashion-MNIST and CIFAR-10, beside plain PyTorch.

    python -m benchmarks.gpu [--rounds 10] [--json FILE] [--table FILE] [--quick]

On a CUDA device it trains `speednet` on all pictures to 0.94; the mark to beat on CIFAR-10 is 2.6 s on an A100 (Jordan 2024,
airbench94_muon) and 1.99 s (a later record). Without one it trains a narrow `speednet` on a share of the pictures to a
lower target, and the record says so. After every epoch the test split is judged, and a run that has reached the target stops.
Timed is what training does: no judging, no reading, no building, no whitening of the first layer (the marks include that), no
first run. The peer trains the same net from the same first weights on batches varied alike, by SGD with Nesterov's momentum in
one cycle; it differs in the optimiser and in the average of weights, which it lacks. It asserts nothing about time.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from benchmarks import describe_run, render_run, run_benchmark, summarize
from benchmarks.peers import BatchLoop, vary_flip_and_crop
from clearsight.config.build import build_config
from clearsight.config.files import merge
from clearsight.core.intervals import mean_interval
from clearsight.data.dataset import Dataset
from clearsight.data.read.load import load_data
from clearsight.errors import DataError
from clearsight.models.modules import import_torch
from clearsight.pipeline.prepare import Prepared, fit_prepared, prepare
from clearsight.training.order import epoch_order

MARKS = {"cifar10": "2.6 s on an A100 (airbench94_muon), 1.99 s (a later record), both to 0.94"}


@dataclass(frozen=True)
class Task:
    """What is trained, to which accuracy, and the peer's greatest rate, which is not tuned, and padding."""

    data: str
    target: float
    settings: dict[str, Any] = field(default_factory=dict)
    peer_lr: float = 0.1
    padding: str = "constant"


@dataclass(frozen=True)
class Reached:
    """How one run went: seconds of training and epochs until it stopped, and its last test accuracy."""

    seconds: float
    epochs: int
    accuracy: float


SHARED: dict[str, Any] = {
    "data": {"valid_fraction": 0.0}, "preprocess": {"scale": "standardize"}, "model": {"family": "speednet"},
    "train": {
        "engine": "torch", "optimizer": "muon", "lr": 0.05, "momentum": 0.9, "schedule": "one-cycle", "label_smoothing": 0.2,
        "weight_decay": 0.01, "ema": 0.99,
    },
}  # fmt: skip
CIFAR_AUGMENT = {"hflip": 0.5, "crop": 0.0625, "fill": "reflect", "unsafe": "ignore"}
FASHION_AUGMENT = {"hflip": 0.5, "crop": 0.0715, "unsafe": "ignore"}
TASKS = {
    "cuda": (
        Task("fashion-mnist", 0.94, {"augment": FASHION_AUGMENT, "train": {"epochs": 12, "batch_size": 500}}),
        Task(
            "cifar10", 0.94, {"augment": CIFAR_AUGMENT, "train": {"epochs": 10, "batch_size": 1000}}, padding="reflect"
        ),
    ),
    "cpu": (
        Task("fashion-mnist", 0.87, {
            "data": {"train_fraction": 0.2}, "augment": FASHION_AUGMENT, "model": {"widths": [16, 32, 32]},
            "train": {"epochs": 4, "batch_size": 100},
        }),
        Task("cifar10", 0.50, {
            "data": {"train_fraction": 0.1}, "augment": CIFAR_AUGMENT, "model": {"widths": [16, 32, 32]},
            "train": {"epochs": 6, "batch_size": 50},
        }, padding="reflect"),
    ),
}  # fmt: skip


def prepare_task(task: Task, dataset: Dataset, *, seed: int, device: str) -> Prepared:
    """A run that is ready to train."""
    return prepare(build_config(merge(SHARED, task.settings, {"train": {"seed": seed, "device": device}})), dataset)


def run_to_target(epochs: Iterator[Callable[[], float]], *, target: float, device: str) -> Reached:
    """Time epochs until one reaches the target; each trains when it is drawn and then tells its accuracy, untimed."""
    torch, seconds, done, accuracy = import_torch(), 0.0, 0, 0.0
    while accuracy < target:
        began = time.perf_counter()
        find_accuracy = next(epochs, None)
        if find_accuracy is None:
            break
        if device == "cuda":
            torch.cuda.synchronize()
        seconds, done, accuracy = seconds + time.perf_counter() - began, done + 1, find_accuracy()
    return Reached(seconds, done, accuracy)


def prepare_ours(task: Task, dataset: Dataset, *, seed: int, device: str) -> Iterator[Callable[[], float]]:
    """Epochs of this project's engine, which is built before the first is drawn."""
    prepared = prepare_task(task, dataset, seed=seed, device=device)
    test, labels = prepared.split.test, prepared.dataset.labels

    def train() -> Iterator[Callable[[], float]]:
        saved = None
        for epoch in range(prepared.config.train.epochs):
            result = fit_prepared(prepared, start=saved, pause_epoch=epoch + 1)
            yield lambda: float((prepared.engine.logits(test).argmax(1) == labels[test]).mean())
            saved = result.saved

    return train()


def prepare_peer(task: Task, dataset: Dataset, *, seed: int, device: str) -> Iterator[Callable[[], float]]:
    """Epochs of the plain loop, likewise."""
    prepared = prepare_task(task, dataset, seed=seed, device=device)
    import_torch().manual_seed(seed)
    reach = round(prepared.config.augment.crop * dataset.images.shape[1])
    loop = BatchLoop(
        prepared, vary=partial(vary_flip_and_crop, reach, task.padding), device=device, bfloat16=device == "cuda",
        lr=task.peer_lr, one_cycle=True, weight_decay=5e-4,
    )  # fmt: skip

    def train() -> Iterator[Callable[[], float]]:
        for epoch in range(prepared.config.train.epochs):
            loop.train_epoch(epoch_order(prepared.split.train, seed=seed, epoch=epoch))
            yield lambda: loop.find_accuracy(prepared.split.test)

    return train()


CONTESTANTS = {"clearsight": prepare_ours, "PyTorch, batches in NHWC, SGD": prepare_peer}


def summarize_runs(runs: list[Reached], target: float) -> dict[str, Any]:
    """What the record holds of one contestant."""
    return {
        "reached": sum(one.accuracy >= target for one in runs), "accuracies": [one.accuracy for one in runs],
        "epochs": [one.epochs for one in runs], "seconds": summarize(one.seconds for one in runs),
        "interval": mean_interval(tuple(one.seconds for one in runs), most=np.inf),
    }  # fmt: skip


def measure(*, rounds: int, quick: bool, command: str) -> dict[str, Any]:
    """The record of all tasks whose data is found, contestants in turns."""
    record, torch = describe_run(command), import_torch()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads of the processor"
    found: dict[str, Any] = {}
    for task in TASKS[device]:
        try:
            dataset = load_data(task.data)
        except DataError:
            continue
        if quick:
            dataset = dataset.select(np.arange(0, len(dataset), 20))
        runs: dict[str, list[Reached]] = {contestant: [] for contestant in CONTESTANTS}
        for seed in range(-1, rounds):
            for contestant, prepare_epochs in CONTESTANTS.items():
                epochs = prepare_epochs(task, dataset, seed=seed % 10**6, device=device)
                reached = run_to_target(epochs, target=task.target, device=device)
                if seed >= 0:  # the first warms up
                    runs[contestant].append(reached)
        share = task.settings.get("data", {}).get("train_fraction", 1.0)
        rows = {contestant: summarize_runs(some, task.target) for contestant, some in runs.items()}
        found[task.data] = {"target": task.target, "share": share, "contestants": rows}
        if quick:
            break
    return record | {"device": device, "device_name": name, "tasks": found}


def render_task(name: str, task: dict[str, Any]) -> list[str]:
    """Markdown rows of one task."""
    lines = []
    for contestant, row in task["contestants"].items():
        s, (low, high) = row["seconds"], row["interval"]
        between = "-" if low is None else f"{low:.2f} to {high:.2f}"
        numbers = f"{s['median']:.2f} | {s['min']:.2f} | {s['max']:.2f} | {between} | {np.median(row['epochs']):g}"
        lines.append(
            f"| {name} | {task['share']:g} | {task['target']} | {contestant} | {row['reached']} of {s['n']} | {numbers} |"
        )
    return lines


def render_table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = [
        "| data | share of pictures | target | by | reached | median s | min | max | 95 % interval of the mean | epochs |",
        "|-|-:|-:|-|-|-:|-:|-:|-|-:|",
    ]
    for name, task in record["tasks"].items():
        lines += render_task(name, task)
    marks = "; ".join(f"{name}: {mark}" for name, mark in MARKS.items())
    limits = (
        f"Marks: {marks}."
        if record["device"] == "cuda"
        else f"No CUDA device was at hand, so targets are lower and pictures fewer; the marks ({marks}) are not tried here."
    )
    return "\n\n".join([
        "## Seconds to a target accuracy", render_run(record),
        f"Device: {record['device_name']}. Each run stops at the first epoch whose test accuracy reaches the target.",
        "\n".join(lines), limits,
    ])  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    run_benchmark("gpu", arguments, measure=measure, render=render_table)


if __name__ == "__main__":
    main()
