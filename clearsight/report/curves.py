"""Pictures of searches and comparisons as SVG texts on white: learning rates, data sizes, errors, numbers predicted.

Pure functions of arrays. It must not know runs, files or HTML.
"""

import numpy as np

from clearsight.report.figure import (
    BLUE,
    FAINT,
    SKY,
    VERMILION,
    Floats,
    add_axes,
    add_legend,
    draw_line,
    new_figure,
)  # fmt: skip

_WHITE = "#ffffff"


def draw_rate_search(
    lrs: Floats, losses: Floats, smoothed: Floats, *, suggestion: float | None, steepest: float | None, reason: str = ""
) -> str:
    """The loss of one batch at each of rising learning rates, and which rate follows from it.

    Args:
        lrs, losses, smoothed: (n,).
        suggestion, steepest: rates to mark, None for none. reason: why there is no suggestion.
    """
    size = (6.4, 3.8)
    with new_figure("rate-search", "Loss over the learning rate", size=size, background=_WHITE) as (figure, out):
        axes = add_axes(figure, top=0.9, bottom=0.15)
        shown = losses[np.isfinite(losses)]
        least, first = float(shown.min(initial=np.inf)), float(shown[0]) if len(shown) else 1.0
        draw_line(axes, lrs, losses, color=SKY, linewidth=0.9, label="each batch")
        draw_line(axes, lrs, smoothed, color=BLUE, label="smoothed")
        axes.set_xscale("log")
        if len(shown):
            room = max(first - least, 0.05 * abs(first), 1e-12)
            axes.set_ylim(least - 0.15 * room, first + 0.9 * room)
        if suggestion is not None:
            axes.axvline(suggestion, color=VERMILION, linewidth=1.4, label=f"suggestion {suggestion:.2g}")
        if steepest is not None:
            axes.axvline(steepest, color=FAINT, linewidth=1, linestyle=(0, (1, 2)), label=f"steepest {steepest:.2g}")
        if reason:
            axes.set_title("no suggestion", color=VERMILION)
        axes.set_xlabel("learning rate (log scale)")
        axes.set_ylabel("loss of the batch")
        add_legend(axes)
    return out[0]
