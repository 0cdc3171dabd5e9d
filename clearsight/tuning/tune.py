"""A search with its directory: what `clearsight tune` and `clearsight.tune` call. Made, locked, filled, resumed.

Every trial that has ended is a line of `trials.jsonl`; a search that was killed takes those lines up again. The best settings are
trained once more, on validation rows too, and only that model meets the test split.
"""

import csv
import io
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from clearsight import store
from clearsight.config import RunConfig, build_config
from clearsight.data.dataset import Dataset
from clearsight.errors import DataError, Interrupted, RunError, UsageError
from clearsight.intake import load_dataset
from clearsight.meter import build_meter
from clearsight.pipeline import Note, Run, resolve_config
from clearsight.report.searches import draw_importance, draw_parallel
from clearsight.run import train
from clearsight.settings import merge, read_config_file, render_toml
from clearsight.tracking import open_trackers
from clearsight.tuning.board import build_board, rank
from clearsight.tuning.executors import open_pool
from clearsight.tuning.jobs import METRICS, choose_metric
from clearsight.tuning.search import COMPLETE, Board, Plan, Trial, find_best, run_search
from clearsight.tuning.space import Params, Space, parse_space, to_settings
from clearsight.tuning.strategies import choose_strategy

RECORD, TRIALS, BOARD = "search.json", "trials.jsonl", "leaderboard.csv"
BEST, IMPORTANCE, PARALLEL = "best", "importance.svg", "parallel.svg"
DEFAULT_TRIALS = 40


@dataclass(frozen=True, eq=False)
class Tuned:
    """A search that has ended.

    Args:
        path: its directory. trials: in the order of their numbers. best: the complete one with the best mean.
        importance: the share of the scores' variation that each setting explains; empty where that is unclear.
        run: the best settings trained on training and validation rows and judged on test; None if that was not wanted.
    """

    path: Path
    plan: Plan
    trials: list[Trial]
    best: Trial
    importance: dict[str, float]
    run: Run | None

    def summary(self) -> dict[str, Any]:
        """The object that `tune --json` prints; its keys are a contract."""
        return {
            "search": str(self.path), "strategy": self.plan.strategy, "metric": self.plan.metric, "folds": self.plan.folds,
            "trials": [trial.as_dict() for trial in rank(self.trials, self.plan.metric)], "best": self.best.as_dict(),
            "importance": self.importance, "run": self.run.summary() if self.run else None,
        }  # fmt: skip


@dataclass(frozen=True)
class _Way:
    """How a search is carried out, which changes nothing of what comes out."""

    workers: int | None
    executor: str
    root: Path
    retrain: bool
    quiet: bool
    note: Note
    track: tuple[str, ...]


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

    def begin(self, *, total: int, metric: str) -> None:
        """See `Board`."""
        self._metric = metric
        self._inner.begin(total=total, metric=metric)

    def advance(self) -> None:
        """See `Board`."""
        self._inner.advance()

    def add(self, trial: Trial) -> None:
        """See `Board`."""
        self._inner.add(trial)
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
    names = {item.name for item in fields(Trial)}
    for k, line in enumerate(lines[:-1], 1):
        try:
            raw = json.loads(line)
            lists = {key: _tuples(value) for key, value in raw.items() if key in names}
            trial = Trial(**lists)
        except (ValueError, TypeError, AttributeError) as error:
            raise RunError(
                f"{path} must hold a trial a line, got damage in line {k} ({error}). Remove that line."
            ) from None
        found[trial.number] = trial
    return found


def _tuples(value: Any) -> Any:
    """Lists as tuples, at any depth, as they were before they became JSON."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def tune(
    data: Any = None,
    labels: Any = None,
    *,
    search: dict[str, Any] | list[str] | None = None,
    config: RunConfig | str | Path | dict[str, Any] | None = None,
    strategy: str | None = None,
    trials: int | None = None,
    minutes: float | None = None,
    folds: int | None = None,
    prune: str = "none",
    metric: str | None = None,
    seed: int = 0,
    round_size: int | None = None,
    workers: int | None = None,
    executor: str = "auto",
    out: str | Path | None = None,
    root: str | Path = "runs",
    resume: str | Path | None = None,
    retrain: bool = True,
    quiet: bool = True,
    note: Note = lambda text: None,
    track: Sequence[str] = (),
    **settings: Any,
) -> Tuned:
    """Search for settings, train the best anew, and judge that once on the test split.

    Args:
        data, labels, config, settings: as for `train`; a configuration file may hold a table `[search]`.
        search: what may vary, as `{"train.lr": {"log": [1e-4, 1]}, "train.l2": [0, 0.001]}` or as flags; see `parse_space`.
        strategy: `grid`, `random`, `perturb` (small changes of the best so far) or `tpe`; by default a grid where it has at most
            64 points, else TPE.
        trials: how many at most, 40 by default; a grid ends by itself. minutes: after which nothing new begins.
        folds: judge by k-fold cross-validation; by default by the one validation split.
        prune: `none`, `halving` or `hyperband`: leave trials off that are behind.
        metric: `accuracy`, `loss` or `mae`. seed: of what is tried; runs have `train.seed`.
        round_size: trials asked for together; results depend on it, and not on the number of workers.
        workers, executor: see `open_pool`.
        out, root, resume: as for `train`, of a search.
        retrain: False leaves the test split alone. track: as for `train`, each trial and the best.

    Raises:
        UsageError, DataError, RunError: see there.
    """
    way = _Way(workers, executor, Path(root), retrain, quiet, note, tuple(track))
    if resume is not None:
        return _resume(find_search(str(resume), way.root), data, labels, way)
    table: dict[str, Any] = {}
    if isinstance(config, str | Path):
        config = read_config_file(Path(config))
    if isinstance(config, dict):
        table, config = config.get("search", {}), {key: value for key, value in config.items() if key != "search"}
    if isinstance(data, str | Path):
        settings = {"source": str(data), **settings}
    flags = search if isinstance(search, list) else []
    space = parse_space(merge(table, search) if isinstance(search, dict) else table, flags)
    resolved = resolve_config(config, settings)
    check_values(resolved, space)
    name = choose_strategy(space, strategy)
    if trials is not None and trials < 1:
        raise UsageError(f"--trials must be 1 or more, got {trials}. Leave it out for {DEFAULT_TRIALS}.")
    most = len(space.points()) if name == "grid" and trials is None else trials or DEFAULT_TRIALS
    wanted = choose_metric(resolved, metric)
    if wanted not in METRICS:
        raise UsageError(f"--metric must be one of {', '.join(METRICS)}, got {wanted!r}. Choose one of them.")
    plan = Plan(name, most, wanted, folds, prune, seed, round_size, minutes)
    dataset = _load(resolved, data, labels, quiet)
    resolved = resolve_config(resolved, {"source": dataset.origin})
    path = store.create_run(Path(root), data=dataset.name, model="tune", out=Path(out) if out else None)
    with store.lock_run(path):
        record = {
            "status": "running", "created": time.strftime("%Y-%m-%dT%H:%M:%S"), "fingerprint": dataset.fingerprint,
            "plan": asdict(plan), "search": space.describe(), "config": resolved.model_dump(mode="json", exclude_unset=True),
        }  # fmt: skip
        store.write_json(path / RECORD, record)
        store.write_text(path / store.CONFIG, render_toml(resolved))
        return _search_in(path, dataset, resolved, space, plan, way)


def check_values(config: RunConfig, space: Space) -> None:
    """Refuse a value that its setting cannot take, before anything is trained.

    Raises:
        UsageError: which one.
    """
    base = config.model_dump(exclude_unset=True)
    for choice in space.choices:
        for value in choice.values:
            build_config(merge(base, to_settings({choice.key: value})), where="the search")


def _load(config: RunConfig, data: Any, labels: Any, quiet: bool) -> Dataset:
    given = None if isinstance(data, str | Path) else data
    return load_dataset(config, given, labels, meter=build_meter(quiet=quiet))


def find_search(name: str, root: Path) -> Path:
    """The directory of a search by its path, or its name below `root`; `last` is the newest.

    Raises:
        UsageError: there is none.
    """
    if name == "last" and root.is_dir():
        found = [path.parent for path in root.glob(f"*/{RECORD}")]
        if found:
            return max(found, key=lambda path: (path / RECORD).stat().st_mtime)
    for path in (Path(name), root / name):
        if name and (path / RECORD).is_file():
            return path
    raise UsageError(f"--resume must name the directory of a search, got {name!r}. See the folder {root}.")


def _resume(path: Path, data: Any, labels: Any, way: _Way) -> Tuned:
    with store.lock_run(path):
        record = store.read_json(path / RECORD)
        try:
            config = build_config(record["config"], where=str(path / RECORD))
            space, plan = parse_space(record["search"], []), Plan(**record["plan"])
        except (KeyError, TypeError, UsageError) as error:
            raise RunError(
                f"{path / RECORD} must be as it was written, got damage ({error}). Start a new search."
            ) from None
        if way.retrain and record.get("status") == "finished" and (path / BEST / store.RECORD).is_file():
            raise UsageError(
                f"--resume must name a search that has not ended, got {path}. Its best model is in {path / BEST}."
            )
        dataset = _load(config, data, labels, way.quiet)
        if dataset.fingerprint != record.get("fingerprint"):
            raise DataError(
                f"--resume must find the same data as before, got other data in {config.data.source}. Bring it back."
            )
        return _search_in(path, dataset, config, space, plan, way)


def _search_in(path: Path, dataset: Dataset, config: RunConfig, space: Space, plan: Plan, way: _Way) -> Tuned:
    """Search in a directory that the caller has locked, draw, train the best, and keep the record up to date."""
    for text in dataset.notes:
        way.note(text)
    try:
        tuned = _search(path, dataset, config, space, plan, way)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | Interrupted)
        _write_status(path, status="interrupted" if stopped else "failed")
        if stopped:
            way.note(f"the search is saved; go on with `clearsight tune --resume {path}`")
        raise
    _write_status(path, status="finished", best=tuned.best.as_dict())
    return tuned


def _write_status(path: Path, **changes: Any) -> None:
    store.write_json(path / RECORD, store.read_json(path / RECORD) | changes)


def _search(path: Path, dataset: Dataset, config: RunConfig, space: Space, plan: Plan, way: _Way) -> Tuned:
    board = build_board(quiet=way.quiet)
    if way.track:
        board = TrackedBoard(board, path, way.track, way.note)
    with open_pool(dataset, config, executor=way.executor, workers=way.workers) as pool:
        try:
            trials, importance = run_search(
                config, space, plan, pool=pool, journal=FileJournal(path / TRIALS), board=board
            )
        finally:
            board.close()
    if len(trials) < plan.trials:
        way.note(f"time ran out after {len(trials)} of {plan.trials} trials")
    best = find_best(trials, plan.metric)
    store.write_text(path / BOARD, render_csv(trials, space, plan.metric))
    draw_pictures(path, trials, space, plan, importance)
    final = settle_final(config, best)
    store.write_text(path / f"{BEST}.toml", render_toml(final))
    return Tuned(path, plan, trials, best, importance, _train_best(path / BEST, dataset, final, way))


def _train_best(folder: Path, dataset: Dataset, config: RunConfig, way: _Way) -> Run | None:
    """The run of the best settings: trained now, gone on with, or None where it is not wanted."""
    if not way.retrain:
        return None
    if (folder / store.RECORD).is_file():
        return train(dataset, resume=folder, root=way.root, quiet=way.quiet, note=way.note)
    return train(dataset, config=config, out=folder, root=way.root, quiet=way.quiet, note=way.note, track=way.track)


def settle_final(config: RunConfig, best: Trial) -> RunConfig:
    """The best settings, to be trained on training and validation rows together, for as long as the trials were at their best."""
    changes: dict[str, Any] = {"data": {"valid_fraction": 0.0}}
    if config.data.train_per_class is not None:
        per_class = config.data.train_per_class + config.data.valid_per_class
        changes = {"data": {"train_per_class": per_class, "valid_per_class": 0}}
    if build_config(merge(config.model_dump(exclude_unset=True), to_settings(best.params))).train.patience is not None:
        middle = sorted(best.epochs)[len(best.epochs) // 2]
        changes["train"] = {"epochs": max(middle, 1), "patience": None, "monitor": "valid_loss"}
    return build_config(merge(config.model_dump(exclude_unset=True), to_settings(best.params), changes))


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
