"""Pictures of searches and comparisons as SVG texts on white: learning rates, data sizes, errors, numbers predicted.

Pure functions of arrays. It must not know runs, files or HTML.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clearsight.report.figure import (
    BLUE,
    FAINT,
    INK,
    SKY,
    VERMILION,
    Floats,
    add_axes,
    add_legend,
    choose_scale,
    draw_line,
    new_figure,
    set_margins,
)

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
        axes.xaxis.set_major_formatter("{x:g}")
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


def draw_activations(stages: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Histograms of what each layer gives, a column a layer and a row a stage, each with its mean and deviation.

    Args:
        stages: by title, what a `Probe` says of the layers.
    """
    columns = max(len(layers) for layers in stages.values())
    size = (max(4.0, 1.75 * columns + 0.5), 1.75 * len(stages) + 0.45)
    with new_figure("signals", "Outputs of every layer", size=size) as (figure, out):
        for row, (title, layers) in enumerate(stages.items()):
            for column, layer in enumerate(layers):
                axes = figure.add_subplot(len(stages), columns, row * columns + column + 1)
                _draw_histogram(axes, layer)
                if row == 0:
                    axes.set_title(str(layer["name"])[-18:], fontsize=9)
                if column == 0:
                    axes.set_ylabel(title, fontsize=9)
        set_margins(figure, left=0.3, right=0.1, top=0.3, bottom=0.55, wspace=0.12, hspace=0.55)
    return out[0]


def _draw_histogram(axes: Any, layer: Mapping[str, Any]) -> None:
    """One layer's outputs, their ends on the axis, mean and deviation below; or that none is finite."""
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    if not layer["counts"]:
        axes.set_xticks([])
        axes.text(0.5, 0.5, "not finite", ha="center", transform=axes.transAxes, color=VERMILION, fontsize=9)
        return
    low, high = float(layer["low"]), float(layer["high"])
    span = (high - low) or 1.0
    counts = np.asarray(layer["counts"], np.float64)
    edges = low + span * np.arange(len(counts) + 1) / len(counts)
    axes.stairs(np.sqrt(counts), edges, fill=True, color=SKY)
    axes.set_xlim(low - 0.02 * span, high + 0.02 * span)
    axes.set_xticks([low, high], [f"{low:.3g}", f"{high:.3g}"], fontsize=8)
    axes.set_xlabel(f"{layer['mean']:.2g} ± {layer['std']:.2g}", fontsize=9, color=INK)
    for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=True):
        label.set_horizontalalignment(side)


def draw_parity(targets: Floats, answers: Floats, *, low: float, high: float) -> str:
    """Numbers predicted over true ones, the line where they are equal, and the range trained on.

    Args:
        targets, answers: (n,). low, high: least and greatest number of the training.
    """
    with new_figure("parity", "Predicted over true numbers", size=(4.6, 4.4)) as (figure, out):
        axes = figure.add_axes((0.16, 0.13, 0.8, 0.83))
        axes.axvspan(low, high, color=SKY, alpha=0.15, linewidth=0, label="range trained on")
        both = np.concatenate([targets, answers])
        ends = [float(both.min()), float(both.max())]
        axes.plot(ends, ends, color=FAINT, linewidth=1, linestyle=(0, (4, 2)), label="equal")
        axes.plot(
            targets,
            answers,
            "o",
            color=BLUE,
            markersize=3,
            alpha=0.35,
            markeredgewidth=0,
            rasterized=len(targets) > 500,
        )
        axes.set_xlabel("true number")
        axes.set_ylabel("predicted number")
        add_legend(axes)
    return out[0]


def draw_errors(errors: Mapping[str, float], *, floor: float | None) -> str:
    """Errors of the splits as bars, in per cent, over the best that is possible.

    Args:
        errors: share of wrong answers by split. floor: the best possible error, None where nobody knows.
    """
    with new_figure("errors", "Errors of training, validation and test", size=(5.8, 2.4)) as (figure, out):
        axes = add_axes(figure, top=0.96, bottom=0.24)
        names = list(errors)
        places = np.arange(len(names))[::-1]
        values = 100 * np.array([errors[name] for name in names])
        axes.barh(places, values, height=0.6, color=[FAINT if name == "train" else BLUE for name in names])
        for place, value in zip(places, values, strict=True):
            axes.text(value, place, f"  {value:.2f} %", va="center", fontsize=9.5)
        if floor is not None:
            axes.axvline(100 * floor, color=VERMILION, linewidth=1.4, label=f"best possible, {100 * floor:.2f} %")
            add_legend(axes)
        axes.set_yticks(places, [{"train": "training", "valid": "validation"}.get(name, name) for name in names])
        axes.set_xlim(0, max(1.18 * max(values.max(), 100 * (floor or 0)), 0.1))
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("error (%)")
    return out[0]


def draw_learning_curve(sizes: Floats, series: Mapping[str, Floats], *, what: str, floor: float | None = None) -> str:
    """Errors over the number of training rows, mean and single runs, on white.

    Args:
        sizes: (k,) rising numbers of rows. series: by split, (k, seeds) errors, in per cent or the target's unit.
        what: name and unit of the error. floor: the best possible one.
    """
    size = (6.2, 3.9)
    with new_figure("learning-curve", "Error over the number of training pictures", size=size, background=_WHITE) as (
        figure,
        out,
    ):
        axes = add_axes(figure, top=0.95, bottom=0.15)
        for (name, values), color in zip(series.items(), (BLUE, VERMILION, INK), strict=False):
            for run in values.T:
                axes.plot(sizes, run, "o", color=color, markersize=3, alpha=0.35, markeredgewidth=0)
            label = {"train": "training", "valid": "validation"}.get(name, name)
            axes.plot(sizes, values.mean(axis=1), color=color, label=f"{label}, mean of {values.shape[1]}")
        if floor is not None:
            axes.axhline(floor, color=FAINT, linestyle=(0, (4, 2)), linewidth=1, label="best possible")
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{int(n):,}" for n in sizes])
        axes.minorticks_off()
        choose_scale(axes, np.concatenate([values.ravel() for values in series.values()]))
        axes.set_xlabel("training pictures (log scale)")
        axes.set_ylabel(what)
        add_legend(axes)
    return out[0]
