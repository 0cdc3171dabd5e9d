"""What a person sees while a network trains: a bar on a terminal, plain lines in a log, or nothing."""

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from clearsight.core.progress import render_rate

_LINE_SECONDS = 1.0


class Progress(Protocol):
    """Told of every chunk of steps and of every epoch."""

    def start(self, *, epochs: int, steps: int, done: int) -> None:
        """A run of `steps` steps begins, or goes on after `done` of them."""

    def advance(self, steps: int, *, epoch: int, loss: float) -> None:
        """Some steps of an epoch (from 1) are done; `loss` is that of the last one."""

    def end_epoch(self, row: dict[str, Any]) -> None:
        """An epoch is done; `row` is its line of the history."""

    def close(self) -> None:
        """The run is over, for whatever reason."""


class SilentProgress:
    """Says nothing."""

    def start(self, *, epochs: int, steps: int, done: int) -> None:
        """See `Progress`."""

    def advance(self, steps: int, *, epoch: int, loss: float) -> None:
        """See `Progress`."""

    def end_epoch(self, row: dict[str, Any]) -> None:
        """See `Progress`."""

    def close(self) -> None:
        """See `Progress`."""


def render_epoch(row: dict[str, Any], epochs: int) -> str:
    """One epoch in 80 columns, for example `epoch 3/20  loss 0.2114 (valid 0.2570)  accuracy 0.9405 (valid 0.9310)`."""
    parts = [f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"]
    for name in ("loss", "accuracy"):
        train, valid = row[f"train_{name}"], row[f"valid_{name}"]
        if train is not None:
            parts.append(f"{name} {train:.4f}" + (f" (valid {valid:.4f})" if valid is not None else ""))
    return "  ".join(parts)


class LineProgress:
    """A line an epoch, at most one a second, and always the last."""

    def __init__(self, *, write: Callable[[str], None] | None = None) -> None:
        self._write = write or (lambda text: print(text, file=sys.stderr, flush=True))
        self._epochs, self._last, self._waiting, self._deaf = 0, 0.0, "", False

    def start(self, *, epochs: int, steps: int, done: int) -> None:
        """See `Progress`."""
        self._epochs = epochs

    def advance(self, steps: int, *, epoch: int, loss: float) -> None:
        """See `Progress`."""

    def end_epoch(self, row: dict[str, Any]) -> None:
        """See `Progress`."""
        self._waiting = render_epoch(row, self._epochs)
        if time.monotonic() - self._last >= _LINE_SECONDS:
            self._flush()

    def close(self) -> None:
        """See `Progress`."""
        self._flush()

    def _flush(self) -> None:
        if self._waiting and not self._deaf:
            try:
                self._write(self._waiting)
            except OSError:  # the reader has gone: train on in silence
                self._deaf = True
        self._waiting, self._last = "", time.monotonic()


class BarProgress:
    """A bar with epoch, loss, rate and time left, and above it a line an epoch, at most one a second, that stays."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=16),
            TextColumn("{task.percentage:>3.0f}%  loss {task.fields[loss]}  {task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True),
            refresh_per_second=8,
            transient=True,
        )
        self._lines = LineProgress(
            write=lambda text: self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        )
        self._epochs = 0
        self._task: Any = None
        self._began, self._steps = 0.0, 0

    def start(self, *, epochs: int, steps: int, done: int) -> None:
        """See `Progress`."""
        self._epochs, self._began = epochs, time.monotonic()
        self._lines.start(epochs=epochs, steps=steps, done=done)
        self._task = self._bar.add_task("", total=steps, completed=done, epoch=f"0/{epochs}", loss="", rate="")
        self._bar.start()

    def advance(self, steps: int, *, epoch: int, loss: float) -> None:
        """See `Progress`."""
        self._steps += steps
        rate = render_rate(self._steps / max(time.monotonic() - self._began, 1e-9), "steps")
        self._bar.update(self._task, advance=steps, epoch=f"{epoch}/{self._epochs}", loss=f"{loss:.4f}", rate=rate)

    def end_epoch(self, row: dict[str, Any]) -> None:
        """See `Progress`."""
        self._lines.end_epoch(row)

    def close(self) -> None:
        """See `Progress`."""
        self._lines.close()
        self._bar.stop()


def build_progress(*, quiet: bool) -> Progress:
    """A bar where standard error is a terminal, lines where it is not, nothing when quiet."""
    if quiet or sys.stderr is None:
        return SilentProgress()
    return BarProgress() if sys.stderr.isatty() else LineProgress()
