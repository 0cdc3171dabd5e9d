"""Label safety on data sets of which the truth is known: are harmful transforms refused, and harmless ones left alone?

    python -m benchmarks.safety [--rounds 3] [--json FILE] [--table FILE] [--quick]

A round is a seed, of the pictures and of the judge. Thresholds were chosen on the sets marked `tune`; those marked `report` were
looked at when the method was settled. It asserts nothing.
"""

from collections import Counter
from typing import Any

import numpy as np

from benchmarks import describe_run, render_run, run_benchmark
from benchmarks.safety_sets import CASES, Case
from clearsight.augment.presets import Augmentation
from clearsight.augment.safety import LEVELS, LabelProbes, build_probes, judge_transform
from clearsight.core.threads import one_blas_thread

_QUICK_CASES = 2
_TRUTHS = ("harmful", "harmless")


def judge_case(case: Case, seed: int) -> list[dict[str, Any]]:
    """A verdict on each transform of a set whose truth is known."""
    images, labels = case.make(seed)
    low, high = 0.0, 255.0 if case.draw else float(images.max())
    judge: LabelProbes = build_probes(
        images, labels, np.arange(len(images)), class_names=case.classes, low=low, high=high, seed=seed
    )
    found = []
    for truth in _TRUTHS:
        for name, strength in getattr(case, truth).items():
            augmentation = Augmentation(**{name: strength})
            v = judge_transform(judge, images, augmentation, name=name, strength=strength, low=low, high=high)
            found.append({"truth": truth, "name": name, "strength": strength, "level": v.level, "turned": v.turned})
    return found


def measure(*, rounds: int, quick: bool, command: str) -> dict[str, Any]:
    """All sets, a round a seed."""
    record, cases = describe_run(command), []
    with one_blas_thread():
        for case in CASES[:: len(CASES) // _QUICK_CASES] if quick else CASES:
            seeds = [judge_case(case, seed) for seed in range(rounds)]
            cases.append({"name": case.name, "half": case.half, "left_out": case.left_out, "rounds": seeds})
    return record | {"rounds": rounds, "cases": cases}


def render_table(record: dict[str, Any]) -> str:
    """A Markdown section."""
    lines = [
        "## Label safety on sets of which the truth is known",
        "",
        render_run(record),
        "",
        "Pairs of a set and a transform, by verdict; `refused` is `unsafe`. Thresholds were chosen on the first half alone.",
        "",
        "| half | truth | pairs | refused | doubtful | unknown | safe |",
        "|-|-|-:|-:|-:|-:|-:|",
    ]
    for half in ("tune", "report"):
        for truth in _TRUTHS:
            found = [v for case in record["cases"] if case["half"] == half for one in case["rounds"] for v in one]
            counts = Counter(v["level"] for v in found if v["truth"] == truth)
            cells = " | ".join(str(counts[level]) for level in reversed(LEVELS))
            lines.append(f"| {half} | {truth} | {counts.total()} | {cells} |")
    lines += [
        "",
        f"Seeds: {record['rounds']}. What was judged otherwise than it is, by set (verdicts of the seeds):",
        "",
    ]
    wrong = []
    for case in record["cases"]:
        for verdicts in zip(*case["rounds"], strict=True):
            right = "unsafe" if verdicts[0]["truth"] == "harmful" else "safe"
            if any(v["level"] != right for v in verdicts):
                told = ", ".join(f"{v['level']} ({v['turned']:.0%} turned)" for v in verdicts)
                wrong.append(f"- {case['name']}, {verdicts[0]['name']} {verdicts[0]['strength']:g}: {told}")
    lines += wrong or ["- nothing"]
    lines += ["", "| set | half | harmful | harmless | left out |", "|-|-|-|-|-|"]
    for case in record["cases"]:
        pairs = {
            truth: ", ".join(f"{v['name']} {v['strength']:g}" for v in case["rounds"][0] if v["truth"] == truth)
            for truth in _TRUTHS
        }
        name = case["name"].replace("\\", "\\\\")
        lines.append(
            f"| {name} | {case['half']} | {pairs['harmful'] or '-'} | {pairs['harmless']} | {case['left_out'] or '-'} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    run_benchmark("safety", arguments, measure=measure, render=render_table)


if __name__ == "__main__":
    main()
