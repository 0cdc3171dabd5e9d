"""What a person sees while a network trains: a bar on a terminal, plain lines in a log, or nothing."""

import sys
import time
from typing import Any, Protocol, TextIO

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
    """One epoch in words, for example `epoch 3/20  loss 0.2114  accuracy 0.9405  valid loss 0.2570  valid accuracy 0.9310`."""
    parts = [f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"]
    for key, label in (
        ("train_loss", "loss"),
        ("train_accuracy", "accuracy"),
        ("valid_loss", "valid loss"),
        ("valid_accuracy", "valid accuracy"),
    ):
        if row[key] is not None:
            parts.append(f"{label} {row[key]:.4f}")
    return "  ".join(parts)


class LineProgress:
    """A line an epoch, at most one a second, and always the last."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
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
                print(self._waiting, file=self._stream, flush=True)
            except OSError:  # the reader has gone: train on in silence
                self._deaf = True
        self._waiting, self._last = "", time.monotonic()


class BarProgress:
    """A bar with epoch, loss, accuracy, rate and time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[numbers]}"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            refresh_per_second=8,
        )
        self._epochs = 0
        self._task: Any = None
        self._numbers, self._loss = "", 0.0
        self._began, self._steps, self._epoch = 0.0, 0, 0

    def start(self, *, epochs: int, steps: int, done: int) -> None:
        """See `Progress`."""
        self._epochs, self._began = epochs, time.monotonic()
        self._task = self._bar.add_task("", total=steps, completed=done, epoch=f"0/{epochs}", numbers="", rate="")
        self._bar.start()

    def advance(self, steps: int, *, epoch: int, loss: float) -> None:
        """See `Progress`."""
        self._steps += steps
        self._loss = loss
        self._show(epoch)
        self._bar.advance(self._task, steps)

    def end_epoch(self, row: dict[str, Any]) -> None:
        """See `Progress`."""
        parts = []
        if row["train_accuracy"] is not None:
            parts.append(f"accuracy {row['train_accuracy']:.4f}")
        if row["valid_accuracy"] is not None:
            parts.append(f"valid {row['valid_accuracy']:.4f}")
        elif row["valid_loss"] is not None:
            parts.append(f"valid loss {row['valid_loss']:.4f}")
        self._numbers = "  ".join(parts)
        self._show(row["epoch"])

    def _show(self, epoch: int) -> None:
        rate = self._steps / max(time.monotonic() - self._began, 1e-9)
        self._bar.update(
            self._task,
            epoch=f"{epoch}/{self._epochs}",
            numbers=f"loss {self._loss:.4f}  {self._numbers}",
            rate=f"{rate:,.0f} steps/s",
        )

    def close(self) -> None:
        """See `Progress`."""
        self._bar.stop()


def build_progress(*, quiet: bool) -> Progress:
    """A bar where standard error is a terminal, lines where it is not, nothing when quiet."""
    if quiet or sys.stderr is None:
        return SilentProgress()
    return BarProgress() if sys.stderr.isatty() else LineProgress()
