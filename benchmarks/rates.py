"""How good the rate that `--lr auto` takes is: accuracy on validation rows beside the best of a grid of rates.

    python -m benchmarks.rates [--rounds 3] [--json FILE] [--table FILE] [--quick]

A round is a seed: of weights, order and split, alike for the grid and the search. The best of the grid is chosen by its mean over
the seeds, which flatters it. Problems whose data is not there are left out. No test split is looked at.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import describe_run, render_run, run_benchmark
from clearsight.config.build import build_config
from clearsight.config.files import merge, nest
from clearsight.data.dataset import Dataset
from clearsight.data.read.load import data_folders
from clearsight.errors import DataError
from clearsight.pipeline.data import load_dataset
from clearsight.pipeline.prepare import fit_prepared, prepare
from clearsight.recipes import load_experiment

ONE_CYCLE = {"schedule": "one-cycle"}


@dataclass(frozen=True)
class Problem:
    """What is trained at which rates."""

    name: str
    settings: dict[str, Any]
    grid: tuple[float, ...]


def find_folder(name: str) -> str:
    """A folder of pictures among the data sets; its name where there is none."""
    return next((str(folder / name) for folder in data_folders() if (folder / name).is_dir()), name)


def problem(name: str, source: str, grid: tuple[float, ...], **sections: Any) -> Problem:
    """A problem with its settings by section."""
    return Problem(name, merge({"data": {"source": source}}, sections), grid)


PROBLEMS = (
    Problem("D2, sgd, 20 epochs", load_experiment("D2").variants[0].config.model_dump(exclude_unset=True),
            (0.003, 0.01, 0.03, 0.1, 0.3)),
    problem("digits 64-64-10, momentum, 15 epochs", "digits", (0.01, 0.03, 0.1, 0.3, 1.0), model={"hidden": [64]},
            train={"optimizer": "momentum", "epochs": 15, "batch_size": 32}),
    problem("paintings 64x64, cnn, adam, one-cycle, 12 epochs", find_folder("paintings"), (0.0003, 0.001, 0.003, 0.01),
            data={"valid_fraction": 0.3}, model={"family": "cnn"}, preprocess={"image_size": 64},
            train={"optimizer": "adam", "epochs": 12, "batch_size": 32, **ONE_CYCLE}),
    problem("MNIST 30 %, cnn, adam, one-cycle, 2 epochs", "mnist", (0.003, 0.01, 0.03, 0.1), data={"train_fraction": 0.3},
            model={"family": "cnn"}, train={"optimizer": "adam", "epochs": 2, "batch_size": 128, **ONE_CYCLE}),
    problem("Fashion-MNIST 784-128-10, adam, 4 epochs", "fashion-mnist", (0.0003, 0.001, 0.003, 0.01),
            model={"hidden": [128]}, train={"optimizer": "adam", "epochs": 4, "batch_size": 128}),
    problem("the same, sgd", "fashion-mnist", (0.03, 0.1, 0.3, 1.0), model={"hidden": [128]},
            train={"optimizer": "sgd", "epochs": 4, "batch_size": 128}),
    problem("MNIST 20 %, cnn, nesterov, one-cycle, 2 epochs", "mnist", (0.01, 0.03, 0.1, 0.3), data={"train_fraction": 0.2},
            model={"family": "cnn"}, train={"optimizer": "nesterov", "epochs": 2, "batch_size": 128, **ONE_CYCLE}),
)  # fmt: skip


def train_once(dataset: Dataset, settings: dict[str, Any], *, lr: float | str, seed: int) -> tuple[float, float]:
    """The rate, and accuracy on validation rows."""
    wanted = merge(settings, nest("train.lr", lr), nest("train.seed", seed))
    prepared = prepare(build_config(wanted), dataset)
    result = fit_prepared(prepared)
    accuracy = 0.0 if result.problem else result.history.epochs[-1]["valid_accuracy"]
    return prepared.config.lr, float(accuracy)


def measure_problem(task: Problem, *, rounds: int) -> dict[str, Any]:
    """The grid's means, and rates and accuracies of the search."""
    dataset = load_dataset(build_config(task.settings))
    grid = {
        lr: float(np.mean([train_once(dataset, task.settings, lr=lr, seed=s)[1] for s in range(rounds)]))
        for lr in task.grid
    }
    best = max(grid, key=lambda lr: grid[lr])
    found = [train_once(dataset, task.settings, lr="auto", seed=s) for s in range(rounds)]
    return {
        "name": task.name, "grid": {str(lr): value for lr, value in grid.items()}, "best_lr": best, "best": grid[best],
        "rates": [lr for lr, _ in found], "accuracies": [a for _, a in found], "auto": float(np.mean([a for _, a in found])),
    }  # fmt: skip


def measure(*, rounds: int, quick: bool, command: str) -> dict[str, Any]:
    """Run all problems whose data is there."""
    record, rows = describe_run(command), []
    for task in PROBLEMS[:2] if quick else PROBLEMS:
        try:
            rows.append(measure_problem(task, rounds=rounds))
        except DataError:
            continue
    return record | {"rounds": rounds, "rows": rows}


def render_table(record: dict[str, Any]) -> str:
    """A Markdown section."""
    lines = [
        f"| problem | best of the grid | at | `--lr auto`, mean of {record['rounds']} | rates found | points behind |",
        "|---|-:|-:|-:|---|-:|",
    ]
    for row in record["rows"]:
        rates = ", ".join(f"{rate:.2g}" for rate in row["rates"])
        behind = 100 * (row["best"] - row["auto"])
        lines.append(
            f"| {row['name']} | {row['best']:.4f} | {row['best_lr']:g} | {row['auto']:.4f} | {rates} | {behind:.2f} |"
        )
    return "\n".join(["## Learning rates found", "", render_run(record), "", *lines])


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    run_benchmark("rates", arguments, measure=measure, render=render_table)


if __name__ == "__main__":
    main()
