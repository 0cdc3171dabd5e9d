"""Evaluations and confusion matrices as plain text for a terminal, shaded with ANSI backgrounds where asked for.

It must not know where the text goes; names that come from data lose whatever could steer a terminal.
"""

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.evaluation.metrics import ClassMetrics, Evaluation
from clearsight.report.chart import render_chart
from clearsight.runs.events import Course

MAX_MATRIX_CLASSES = 20
_MAX_PAIRS, _NAME_WIDTH, _LINE_WIDTH = 15, 12, 100
# Backgrounds of the 256-colour palette, weakest first, and whether white text is needed on them.
_BLUES = ((195, False), (153, False), (117, False), (74, False), (31, True), (24, True))
_ORANGES = ((230, False), (223, False), (216, False), (209, False), (166, True), (130, True))


def clean(text: str) -> str:
    """The text with every character that is not printable (control, escape, lone surrogate) replaced."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def format_share(value: float | None) -> str:
    """A ratio with four digits, a dash where it is missing."""
    return "–" if value is None else f"{value:.4f}"


def find_confused_pairs(confusion: NDArray[np.int64], *, count: int) -> list[tuple[int, int, int, int]]:
    """The most frequent mistakes as (true class, answer, how often, rows of the true class), most frequent first."""
    wrong = confusion - np.diag(np.diag(confusion))
    places = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [divmod(int(place), len(confusion)) for place in places]
    return [(t, a, int(wrong[t, a]), int(confusion[t].sum())) for t, a in pairs if wrong[t, a]]


def render_metrics(metrics: dict[str, Any], *, split: str) -> str:
    """One line about a split, from its metrics as `metrics.json` and `Evaluation.as_dict` hold them."""
    n, loss = metrics["n"], metrics["loss"]
    if "accuracy" not in metrics:
        r2 = format_share(metrics["r2"])
        return f"{split} mean absolute error {metrics['mae']:.4g} (n = {n:,}), R2 {r2}, mean squared error {loss:.4g}"
    low, high = metrics["interval"]
    confidence = "\n" + " ".join(render_calibration(metrics["calibration"])) if "calibration" in metrics else ""
    shares = f"{metrics['accuracy']:.4f} (n = {n:,}, 95 % interval {low:.3f} to {high:.3f})"
    return f"{split} accuracy {shares}, loss {loss:.4f}{confidence}"


def render_calibration(calibration: dict[str, Any]) -> tuple[str, str]:
    """How far confidence and accuracy are apart: a plain sentence, and the numbers behind it."""
    low, high = calibration["interval"]
    rest = f", 95 % interval of the difference {low:.3f} to {high:.3f}" if high is not None else ""
    before = f" (average gap before: {calibration['before']:.3f})" if calibration["temperature"] != 1 else ""
    here = ", fitted on these rows, so the gap on others is likely larger" if calibration.get("fitted_here") else ""
    if low is None or high is None:
        plain = f"{calibration['n']:,} pictures are too few to compare stated confidence with accuracy."
    elif low > 0:
        plain = "Stated confidence differs from accuracy by more than chance explains."
    else:
        plain = f"With {calibration['n']:,} pictures, no gap between stated confidence and accuracy can be shown."
    return (
        plain,
        f"Average gap {calibration['error']:.3f}, by chance alone {calibration['chance']:.3f} (n = {calibration['n']:,}{rest}); "
        f"temperature {calibration['temperature']:.3g}{here}{before}.",
    )


def render_course(course: Course) -> str:
    """The training loss of a run so far as a curve in characters; empty where there are not yet two points of it."""
    points = course.points
    if len(points) < 2:
        return ""
    losses = np.interp(np.linspace(points[0, 0], points[-1, 0], 128), points[:, 0], points[:, 1])
    low, high = float(losses.min()), float(np.percentile(losses, 95))
    room = max(high - low, 1e-3 * abs(high), 1e-12)
    low = max(0.0, low - 0.05 * room) if low >= 0 else low - 0.05 * room
    first, last = f"step {int(points[0, 0]):,}", f"{int(points[-1, 0]):,} of {course.steps:,}"
    chart = render_chart(losses, low=low, high=high + 0.05 * room, height=8)
    return f"{chart}\n{'':>9} └{first:<32}{last:>32}\n{'':>11}{'training loss':^64}"


def render_evaluation(evaluation: Evaluation, *, split: str, color: bool, details: bool = True) -> str:
    """One line about the split and, for classes, a table with one line a class.

    Args:
        evaluation: the metrics.
        split: `train`, `valid`, `test` or `all`.
        color: shade each ratio of the table by how much it lacks.
        details: False leaves out the table.
    """
    head = render_metrics(evaluation.as_dict(), split=split)
    if not details or not evaluation.classes:
        return head
    return f"{head}\n\n{_render_classes(evaluation.classes, color=color)}"


def render_confusion(confusion: NDArray[np.int64], class_names: Sequence[str], *, color: bool) -> str:
    """The matrix, rows true and columns answered; of more than 20 classes, only the 15 most frequent mistakes.

    Args:
        confusion: (K, K) counts.
        class_names: K names.
        color: shade each cell by the square root of its share of the row, blue where right, orange where wrong.
    """
    if len(class_names) > MAX_MATRIX_CLASSES:
        return render_pairs(confusion, class_names, count=_MAX_PAIRS)
    digits = len(str(int(confusion.max(initial=0))))
    width = max(digits, min(_NAME_WIDTH, max(4, (_LINE_WIDTH - _NAME_WIDTH) // len(class_names) - 1)))
    width = max(digits, min(width, max(_width(clean(name)) for name in class_names)))
    first = min(_NAME_WIDTH, max(len("true"), *(_width(clean(name)) for name in class_names)))
    shares = np.sqrt(confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1))
    lines = [
        " ".join([" " * first, "answer"]),
        " ".join([_fit("true", first), *(_fit(name, width, right=True) for name in class_names)]).rstrip(),
    ]
    for true, name in enumerate(class_names):
        cells = [
            _paint(f" {n or '.':>{width}}", float(shares[true, k]), _BLUES if k == true else _ORANGES, color=color)
            for k, n in enumerate(confusion[true].tolist())
        ]
        lines.append(_fit(name, first) + "".join(cells))
    return "\n".join(lines)


def render_pairs(confusion: NDArray[np.int64], class_names: Sequence[str], *, count: int) -> str:
    """The most frequent mistakes, one a line: `4 taken for 9: 12 of 982`."""
    names = [_cut(clean(name), _NAME_WIDTH) for name in class_names]
    pairs = find_confused_pairs(confusion, count=count)
    lines = [f"{names[t]} taken for {names[a]}: {n:,} of {rows:,}" for t, a, n, rows in pairs]
    return "\n".join(lines) or "no mistakes"


def _render_classes(classes: Sequence[ClassMetrics], *, color: bool) -> str:
    first = min(_NAME_WIDTH, max(len("class"), *(_width(clean(c.name)) for c in classes)))
    columns = ("precision", "recall", "f1")
    lines = [f"{_fit('class', first)}  {'pictures':>8}" + "".join(f" {name:>10}" for name in columns)]
    for metrics in classes:
        ratios = [getattr(metrics, name) for name in columns]
        cells = [
            _paint(f" {format_share(r):>10}", 0.0 if r is None else (1 - r) ** 0.5, _ORANGES, color=color)
            for r in ratios
        ]
        lines.append(f"{_fit(metrics.name, first)}  {metrics.support:>8}" + "".join(cells))
    return "\n".join(lines)


def _paint(text: str, strength: float, ramp: Sequence[tuple[int, bool]], *, color: bool) -> str:
    """The text on a background of this strength in [0, 1]; on none where it is 0."""
    if not color or strength <= 0:
        return text
    background, light = ramp[min(int(strength * len(ramp)), len(ramp) - 1)]
    return f"\x1b[48;5;{background};38;5;{231 if light else 16}m{text}\x1b[0m"


def _width(text: str) -> int:
    """Columns that a terminal gives the text."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def _cut(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    while _width(text) > width - 1:
        text = text[:-1]
    return text + "…"


def _fit(name: str, width: int, *, right: bool = False) -> str:
    """A name in exactly `width` columns."""
    text = _cut(clean(name), width)
    pad = " " * (width - _width(text))
    return pad + text if right else text + pad
