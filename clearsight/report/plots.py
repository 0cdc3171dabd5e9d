"""Curves and matrices as SVG texts: pure functions of arrays, drawn with matplotlib but never through its global state.

It must not know runs, files or HTML.
"""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clearsight.report.figure import (
    BLUE,
    FAINT,
    INK,
    RULE,
    SKY,
    VERMILION,
    WIDTH,
    Floats,
    add_axes,
    add_legend,
    choose_scale,
    draw_line,
    new_figure,
    running_mean,
    set_limits,
    set_margins,
    spread,
)  # fmt: skip
from clearsight.training.history import EpochRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NATS, SQUARES = "nats", "½ squared error"  # units of losses, of classes and of a regression
MAX_COUNTED_CLASSES = 20
MAX_NAMED_CLASSES = 60
MAX_LAYERS = 8
_MAX_LINES, _MAX_RANKED = 200, 20_000


def cap(losses: Floats) -> Floats:
    """The losses with those beyond a thousand times the median cut to that, so that an explosion leaves the rest visible."""
    finite = losses[np.isfinite(losses)]
    return np.minimum(losses, 1e3 * float(np.median(finite))) if len(finite) else losses


def draw_losses(losses: Floats, *, steps_per_epoch: int, unit: str, smoothed: bool = False) -> str:
    """Loss of every batch as a light line, its running mean as a dark one, and where epochs begin.

    Args:
        losses: (steps,); what is not finite is left out, and marked where it first comes.
        steps_per_epoch: batches in an epoch.
        unit: of the loss, for the axis. smoothed: they are means already, and get one line.
    """
    steps = np.arange(len(losses), dtype=np.float64)
    finite = np.isfinite(losses)
    losses = cap(losses)
    window = 1 if smoothed else max(1, min(steps_per_epoch, len(losses) // 40))
    each = "mean of a second" if smoothed else "each batch"
    mean = running_mean(losses[finite], window=window)
    with new_figure("losses", "Loss of every batch") as (figure, out):
        axes = add_axes(figure, top=0.84)
        if window > 1:
            draw_line(axes, steps, losses, color=SKY, linewidth=0.8, alpha=0.75, label="each batch")
        draw_line(axes, steps[finite], mean, color=BLUE, label=f"mean of {window} batches" if window > 1 else each)
        if not finite.all():
            first = int(steps[~finite][0])
            axes.axvline(first, color=VERMILION, linestyle=(0, (4, 2)), label="no longer finite")
        log = choose_scale(axes, mean)
        axes.set_ylabel(f"loss ({unit}{', log scale' if log else ''})")
        axes.set_xlabel("step (batches, from 0)")
        set_limits(axes, len(losses))
        _mark_epochs(axes, len(losses), steps_per_epoch)
        add_legend(axes)
    return out[0]


def draw_epochs(epochs: Sequence[EpochRow], *, what: str, unit: str, best: int, title: str = "") -> str:
    """Training and validation course of `accuracy` or `loss`.

    Args:
        epochs: rows of a `History`.
        what: `accuracy` (drawn in per cent) or `loss`.
        unit: for the axis.
        best: epoch whose weights are in force, 0 for none of them.
        title: of the picture, for readers who cannot see it.
    """
    with new_figure(what, title or f"{what} of every epoch") as (figure, out):
        _draw_course(add_axes(figure), epochs, what=what, unit=unit, best=best)
    return out[0]


def draw_history(epochs: Sequence[EpochRow], *, unit: str, best: int) -> str:
    """Loss and, where there is one, accuracy of every epoch, side by side on white: a file of its own."""
    wanted = [("loss", unit)] + [("accuracy", "%")] * any(row["train_accuracy"] is not None for row in epochs)
    size = (5.4 * len(wanted), 3.6)
    with new_figure("history", "Course of the training", size=size, background="#ffffff") as (figure, out):
        for at, (what, of) in enumerate(wanted):
            axes = figure.add_subplot(1, len(wanted), at + 1, title=f"{what.capitalize()} per epoch")
            _draw_course(axes, epochs, what=what, unit=of, best=best)
        left = 0.72 / size[0]
        figure.subplots_adjust(left=left, right=1 - 0.2 / size[0], bottom=0.15, top=0.9, wspace=0.24)
    return out[0]


def draw_side_by_side(losses: Mapping[str, Floats]) -> str:
    """Loss of every batch of several runs, a panel each on one scale, on white: a file of its own."""
    size = (3.1 * len(losses) + 0.95, 3.2)
    capped = {name: cap(values) for name, values in losses.items()}
    with new_figure("side-by-side", "Loss of every batch", size=size, background="#ffffff") as (figure, out):
        first: Any = None
        for at, (name, values) in enumerate(capped.items()):
            first = axes = figure.add_subplot(1, len(losses), at + 1, title=name, sharey=first)
            steps = np.arange(len(values), dtype=np.float64)
            draw_line(axes, steps, values, color=SKY, linewidth=0.6)
            kept = np.isfinite(values)
            mean = running_mean(values[kept], window=max(1, len(values) // 40))
            draw_line(axes, steps[kept], mean, color=BLUE)
            set_limits(axes, len(values))
            axes.locator_params(axis="x", nbins=4)
            axes.set_xlabel("step (batches, from 0)")
            axes.tick_params(labelleft=at == 0)
        choose_scale(first, np.concatenate(list(capped.values())))
        figure.axes[0].set_ylabel("loss (nats)")
        figure.subplots_adjust(left=0.95 / size[0], right=1 - 0.15 / size[0], bottom=0.17, top=0.89, wspace=0.08)
    return out[0]


def draw_learning_rate(lrs: Floats, *, steps_per_epoch: int) -> str:
    """Learning rate of every batch."""
    steps = np.arange(len(lrs), dtype=np.float64)
    with new_figure("rates", "Learning rate of every batch", size=(WIDTH, 2.4)) as (figure, out):
        axes = add_axes(figure, top=0.8, bottom=0.2)
        draw_line(axes, steps, lrs, color=BLUE)
        axes.set_ylim(0, 1.08 * max(float(lrs.max(initial=0)), 1e-12))
        axes.set_ylabel("learning rate")
        axes.set_xlabel("step (batches, from 0)")
        axes.yaxis.set_major_formatter("{x:.3g}")
        set_limits(axes, len(lrs))
        _mark_epochs(axes, len(lrs), steps_per_epoch)
    return out[0]


def draw_confusion(confusion: NDArray[np.int64], class_names: Sequence[str]) -> str:
    """Confusion matrix: rows true, columns answered; a cell's shade is the square root of its share of the row.

    The diagonal is blue and mistakes are vermilion. Counts stand in the cells up to 20 classes, names up to 60.
    """
    k = len(class_names)
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    counted, named = k <= MAX_COUNTED_CLASSES, k <= MAX_NAMED_CLASSES
    names = [_shorten(name, 14) for name in class_names]
    upright = named and (max(map(len, names)) > 3 or k > MAX_COUNTED_CLASSES)
    left = 0.4 + (0.085 * max(map(len, names)) if named else 0.25)
    top = left if upright else 0.5
    digits = len(str(int(confusion.max())))
    side = max(3.0, k * max(0.42, 0.115 * digits)) if counted else 6.4
    width, height = left + side + 0.1, top + side + 0.1
    with new_figure("confusion", "Confusion matrix", size=(width, height)) as (figure, out):
        axes = figure.add_axes((left / width, 0.1 / height, side / width, side / height))
        axes.grid(visible=False)
        shades = _shade(shares)
        axes.imshow(shades, interpolation="none", extent=(-0.5, k - 0.5, k - 0.5, -0.5))
        ticks = np.arange(k) if named else np.arange(0, k, _nice_step(k))
        size = min(10.0, max(5.0, 6.4 * 72 / k * 0.8)) if named else 9.0
        labels = [names[t] if named else str(t) for t in ticks]
        axes.set_xticks(ticks, labels, rotation=90 if upright else 0, fontsize=size)
        axes.set_yticks(ticks, labels, fontsize=size)
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        axes.tick_params(length=0 if named else 3, pad=3)
        kind = "class" if named else "class number, from 0"
        axes.set_xlabel(f"answered {kind}")
        axes.set_ylabel(f"true {kind}")
        axes.spines[:].set(visible=True, color=FAINT)
        if counted:
            _write_counts(axes, confusion, shades)
    return out[0]


def draw_weight_history(layers: Sequence[NDArray[Any]], names: Sequence[str]) -> str:
    """The course of weights over epochs, a panel a layer: up to 200 weights as light lines, percentiles as dark ones.

    Args:
        layers: each layer's weights, (epochs + 1, weights), the first row before training. Of more than eight layers,
            eight are drawn.
        names: one a layer.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.ticker import MaxNLocator

    shown = np.unique(np.linspace(0, len(layers) - 1, min(len(layers), MAX_LAYERS)).round().astype(int))
    rows = -(-len(shown) // 2)
    columns = min(len(shown), 2)
    size = (5.9 * columns + 0.4, 2.9 * rows + 0.3)
    with new_figure("weights", "Course of the weights", size=size) as (figure, out):
        for at, layer in enumerate(shown):
            values = layers[layer]
            epochs = np.arange(len(values), dtype=np.float64)
            axes = figure.add_subplot(rows, columns, at + 1, title=names[layer])
            lines = values[:, spread(values.shape[1], _MAX_LINES)].astype(np.float64)
            paths = np.stack([np.broadcast_to(epochs[:, None], lines.shape), lines], axis=-1).swapaxes(0, 1)
            axes.add_collection(LineCollection(list(paths), colors=SKY, linewidths=0.5, alpha=0.35, rasterized=True))
            ranked = np.percentile(values[:, spread(values.shape[1], _MAX_RANKED)], [5, 50, 95], axis=1)
            for line, dashes, label in zip(
                ranked, [(0, (4, 2)), "-", (0, (4, 2))], ["5 and 95 %", "median", ""], strict=True
            ):
                draw_line(axes, epochs, line, color=BLUE, linestyle=dashes, linewidth=1.5, label=label)
            axes.autoscale_view()
            axes.set_xlim(0, max(len(values) - 1, 1))
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
            axes.set_ylabel("weight")
            if at + columns >= len(shown):
                axes.set_xlabel("epoch (0 before training)")
            if at == 0:
                add_legend(axes)
        set_margins(figure, left=0.75, right=0.15, top=0.3, bottom=0.5, wspace=0.22, hspace=0.35)
    return out[0]


def _draw_course(axes: "Axes", epochs: Sequence[EpochRow], *, what: str, unit: str, best: int) -> None:
    from matplotlib.ticker import MaxNLocator

    factor = 100.0 if what == "accuracy" else 1.0
    x = np.array([row["epoch"] for row in epochs], np.float64)
    series = {split: _column(epochs, f"{split}_{what}") * factor for split in ("train", "valid")}
    series = {split: values for split, values in series.items() if np.isfinite(values).any()}
    marker = "o" if len(x) <= 30 else None
    for split, values in series.items():
        color, label = (BLUE, "training") if split == "train" else (VERMILION, "validation")
        dashes = "-" if split == "valid" or len(series) == 1 else (0, (5, 2))
        draw_line(axes, x, values, color=color, linestyle=dashes, marker=marker, markersize=3.5, label=label)
    log = what == "loss" and choose_scale(axes, np.concatenate(list(series.values()) or [x]))
    if best and len(x):
        axes.axvline(best, color=FAINT, linewidth=1, linestyle=(0, (1, 2)), zorder=1, label=f"in force: epoch {best}")
        for values in series.values():
            axes.plot(x[x == best], values[x == best], "o", markersize=8, markerfacecolor="none", markeredgecolor=INK)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{what} ({unit}{', log scale' if log else ''})")
    margin = 0.5 if len(x) < 3 else 0.03 * len(x)
    axes.set_xlim(1 - margin, max(len(x), 1) + margin)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    add_legend(axes)


def _column(epochs: Sequence[EpochRow], name: str) -> Floats:
    values = map(itemgetter(name), epochs)
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _nice_step(size: int) -> int:
    """The least of 1, 2, 5, 10, 20, ... that divides `size` into 12 stretches at most."""
    steps = (unit * int(10**power) for power in range(12) for unit in (1, 2, 5))
    return next(step for step in steps if step * 12 >= size)


def _shorten(name: str, length: int) -> str:
    clean = "".join(c if c.isprintable() else "\ufffd" for c in name)
    return clean if len(clean) <= length else clean[: length - 1] + "…"


def _shade(shares: Floats) -> NDArray[np.uint8]:
    """Colours (K, K, 3) of a confusion matrix: white to blue on its diagonal, white to vermilion elsewhere."""
    right, wrong = np.array([0x0B, 0x64, 0xA0]), np.array([0xC2, 0x4E, 0x04])
    ends = np.where(np.eye(len(shares), dtype=bool)[..., None], right, wrong)
    return np.asarray(255 + (ends - 255) * np.sqrt(shares)[..., None]).round().astype(np.uint8)


def _write_counts(axes: "Axes", confusion: NDArray[np.int64], shades: NDArray[np.uint8]) -> None:
    luminance = (shades / 255) ** 2.2 @ np.array([0.2126, 0.7152, 0.0722])
    for true, answer in np.argwhere(confusion):
        color = "#ffffff" if luminance[true, answer] < 0.18 else "#1b1f23"  # where either contrasts alike
        count = str(confusion[true, answer])
        axes.text(answer, true, count, color=color, ha="center", va="center_baseline", fontsize=10)


def _mark_epochs(axes: "Axes", steps: int, steps_per_epoch: int) -> None:
    """Ticks above the axes where each epoch ends, some 12 at most."""
    epochs = steps // steps_per_epoch
    every = _nice_step(epochs)
    ends = np.arange(every, epochs + 1, every)
    above = axes.secondary_xaxis("top")
    above.set_xticks(ends * steps_per_epoch - 0.5, [str(n) for n in ends])
    above.minorticks_off()
    above.grid(visible=False)
    above.set_xlabel("end of epoch", fontsize=9)
    above.tick_params(labelsize=9, length=4)
    if epochs <= 30:
        for end in range(1, epochs):
            axes.axvline(end * steps_per_epoch - 0.5, color=RULE, linewidth=0.6, zorder=0.5)
