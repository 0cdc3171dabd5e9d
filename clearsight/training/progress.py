"""What a person sees while a network trains: a bar on a terminal, plain lines in a log, or nothing."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.core.progress import Lines, build_bar, choose_display, render_rate
from clearsight.training.history import EpochRow
from clearsight.training.observer import Observer

_LINE_SECONDS = 1.0


def render_epoch(row: EpochRow, epochs: int) -> str:
    """One epoch in 80 columns, for example `epoch 3/20  loss 0.2114 (valid 0.2570)  accuracy 0.9405 (valid 0.9310)`."""
    pairs = {"loss": (row["train_loss"], row["valid_loss"]), "accuracy": (row["train_accuracy"], row["valid_accuracy"])}
    parts = [f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"]
    for name, (train, valid) in pairs.items():
        if train is not None:
            parts.append(f"{name} {train:.4f}" + (f" (valid {valid:.4f})" if valid is not None else ""))
    return "  ".join(parts)


class LineProgress(Observer):
    """A line an epoch, at most one a second, and always the last."""

    def __init__(self, *, write: Callable[[str], None] | None = None) -> None:
        self._lines, self._epochs = Lines(_LINE_SECONDS, write=write), 0

    def on_start(self, *, epochs: int, steps: int, done: int) -> None:
        """See `Observer`."""
        self._epochs = epochs

    def on_epoch(self, row: EpochRow) -> None:
        """See `Observer`."""
        self._lines.offer(lambda: render_epoch(row, self._epochs))

    def on_end(self, status: str) -> None:
        """See `Observer`."""
        self._lines.flush()


class BarProgress(Observer):
    """A bar with epoch, loss, rate and time left, and above it a line an epoch, at most one a second, that stays."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

        self._bar = build_bar(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=16),
            TextColumn("{task.percentage:>3.0f}%  loss {task.fields[loss]}  {task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
        )
        self._lines = LineProgress(
            write=lambda text: self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        )
        self._epochs = 0
        self._task: Any = None
        self._began, self._steps = 0.0, 0

    def on_start(self, *, epochs: int, steps: int, done: int) -> None:
        """See `Observer`."""
        self._epochs, self._began = epochs, time.monotonic()
        self._lines.on_start(epochs=epochs, steps=steps, done=done)
        self._task = self._bar.add_task("", total=steps, completed=done, epoch=f"0/{epochs}", loss="", rate="")
        self._bar.start()

    def on_steps(self, done: int, *, epoch: int, losses: NDArray[Any], lrs: NDArray[np.float64]) -> None:
        """See `Observer`."""
        self._steps += len(losses)
        rate = render_rate(self._steps / max(time.monotonic() - self._began, 1e-9), "steps")
        self._bar.update(
            self._task, completed=done, epoch=f"{epoch}/{self._epochs}", loss=f"{losses[-1]:.4f}", rate=rate
        )

    def on_epoch(self, row: EpochRow) -> None:
        """See `Observer`."""
        self._lines.on_epoch(row)

    def on_end(self, status: str) -> None:
        """See `Observer`."""
        self._lines.on_end(status)
        self._bar.stop()


def build_progress(*, quiet: bool) -> Observer:
    """A bar where standard error is a terminal, lines where it is not, nothing when quiet."""
    return choose_display(quiet=quiet, silent=Observer, lines=LineProgress, live=BarProgress)()
