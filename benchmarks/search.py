"""A grid by cross-validation beside scikit-learn's `GridSearchCV`, and a hundred trivial trials.

    python -m benchmarks.search [--rounds 1] [--json FILE] [--table FILE] [--quick]

The grid is recipe F3: eight settings, five folds, 30 epochs of 44,800 pictures, on all cores. scikit-learn's is `MLPClassifier`
with the same net, batch size and rates, and as many jobs as there are cores; of its 1,200 epochs a part is timed and the rest
extrapolated, because an epoch takes as long as the next. It has no L1, which costs next to nothing. It asserts nothing.
"""

import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import describe_run, render_run, run_benchmark, summarize
from clearsight.actions.tune import tune
from clearsight.config.build import build_config
from clearsight.data.dataset import Dataset
from clearsight.pipeline.data import load_dataset
from clearsight.pipeline.prepare import prepare
from clearsight.recipes.searches import SearchRecipe, load_search

PART = {"settings": 2, "folds": 2, "epochs": 30}


def read_part(recipe: SearchRecipe, *, quick: bool) -> Dataset:
    """The pictures of the recipe, or with `quick` a twentieth of them."""
    dataset = load_dataset(build_config(recipe.config))
    return dataset.select(np.arange(0, len(dataset), 20)) if quick else dataset


def search_ours(recipe: SearchRecipe, dataset: Dataset, prune: str, *, epochs: int | None) -> float:
    """Seconds of the whole search."""
    config = recipe.config | {"train": recipe.config["train"] | ({"epochs": epochs} if epochs else {})}
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        tune(
            dataset,
            config=config,
            search=recipe.search,
            prune=prune,
            root=Path(folder),
            retrain=False,
            **recipe.options,
        )
        return time.perf_counter() - began


def search_sklearn(recipe: SearchRecipe, dataset: Dataset, *, epochs: int) -> tuple[float, int]:
    """Seconds of a part of scikit-learn's search, and how many epochs of all folds it held."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.neural_network import MLPClassifier

    config = build_config(recipe.config)
    prepared = prepare(config, dataset)
    rows = np.sort(np.concatenate([prepared.split.train, prepared.split.valid]))
    inputs, labels = prepared.preprocess.apply(dataset.images[rows]), dataset.labels[rows]
    train = config.train
    net = MLPClassifier(
        config.hidden, solver="sgd", batch_size=train.batch_size, momentum=0.0, max_iter=epochs, n_iter_no_change=epochs + 1,
        random_state=0,
    )  # fmt: skip
    folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(inputs, labels))[: PART["folds"]]
    grid = {"learning_rate_init": [0.01, 0.05][: PART["settings"]]}
    search = GridSearchCV(net, grid, cv=folds, n_jobs=os.cpu_count(), refit=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        few = np.arange(0, len(labels), 100)  # starts the workers
        GridSearchCV(net, grid, cv=2, n_jobs=os.cpu_count(), refit=False).fit(inputs[few], labels[few])
        began = time.perf_counter()
        search.fit(inputs, labels)
        return time.perf_counter() - began, PART["settings"] * len(folds) * epochs


def run_trivial_trials() -> float:
    """Seconds of a hundred trials of one epoch on `digits`, everything included but starting Python."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        tune(
            "digits", search=["train.lr={log = [1e-4, 1]}", "train.l2=0,0.001"], strategy="random", trials=100, epochs=1,
            root=Path(folder), retrain=False,
        )  # fmt: skip
        return time.perf_counter() - began


def measure(*, rounds: int, quick: bool, command: str) -> dict[str, Any]:
    """All contestants in turns."""
    record, recipe = describe_run(command), load_search("F3")
    assert recipe is not None
    dataset = read_part(recipe, quick=quick)
    trials, epochs = len(recipe.means), 2 if quick else None
    whole = trials * recipe.options["folds"] * (epochs or recipe.config["train"]["epochs"])
    seconds: dict[str, list[float]] = {
        "clearsight": [],
        "clearsight, halving": [],
        "scikit-learn GridSearchCV": [],
        "trivial": [],
    }
    run_trivial_trials()  # compiles the kernel, imports Optuna
    part, held = 0.0, 0
    for _ in range(rounds):
        seconds["clearsight"].append(search_ours(recipe, dataset, "none", epochs=epochs))
        seconds["clearsight, halving"].append(search_ours(recipe, dataset, "halving", epochs=epochs))
        part, held = search_sklearn(recipe, dataset, epochs=2 if quick else PART["epochs"])
        seconds["scikit-learn GridSearchCV"].append(part * whole / held)
        seconds["trivial"].append(run_trivial_trials())
    ours = summarize(seconds["clearsight"])["median"]
    rows = {name: summarize(values) | {"ratio": summarize(values)["median"] / ours} for name, values in seconds.items()}
    return record | {"rounds": rounds, "epochs": whole, "part": {"epochs": held, "seconds": part}, "rows": rows}


def render_table(record: dict[str, Any]) -> str:
    """A Markdown section."""
    rows = record["rows"]
    trivial, peer = rows["trivial"], rows["scikit-learn GridSearchCV"]["median"]
    lines = [
        "## A grid by cross-validation: seconds in all",
        "",
        render_run(record),
        "",
        f"Objective F3, {record['epochs']:,} epochs of 44,800 pictures in all. scikit-learn's row is extrapolated from "
        f"{record['part']['epochs']} epochs, which took {record['part']['seconds']:.1f} s.",
        "",
        "| | median s | min | max | n | times faster than GridSearchCV |",
        "|-|-:|-:|-:|-:|-:|",
    ]
    for name in ("clearsight", "clearsight, halving", "scikit-learn GridSearchCV"):
        row = rows[name]
        title = f"**{name}**" if name.startswith("clearsight") else name
        lines.append(
            f"| {title} | {row['median']:.1f} | {row['min']:.1f} | {row['max']:.1f} | {row['n']} | {peer / row['median']:.1f} |"
        )
    lines += ["", f"A hundred trials of one epoch on `digits` take {trivial['median']:.2f} s (n = {trivial['n']})."]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    run_benchmark("search", arguments, measure=measure, render=render_table)


if __name__ == "__main__":
    main()
