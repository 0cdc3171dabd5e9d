"""Seconds from first weights to a target accuracy, over ten and more runs, on Fashion-MNIST and CIFAR-10.

    python -m benchmarks.gpu [--rounds 10] [--json FILE] [--table FILE] [--quick]

On a CUDA device it trains `speednet` on all pictures to 0.94; the mark to beat on CIFAR-10 is 2.6 s on an A100 (Jordan 2024,
airbench94_muon) and 1.99 s (a later record). Without one it trains a narrow `speednet` on a share of the pictures to a
lower target, and the record says so. Timed is what training does: no reading, no building, no whitening of the first layer (the
marks include that), no first run. Accuracy is on the
test split, once a run. It asserts nothing about time.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks import describe_run, render_run, run_benchmark, summarize
from clearsight.config import build_config
from clearsight.data.dataset import Dataset
from clearsight.data.load import load_data
from clearsight.errors import DataError
from clearsight.intervals import mean_interval
from clearsight.models.modules import import_torch
from clearsight.pipeline import fit_prepared, judge, prepare
from clearsight.settings import merge
from clearsight.training.progress import SilentProgress

MARKS = {"cifar10": "2.6 s on an A100 (airbench94_muon), 1.99 s (a later record), both to 0.94"}


@dataclass(frozen=True)
class Task:
    """What is trained, and to which accuracy."""

    data: str
    target: float
    settings: dict[str, Any] = field(default_factory=dict)


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
        Task("cifar10", 0.94, {"augment": CIFAR_AUGMENT, "train": {"epochs": 10, "batch_size": 1000}}),
    ),
    "cpu": (
        Task("fashion-mnist", 0.87, {
            "data": {"train_fraction": 0.2}, "augment": FASHION_AUGMENT, "model": {"widths": [16, 32, 32]},
            "train": {"epochs": 4, "batch_size": 100},
        }),
        Task("cifar10", 0.50, {
            "data": {"train_fraction": 0.1}, "augment": CIFAR_AUGMENT, "model": {"widths": [16, 32, 32]},
            "train": {"epochs": 6, "batch_size": 50},
        }),
    ),
}  # fmt: skip


def run_once(task: Task, dataset: Dataset, *, seed: int, device: str) -> tuple[float, float]:
    """Seconds of training, and accuracy on the test split."""
    wanted = {"train": {"seed": seed, "device": device}}
    prepared = prepare(build_config(merge(SHARED, task.settings, wanted)), dataset)
    torch = import_torch()
    if device == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = fit_prepared(prepared, progress=SilentProgress())
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    run, _ = judge(prepared, result)
    assert run.test is not None
    return seconds, float(run.test.accuracy or 0.0)


def measure(*, rounds: int, quick: bool, command: str) -> dict[str, Any]:
    """The record of all tasks whose data is found."""
    record, torch = describe_run(command), import_torch()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads of the processor"
    found: dict[str, Any] = {}
    for task in TASKS[device]:
        try:
            dataset = load_data(task.data)
        except DataError:
            continue
        run_once(task, dataset, seed=10**6, device=device)  # not counted: it warms up
        runs = [run_once(task, dataset, seed=seed, device=device) for seed in range(rounds)]
        accuracies = tuple(accuracy for _, accuracy in runs)
        found[task.data] = {
            "target": task.target, "accuracies": accuracies, "mean": float(np.mean(accuracies)),
            "interval": mean_interval(accuracies), "seconds": summarize(seconds for seconds, _ in runs),
            "share": task.settings.get("data", {}).get("train_fraction", 1.0),
        }  # fmt: skip
        if quick:
            break
    return record | {"device": device, "device_name": name, "tasks": found}


def render_table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = [
        "| data | share of training pictures | target | mean accuracy | 95 % interval | median s | min | max | n | reached |",
        "|-|-:|-:|-:|-:|-:|-:|-:|-:|-|",
    ]
    for name, task in record["tasks"].items():
        low, high = task["interval"]
        between = "-" if low is None else f"{low:.4f} to {high:.4f}"
        s = task["seconds"]
        numbers = f"{task['mean']:.4f} | {between} | {s['median']:.2f} | {s['min']:.2f} | {s['max']:.2f} | {s['n']}"
        reached = "yes" if task["mean"] >= task["target"] else "no"
        lines.append(f"| {name} | {task['share']:g} | {task['target']} | {numbers} | {reached} |")
    marks = "; ".join(f"{name}: {mark}" for name, mark in MARKS.items())
    limits = (
        f"Marks: {marks}."
        if record["device"] == "cuda"
        else f"No CUDA device was at hand, so targets are lower and pictures fewer; the marks ({marks}) are not tried here."
    )
    return "\n\n".join([
        "## Seconds to a target accuracy", render_run(record), f"Device: {record['device_name']}.", "\n".join(lines), limits,
    ])  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    run_benchmark("gpu", arguments, measure=measure, render=render_table)


if __name__ == "__main__":
    main()
