"""How many planted label errors are found: precision and recall beside cleanlab on the same out-of-fold probabilities.

    python -m benchmarks.labels [--rounds 3] [--json FILE] [--table FILE] [--quick]

A tenth of the labels is changed to another class at random, a round a seed. Fashion-MNIST is judged by a dense net, paintings by
a head on pretrained features. Data that is not there is left out. It asserts nothing.
"""

import tempfile
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import describe_run, render_run, run_benchmark
from benchmarks.rates import find_folder
from clearsight.actions.cross_validate import cross_validate
from clearsight.config.build import build_config
from clearsight.config.files import merge
from clearsight.core.numerics import softmax
from clearsight.data.dataset import TRAIN, Dataset
from clearsight.diagnose.suspects import find_suspects
from clearsight.errors import DataError
from clearsight.pipeline.data import load_dataset

SHARE = 0.1
PROBLEMS: dict[str, dict[str, Any]] = {
    "paintings": {
        "data": {"source": find_folder("paintings"), "test_fraction": 0.0, "check": False},
        "model": {"family": "efficientnet_lite0", "pretrained": True},
    },
    "fashion-mnist": {
        "data": {"source": "fashion-mnist", "check": False},
        "model": {"hidden": [128]},
        "train": {"epochs": 8, "batch_size": 128, "schedule": "one-cycle", "lr": 0.003, "dropout": 0.2},
    },
}


def plant(dataset: Dataset, seed: int) -> tuple[Dataset, NDArray[np.bool_]]:
    """The data set with a tenth of its training labels changed, and which (N,)."""
    rng, classes = np.random.default_rng(seed), len(dataset.class_names)
    rows = np.flatnonzero(dataset.given == TRAIN)
    chosen = rng.permutation(rows)[: round(SHARE * len(rows))]
    labels, flipped = dataset.labels.copy(), np.zeros(len(dataset), np.bool_)
    labels[chosen] = (labels[chosen] + rng.integers(1, classes, len(chosen))) % classes
    flipped[chosen] = True
    return replace(dataset, labels=labels), flipped


def judge(found: NDArray[np.int64], flipped: NDArray[np.bool_]) -> dict[str, float]:
    """Precision and recall of rows (m,) that are said to be wrong."""
    hits = int(flipped[found].sum())
    return {"found": len(found), "precision": hits / max(len(found), 1), "recall": hits / int(flipped.sum())}


def run_round(settings: dict[str, Any], seed: int, *, quick: bool) -> dict[str, dict[str, float]]:
    """Ours and cleanlab's on one planted data set."""
    from cleanlab.filter import find_label_issues

    if quick:
        settings = merge(settings, {"data": {"train_fraction": 0.05}})
    dataset, flipped = plant(load_dataset(build_config(settings)), seed)
    with tempfile.TemporaryDirectory() as folder:
        found = cross_validate(dataset, config=settings, folds=5, root=folder, fold_seed=seed)
    shares = softmax(found.outputs[0].astype(np.float64))
    planted = flipped[found.rows]
    issues = find_label_issues(found.labels, shares, return_indices_ranked_by="self_confidence", n_jobs=1)
    rows: dict[str, dict[str, float]] = {
        "clearsight": judge(find_suspects(shares, found.labels).rows, planted),
        "cleanlab, defaults": judge(np.asarray(issues), planted),
    }
    for name in rows:
        rows[name]["n"] = len(found.rows)
    return rows


def measure(*, rounds: int, quick: bool, command: str) -> dict[str, Any]:
    """All problems whose data is there, a round a seed."""
    record, problems = describe_run(command), {}
    for name, settings in PROBLEMS.items():
        try:
            problems[name] = [run_round(settings, seed, quick=quick) for seed in range(rounds)]
        except DataError:
            continue
    return record | {"rounds": rounds, "share": SHARE, "problems": problems}


def render_table(record: dict[str, Any]) -> str:
    """A Markdown section."""
    lines = [
        "## Planted label errors",
        "",
        render_run(record),
        "",
        f"A tenth of the labels changed at random; means over {record['rounds']} seeds, with the least and most.",
        "",
        "| data | n | by | said to be wrong | precision | recall |",
        "|-|-:|-|-:|-:|-:|",
    ]
    for problem, rounds in record["problems"].items():
        for name in rounds[0]:
            cells = [[one[name][key] for one in rounds] for key in ("precision", "recall")]
            shown = [f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})" for values in cells]
            count = np.mean([one[name]["found"] for one in rounds])
            lines.append(
                f"| {problem} | {rounds[0][name]['n']:,.0f} | {name} | {count:,.0f} | {shown[0]} | {shown[1]} |"
            )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    run_benchmark("labels", arguments, measure=measure, render=render_table)


if __name__ == "__main__":
    main()
