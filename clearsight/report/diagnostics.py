"""Sections of the report that ask why: signals through the layers, bias and variance, numbers predicted over true ones.

Plain values in, HTML out. It must not know runs or files.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.diagnose.floors import find_floor
from clearsight.report import curves, page, words
from clearsight.report.figure import spread

Metrics = dict[str, Any]
_MAX_LAYERS = 12  # that are drawn


def render_activations(signals: dict[str, Any]) -> str:
    """What goes through the layers at the first step and at the end, and what follows from it."""
    titles = {"first": "before training", "last": "at the end"}
    stages = {title: _pick_layers(signals[key]["layers"]) for key, title in titles.items() if key in signals}
    if not stages:
        return ""
    first = signals["first"]
    svg = curves.draw_activations(stages)
    label = f"Histograms of the outputs of {len(stages[titles['first']])} layers on {first['n']} training rows"
    note = (
        f"Outputs before the activation on {first['n']} training rows; heights by the square root of counts; below each its "
        "mean ± standard deviation."
    )
    sentences = [
        words.describe_activations(signals[key], when=title) for key, title in titles.items() if key in signals
    ]
    return page.section(
        "Signals through the layers",
        page.plot(svg, label=label),
        page.paragraph(note, kind="note"),
        *(page.paragraph(text) for text in sentences),
    )


def _pick_layers(layers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most 12, evenly spread."""
    return [layers[place] for place in spread(len(layers), _MAX_LAYERS)]


def render_errors(evaluations: dict[str, Metrics], judged: str, *, data: str, floor: float | None, head: bool) -> str:
    """Bias and variance: errors of the splits against the best possible one, and what to do about the larger gap."""
    if judged == "train":
        return ""
    floor, source = find_floor(data, floor)
    errors = {split: 1 - float(metrics["accuracy"]) for split, metrics in evaluations.items()}
    label = "Bars of the errors of " + ", ".join(f"{split} {100 * error:.2f} %" for split, error in errors.items())
    known = page.paragraph(f"Best possible error: {source}.", kind="note") if source else ""
    return page.section(
        "Bias and variance",
        page.plot(curves.draw_errors(errors, floor=floor), label=label),
        page.paragraph(words.describe_bias(evaluations, judged, floor=floor, head=head)),
        known,
        half=True,
    )


def render_parity(parity: NDArray[Any] | None, *, low: float | None, high: float | None, judged: str) -> str:
    """Numbers predicted over true ones of the judged split."""
    if parity is None:
        return ""
    targets, answers = parity.astype(np.float64)
    ends = (targets.min() if low is None else low), (targets.max() if high is None else high)
    svg = curves.draw_parity(targets, answers, low=float(ends[0]), high=float(ends[1]))
    worst = np.abs(answers - targets)
    text = (
        f"Half of the {len(targets):,} answers are off by less than {np.median(worst):.3g}, one by {worst.max():.3g}."
    )
    return page.section(
        f"Predicted over true numbers ({judged})",
        page.plot(svg, label=f"Scatter of {len(targets):,} predicted over true numbers"),
        page.paragraph(text),
        half=True,
    )
