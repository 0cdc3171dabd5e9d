"""What happens in a run, a line of JSON an event, so that it can be followed while it goes on and read after it was killed.

The file is only ever added to. A run that was resumed from an earlier step has lines that are no longer true; readers drop them.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from clearsight.engines.probe import Probe
from clearsight.runs import store
from clearsight.runs.directory import RunDirectory
from clearsight.runs.record import UNDER_WAY, RunStatus
from clearsight.training.history import EPOCH_COLUMNS, EpochRow
from clearsight.training.observer import Observer

_SECONDS = 1.0  # between two lines about steps


class EventLog(Observer):
    """Writes events down. Where it cannot, because the disk is full, it says so once and training goes on.

    Args:
        path: of the file. note: is told of a failure.
    """

    def __init__(self, path: Path, *, note: Callable[[str], None] = lambda text: None) -> None:
        self._path, self._note, self._failed = path, note, False
        self._losses: list[NDArray[Any]] = []
        self._waiting: dict[str, Any] = {}
        self._written = 0.0

    def on_start(self, *, epochs: int, steps: int, done: int) -> None:
        """See `Observer`."""
        self._write("start", epochs=epochs, steps=steps, done=done)

    def on_steps(self, done: int, *, epoch: int, losses: NDArray[Any], lrs: NDArray[np.float64]) -> None:
        """See `Observer`."""
        self._losses.append(losses)
        self._waiting = {"done": done, "epoch": epoch, "lr": float(lrs[-1])}
        if time.monotonic() - self._written >= _SECONDS:
            self._write_steps()

    def on_epoch(self, row: EpochRow) -> None:
        """See `Observer`."""
        self._write_steps()
        self._write("epoch", **row)

    def on_probe(self, done: int, probe: Probe) -> None:
        """See `Observer`."""
        self._write_steps()
        self._write("probe", done=done, **probe.as_dict())

    def on_checkpoint(self, done: int) -> None:
        """See `Observer`."""
        self._write_steps()
        self._write("checkpoint", done=done)

    def on_end(self, status: str) -> None:
        """See `Observer`."""
        self._write_steps()
        self._write("end", status=status)

    def _write_steps(self) -> None:
        if self._losses:
            losses = np.concatenate(self._losses)
            self._write("steps", **self._waiting, count=len(losses), loss=float(losses.mean()))
            self._losses, self._written = [], time.monotonic()

    def _write(self, event: str, **facts: Any) -> None:
        if self._failed:
            return
        line = json.dumps(store.drop_infinite({"event": event, "time": round(time.time(), 3), **facts}))
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            self._failed = True
            self._note(f"{self._path} cannot be written ({error.strerror}), so this run cannot be followed")


@dataclass(eq=False)
class Course(Observer):
    """How a run went so far, by what it was told.

    Args:
        epochs, steps: in all, 0 before it began. done: steps so far.
        rows: a line of the history for each epoch. curve: (steps done, mean loss of the last ones).
        probes: (steps done, what the network was like inside).
    """

    epochs: int = 0
    steps: int = 0
    done: int = 0
    rows: list[EpochRow] = field(default_factory=list)
    curve: list[tuple[int, float]] = field(default_factory=list)
    probes: list[tuple[int, Probe]] = field(default_factory=list)
    began: tuple[float, int] = (0.0, 0)  # time and steps when it began, or went on
    last: float = 0.0  # time of the last event

    @property
    def steps_per_epoch(self) -> float:
        """Batches in an epoch; 0 before it began."""
        return self.steps / self.epochs if self.epochs else 0.0

    @property
    def points(self) -> NDArray[np.float64]:
        """The finite points of the curve, (n, 2): steps done, loss."""
        return np.array([point for point in self.curve if np.isfinite(point[1])], np.float64).reshape(-1, 2)

    @property
    def seconds_left(self) -> float | None:
        """By the rate since it began; None where nothing is known of that."""
        time_began, done = self.began
        rate = (self.done - done) / max(self.last - time_began, 1e-9)
        return (self.steps - self.done) / rate if rate > 0 and self.last > time_began else None

    def take(self, event: dict[str, Any]) -> None:
        """Go on by one event of the log."""
        self.last = event["time"]
        _replay(event, self)

    def on_start(self, *, epochs: int, steps: int, done: int) -> None:
        """See `Observer`. A start from an earlier step takes back what came after it."""
        self.epochs, self.steps, self.done, self.began = epochs, steps, done, (self.last, done)
        self.rows = [row for row in self.rows if row["epoch"] * self.steps_per_epoch <= done]
        self.curve = [point for point in self.curve if point[0] <= done]
        self.probes = [probe for probe in self.probes if probe[0] <= done] if done else []

    def on_steps(self, done: int, *, epoch: int, losses: NDArray[Any], lrs: NDArray[np.float64]) -> None:
        """See `Observer`."""
        self.done = done
        self.curve.append((done, float(losses.mean())))

    def on_epoch(self, row: EpochRow) -> None:
        """See `Observer`."""
        self.rows.append(row)

    def on_probe(self, done: int, probe: Probe) -> None:
        """See `Observer`."""
        self.probes.append((done, probe))


def parse_events(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Events of some lines; a damaged line, as a kill may leave one, is left out."""
    found = []
    for line in lines:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and _is_sound(event):
            found.append(event)
    return found


_COUNTS = {
    "start": ("epochs", "steps", "done"), "steps": ("done", "epoch", "count"), "epoch": ("epoch",), "checkpoint": ("done",),
    "end": (), "probe": ("done",),
}  # fmt: skip
_NUMBERS = {
    "steps": ("lr", "loss"), "epoch": ("lr", "train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "seconds"),
}  # fmt: skip
_MOST_STEPS = 10**7  # in a line, which is of a second


def _is_sound(event: dict[str, Any]) -> bool:
    """Whether an event has what its kind needs: counts, and numbers that may be missing."""
    kind = event.get("event")
    if not isinstance(kind, str) or kind not in _COUNTS or not isinstance(event.get("time"), int | float):
        return False
    if kind == "probe":
        try:
            Probe.from_dict(event)
        except ValueError:
            return False
    counts = [event.get(name) for name in _COUNTS[kind]]
    numbers = [event.get(name, "missing") for name in _NUMBERS.get(kind, ())]
    return (
        all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts)
        and all(number is None or isinstance(number, int | float) for number in numbers)
        and (kind != "steps" or (event["lr"] is not None and 0 < event["count"] <= _MOST_STEPS))
    )


def read_course(path: Path) -> Course:
    """How a run went so far, by the events in its directory; empty where there are none."""
    course = Course()
    try:
        lines = RunDirectory(path).events.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return course
    for event in parse_events(lines):
        course.take(event)
    return course


def describe_course(path: Path) -> dict[str, Any]:
    """How a run stands now, for JSON: status, epochs and steps in all, steps done, seconds left, and the last epoch."""
    course, status = read_course(path), store.read_run(path).status
    left = course.seconds_left if status == RunStatus.RUNNING else None
    last = course.rows[-1] if course.rows else None
    return {
        "status": status, "epochs": course.epochs, "steps": course.steps, "done": course.done, "seconds_left": left, "last": last,
    }  # fmt: skip


def follow(path: Path, observer: Observer, *, wait: Callable[[], None] = lambda: time.sleep(0.5)) -> str:
    """Tell an observer what happens in a run, from its newest start on, until it is over.

    Args:
        path: the run directory. wait: until the next look.

    Returns:
        Its status in the end.
    """
    reader, began = EventReader(RunDirectory(path).events), False
    while True:
        status = store.read_run(path).status  # before the events, so that none is missed in the end
        events = reader.read()
        if not began and (starts := [i for i, event in enumerate(events) if event["event"] == "start"]):
            events, began = events[starts[-1] :], True
        for event in events if began else ():
            _replay(event, observer)
        if status not in UNDER_WAY:
            if began:
                observer.on_end(status)
            return status
        wait()


def _replay(event: dict[str, Any], observer: Observer) -> None:
    """Tell an observer of an event; not of an end, as what ends may be evaluated yet, or go on."""
    kind = event["event"]
    if kind == "start":
        observer.on_start(epochs=event["epochs"], steps=event["steps"], done=event["done"])
    elif kind == "steps":
        loss = float("nan") if event["loss"] is None else event["loss"]
        losses, lrs = np.full(event["count"], loss), np.full(event["count"], event["lr"])
        observer.on_steps(event["done"], epoch=event["epoch"], losses=losses, lrs=lrs)
    elif kind == "epoch":
        observer.on_epoch(cast(EpochRow, {name: event[name] for name in EPOCH_COLUMNS}))
    elif kind == "probe":
        observer.on_probe(event["done"], Probe.from_dict(event))
    elif kind == "checkpoint":
        observer.on_checkpoint(event["done"])


class EventReader:
    """Reads a growing file of events from where it left off."""

    def __init__(self, path: Path) -> None:
        self._path, self._place, self._rest = path, 0, b""

    def read(self) -> list[dict[str, Any]]:
        """What has been added since the last call, whole lines only."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._place)
                content = file.read()
        except OSError:
            return []
        self._place += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        return parse_events(line.decode("utf-8", "replace") for line in lines)
