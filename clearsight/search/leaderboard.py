"""What a person sees while a search runs: a live leaderboard on a terminal, a line a trial in a log, or nothing.

It must not know how a search works.
"""

import time
from collections.abc import Callable
from math import isfinite
from typing import Any

from clearsight.core.progress import Lines, choose_display, render_seconds
from clearsight.search.jobs import METRICS
from clearsight.search.loop import COMPLETE, Board, Trial
from clearsight.search.space import render_params

_SHOWN = 10
_LINE_SECONDS = 0.5


def render_score(trial: Trial) -> str:
    """`0.8712 (0.8650 to 0.8774)`, or the score alone, or what became of it."""
    interval = "" if trial.low is None else f" ({trial.low:.4f} to {trial.high:.4f})"
    if trial.status == COMPLETE:
        return f"{trial.score:.4f}{interval}"
    return f"{trial.score:.4f} {trial.status}" if isfinite(trial.score) else trial.status


def rank(trials: list[Trial], metric: str) -> list[Trial]:
    """Complete trials, best first, then the others."""
    return sorted(
        trials, key=lambda t: (t.status != COMPLETE, -METRICS[metric] * t.score if isfinite(t.score) else 0.0, t.number)
    )


class SilentBoard:
    """Says nothing."""

    def begin(self, *, total: int, metric: str, deadline: float | None) -> None:
        """See `Board`."""

    def advance(self) -> None:
        """See `Board`."""

    def add(self, trial: Trial, *, again: bool = False) -> None:
        """See `Board`."""

    def close(self) -> None:
        """See `Board`."""


class LineBoard:
    """A line a trial, at most two a second and always the last, and the best so far on each."""

    def __init__(self) -> None:
        self._trials: list[Trial] = []
        self._total, self._known, self._metric, self._began = 0, 0, "accuracy", time.monotonic()
        self._deadline: float | None = None
        self._lines = Lines(_LINE_SECONDS)

    def begin(self, *, total: int, metric: str, deadline: float | None) -> None:
        """See `Board`."""
        self._total, self._metric, self._began, self._deadline = total, metric, time.monotonic(), deadline

    def advance(self) -> None:
        """See `Board`."""

    def add(self, trial: Trial, *, again: bool = False) -> None:
        """See `Board`."""
        self._trials.append(trial)
        self._known += again
        if not again:
            self._lines.offer(lambda: self._render(trial))

    def close(self) -> None:
        """See `Board`."""
        self._lines.flush()

    def _render(self, trial: Trial) -> str:
        best, done = rank(self._trials, self._metric)[0], len(self._trials)
        left = find_left(self._began, done - self._known, self._total - self._known, self._deadline)
        return (
            f"trial {done}/{self._total}  {render_score(trial)}  {render_params(trial.params)}  "
            f"best {best.score:.4f}{left}"
        )


def find_left(began: float, done: int, total: int, deadline: float | None) -> str:
    """`, 40 s left`, as far as one can tell; pruned trials and a deadline (of `time.monotonic`) make it less."""
    if done == 0 or done >= total:
        return ""
    now = time.monotonic()
    seconds = (now - began) / done * (total - done)
    return f", {render_seconds(seconds if deadline is None else min(seconds, max(deadline - now, 0)))} left"


class LiveBoard:
    """A table of the best that keeps itself up to date, with how far the search is below."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._trials: list[Trial] = []
        self._runs, self._known, self._total, self._metric, self._began = 0, 0, 0, "accuracy", time.monotonic()
        self._deadline: float | None = None
        self._live = Live(
            console=Console(stderr=True), refresh_per_second=4, transient=True, get_renderable=self._render
        )

    def begin(self, *, total: int, metric: str, deadline: float | None) -> None:
        """See `Board`."""
        self._total, self._metric, self._began, self._deadline = total, metric, time.monotonic(), deadline
        self._live.start()

    def advance(self) -> None:
        """See `Board`."""
        self._runs += 1

    def add(self, trial: Trial, *, again: bool = False) -> None:
        """See `Board`."""
        self._trials.append(trial)
        self._known += again

    def close(self) -> None:
        """See `Board`."""
        self._live.stop()

    def _render(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for name in ("", "trial", self._metric, "settings"):
            table.add_column(name, justify="right" if name in ("", "trial") else "left", no_wrap=name != "settings")
        done = list(self._trials)
        for place, trial in enumerate(rank(done, self._metric)[:_SHOWN], 1):
            style = "bold" if place == 1 and trial.status == COMPLETE else "dim" if trial.status != COMPLETE else ""
            cells = (str(place), str(trial.number), render_score(trial), render_params(trial.params))
            table.add_row(*(Text(cell) for cell in cells), style=style)
        rate = self._runs / max(time.monotonic() - self._began, 1e-9)
        left = find_left(self._began, len(done) - self._known, self._total - self._known, self._deadline)
        text = f" {len(done)}/{self._total} trials, {self._runs} runs, {rate:.2g} runs/s{left}"
        bar = Table.grid()
        bar.add_row(ProgressBar(total=max(self._total, 1), completed=len(done), width=24), Text(text))
        return Group(table, bar)


def build_board(*, quiet: bool) -> Board:
    """A live table where standard error is a terminal, lines where it is not, nothing when quiet."""
    builders: dict[str, Callable[[], Board]] = {"silent": SilentBoard, "lines": LineBoard, "live": LiveBoard}
    return choose_display(quiet=quiet, **builders)()
