"""Whether confidence is true, as the report shows it: the reliability picture, and what abstaining brings.

It must not know runs or files.
"""

from typing import Any

import numpy as np

from clearsight.evaluation.calibration import BINS
from clearsight.report import page
from clearsight.report.figure import BLUE, FAINT, INK, VERMILION, add_axes, new_figure
from clearsight.report.text import render_calibration

Metrics = dict[str, Any]


def render_confidence(metrics: Metrics, *, judged: str) -> str:
    """A section about the calibration of a split, from its metrics; empty where there is none."""
    calibration = metrics.get("calibration")
    if not calibration:
        return ""
    rows = [
        (
            "all" if row["threshold"] == 0 else f"{row['threshold']:.0%} or more",
            f"{row['coverage']:.1%}",
            "–" if row["accuracy"] is None else f"{row['accuracy']:.2%}",
            f"{row['n']:,}",
        )
        for row in calibration["curve"]
    ]
    plain, numbers = render_calibration(calibration)
    return page.section(
        f"Confidence ({judged})",
        page.paragraph(plain),
        page.paragraph(numbers, kind="note"),
        page.plot(draw_reliability(calibration), label="Accuracy at each confidence"),
        page.table(("confidence", "share of answers", "accuracy", "n"), rows),
        half=True,
    )


def draw_reliability(calibration: Metrics) -> str:
    """Share of right answers over confidence, a bar a bin, darker for more answers, and the diagonal where both are equal."""
    bins = calibration["bins"]
    with new_figure("reliability", "Accuracy at each confidence") as (figure, out):
        axes = add_axes(figure)
        axes.plot([0, 1], [0, 1], color=FAINT, linestyle=(0, (4, 2)), label="confidence equals accuracy")
        most = max(row["n"] for row in bins)
        for row in bins:
            left = np.floor(min(row["confidence"], 0.999) * BINS) / BINS
            share = 0.25 + 0.75 * float(np.sqrt(row["n"] / most))
            axes.bar(left, row["accuracy"], width=1 / BINS, align="edge", color=BLUE, alpha=share, edgecolor="none")
            colour = VERMILION if row["accuracy"] < row["confidence"] else INK
            axes.plot([row["confidence"]] * 2, [row["accuracy"], row["confidence"]], color=colour, linewidth=1.2)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        axes.legend(loc="upper left", fontsize=9)
    return out[0]
