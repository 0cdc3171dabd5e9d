"""What dense nets of equal shape could save by sharing one pass over the data: microseconds of a step, and its parts.

    python -m benchmarks.population [--rounds 5] [--json FILE] [--table FILE] [--quick]

Eight nets that see the same batches could read and scale each batch once, and compute their first layers, forward and backward,
as one product of eight times the units. Both are timed here on the engine's own functions, one thread, beside whole steps of
one net. All that follows the first layer differs from net to net and can not be shared, so the sum is a bound.
"""

import time
from typing import Any

import numpy as np
from numba import njit

from benchmarks import describe_run, render_run, run_benchmark, summarize
from clearsight.engines.dense import kernel
from clearsight.engines.dense.product import LANES, multiply
from clearsight.engines.objective import Objective
from clearsight.models.initialize import initialize
from clearsight.models.mlp import MLP

NETS, INPUTS, CLASSES, BATCH = 8, 784, 10, 100
UNITS = (10, 25, 50, 64, 128, 256)


@njit(nogil=True)
def _repeat_layer(times, x, w, z, g, rows, inputs, units):  # type: ignore[no-untyped-def]
    """`times` first layers: Z = X W, and dW = X^T Z in place of the true delta, which has its shape."""
    for _ in range(times):
        multiply(x, inputs, 1, w, units, z, units, rows, inputs, units)
        multiply(x, 1, inputs, z, units, g, units, inputs, rows, units)


@njit(nogil=True)
def _repeat_gather(times, images, rows, scale, offset, x):  # type: ignore[no-untyped-def]
    for _ in range(times):
        kernel._gather(images, rows, scale, offset, x)


def time_layers(units: int, *, nets: int, times: int) -> float:
    """Seconds of one first layer of `nets` times the units, forward and backward."""
    generator, wide = np.random.default_rng(0), units * nets
    x, w, z, g = (
        np.concatenate([generator.standard_normal(size, np.float32), np.zeros(LANES, np.float32)])
        for size in (BATCH * INPUTS, INPUTS * wide, BATCH * wide, INPUTS * wide)
    )
    _repeat_layer(1, x, w, z, g, BATCH, INPUTS, wide)
    began = time.perf_counter()
    _repeat_layer(times, x, w, z, g, BATCH, INPUTS, wide)
    return (time.perf_counter() - began) / times


def time_gather(images: Any, *, times: int) -> float:
    """Seconds of reading and scaling one batch."""
    rows, x = np.random.default_rng(0).permutation(len(images))[:BATCH], np.zeros((BATCH, INPUTS), np.float32)
    scale = np.full(INPUTS, 1 / 255, np.float32)
    _repeat_gather(1, images, rows, scale, np.zeros_like(scale), x)
    began = time.perf_counter()
    _repeat_gather(times, images, rows, scale, np.zeros_like(scale), x)
    return (time.perf_counter() - began) / times


def time_steps(units: int, images: Any, *, times: int) -> float:
    """Seconds of one step of one net, as the engine takes it."""
    net, generator = MLP(sizes=(INPUTS, units, CLASSES), activations=("relu",)), np.random.default_rng(0)
    params, labels = initialize(net, init="he", seed=0), generator.integers(0, CLASSES, len(images))
    arguments: dict[str, Any] = {
        "inputs": images, "labels": labels, "targets": np.zeros((0, 0), np.float32), "order": generator.permutation(len(images)),
        "batch_size": BATCH, "scale": np.full(INPUTS, 1 / 255, np.float32), "offset": np.zeros(INPUTS, np.float32),
        "params": params, "slots": np.zeros((0, len(params)), np.float32), "first_batch": 0, "first_step": 0, "seed": 0,
    }  # fmt: skip
    kernel.train_steps(net, Objective(), lrs=np.full(1, 0.01), **arguments)
    began = time.perf_counter()
    kernel.train_steps(net, Objective(), lrs=np.full(times, 0.01), **arguments)
    return (time.perf_counter() - began) / times


def measure(*, rounds: int, quick: bool, command: str) -> dict[str, Any]:
    """All widths, and for each the steps and their parts in turns."""
    record, times = describe_run(command), 20 if quick else 400
    images = np.random.default_rng(0).integers(0, 256, (BATCH * times, INPUTS), np.uint8)
    rows: dict[str, dict[str, Any]] = {}
    for units in UNITS:
        parts: dict[str, list[float]] = {"steps": [], "gather": [], "apart": [], "stacked": []}
        for _ in range(rounds):
            parts["steps"].append(NETS * time_steps(units, images, times=times))
            parts["gather"].append(NETS * time_gather(images, times=times))
            parts["apart"].append(NETS * time_layers(units, nets=1, times=times))
            parts["stacked"].append(time_layers(units, nets=NETS, times=max(times // NETS, 1)))
        median = {name: summarize(1e6 * value for value in values)["median"] for name, values in parts.items()}
        saved = median["gather"] * (NETS - 1) / NETS + max(0.0, median["apart"] - median["stacked"])
        rows[str(units)] = median | {"n": rounds, "times_faster": median["steps"] / (median["steps"] - saved)}
    return record | {"rounds": rounds, "nets": NETS, "batch": BATCH, "rows": rows}


def render_table(record: dict[str, Any]) -> str:
    """A Markdown section."""
    lines = [
        "## What a population of dense nets could share",
        "",
        render_run(record),
        "",
        f"{NETS} nets {INPUTS}-units-{CLASSES}, {BATCH} pictures a step, one thread; microseconds, medians of "
        f"{record['rounds']}. The last column is a bound: it takes reading once and stacking for granted and everything else "
        "as it is.",
        "",
        "| units | a step of each | of it reading | of it first layers | these stacked | at most times faster |",
        "|-:|-:|-:|-:|-:|-:|",
    ]
    lines += [
        f"| {units} | {row['steps']:.0f} | {row['gather']:.0f} | {row['apart']:.0f} | {row['stacked']:.0f} | "
        f"{row['times_faster']:.2f} |"
        for units, row in record["rows"].items()
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    run_benchmark("population", arguments, measure=measure, render=render_table)


if __name__ == "__main__":
    main()
