"""Comparisons in words and as a picture: what is shown, what is not, and how many more runs would settle it.

Pure functions of what was found. It must not know models, recipes or HTML.
"""

from collections.abc import Sequence

import numpy as np

from clearsight.evaluation.comparison import FEW_DISAGREEMENTS, AnswersCompared, RunsCompared
from clearsight.report.figure import BLUE, FAINT, INK, SKY, VERMILION, new_figure

_WHITE = "#ffffff"
_NAME = 28  # letters that fit beside the axes


def render_answers(found: AnswersCompared, *, a: str = "A", b: str = "B") -> str:
    """Two models on one test set, in sentences."""
    rows = f"n = {found.n:,}"
    if found.only_a + found.only_b == 0:
        return f"No difference shown: both answer alike on every row ({rows}), so their accuracies are equal here."
    numbers = f"{_points(found.difference)} points (95 % interval {_points(found.low)} to {_points(found.high)})"
    apart = (
        f"{a} alone is right on {found.only_a:,} rows, {b} alone on {found.only_b:,} "
        f"({rows}, exact McNemar p = {_probability(found.p_value)})"
    )
    if found.shown:
        better, worse, sign = (a, b, 1) if found.difference > 0 else (b, a, -1)
        low, high = sorted((sign * found.low, sign * found.high))
        numbers = f"{_points(abs(found.difference))} points (95 % interval {_points(low)} to {_points(high)})"
        text = f"{better} is better than {worse} on this test set by {numbers}: {apart}."
    else:
        text = f"No difference shown: {a} minus {b} is {numbers}; {apart}."
    if found.only_a + found.only_b < FEW_DISAGREEMENTS:
        text += f" They disagree on {found.only_a + found.only_b} rows only: too few for the interval to be trusted."
    return text + " This is about these two models, not about how they were made: other seeds may turn it round."


def render_runs(
    found: RunsCompared, *, a: str, b: str, metric: str, redrawn: bool, better: int = 1, next_seed: int | None = None
) -> str:
    """Two recipes over paired runs, in sentences.

    Args:
        better: 1 where more of the metric is better, -1 where less is. redrawn: whether each pair had its own rows.
        next_seed: the first that no pair has had, to begin more pairs with.
    """
    n = len(found.differences)
    unit, scale = (" points", 100.0) if metric == "accuracy" else (f" of {metric}", 1.0)
    if found.low is None or found.high is None or found.p_value is None or found.probability is None:
        if found.difference == 0:
            return f"No difference shown: {a} and {b} come out alike in all {n} pairs."
        size = f"{_signed(scale * found.difference)}{unit}"
        return f"{a} minus {b} is {size} in all {n} pairs, which do not vary: no interval can be given."
    counts = f"{a} is better in {found.wins} of {n} pairs" + (f", equal in {found.ties}" if found.ties else "")
    again = f"in one more pair it would be with probability {_share(found.probability)}"
    facts = f"p = {_probability(found.p_value)}, n = {n} pairs; {counts}; {again}"
    low, high = scale * found.low, scale * found.high
    if found.shown:
        first, other, sign = (a, b, 1) if better * found.difference > 0 else (b, a, -1)
        low, high = sorted((sign * low, sign * high))
        size = f"{_signed(sign * scale * found.difference)}{unit} (95 % interval {_signed(low)} to {_signed(high)})"
        where = "" if redrawn else " This holds for these rows; others may differ."
        return f"{first} is better than {other}: {size}, {facts}.{where}"
    size = f"{_signed(scale * found.difference)}{unit} (95 % interval {_signed(low)} to {_signed(high)})"
    text = f"No difference shown: {a} minus {b} is {size}, {facts}."
    if found.needed is None:
        why = "the rows shared by its splits are too many for that" if redrawn else "it is too small for that"
        return f"{text} No number of runs on this data would settle a difference of this size: {why}."
    more = max(found.needed, n)
    anew = "" if next_seed is None else f" with --seed {next_seed}"
    return (
        f"{text} To show a difference of this size four times in five, {more:,} pairs are needed. Run new ones{anew} and "
        "compare them alone: adding runs until something shows is not a test."
    )


def _points(share: float) -> str:
    return _signed(100 * share)


def _signed(value: float) -> str:
    return f"{value:+.2f}" if abs(value) >= 0.005 or value == 0 else f"{value:+.2g}"


def _share(probability: float) -> str:
    return ">0.99" if probability > 0.99 else "<0.01" if probability < 0.01 else f"{probability:.2f}"


def _probability(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1g}"


def draw_comparison(
    names: Sequence[str],
    values: Sequence[Sequence[float]],
    differences: Sequence[tuple[str, float, float | None, float | None, bool]],
    *,
    metric: str,
    intervals: Sequence[tuple[float, float]] = (),
) -> str:
    """The values of each side, and below them the differences with their intervals and the line of no difference.

    Args:
        names, values: of the sides; one value for a model, one a run for a recipe.
        differences: label, mean, 95 % interval (None where there is none) and whether it is shown, of each.
        metric: in which values are. intervals: 95 %, of each side's single value.
    """
    upper, lower = 0.45 * len(names) + 0.75, 0.45 * len(differences) + 0.75
    size = (7.0, upper + lower + 0.35)
    scale = 100.0 if metric == "accuracy" else 1.0
    with new_figure("comparison", "Comparison", size=size, background=_WHITE) as (figure, out):
        left, width = 0.3, 0.66
        top = figure.add_axes((left, (lower + 0.75) / size[1], width, (upper - 0.65) / size[1]))
        rng = np.random.default_rng(0)
        for place, own in enumerate(values):
            y = len(values) - 1 - place
            array = scale * np.array(own)
            if len(array) > 1:
                top.plot(array, y + rng.uniform(-0.16, 0.16, len(array)), "o", color=SKY, markersize=4.5, alpha=0.85)
            if intervals:
                top.plot([scale * bound for bound in intervals[place]], [y, y], color=BLUE, linewidth=2)
            marker, markersize = ("|", 16) if len(array) > 1 else ("o", 7)
            top.plot([array.mean()], [y], marker, color=BLUE, markersize=markersize, mew=2.4)
        top.set_yticks(range(len(names)), [_clip(name) for name in reversed(names)])
        top.set_ylim(-0.6, len(names) - 0.4)
        top.set_xlabel(f"{metric}{', %' if metric == 'accuracy' else ''}")
        below = figure.add_axes((left, 0.6 / size[1], width, (lower - 0.65) / size[1]))
        below.axvline(0, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        for place, (_, mean, low, high, shown) in enumerate(differences):
            y = len(differences) - 1 - place
            color = VERMILION if shown else FAINT
            if low is not None and high is not None:
                below.plot([scale * low, scale * high], [y, y], color=color, linewidth=3, solid_capstyle="butt")
            below.plot([scale * mean], [y], "o", color=color, markersize=7)
        below.set_yticks(range(len(differences)), [_clip(label) for label, *_ in reversed(differences)])
        below.set_ylim(-0.6, len(differences) - 0.4)
        below.set_xlabel("difference, points (95 % interval)" if metric == "accuracy" else "difference (95 % interval)")
        for axes in (top, below):
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", labelsize=9)
            axes.ticklabel_format(axis="x", useOffset=False)
    return out[0]


def _clip(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[:3]}...{name[6 - _NAME :]}"
