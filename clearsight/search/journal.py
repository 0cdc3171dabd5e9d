"""What a search writes: a journal of trials, a table, pictures, runs for trackers. It must not know how a search goes on."""

import csv
import io
import json
import os
from dataclasses import fields
from math import nan
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from clearsight.core.progress import Note
from clearsight.errors import RunError
from clearsight.report.searches import draw_importance, draw_parallel
from clearsight.runs import store
from clearsight.runs.trackers import open_trackers
from clearsight.search.jobs import METRICS
from clearsight.search.leaderboard import rank
from clearsight.search.loop import COMPLETE, Board, Plan, Trial
from clearsight.search.space import Params, Space, to_settings

IMPORTANCE, PARALLEL = "importance.svg", "parallel.svg"


class FileJournal:
    """Trials as lines of a file, each on disk before the next begins."""

    def __init__(self, path: Path) -> None:
        self._path, self._known = path, read_trials(path)

    def find(self, number: int) -> Trial | None:
        """See `Journal`."""
        return self._known.get(number)

    def add(self, trial: Trial) -> None:
        """See `Journal`."""
        line = json.dumps(store.drop_infinite(trial.as_dict())) + "\n"
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(
                f"{self._path} must be writable, got: {error.strerror}. Free space, then use --resume."
            ) from None


class TrackedBoard:
    """A `Board` that also writes each trial where runs are tracked, as a run with its settings and its score."""

    def __init__(self, inner: Board, path: Path, names: tuple[str, ...], note: Note) -> None:
        self._inner, self._path, self._names, self._note = inner, path, names, note
        self._metric = ""

    def begin(self, *, total: int, metric: str, deadline: float | None) -> None:
        """See `Board`."""
        self._metric = metric
        self._inner.begin(total=total, metric=metric, deadline=deadline)

    def advance(self) -> None:
        """See `Board`."""
        self._inner.advance()

    def add(self, trial: Trial, *, again: bool = False) -> None:
        """See `Board`; a trial of before was written before."""
        self._inner.add(trial, again=again)
        if again:
            return
        place = self._path / "trials" / f"{self._path.name}-trial-{trial.number:04d}"
        trackers, _ = open_trackers(self._names, place, to_settings(trial.params), run_ids={}, note=self._note)
        trackers.log({f"search/{self._metric}": trial.score, "seconds": trial.seconds}, trial.number)
        trackers.close(trial.status, [])

    def close(self) -> None:
        """See `Board`."""
        self._inner.close()


def read_trials(path: Path) -> dict[int, Trial]:
    """The trials of a journal by number; a last line that was cut off is left out, and the file mended.

    Raises:
        RunError: damaged elsewhere.
    """
    if not path.exists():
        return {}
    lines = path.read_bytes().split(b"\n")
    if lines[-1]:
        store.write_text(path, b"".join(line + b"\n" for line in lines[:-1]).decode("utf-8", "replace"))
    found = {}
    names, trials = {item.name for item in fields(Trial)}, TypeAdapter(Trial)
    for k, line in enumerate(lines[:-1], 1):
        try:
            raw = json.loads(line)
            values = {key: _tuples(value) for key, value in raw.items() if key in names}
            trial = trials.validate_python(values if values["score"] is not None else values | {"score": nan})
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise RunError(
                f"{path} must hold a trial a line, got damage in line {k} ({str(error).splitlines()[0]}). Remove that line."
            ) from None
        found[trial.number] = trial
    return found


def _tuples(value: Any) -> Any:
    """Lists as tuples, at any depth, as they were before they became JSON."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def render_csv(trials: list[Trial], space: Space, metric: str) -> str:
    """All trials, best first, a column a setting."""
    keys = [choice.key for choice in space.choices]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["place", "trial", "status", metric, "low", "high", "folds", "seconds", *keys])
    for place, trial in enumerate(rank(trials, metric), 1):
        numbers = [trial.score, trial.low, trial.high, len(trial.scores), round(trial.seconds, 3)]
        writer.writerow([place, trial.number, trial.status, *numbers, *(_cell(trial.params, key) for key in keys)])
    return out.getvalue()


def _cell(params: Params, key: str) -> Any:
    value = params.get(key, "")
    return json.dumps(value) if isinstance(value, tuple | bool) else value


def draw_pictures(path: Path, trials: list[Trial], space: Space, plan: Plan, importance: dict[str, float]) -> None:
    """Which settings matter, and the way of each trial through them."""
    done = [trial for trial in trials if trial.status == COMPLETE]
    keys = [choice.key for choice in space.choices]
    if importance:
        store.write_text(path / IMPORTANCE, draw_importance(importance) + "\n")
    if len(done) > 1:
        logs = {choice.key for choice in space.choices if "log" in choice.kind}
        svg = draw_parallel(
            [trial.params for trial in done], [trial.score for trial in done], keys, logs=logs, metric=plan.metric,
            better=METRICS[plan.metric],
        )  # fmt: skip
        store.write_text(path / PARALLEL, svg + "\n")
