"""Paths of optimisers on a surface, as an SVG picture and as a GIF that moves. It must not know how paths are found."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clearsight.report.figure import BLUE, INK, SKY, VERMILION, Floats, add_legend, new_figure
from clearsight.training.optimizer_paths import Path, Surface

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = (BLUE, VERMILION, "#009e73", "#cc79a7", "#e69f00", SKY)  # Okabe and Ito (2008)
_SIZE = (9.4, 4.2)
_FRAMES, _FRAME_MS, _PAUSE_FRAMES, _DPI = 60, 70, 20, 80
_LEAST_HEIGHT = 1e-12


def draw_paths(surface: Surface, paths: Sequence[Path]) -> str:
    """The paths over the surface's contours, and beside them the height over the steps."""
    with new_figure("paths", "Paths of optimisers", size=_SIZE, background="#ffffff") as (figure, out):
        for line, x, y in _draw(figure, surface, paths):
            last = -1 if line.get_linestyle() == "None" else None  # a dot at the end of its line
            line.set_data(x[last:], y[last:])
    return out[0]


def render_animation(surface: Surface, paths: Sequence[Path]) -> bytes:
    """The same as a GIF in which the paths grow, without end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    total = len(paths[0].points)
    with new_figure("paths", "Paths of optimisers", size=_SIZE, background="#ffffff") as (figure, _):
        figure.set_dpi(_DPI)
        canvas: Any = FigureCanvasAgg(figure)
        lines, frames = _draw(figure, surface, paths), []
        canvas.draw()
        still = canvas.copy_from_bbox(figure.bbox)
        for count in np.unique(np.linspace(1, total, min(_FRAMES, total)).round().astype(int)):
            canvas.restore_region(still)
            for line, x, y in lines:
                first = count - 1 if line.get_linestyle() == "None" else 0  # a dot goes ahead of its line
                line.set_data(x[:count][first:], y[:count][first:])
                line.axes.draw_artist(line)
            frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba()).copy()).convert("RGB"))
    palette = frames[-1].quantize(64)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    times = [_FRAME_MS] * (len(indexed) - 1) + [_FRAME_MS * _PAUSE_FRAMES]
    buffer = io.BytesIO()
    indexed[0].save(buffer, "GIF", save_all=True, append_images=indexed[1:], duration=times, loop=0, optimize=True)
    return buffer.getvalue()


def _draw(figure: "Figure", surface: Surface, paths: Sequence[Path]) -> list[tuple[Any, Floats, Floats]]:
    """All but the paths; their lines, still empty, with what they will hold."""
    axes = figure.add_axes((0.06, 0.13, 0.5, 0.78), title=f"{surface.title} (★ minimum)")
    left, right, low, high = surface.window
    x, y = np.meshgrid(np.linspace(left, right, 160), np.linspace(low, high, 160))
    heights = np.log10(np.maximum(surface.value(x, y), 1e-4))
    axes.contourf(x, y, heights, levels=18, cmap="Greys", alpha=0.45)
    axes.contour(x, y, heights, levels=18, colors=INK, linewidths=0.3, alpha=0.5)
    axes.grid(visible=False)
    axes.plot(*surface.minimum, "*", color=INK, markersize=13)
    other = figure.add_axes((0.65, 0.13, 0.33, 0.78), title="height over steps")
    lines: list[tuple[Any, Floats, Floats]] = []
    for i, path in enumerate(paths):
        color, places = _COLORS[i % len(_COLORS)], path.points
        (way,) = axes.plot([], [], "-o", color=color, linewidth=1.3, markersize=2.4)
        (dot,) = axes.plot([], [], "o", color=color, markersize=6)
        (fall,) = other.plot([], [], color=color, label=f"{path.optimizer}, lr {path.lr:.2g}")
        lines += [(way, places[:, 0], places[:, 1]), (dot, places[:, 0], places[:, 1])]
        lines.append((fall, np.arange(len(places), dtype=np.float64), _lift(path.heights)))
    every = np.concatenate([_lift(path.heights) for path in paths])
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    other.set_yscale("log")
    other.yaxis.set_major_formatter("{x:g}")
    other.set_ylim(every.min() / 2, every.max() * 2)
    other.set_xlim(0, len(paths[0].points) - 1)
    other.set_xlabel("step")
    add_legend(other)
    return lines


def _lift(heights: Floats) -> Floats:
    return np.maximum(heights, _LEAST_HEIGHT)
