"""What the doctor's statistics are in healthy trainings: builds the bank that ships with the package.

    python -m benchmarks.healthy [--rounds 100] --json clearsight/diagnose/healthy.json [--table FILE] [--quick]

A round is 24 trainings on digits by dense nets, one by a convolutional net, and one each on MNIST and Fashion-MNIST, all drawn at
random with seeds that the doctor's bench does not use. Data that is not there is left out.
"""

from typing import Any

import numpy as np

from benchmarks import describe_run, render_run, run_benchmark
from benchmarks.doctor import find_sources, train
from benchmarks.doctor_cases import draw_healthy, load_rows
from clearsight.diagnose.bank import KEPT
from clearsight.diagnose.statistics import STATISTICS

_FIRST_SEED = 1_000_000
_TURNS = {"digits": 24}  # others: 1


def measure(*, rounds: int, quick: bool, command: str) -> dict[str, Any]:
    """The ends and the middle of each statistic."""
    values: dict[str, list[float]] = {name: [] for name in STATISTICS}
    trainings: dict[str, int] = {}
    for source in find_sources(quick=quick):
        data, turns = load_rows(source.split()[0]), 1 if quick else _TURNS.get(source, 1)
        for seed in range(_FIRST_SEED, _FIRST_SEED + rounds * turns):
            case = train(draw_healthy(source, np.random.default_rng(seed)), data)
            for name, (measured, _) in STATISTICS.items():
                found = measured(case)
                if found is not None:
                    values[name].append(float(found))
        trainings[source] = rounds * turns
    return {
        **describe_run(command),
        "trainings": trainings,
        "statistics": {n: _sum_up(v) for n, v in values.items() if v},
    }


def _sum_up(values: list[float]) -> dict[str, Any]:
    ordered = sorted(float(f"{value:.4g}") for value in values)
    middle = [float(f"{one:.4g}") for one in np.quantile(ordered, (0.05, 0.5, 0.95))]
    return {"n": len(ordered), "low": ordered[:KEPT], "high": ordered[-KEPT:], "middle": middle}


def render(record: dict[str, Any]) -> str:
    """The table: a row a statistic."""
    n = ", ".join(f"{count:,} on {source}" for source, count in record["trainings"].items())
    lines = [
        "## Healthy trainings", "", render_run(record), "", f"{n}.", "",
        "| statistic | n | lowest | 5% | median | 95% | highest |", "|-|-:|-:|-:|-:|-:|-:|",
    ]  # fmt: skip
    for name, one in record["statistics"].items():
        numbers = (one["low"][0], *one["middle"], one["high"][-1])
        lines.append(f"| {name} | {one['n']:,} | " + " | ".join(f"{value:.3g}" for value in numbers) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_benchmark("healthy", None, measure=measure, render=render)
