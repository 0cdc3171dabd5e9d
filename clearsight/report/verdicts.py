"""Verdicts on augmentation as a table and as pictures. It must not know how they were reached."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from clearsight.augment.presets import Augmentation
from clearsight.augment.safety import LabelProbes, Verdict, vary
from clearsight.data.dataset import Dataset
from clearsight.data.preprocess import find_range
from clearsight.report.sheet import Strip, draw_sheet

_COLORS = {"safe": (20, 130, 70), "doubtful": (200, 120, 0), "unsafe": (200, 30, 30), "unknown": (110, 119, 129)}
_PAIRS = 6


def render_verdicts(probes: LabelProbes, verdicts: Sequence[Verdict]) -> str:
    """A line a transform: up to which strength it is safe, and what happens from where it is not."""
    clear = int(probes.clear.sum())
    kinds = " and ".join(view.kind for view in probes.views)
    lines = [
        f"probes on {kinds}: accuracy {probes.views[0].accuracy:.3f} on clean pictures not seen (largest class "
        f"{probes.chance:.3f}); {clear} of {len(probes.rows)} pictures are clear",
    ]
    if probes.strict:
        lines.append("labels are taken for counts: another number is wrong however odd the picture")
    lines += ["", f"{'transform':<11} {'safe up to':<11} then"]
    if not verdicts:
        lines.append("nothing to measure: mixup and cutmix mix the labels too")
    for name, group in groupby(verdicts, key=lambda v: v.name):
        lines.append(_render_transform(name, list(group)))
    return "\n".join(lines)


def _render_transform(name: str, steps: list[Verdict]) -> str:
    first = next((i for i, v in enumerate(steps) if v.level != "safe"), len(steps))
    upto = _strength(steps[first - 1]) if first else "-"
    told = steps[first : first + 1] + [v for v in steps if v.level == "unsafe"][:1]
    return f"{name:<11} {upto:<11} {'; '.join(dict.fromkeys(describe_verdict(v) for v in told))}".rstrip()


def _strength(verdict: Verdict) -> str:
    return "as set" if verdict.strength is None else f"{verdict.strength:g}"


def describe_verdict(verdict: Verdict) -> str:
    """A verdict in words with its numbers."""
    v = verdict
    if v.level == "unknown":
        return f"unknown at {_strength(v)}: {v.clear} clear pictures, of which at most {v.high:.0%} turn"
    turned = f"{v.turned:.0%} of {v.clear} turn [{v.low:.0%}, {v.high:.0%}]"
    becomes = f", {v.worst[0]} into {v.worst[1]} {v.worst[2]:.0%}" if v.worst else ""
    unlike = f", {v.changed:.0%} no longer recognised" if v.level == "doubtful" and v.turned <= v.changed / 2 else ""
    return f"{v.level} at {_strength(v)}: {turned}{v.manner}{becomes}{unlike}"


def draw_verdicts(dataset: Dataset, probes: LabelProbes, verdicts: Sequence[Verdict], *, fill: str) -> Any:
    """For each transform, at the weakest strength that is not safe (else the strongest): pictures beside what becomes of them.

    Captions name the class, and after the transform the probes' answer; frames are green, orange or red with the verdict.
    """
    low, high = find_range(dataset, probes.pool)
    class_of = dict(zip(probes.rows.tolist(), probes.classes.tolist(), strict=True))
    settings: dict[str, Any] = {"pool": probes.pool, "low": low, "high": high}
    strips = []
    for name, group in groupby(verdicts, key=lambda v: v.name):
        steps = list(group)
        if name == "all":
            continue
        verdict = next((v for level in ("unsafe", "doubtful") for v in steps if v.level == level), steps[-1])
        values: dict[str, Any] = {name: verdict.strength, "fill": fill}
        augmentation = Augmentation(**values).alone(name)
        pictures, captions, marks = [], [], []
        for row, answer in verdict.examples[:_PAIRS]:
            varied = vary(dataset.images, np.array([row]), augmentation, variant=verdict.variant, **settings)[0]
            own = probes.names[class_of[row]]
            pictures += [dataset.images[row], varied]
            captions += [own, f"-> {answer}"]
            marks += [None, _COLORS[verdict.level]]
        title = f"{name}  {describe_verdict(verdict)}"
        strips.append(Strip(title, pictures, captions, marks))
    heading = f"{dataset.name}: which transforms keep the label? n = {int(probes.clear.sum())} clear pictures"
    return draw_sheet(strips, low=low, high=high, heading=heading, columns=2 * _PAIRS, side=72)
