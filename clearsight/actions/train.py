"""One run, from settings to a run directory: what `clearsight train` and `clearsight.train` call.

It owns the directory's life: made, locked, filled, resumed, marked as finished, interrupted or diverged.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight import __version__
from clearsight.config.files import find_differences, name_source, render_toml, resolve_config
from clearsight.config.schema import RunConfig
from clearsight.core.progress import MeterBuilder, build_meter
from clearsight.data.relabel import hash_corrections
from clearsight.engines.team import Team, join_team, started_by_torchrun
from clearsight.errors import DataError, DivergedError, Interrupted, RunError, UsageError
from clearsight.models.convnet import ConvNet
from clearsight.pipeline.build import choose_device
from clearsight.pipeline.choice import settle_family
from clearsight.pipeline.cost import describe_deeper
from clearsight.pipeline.data import find_unused, load_dataset, load_given, refuse_flaws, refuse_place
from clearsight.pipeline.finish import collect_numbers, describe_environment, finish_run
from clearsight.pipeline.head import check_weights, find_weights_hash
from clearsight.pipeline.prepare import (
    Note,
    Prepared,
    Run,
    build_bundle,
    fit_prepared,
    judge,
    measure_signals,
    prepare,
    search_rate,
    settle_source,
)  # fmt: skip
from clearsight.pipeline.safety import refuse_unsafe
from clearsight.runs import store
from clearsight.runs.events import EventLog
from clearsight.runs.liveness import describe_process
from clearsight.runs.trackers import check_trackers, open_trackers
from clearsight.training.lr_finder import RateSearch
from clearsight.training.observer import Observer
from clearsight.training.progress import build_progress


def train(
    data: Any = None,
    labels: Any = None,
    *,
    config: RunConfig | str | Path | dict[str, Any] | None = None,
    out: str | Path | None = None,
    root: str | Path = "runs",
    resume: str | Path | None = None,
    quiet: bool = True,
    note: Note | None = None,
    track: Sequence[str] = (),
    **settings: Any,
) -> Run:
    """Train, evaluate, save and report one model.

    Args:
        data: a name, a path, an array of pictures, or a `Dataset`; by default what the configuration says.
        labels: of an array.
        config: a RunConfig, nested values, or a TOML or JSON file.
        out: the run directory to make; by default a new one below `root`.
        resume: a run directory to go on with; everything else is then taken from it and must not differ.
        quiet: False shows progress on standard error.
        note: is told what was assumed or went wrong on the way; by default standard error unless quiet.
        track: `tensorboard` for event files in the run directory, `mlflow` for a run where `MLFLOW_TRACKING_URI` says.
        settings: single choices by name, such as `epochs=30, hidden=(64,), lr=0.01` (see `clearsight config show`).

    Returns:
        The run, with `bundle`, `history`, `train`, `valid`, `test`, and `path`, where model, report and tables lie.

    Raises:
        UsageError, DataError, RunError: see there. DivergedError: the loss became NaN; the last good model was saved.
        Interrupted: Ctrl-C; saved to go on from.
    """
    tell: Note = note or ((lambda text: None) if quiet else lambda text: print(f"note: {text}", file=sys.stderr))
    settings = name_source(data, settings)
    if resume is not None:
        if out is not None:
            raise UsageError("--out must be left out with --resume, which goes on in its own directory. Remove it.")
        path = store.find_run(str(resume), Path(root))
        team = _join(store.read_run_config(path))
        if team.rank > 0:
            again = _prepare_again(path, data, labels, config, settings, True, team)
            return _help(again, checkpoints=path / store.CHECKPOINTS)
        with store.lock_run(path):
            again = _prepare_again(path, data, labels, config, settings, quiet, team)
            _note_other_machine(path, again, tell)
            return _train_in(path, again, root=Path(root), quiet=quiet, note=tell, resume=True)
    check_trackers(track)
    resolved = settle_family(resolve_config(config, settings), data, note=tell, meter=build_meter(quiet=quiet))
    team = _join(resolved)
    if team.rank > 0:
        quiet, tell = True, lambda text: None
    dataset = load_given(resolved, data, labels, meter=build_meter(quiet=quiet))
    resolved = resolve_config(resolved, settle_source(resolved, dataset))
    refuse_place(out if out is not None else root, dataset)
    for text in (*dataset.notes, *find_unused(resolved, dataset, data)):
        tell(text)
    refuse_flaws(resolved, dataset, note=tell)
    prepared = prepare(resolved, dataset, team, meter=build_meter(quiet=quiet), announce=tell)
    resolved = prepared.config
    for text in prepared.notes:
        tell(text)
    verdicts = refuse_unsafe(resolved, dataset, note=tell, meter=build_meter(quiet=quiet))
    if team.rank > 0:
        team.hear_first()
        return _help(prepared)
    with team.speaking_first():
        model, place = resolved.family, Path(out) if out else None
        path = store.create_run(Path(root), data=dataset.name, model=model, out=place)
    with store.lock_run(path):
        store.keep_corrections(path, resolved, dataset.relabelled)
        store.write_text(path / store.CONFIG, render_toml(resolved))
        store.write_json(path / "environment.json", describe_environment() | prepared.engine.describe())
        if verdicts:
            store.write_json(path / store.SAFETY, {"verdicts": [verdict.as_dict() for verdict in verdicts]})
        return _train_in(path, prepared, root=Path(root), quiet=quiet, note=tell, resume=False, track=tuple(track))


def load_and_search(
    config: RunConfig, *, low: float, high: float, steps: int, note: Note, meter: MeterBuilder
) -> tuple[RateSearch, tuple[str, ...]]:
    """Look for a learning rate for the data and network of a configuration; also what was assumed about the data.

    Raises:
        UsageError, DataError: see `prepare` and `find_lr`.
    """
    config = settle_family(config, note=note, meter=meter)
    dataset = load_dataset(config, meter=meter)
    wanted = config.train.model_copy(update={"lr": None})  # so that none is looked for on the way
    prepared = prepare(config.model_copy(update={"train": wanted}), dataset)
    found = search_rate(prepared, low=low, high=high, steps=steps, note=note)
    return found, (*dataset.notes, *find_unused(config, dataset), *prepared.notes)


def _note_other_machine(path: Path, prepared: Prepared, tell: Note) -> None:
    """Tell what differs from the machine that the run began on, because the bits may then differ too."""
    before, now = store.read_json(path / "environment.json"), prepared.engine.describe()
    changed = [f"{key} {before[key]} became {value}" for key, value in now.items() if before.get(key, value) != value]
    if changed:
        tell(
            f"the run began on another machine or version: {', '.join(changed)}. The last digits of its results may differ"
        )


def _join(config: RunConfig) -> Team:
    """The processes that torchrun started, this one among them; a team of one otherwise."""
    return join_team(choose_device(config)) if started_by_torchrun() else Team()


def _help(prepared: Prepared, *, checkpoints: Path | None = None) -> Run:
    """Train as a process that is not the first: compute a share of each batch, and write nothing.

    Args:
        checkpoints: of the run that is resumed, to read; every process must see them.
    """
    result = fit_prepared(prepared, restore=checkpoints)
    run, _ = judge(prepared, result)  # with a share of the rows, as in training
    prepared.team.close()
    if result.problem:
        raise DivergedError(result.problem, run)
    return run


def _prepare_again(
    path: Path, data: Any, labels: Any, config: Any, settings: dict[str, Any], quiet: bool, team: Team
) -> Prepared:
    """The parts of a run that has not ended, once it is sure that nothing has changed since."""
    record = store.read_json(path / store.RECORD)
    saved = store.read_run_config(path)
    if "source" in settings and Path(settings["source"]).expanduser().exists():
        settings = settings | {"source": str(Path(settings["source"]).expanduser().resolve())}
    own = store.use_own_corrections(path, saved, record.get("relabelled"))
    wanted = _settle_corrections(resolve_config(config, settings, base=saved), saved, own)
    if differences := find_differences(saved, wanted):
        raise UsageError(
            f"--resume must go on with the configuration of {path}, got {'; '.join(differences)}. Start a new run for that."
        )
    if record.get("status") in store.ENDED:
        advice = (
            "Start a new run."
            if (path / store.REPORT).is_file()
            else f"Draw its report with `clearsight report {path}`."
        )
        raise UsageError(f"--resume must name a run that has not ended, got {path}, {record['status']}. {advice}")
    dataset = load_given(own, data, labels, meter=build_meter(quiet=quiet))
    if "fingerprint" not in record:
        raise RunError(
            f"{path / store.RECORD} must hold the data's fingerprint, got none. Restore the file or train again."
        )
    for key, now in (("fingerprint", dataset.fingerprint), ("class_names", list(dataset.class_names))):
        if record.get(key) != now:
            raise DataError(
                f"--resume must find the same data as before, got another {key.replace('_', ' ')}: {_short(record.get(key))} "
                f"became {_short(now)} in {saved.data.source}. Bring the old data back, or start a new run."
            )
    check_weights(record.get("weights"), saved)
    known = saved.model_copy(
        update={"model": saved.model.model_copy(update={"start_from": None})}
    )  # the checkpoint knows
    prepared = prepare(known, dataset, team, meter=build_meter(quiet=quiet), begun=True)
    return replace(prepared, config=saved)


def _settle_corrections(wanted: RunConfig, saved: RunConfig, own: RunConfig) -> RunConfig:
    """With the path of corrections that a run began with, where the wanted ones are the same by another path."""
    new = wanted.data.relabel
    if new is None or saved.data.relabel in (None, new) or own.data.relabel is None:
        return wanted
    if hash_corrections(Path(new).expanduser()) != hash_corrections(Path(own.data.relabel)):
        return wanted
    return wanted.model_copy(update={"data": wanted.data.model_copy(update={"relabel": saved.data.relabel})})


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value)


def _train_in(
    path: Path, prepared: Prepared, *, root: Path, quiet: bool, note: Note, resume: bool, track: tuple[str, ...] = ()
) -> Run:
    """Train in a directory that is locked by the caller, and keep its record up to date."""
    from clearsight.report.html import write_report

    record: dict[str, Any] = {
        "status": "running",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "data": prepared.dataset.name,
        "model": prepared.net.label,
        "fingerprint": prepared.dataset.fingerprint,
        "class_names": list(prepared.dataset.class_names),
        "bad": len(prepared.dataset.bad),
        "seed": prepared.config.train.seed,
        "clearsight": __version__,
        "config": prepared.config.model_dump(mode="json"),
        **describe_process(),
        "weights": find_weights_hash(prepared.config),
        "relabelled": prepared.dataset.relabelled,
    }
    before = store.read_json(path / store.RECORD) if resume else {}
    record["created"] = before.get("created", record["created"])
    names, ids = track if not resume else tuple(before.get("track", ())), before.get("track_ids", {})
    settings = prepared.config.model_dump(mode="json", exclude_unset=True)
    trackers, ids = open_trackers(names, path, settings, run_ids=ids, note=note)
    record |= {"track": names, "track_ids": ids}
    try:
        store.write_json(path / store.RECORD, record)
        signals = _read_signals(path, prepared, resume=resume, note=note)
        events = EventLog(path / store.EVENTS, note=note)
        result = fit_prepared(
            prepared,
            observers=(build_progress(quiet=quiet), events, _ModelKeeper(path, prepared), trackers),
            checkpoints=path / store.CHECKPOINTS,
            resume=resume,
            note=note,
        )
        run = finish_run(path, prepared, result, signals)
        trackers.log(collect_numbers(run), run.epoch)
        _tell_deeper(prepared, run, note)
        if run.test:
            _count_look(root, path, prepared, run, note)
        prepared.team.close()
        record |= {"status": result.status}
        store.write_json(path / store.RECORD, record)
        try:
            write_report(path)
        except RunError as error:
            note(f"the run is finished and saved, but has no report: {error} Draw it with `clearsight report {path}`")
        trackers.close(
            result.status, [path / name for name in (store.MODEL, store.REPORT, store.CONFIG, store.METRICS)]
        )
    except BaseException as error:
        if record["status"] == "running":
            stopped = isinstance(error, Interrupted | KeyboardInterrupt)
            record["status"] = "interrupted" if stopped else "failed"
            _try_write_status(path, record)
            trackers.close(record["status"], [])
        if isinstance(error, Interrupted):
            raise Interrupted(
                f"{error} Saved; go on with `clearsight train --resume {path}`.", error.exit_code
            ) from None
        raise
    if result.problem:
        raise DivergedError(f"{result.problem} The run is in {path}.", run)
    return run


def _tell_deeper(prepared: Prepared, run: Run, note: Note) -> None:
    """After a head alone, because nothing else was said: what training more would cost, and the most that it could bring."""
    p, judged = prepared, run.valid
    if not p.config.model.pretrained or p.config.model.tune != "auto" or run.status == "diverged":
        return
    wrong = None if judged is None or judged.accuracy is None else judged.n - round(judged.accuracy * judged.n)
    if wrong == 0:  # nothing to win that anybody could see
        return
    assert isinstance(p.net, ConvNet)
    cost = describe_deeper(p.config, p.net, p.dataset, p.split, p.preprocess, params=run.bundle.params)
    most = ""
    if judged is not None and wrong is not None:
        most = f" It answers {wrong} of {judged.n} validation pictures wrongly: more cannot be won there."
    note(f"only the head was trained. On this machine, {cost}.{most}")


def _count_look(root: Path, path: Path, prepared: Prepared, run: Run, note: Note) -> None:
    """Count that the test split was seen, where runs are kept; a run without such a place is not counted."""
    if not path.resolve().is_relative_to(root.resolve()):
        return
    try:
        store.add_look(root, prepared.dataset, prepared.split.test, model=run.bundle.fingerprint, by=str(path))
    except RunError as error:
        note(f"this evaluation on the test split is not counted: {error}")


class _ModelKeeper(Observer):
    """Saves the series of models that `keep_steps` asks for."""

    def __init__(self, path: Path, prepared: Prepared) -> None:
        self._path, self._prepared, self._every = path, prepared, prepared.config.train.keep_steps

    def on_steps(self, done: int, *, epoch: int, losses: NDArray[Any], lrs: NDArray[np.float64]) -> None:
        """See `Observer`."""
        if not self._every or done % self._every:
            return
        bundle = build_bundle(self._prepared, epoch=0, status=f"step {done}")
        examples = self._prepared.dataset.images[self._prepared.split.train[:3]]
        try:
            bundle.save(self._path / store.SERIES / f"step-{done:09d}.clearsight", examples=examples)
        except OSError as error:
            raise RunError(
                f"{self._path} must be writable, got: {error.strerror}. Free space, then use --resume."
            ) from None


def _read_signals(path: Path, prepared: Prepared, *, resume: bool, note: Note) -> dict[str, Any]:
    """What goes through the layers before training: measured now, or when the run began."""
    if resume and (path / store.SIGNALS).is_file():
        try:
            return store.read_json(path / store.SIGNALS)
        except RunError as error:
            note(f"the signals before training are measured anew: {error}")
    signals = {"first": measure_signals(prepared)}
    store.write_json(path / store.SIGNALS, signals)
    return signals


def _try_write_status(path: Path, record: dict[str, Any]) -> None:
    try:
        store.write_json(path / store.RECORD, record)
    except RunError:  # the disk is full: the error under way says so, and the old record stands
        return
