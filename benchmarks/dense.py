"""Seconds per epoch of dense networks: this project, scikit-learn and PyTorch in turns, one thread each.

    python -m benchmarks.dense [--rounds 5] [--json FILE] [--table FILE] [--quick]

Beside them the matrix products of the epoch alone, which no implementation on the same BLAS can beat, the throughput of
several models trained side by side, and, of optimisers that remember, our own epochs one by one beside plain SGD's. It
asserts nothing about time.
"""

import os
import time
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier  # here, so that its OpenMP is loaded when threads are limited
from threadpoolctl import threadpool_info, threadpool_limits

from benchmarks import (
    Prepare,
    Work,
    describe_run,
    load_average,
    measure_in_turns,
    render_rows,
    render_run,
    run_benchmark,
    summarize,
)
from benchmarks.dense_cases import CASES, Case, Pictures, load_pictures
from clearsight.config.schema import DEFAULT_LR
from clearsight.engines.dense import kernel
from clearsight.engines.objective import Objective
from clearsight.models.initialize import initialize
from clearsight.models.mlp import MLP

Arrays = tuple[NDArray[np.float32], ...]
Batches = Callable[[], Iterable[Any]]  # (inputs, labels) of an epoch
OURS = "clearsight"
SKLEARN, LOADER, SLICES = "scikit-learn MLPClassifier", "PyTorch, DataLoader", "PyTorch, tensor slices"
PEERS = (SKLEARN, LOADER, SLICES)
COMPILED, NUMPY = "bound: sgemm alone (SciPy's BLAS)", "bound: sgemm alone (NumPy's BLAS)"
NUM_MODELS = 8  # trained side by side
QUICK_ROWS = 2000


# Each `prepare_` sets up an untrained network and returns the work of training it for some epochs.
def prepare_ours(
    case: Case,
    data: Pictures,
    *,
    epochs: int,
    seed: int = 0,
    optimizer: str | None = None,
    each: list[list[float]] | None = None,
) -> Work:
    """`kernel.train_steps`, an epoch a call, on the stored pixels; drawing the order is part of the work.

    Args:
        optimizer: in place of the case's, at that optimiser's usual rate.
        each: gets a list of the processor seconds of each epoch.
    """
    net = MLP(case.sizes, (case.activation,) * (len(case.sizes) - 2))
    recipe = Objective(optimizer=optimizer or case.optimizer, momentum=case.momentum)
    params = initialize(net, init="xavier", seed=seed)
    slots = np.zeros((recipe.num_slots, params.size), np.float32)
    steps = -(-case.rows // case.batch_size)
    rng, lrs = np.random.default_rng(seed), np.full(steps, DEFAULT_LR[optimizer] if optimizer else case.lr)
    targets = np.zeros((0, case.sizes[-1]), np.float32)

    def work() -> float:
        spent: list[float] = []
        for epoch in range(epochs):
            began = time.process_time()
            losses, _ = kernel.train_steps(
                net, recipe, inputs=data.pixels, labels=data.labels, targets=targets, order=rng.permutation(case.rows),
                batch_size=case.batch_size, scale=data.scale, offset=data.offset, params=params, slots=slots, lrs=lrs,
                first_batch=0, first_step=epoch * steps, seed=seed,
            )  # fmt: skip
            spent.append(time.process_time() - began)
        if each is not None:
            each.append(spent)
        return float(losses.mean())

    return work


def prepare_sklearn(case: Case, data: Pictures, *, epochs: int) -> Work:
    """One `fit` of `max_iter` epochs that cannot stop early, without the L2 penalty that is its default."""
    model = MLPClassifier(
        case.sizes[1:-1], activation={"sigmoid": "logistic"}.get(case.activation, case.activation),
        solver="adam" if case.optimizer == "adam" else "sgd",
        alpha=0.0, batch_size=case.batch_size, learning_rate_init=case.lr, momentum=case.momentum,
        nesterovs_momentum=False, max_iter=epochs, tol=0.0, n_iter_no_change=epochs + 1, early_stopping=False,
        random_state=0,
    )  # fmt: skip

    def work() -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(data.inputs, data.labels)
        return float(model.loss_)

    return work


def _load_batches(inputs: Any, labels: Any, batch_size: int) -> Batches:
    from torch.utils.data import DataLoader, TensorDataset

    loader = DataLoader(TensorDataset(inputs, labels), batch_size=batch_size, shuffle=True, num_workers=0)
    return lambda: loader


def _slice_batches(inputs: Any, labels: Any, batch_size: int) -> Batches:
    import torch

    def batches() -> Iterable[Any]:
        order = torch.randperm(len(inputs))
        for start in range(0, len(inputs), batch_size):
            rows = order[start : start + batch_size]
            yield inputs[rows], labels[rows]

    return batches


def prepare_torch(case: Case, data: Pictures, *, epochs: int, batches_of: Callable[[Any, Any, int], Batches]) -> Work:
    """The usual loop, with batches from a DataLoader or from slices of shuffled row numbers."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    activation = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}[case.activation]
    layers: list[nn.Module] = []
    for fan_in, units in zip(case.sizes[:-1], case.sizes[1:], strict=True):
        layers += [nn.Linear(fan_in, units), activation()]
    model, criterion = nn.Sequential(*layers[:-1]), nn.CrossEntropyLoss()
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=case.lr, momentum=case.momentum)
    if case.optimizer == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=case.lr, fused=True)
    batches = batches_of(torch.from_numpy(data.inputs), torch.from_numpy(data.labels), case.batch_size)

    def work() -> float:
        for _ in range(epochs):
            total, steps = 0.0, 0
            for inputs, labels in batches():
                optimizer.zero_grad()
                loss = criterion(model(inputs), labels)
                loss.backward()
                optimizer.step()
                total, steps = total + loss.item(), steps + 1
        return total / steps

    return work


def _multiply(
    times: int, inputs: Arrays, weights: Arrays, deltas: Arrays, outputs: Arrays, slopes: Arrays, back: Arrays
) -> None:
    """The matrix products of `times` steps, with one array a layer in each tuple and nothing allocated."""
    for _ in range(times):
        for i in range(len(weights)):
            np.dot(inputs[i], weights[i], outputs[i])
        for i in range(len(weights) - 1, -1, -1):
            np.dot(inputs[i].T, deltas[i], slopes[i])
            if i > 0:
                np.dot(deltas[i], weights[i].T, back[i])


# Compiled, np.dot calls the BLAS that SciPy brings; in Python, the one that NumPy brings.
_multiply_compiled: Callable[..., None] = njit(nogil=True)(_multiply)


def prepare_products(case: Case, *, epochs: int, compiled: bool) -> Work:
    """Nothing but the matrix products of the epochs, at their exact shapes, the smaller last batch included."""
    rng = np.random.default_rng(0)

    def arrays(rows: int) -> list[Arrays]:
        weights = list(zip(case.sizes[:-1], case.sizes[1:], strict=True))
        inputs, outputs = [(rows, m) for m, _ in weights], [(rows, n) for _, n in weights]
        order = (inputs, weights, outputs, outputs, weights, inputs)  # as in `_multiply`
        return [tuple(rng.standard_normal(shape, np.float32) for shape in shapes) for shapes in order]

    multiply = _multiply_compiled if compiled else _multiply
    steps, rest = divmod(case.rows, case.batch_size)
    full, last = arrays(case.batch_size), arrays(rest or 1)

    def work() -> None:
        for _ in range(epochs):
            multiply(steps, *full)
            multiply(min(rest, 1), *last)

    return work


def prepare_many(case: Case, data: Pictures, *, epochs: int, workers: int) -> Work:
    """`NUM_MODELS` of ours, with different seeds, on a pool of threads."""
    models = [prepare_ours(case, data, epochs=epochs, seed=seed) for seed in range(NUM_MODELS)]

    def work() -> None:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(lambda model: model(), models))

    return work


def build_contestants(case: Case, data: Pictures, *, epochs: int, torch: bool) -> dict[str, Prepare]:
    """By name, in the order of their turns."""
    found: dict[str, Prepare] = {
        OURS: partial(prepare_ours, case, data, epochs=epochs),
        SKLEARN: partial(prepare_sklearn, case, data, epochs=epochs),
    }
    if torch:
        found[LOADER] = partial(prepare_torch, case, data, epochs=epochs, batches_of=_load_batches)
        found[SLICES] = partial(prepare_torch, case, data, epochs=epochs, batches_of=_slice_batches)
    found[COMPILED] = partial(prepare_products, case, epochs=epochs, compiled=True)
    found[NUMPY] = partial(prepare_products, case, epochs=epochs, compiled=False)
    return found


def measure_case(case: Case, *, rounds: int, torch: bool) -> dict[str, Any]:
    """Everything that the record says of one case, all raw times included."""
    data = load_pictures(case)
    measure_in_turns(build_contestants(case, data, epochs=1, torch=torch), rounds=1)  # compiles and warms up
    raw = measure_in_turns(build_contestants(case, data, epochs=case.epochs, torch=torch), rounds=rounds)
    rows: dict[str, dict[str, Any]] = {}
    for name, record in raw.items():
        seconds = [s / case.epochs for s in record.pop("seconds")]
        rows[name] = {"seconds_per_epoch": seconds, **summarize(seconds), **record}
    for row in rows.values():
        row["ratio"] = row["median"] / rows[OURS]["median"]
    return {
        **{name: getattr(case, name) for name in case.__slots__ if name != "density"},
        "source": data.source,
        "flops_per_epoch": case.num_flops,
        "contestants": rows,
        "fastest_peer": min((name for name in PEERS if name in rows), key=lambda name: float(rows[name]["median"])),
        "least_cpu_share": min(share for row in rows.values() for share in row["cpu_share"]),
        "side_by_side": None if case.remembers else measure_side_by_side(case, data, rounds=max(rounds, 3)),
        "beside_sgd": measure_epochs(case, data, rounds=max(rounds, 3)) if case.remembers else None,
    }


def measure_epochs(case: Case, data: Pictures, *, rounds: int) -> dict[str, Any]:
    """Processor seconds of each of our epochs, with the case's optimiser and with plain SGD; the first is not in the ratio."""
    seconds: dict[str, list[list[float]]] = {case.optimizer: [], "sgd": []}
    measure_in_turns(
        {
            "own": partial(prepare_ours, case, data, epochs=case.epochs, each=seconds[case.optimizer]),
            "sgd": partial(prepare_ours, case, data, epochs=case.epochs, optimizer="sgd", each=seconds["sgd"]),
        },
        rounds=rounds,
    )
    own, sgd = (np.array(seconds[name])[:, min(1, case.epochs - 1) :].mean(axis=1) for name in seconds)
    return {"seconds": seconds, "ratio": summarize(own / sgd)}


def measure_side_by_side(case: Case, data: Pictures, *, rounds: int) -> dict[str, Any]:
    """Model-epochs per second of one model alone and of several on as many threads as there are cores."""
    workers = os.cpu_count() or 1
    raw = measure_in_turns(
        {
            "alone": partial(prepare_ours, case, data, epochs=case.epochs),
            "together": partial(prepare_many, case, data, epochs=case.epochs, workers=workers),
        },
        rounds=rounds,
    )
    found: dict[str, Any] = {"models": NUM_MODELS, "workers": workers}
    for name, models in (("alone", 1), ("together", NUM_MODELS)):
        seconds = raw[name]["seconds"]
        rates = summarize(models * case.epochs / s for s in seconds)
        cores = summarize(raw[name]["cpu_share"])["median"]
        found[name] = {"seconds": seconds, "cpu_share": raw[name]["cpu_share"], "median_cpu_share": cores, **rates}
    return {**found, "ratio": found["together"]["median"] / found["alone"]["median"]}


def use_one_thread() -> tuple[bool, list[str]]:
    """Hold PyTorch to one thread; whether it is there, and a note where it is not."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: installed, but one of its libraries is missing
        return False, [f"PyTorch is not measured: {error}. Install it with `pip install 'clearsight[torch]'`."]
    torch.set_num_threads(1)
    return True, []


def measure(*, rounds: int, quick: bool, command: str) -> dict[str, Any]:
    """The whole record. BLAS and OpenMP are held to one thread throughout, also where models train side by side."""
    torch, notes = use_one_thread()
    run = describe_run(command)
    cases = [
        replace(case, rows=min(case.rows, QUICK_ROWS), epochs=min(case.epochs, 2)) if quick else case for case in CASES
    ]
    with threadpool_limits(1):
        measured = [measure_case(case, rounds=rounds, torch=torch) for case in cases]
        pools = [{**pool, "filepath": Path(pool["filepath"]).name} for pool in threadpool_info()]
    return {
        "benchmark": "dense",
        **run,
        "load_average_after": load_average(),
        "quick": quick,
        "rounds": rounds,
        "thread_pools": pools,
        "notes": notes,
        "cases": measured,
    }


def render_case(case: dict[str, Any]) -> str:
    """Markdown of one case: what it is, its contestants, and its models side by side or its epochs beside plain SGD's."""
    rule = {"sgd": "plain SGD", "momentum": f"SGD with momentum {case['momentum']}"}.get(case["optimizer"], "Adam")
    rows, peer, many, beside = (case[key] for key in ("contestants", "fastest_peer", "side_by_side", "beside_sgd"))
    found = []
    if many:
        found.append(
            f"{many['models']} of our models on {many['workers']} threads train {many['together']['median']:,.1f} model-epochs "
            f"a second, one alone {many['alone']['median']:,.1f}: {many['ratio']:.2f} times (n = {many['together']['n']}), on "
            f"{many['together']['median_cpu_share']:.2f} cores' worth of processor time."
        )
    if beside:
        ratio = beside["ratio"]
        found.append(
            f"Our epochs 2 to {case['epochs']} take {ratio['median']:.2f} times those of plain SGD ({ratio['min']:.2f} to "
            f"{ratio['max']:.2f}, n = {ratio['n']}, processor time)."
        )
    return "\n\n".join(
        [
            f"**({case['key']})** {'-'.join(map(str, case['sizes']))}, {case['activation']}, batch {case['batch_size']}, "
            f"{rule}, {case['rows']:,} rows of {case['source']}; a measurement takes {case['epochs']} epoch(s).",
            render_rows(rows, unit="s/epoch", bold=(OURS, peer)),
            f"The fastest peer is {peer}: {rows[peer]['ratio']:.2f} times our seconds. {' '.join(found)} Above, every contestant "
            f"had its processor for at least {case['least_cpu_share']:.0%} of its time.",
        ]
    )


def render_table(record: dict[str, Any]) -> str:
    """Markdown of a record."""
    quick = ["A quick run: few rows, so the numbers mean little."] if record["quick"] else []
    head = f"{render_run(record)} One thread each, contestants in turns."
    foot = (
        "The matrix products alone are an epoch's forward, weight and input gradients as bare calls of BLAS at the same "
        "shapes. clearsight has a product of its own, so it may beat that bound. Every contestant "
        "also sums up its loss; these and all raw times are in the JSON."
    )
    cases = map(render_case, record["cases"])
    return "\n\n".join(["## Dense networks: seconds per epoch", head, *quick, *cases, foot, *record["notes"]])


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write the files that are asked for."""
    run_benchmark("dense", arguments, measure=measure, render=render_table)


if __name__ == "__main__":
    main()
