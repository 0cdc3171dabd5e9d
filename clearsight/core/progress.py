"""What a person sees while counted work is done: a bar with rate and time left, lines in a log, or nothing.

Every display is built of the same three parts: `choose_display`, `Lines` for a log, `build_bar` for a terminal. The meters here
count any work; what a training or a search shows besides stands beside these (`training.progress`, `search.leaderboard`).
"""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")
_FIRST_LINE_SECONDS = 2.0
_LINE_SECONDS = 10.0
Note = Callable[[str], None]
"""Is told, in sentences, what was assumed, or went wrong without ending the work."""


def choose_display(*, quiet: bool, silent: T, lines: T, live: T) -> T:
    """`live` where standard error is a terminal, `lines` where it is not, `silent` when quiet or where there is none."""
    if quiet or sys.stderr is None:
        return silent
    return live if sys.stderr.isatty() else lines


class Lines:
    """Lines of a log, at most one in `every` seconds, the first no sooner than after `first`.

    Args:
        write: takes a line; by default standard error. One that has gone (a closed pipe) is no reason to end the work.
    """

    def __init__(self, every: float, *, first: float = 0.0, write: Callable[[str], None] | None = None) -> None:
        self._every, self._due = every, time.monotonic() + first
        self._write = write or (lambda text: print(text, file=sys.stderr, flush=True))
        self._waiting: Callable[[], str] | None = None
        self.began = False

    def offer(self, render: Callable[[], str]) -> None:
        """Say what `render` gives if a line is due, and keep it for `flush` if not."""
        self._waiting = render
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Say what was offered last, unless it has been said."""
        if self._waiting is not None:
            try:
                self._write(self._waiting())
            except OSError:
                self._write = lambda text: None
        self._waiting, self._due, self.began = None, time.monotonic() + self._every, True


def build_bar(*columns: Any) -> "Progress":
    """A bar on standard error that goes away when the work is done; `columns` as rich has them."""
    from rich.console import Console
    from rich.progress import Progress

    return Progress(*columns, console=Console(stderr=True), refresh_per_second=8, transient=True)


class Meter(Protocol):
    """Counts work as a context manager: `with build_meter(...)("reading pictures", 60000) as advance: advance(1)`."""

    def __enter__(self) -> "Meter":
        """Begin."""

    def __call__(self, count: int = 1) -> None:
        """`count` more are done."""

    def __exit__(self, *details: Any) -> None:
        """End, for whatever reason."""


class MeterBuilder(Protocol):
    """Makes a meter for a piece of work."""

    def __call__(self, label: str, total: int, *, unit: str = "pictures") -> Meter:
        """`label` says what is done, `total` how much there is (0 where that is unknown), `unit` what is counted."""


class SilentMeter:
    """Says nothing."""

    def __init__(self, label: str = "", total: int = 0, *, unit: str = "pictures") -> None:
        pass

    def __enter__(self) -> "SilentMeter":
        return self

    def __call__(self, count: int = 1) -> None:
        """See `Meter`."""

    def __exit__(self, *details: Any) -> None:
        pass


class LineMeter:
    """A line after two seconds and then every ten, so that short work leaves a log clean."""

    def __init__(self, label: str, total: int, *, unit: str = "pictures") -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done, self._began = 0, time.monotonic()
        self._lines = Lines(_LINE_SECONDS, first=_FIRST_LINE_SECONDS)

    def __enter__(self) -> "LineMeter":
        return self

    def __call__(self, count: int = 1) -> None:
        """See `Meter`."""
        self._done += count
        self._lines.offer(self._render)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lines.began and kind is None:
            self._lines.flush()

    def _render(self) -> str:
        rate = self._done / max(time.monotonic() - self._began, 1e-9)
        left = f", {max(self._total - self._done, 0) / max(rate, 1e-9):.0f} s left" if self._total else ""
        of = f" of {render_count(self._total, self._unit)}" if self._total else f" {self._unit}"
        return f"{self._label}: {render_count(self._done, '')}{of}, {render_rate(rate, self._unit)}{left}"


class BarMeter:
    """A bar that goes away when the work is done."""

    def __init__(self, label: str, total: int, *, unit: str = "pictures") -> None:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

        self._unit, self._began, self._done = unit, time.monotonic(), 0
        self._bar = build_bar(
            TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
        )  # fmt: skip
        self._task = self._bar.add_task(label, total=total or None, rate="")

    def __enter__(self) -> "BarMeter":
        self._began = time.monotonic()
        self._bar.start()
        return self

    def __call__(self, count: int = 1) -> None:
        """See `Meter`."""
        self._done += count
        rate = self._done / max(time.monotonic() - self._began, 1e-9)
        self._bar.update(self._task, advance=count, rate=render_rate(rate, self._unit))

    def __exit__(self, *details: Any) -> None:
        self._bar.stop()


def render_count(count: float, unit: str) -> str:
    """A number with its unit; bytes in MB."""
    return f"{count / 1e6:,.1f} MB" if unit == "bytes" else f"{count:,.0f} {unit}".strip()


def render_rate(rate: float, unit: str) -> str:
    """How many a second, or where that is less than one, how many seconds each takes: `120 pictures/s`, `2.5 s/picture`."""
    if unit == "bytes" or rate >= 9.95 or rate <= 0:
        return f"{render_count(rate, unit)}/s"
    return f"{rate:.1f} {unit}/s" if rate >= 1 else f"{1 / rate:,.1f} s/{unit.removesuffix('s')}"


def render_seconds(seconds: float) -> str:
    """A time that a person plans with: seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def build_meter(*, quiet: bool) -> MeterBuilder:
    """A bar where standard error is a terminal, lines where it is not, nothing when quiet."""
    builders: dict[str, MeterBuilder] = {"silent": SilentMeter, "lines": LineMeter, "live": BarMeter}
    return choose_display(quiet=quiet, **builders)
