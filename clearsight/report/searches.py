"""Pictures of searches as SVG texts on white: which settings matter, and the way of each trial through them.

Pure functions of plain values. It must not know trials, files or HTML.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from clearsight.report.figure import BLUE, FAINT, INK, RULE, VERMILION, new_figure

_WHITE = "#ffffff"
_TICKS = 12
_UNUSED = -0.12


def draw_importance(shares: dict[str, float]) -> str:
    """Bars of the share of the scores' variation that each setting explains, largest on top."""
    size = (6.4, 1.1 + 0.34 * len(shares))
    with new_figure("importance", "Which settings matter", size=size, background=_WHITE) as (figure, out):
        axes = figure.add_axes((0.27, 0.75 / size[1], 0.68, 1 - 0.9 / size[1]))
        places = np.arange(len(shares))[::-1]
        axes.barh(places, list(shares.values()), color=BLUE, height=0.6)
        for place, share in zip(places, shares.values(), strict=True):
            axes.text(share + 0.01, place, f"{share:.0%}", va="center", color=INK, fontsize=9)
        axes.set_yticks(places, list(shares))
        axes.set_xlim(0, 1.1)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}" if x <= 1 else "")
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("share of the scores' variation explained (fANOVA)")
    return out[0]


def draw_parallel(
    params: Sequence[dict[str, Any]],
    scores: Sequence[float],
    keys: Sequence[str],
    *,
    logs: set[str],
    metric: str,
    better: int,
) -> str:
    """A line a trial through its settings to its score; the best third in colour, the best one strong.

    Args:
        params: settings by key, which may lack some. scores: one each. keys: in the order of the axes.
        logs: keys with a logarithmic axis. metric: name of the score. better: 1 where more is better, -1 where less.
    """
    size = (max(6.4, 1.5 * (len(keys) + 1)), 4.0)
    with new_figure("parallel", "The way of each trial", size=size, background=_WHITE) as (figure, out):
        axes = figure.add_axes((0.07, 0.16, 0.86, 0.74))
        keys = [key for key in keys if any(key in p for p in params)]
        columns = [_place(key, [p.get(key) for p in params], log=key in logs) for key in keys]
        columns.append(_place(metric, list(scores), log=False))
        lines = np.array([heights for heights, _ in columns]).T
        order = np.argsort(better * np.array(scores), kind="stable")
        for rank, row in enumerate(order):
            left = len(order) - rank  # 1 for the best
            style: dict[str, Any] = {"color": RULE, "linewidth": 1.0}
            if left <= max(1, len(order) // 3):
                style = (
                    {"color": VERMILION, "linewidth": 2.6}
                    if left == 1
                    else {"color": BLUE, "linewidth": 1.2, "alpha": 0.7}
                )
            axes.plot(range(len(columns)), lines[row], **style)
        for at, (_, ticks) in enumerate(columns):
            axes.axvline(at, color=FAINT, linewidth=0.8)
            for height, text in ticks:
                axes.text(
                    at + 0.03,
                    height,
                    text,
                    fontsize=8.5,
                    color=INK,
                    va="center",
                    bbox={"fc": _WHITE, "ec": "none", "pad": 0.8},
                )
        axes.set_xlim(-0.1, len(columns) - 0.6)
        axes.set_ylim(_UNUSED - 0.04, 1.06)
        axes.set_xticks(range(len(columns)), [*(key.split(".")[1] for key in keys), metric])
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(length=0)
    return out[0]


def _place(name: str, values: list[Any], *, log: bool) -> tuple[list[float], list[tuple[float, str]]]:
    """Heights 0 to 1 of values on their axis, lower for none, and what is written beside it at which height."""
    there = [value for value in values if value is not None]
    unused = [(_UNUSED, "not used")] if len(there) < len(values) else []
    if there and all(isinstance(v, int | float) and not isinstance(v, bool) for v in there) and len(set(there)) > 1:
        low, high = min(there), max(there)
        log = log or (low > 0 and high / low >= 100)

        def height(value: float) -> float:
            return float(np.log(value / low) / np.log(high / low)) if log else (value - low) / (high - low)

        distinct = sorted(set(there))
        marks = distinct if len(distinct) <= 6 else [low, _middle(low, high, log), high]
        heights = [_UNUSED if v is None else height(v) for v in values]
        return heights, [*unused, *((height(m), f"{m:.4g}") for m in marks)]
    names = list(dict.fromkeys(_word(value) for value in there))
    places = {name: k / (len(names) - 1) if len(names) > 1 else 0.5 for k, name in enumerate(names)}
    return (
        [_UNUSED if v is None else places[_word(v)] for v in values],
        [*unused, *((at, name) for name, at in list(places.items())[:_TICKS])],
    )


def _middle(low: float, high: float, log: bool) -> float:
    return float(np.sqrt(low * high)) if log else (low + high) / 2


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
