"""The house style of all pictures, and what they share: axes, lines, legends, SVG. It must not know what is drawn."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.floating[Any]]

# Okabe and Ito (2008): told apart by readers with any of the common kinds of colour blindness.
BLUE, VERMILION, SKY = "#0072b2", "#d55e00", "#56b4e9"
INK, FAINT, RULE = "#24292f", "#6e7781", "#d8dee4"
COLORS = {"ink": INK, "faint": FAINT, "rule": RULE, "blue": BLUE, "vermilion": VERMILION, "sky": SKY}
_LOG_RATIO = 50.0
WIDTH, HEIGHT = 5.8, 3.2
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.facecolor": "none",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.formatter.use_mathtext": False,
    "axes.formatter.useoffset": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


def thin(x: Floats, y: Floats, *, buckets: int = 500) -> tuple[Floats, Floats]:
    """At most `2 * buckets` of the finite points, with the least and the greatest of every bucket among them.

    Args:
        x, y: (n,), x rising.
        buckets: stretches of x, each with equally many points.
    """
    finite = np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(y) <= 2 * buckets:
        return x, y
    edges = np.linspace(0, len(y), buckets + 1).astype(np.int64)
    kept = {int(a + at) for a, b in pairwise(edges) for at in (y[a:b].argmin(), y[a:b].argmax())}
    rows = np.array(sorted(kept))
    return x[rows], y[rows]


def spread(size: int, count: int) -> NDArray[np.int64]:
    """Up to `count` of `size` places, evenly spread."""
    return np.unique(np.linspace(0, size - 1, min(size, count)).round().astype(np.int64))


def running_mean(values: Floats, *, window: int) -> Floats:
    """Mean of each value and up to `window - 1` before it, (n,)."""
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return np.asarray((total[ends] - total[starts]) / (ends - starts))


def add_axes(figure: "Figure", *, top: float = 0.96, bottom: float = 0.16) -> "Axes":
    """Axes over the whole figure but for room for labels."""
    return figure.add_axes((0.15, bottom, 0.83, top - bottom))


def set_margins(
    figure: "Figure", *, left: float, right: float, top: float, bottom: float, wspace: float, hspace: float
) -> None:
    """Margins around a grid of plots in inches, so that they stay as it grows; gaps as shares of a plot."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        top=1 - top / height,
        bottom=bottom / height,
        wspace=wspace,
        hspace=hspace,
    )


def draw_line(axes: "Axes", x: Floats, y: Floats, **style: Any) -> None:
    """A thinned line; a single point as a dot."""
    x, y = thin(x, y)
    if len(x) == 1:
        style["marker"] = "o"
    axes.plot(x, y, **style)


def choose_scale(axes: "Axes", values: Floats) -> bool:
    """Take a logarithmic axis where the course spans so much that a linear one hides its end; say whether."""
    from matplotlib.ticker import NullFormatter

    values = values[np.isfinite(values)]
    log = bool(len(values)) and float(values.min()) > 0 and float(values.max() / values.min()) > _LOG_RATIO
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif len(values):
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]) if values.min() < 0.5 * values.max() else None)
    return log


def set_limits(axes: "Axes", steps: int) -> None:
    """The x axis over so many steps, with whole numbers on it."""
    from matplotlib.ticker import MaxNLocator

    margin = max(0.5, 0.01 * steps)
    axes.set_xlim(-margin, max(steps, 1) - 1 + margin)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))


def add_legend(axes: "Axes") -> None:
    """A legend, where anything has a label."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best", fontsize=9, handlelength=2.2)


@contextmanager
def new_figure(
    name: str, title: str, *, size: tuple[float, float] = (WIDTH, HEIGHT), background: str = "none"
) -> Iterator[tuple["Figure", list[str]]]:
    """A new figure to draw on in the house style, and a list that holds its SVG once the block ends."""
    import warnings

    import matplotlib
    from matplotlib.figure import Figure

    out: list[str] = []
    with matplotlib.rc_context({**_RC, "svg.hashsalt": f"clearsight-{name}"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the reader's fonts draw the text
        figure = Figure(figsize=size, facecolor=background)
        yield figure, out
        out.append(_render(figure, title))


def _render(figure: "Figure", title: str) -> str:
    """The figure as one `<svg>` element, without what only an editor would need."""
    buffer = io.BytesIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", dpi=150, metadata=metadata, facecolor=figure.get_facecolor())
    text = buffer.getvalue().decode()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text).replace("font-family: 'DejaVu Sans'", "font-family: system-ui")
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"\s+", " ", re.sub(r"(\.\d\d)\d+", r"\1", path[0])), text)
    text = re.sub(r">\s+<", "><", text)
    return text.replace(">", f"><title>{title}</title>", 1)
