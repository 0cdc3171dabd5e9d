"""How many planted faults the doctor finds and names, and how often it cries wolf, beside the rules of two published tools.

    python -m benchmarks.doctor [--rounds 10] [--json FILE] [--table FILE] [--quick]

A round trains, on each data set, one healthy network drawn at random and one with each fault at three strengths, planted into
another; the traps are trained once. Limits were set on trainings drawn with other seeds. Data that is not there is
left out. It asserts nothing.
"""

from collections import defaultdict
from typing import Any

import numpy as np

from benchmarks import describe_run, render_run, run_benchmark
from benchmarks.doctor_cases import FAULTS, draw_healthy, load_rows, traps
from benchmarks.doctor_rivals import NAMES, find_autotrainer, find_umlaut
from clearsight.config.build import build_config
from clearsight.core.intervals import wilson_interval
from clearsight.data.dataset import Dataset
from clearsight.diagnose.case import Case
from clearsight.diagnose.examine import examine
from clearsight.errors import DataError
from clearsight.pipeline.train_in_memory import train_case

SOURCES = ("digits", "digits convolved", "mnist", "fashion-mnist")
_DENSE_ONLY = {
    "weights too large",
    "weights too small",
    "weights all 0",
    "deep sigmoids",
    "saturated tanh",
    "bottleneck",
    "no activation",
}
RIVALS = {"AUTOTRAINER": find_autotrainer, "UMLAUT": find_umlaut}


def train(settings: dict[str, Any], data: Dataset) -> Case:
    """A training in memory, as the doctor sees it."""
    return train_case(build_config(settings), data, begun=True)


def find_sources(*, quick: bool) -> list[str]:
    """Data sets that are here."""
    found = []
    for source in SOURCES[:1] if quick else SOURCES:
        try:
            load_rows(source.split()[0])
        except DataError:
            continue
        found.append(source)
    return found


def judge_healthy(case: Case) -> dict[str, bool]:
    """Whether each cries wolf; ours where a finding is severe."""
    alarms = {name: bool(rule(case)) for name, rule in RIVALS.items()}
    return {"clearsight": any(one.severity == "severe" for one in examine(case)), **alarms}


def judge_planted(case: Case, fault: str) -> dict[str, dict[str, bool]]:
    """Whether each finds that anything is wrong, and names it: first (ours alone ranks), and among all."""
    found, causes = examine(case), FAULTS[fault].causes
    named = [one.code in causes for one in found]
    loud = any(one.severity != "note" for one in found)
    ours = {"found": loud or any(named), "first": bool(named) and named[0], "named": any(named)}
    theirs = {name: rule(case) for name, rule in RIVALS.items()}
    rivals = {
        name: {
            "found": bool(said),
            "first": bool(said & NAMES.get(fault, set())),
            "named": bool(said & NAMES.get(fault, set())),
        }
        for name, said in theirs.items()
    }
    return {"clearsight": ours, **rivals}


def measure(*, rounds: int, quick: bool, command: str) -> dict[str, Any]:
    """All verdicts, counted."""
    wolves: dict[str, int] = defaultdict(int)
    healthy, sums = 0, {name: defaultdict(lambda: [0, 0, 0, 0]) for name in ("clearsight", *RIVALS)}
    for source in find_sources(quick=quick):
        data = load_rows(source.split()[0])
        for number in range(rounds):
            seed = number + 1
            for name, wolf in judge_healthy(
                train(draw_healthy(source, np.random.default_rng([seed, 0])), data)
            ).items():
                wolves[name] += wolf
            healthy += 1
            for fault, planted in FAULTS.items():
                if source == "digits convolved" and fault in _DENSE_ONLY:
                    continue
                for strength in (3,) if quick else (1, 2, 3):
                    rng = np.random.default_rng([seed, strength])
                    case = train(*planted.plant(draw_healthy(source, rng), data, strength, rng))
                    for name, verdict in judge_planted(case, fault).items():
                        row = sums[name][f"{fault}/{strength}"]
                        row[0] += 1
                        for place, key in enumerate(("found", "first", "named"), 1):
                            row[place] += verdict[key]
    for settings in {} if quick else traps().values():
        for name, wolf in judge_healthy(train(settings, load_rows("digits"))).items():
            wolves[name] += wolf
        healthy += 1
    return {
        **describe_run(command), "healthy": healthy, "wolves": dict(wolves),
        "faults": {name: {key: list(row) for key, row in rows.items()} for name, rows in sums.items()},
    }  # fmt: skip


def render(record: dict[str, Any]) -> str:
    """The table: a row a fault, and sums."""
    lines = [
        "## The doctor", "", render_run(record), "",
        "Shares of planted faults (strengths 2 and 3): anything found wrong, the right cause named first, and named at all.",
        "", "| fault | n | found | first | named | AUTOTRAINER named | UMLAUT named |", "|-|-:|-:|-:|-:|-:|-:|",
    ]  # fmt: skip
    totals = {name: np.zeros(4, int) for name in record["faults"]}
    for fault in FAULTS:
        cells = {}
        for name, rows in record["faults"].items():
            cells[name] = np.sum(
                [row for key, row in rows.items() if key in (f"{fault}/2", f"{fault}/3")] or [[0] * 4], axis=0
            )
            totals[name] += cells[name]
        lines.append(_render_row(fault, cells))
    lines.append(_render_row("**all**", totals))
    weak = np.sum(
        [row for key, row in record["faults"]["clearsight"].items() if key.endswith("/1")] or [[0] * 4], axis=0
    )
    n = record["healthy"]
    lines += ["", f"At the lowest strength: found {weak[1]} of {weak[0]}, first {weak[2]}, named {weak[3]}.", ""]
    lines += [
        f"False alarms on {n} healthy trainings: "
        + "; ".join(_render_wolf(name, k, n) for name, k in record["wolves"].items())
        + "."
    ]
    return "\n".join(lines)


def _render_row(name: str, cells: dict[str, Any]) -> str:
    n, found, first, named = cells["clearsight"]
    share = lambda k: f"{k / n:.2f}" if n else "-"
    return (
        f"| {name} | {n} | {share(found)} | {share(first)} | {share(named)} | "
        + " | ".join(share(cells[r][3]) for r in RIVALS)
        + " |"
    )


def _render_wolf(name: str, k: int, n: int) -> str:
    low, high = wilson_interval(k, n)
    return f"{name} {k} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    run_benchmark("doctor", None, measure=measure, render=render)
