"""What the network is like inside over the course of a training: a picture and its section."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from clearsight.diagnose.bank import read_bank
from clearsight.engines.probe import LayerProbe, Probe
from clearsight.report import page
from clearsight.report.figure import BLUE, FAINT, INK, SKY, VERMILION, draw_line, new_figure, set_margins, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_LAYERS = 6
_LEAST_PROBES = 3


def render_inside(probes: Sequence[tuple[int, Probe]]) -> str:
    """The section; empty for fewer than three looks."""
    if len(probes) < _LEAST_PROBES or not probes[0][1].layers:
        return ""
    n = probes[0][1].n
    note = (
        f"{len(probes)} looks at the same {n:,} training rows. Above: what each layer gives before its activation, as mean ± "
        "deviation with the least and greatest value. Below: the size of a step as a share of the weights; the band holds nine "
        "in ten healthy trainings."
    )
    label = f"Outputs of every layer and sizes of steps over {probes[-1][0]:,} steps"
    return page.section(
        "Inside the network", page.plot(draw_inside(probes), label=label), page.paragraph(note, kind="note")
    )


def draw_inside(probes: Sequence[tuple[int, Probe]]) -> str:
    """An SVG text: a column a layer; above, what it gives over the steps, below, the size of a step."""
    chosen = spread(len(probes[0][1].layers), _MOST_LAYERS)
    steps = np.array([done for done, _ in probes], np.float64)
    size = (max(4.2, 1.9 * len(chosen) + 0.9), 3.6)
    low, _, high = read_bank()["update"].middle
    powers = 10 ** np.arange(0, np.floor(np.log10(max(steps[-1], 1))) + 1)
    ticks = [0.0, *powers[:: max(1, len(powers) // 3)]]
    with new_figure("inside", "Inside the network over the training", size=size) as (figure, out):
        for column, place in enumerate(chosen):
            layers = [probe.layers[place] for _, probe in probes]
            upper = figure.add_subplot(2, len(chosen), column + 1)
            upper.set_title(layers[0].name[-18:], fontsize=9)
            _draw_outputs(upper, steps, layers)
            lower = figure.add_subplot(2, len(chosen), len(chosen) + column + 1)
            _draw_updates(lower, steps, layers, low=low, high=high)
            if column == 0:
                upper.set_ylabel("output", fontsize=9)
                lower.set_ylabel("step / weights", fontsize=9)
            for axes in (upper, lower):
                axes.set_xscale("symlog", linthresh=1)
                axes.set_xlim(0, steps[-1] * 1.05 + 0.1)
                axes.set_xticks(ticks, labels=[_shorten(tick) for tick in ticks])
                axes.minorticks_off()
                axes.tick_params(labelsize=7)
            lower.set_xlabel("steps", fontsize=8)
        set_margins(figure, left=0.65, right=0.15, top=0.3, bottom=0.5, wspace=0.42, hspace=0.32)
    return out[0]


def _shorten(number: float) -> str:
    """`10k` for 10,000."""
    return f"{number:.0f}" if number < 1000 else f"{number / 1000:.0f}k" if number < 1e6 else f"{number / 1e6:.0f}M"


def _draw_outputs(axes: "Axes", steps: np.ndarray, layers: Sequence[LayerProbe]) -> None:
    mean, std, low, high = (
        np.array([getattr(layer, name) for layer in layers], np.float64) for name in ("mean", "std", "low", "high")
    )
    axes.fill_between(steps, mean - std, mean + std, color=SKY, alpha=0.5, linewidth=0)
    for values in (low, high):
        draw_line(axes, steps, values, color=FAINT, linewidth=0.8)
    draw_line(axes, steps, mean, color=BLUE)


def _draw_updates(axes: "Axes", steps: np.ndarray, layers: Sequence[LayerProbe], *, low: float, high: float) -> None:
    sizes = np.array([np.nan if layer.update is None else layer.update for layer in layers], np.float64)
    shown = np.isfinite(sizes) & (sizes > 0)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.axhspan(low, high, color=SKY, alpha=0.25, linewidth=0)
    if not shown.any():
        axes.text(0.5, 0.5, "no step", ha="center", transform=axes.transAxes, color=VERMILION, fontsize=9)
        return
    axes.plot(steps[shown], sizes[shown], "o-", color=INK, markersize=2.5, linewidth=1)
