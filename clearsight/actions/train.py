"""One run, from settings to a run directory: what `clearsight train` and `clearsight.train` call.

It owns the directory's life: made, locked, filled, resumed, marked as finished, interrupted or diverged.
"""

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight import __version__
from clearsight.actions.opening import open_directory
from clearsight.actions.resume import note_other_machine, prepare_again, refuse_differences
from clearsight.augment.safety import Verdict
from clearsight.bundle.archive import RUN_RECORD
from clearsight.config.build import build_config
from clearsight.config.files import render_toml
from clearsight.config.resolve import name_source, resolve_config
from clearsight.config.schema import RunConfig
from clearsight.core.progress import Note, build_meter
from clearsight.data.dataset import Dataset
from clearsight.engines.team import Team, join_team, started_by_torchrun
from clearsight.errors import DivergedError, Interrupted, RunError, UsageError
from clearsight.models.convnet import ConvNet
from clearsight.pipeline.build import choose_device
from clearsight.pipeline.case import describe_order
from clearsight.pipeline.choice import resolve_family
from clearsight.pipeline.cost import describe_deeper
from clearsight.pipeline.data import find_unused, load_given, refuse_flaws, refuse_place
from clearsight.pipeline.finish import collect_numbers, finish_run
from clearsight.pipeline.head import find_weights_hash
from clearsight.pipeline.judge import Run, build_bundle, judge
from clearsight.pipeline.prepare import Prepared, fit_prepared, prepare, resolve_source, restore_prepared
from clearsight.pipeline.safety import refuse_unsafe
from clearsight.runs import store
from clearsight.runs.corrections import keep_corrections
from clearsight.runs.directory import RunDirectory
from clearsight.runs.environment import describe_environment
from clearsight.runs.events import EventLog
from clearsight.runs.liveness import describe_process
from clearsight.runs.record import RunStatus
from clearsight.runs.test_uses import add_test_use
from clearsight.runs.trackers import check_trackers, open_trackers
from clearsight.training.observer import Observer
from clearsight.training.progress import build_progress
from clearsight.training.stop import StopRequest


def train(
    data: Any = None,
    labels: Any = None,
    *,
    config: RunConfig | str | Path | dict[str, Any] | None = None,
    out: str | Path | None = None,
    root: str | Path = "runs",
    resume: str | Path | None = None,
    finish: bool = False,
    quiet: bool = True,
    note: Note | None = None,
    track: Sequence[str] = (),
    stop: StopRequest | None = None,
    **settings: Any,
) -> Run:
    """Train, evaluate, save and report one model.

    Args:
        data: a name, a path, an array of pictures, or a `Dataset`; by default what the configuration says.
        labels: of an array.
        config: a RunConfig, nested values, or a TOML or JSON file.
        out: the run directory to make; by default a new one below `root`.
        resume: a run directory to go on with; everything else is then taken from it and must not differ.
        finish: with `resume`: train no further, but evaluate, save and report the best weights of the newest checkpoint.
        quiet: False shows progress on standard error.
        note: is told what was assumed or went wrong on the way; by default standard error unless quiet.
        track: `tensorboard` for event files in the run directory, `mlflow` for a run where `MLFLOW_TRACKING_URI` says.
        stop: a `clearsight.StopRequest` by which another thread may stop the run; it can be resumed, as after Ctrl-C.
        settings: single choices by name, such as `epochs=30, hidden=(64,), lr=0.01` (see `clearsight config show`).

    Returns:
        The run, with `bundle`, `history`, `train`, `valid`, `test`, and `path`, where model, report and tables lie.

    Raises:
        UsageError, DataError, RunError: see there. DivergedError: the loss became NaN; the last good model was saved.
        Interrupted: Ctrl-C, or `stop`; saved to go on from.
    """
    tell: Note = note or ((lambda text: None) if quiet else lambda text: print(f"note: {text}", file=sys.stderr))
    settings = name_source(data, settings)
    if resume is not None:
        if out is not None:
            raise UsageError("--out must be left out with --resume, which goes on in its own directory. Remove it.")
        path = store.find_run(str(resume), Path(root))
        return _resume(
            path, data, labels, config, settings, root=Path(root), quiet=quiet, note=tell, stop=stop, finish=finish
        )
    if finish:
        raise UsageError("--finish must go with --resume, which names the run, got none. Add --resume RUN.")
    check_trackers(track)
    resolved = resolve_family(resolve_config(config, settings), data, note=tell, meter=build_meter(quiet=quiet))
    origin = data.origin if isinstance(data, Dataset) else str(Path(resolved.data.source).expanduser().resolve())
    refuse_place(out if out is not None else root, origin)
    team = _join(resolved)
    if team.rank > 0:
        team.wait_for_rank_zero()
        prepared, _ = _prepare_new(resolved, data, labels, team, quiet=True, note=lambda text: None)
        return _help(prepared)
    about = {
        "status": RunStatus.PREPARING, "created": time.strftime("%Y-%m-%dT%H:%M:%S"), "data": _name_data(resolved, data),
        "model": resolved.family, "clearsight": __version__, "config": resolved.model_dump(mode="json"), "track": tuple(track),
        **describe_process(),
    }  # fmt: skip
    with ExitStack() as stack:
        with team.rank_zero_first():
            opened = open_directory(
                resolved, data=about["data"], kind=resolved.family, out=out, root=root, record=RUN_RECORD, about=about
            )
            path = stack.enter_context(opened)
        return _train_new(path, resolved, data, labels, team, root=Path(root), quiet=quiet, note=tell, stop=stop)


def _name_data(config: RunConfig, data: Any) -> str:
    """What a run is called after, before its data is read."""
    if isinstance(data, Dataset):
        return data.name
    if data is not None and not isinstance(data, str | Path):
        return "arrays"
    return Path(config.data.source).expanduser().resolve().stem or "data"


def _prepare_new(
    config: RunConfig, data: Any, labels: Any, team: Team, *, quiet: bool, note: Note
) -> tuple[Prepared, list[Verdict]]:
    """Data that is fit to train on and all that is built for it, and what was found of the safety of its augmentation."""
    meter = build_meter(quiet=quiet)
    dataset = load_given(config, data, labels, meter=meter)
    config = resolve_config(config, resolve_source(config, dataset))
    for text in (*dataset.notes, *find_unused(config, dataset, data)):
        note(text)
    refuse_flaws(config, dataset, note=note)
    prepared = prepare(config, dataset, team, meter=meter, announce=note)
    for text in prepared.notes:
        note(text)
    return prepared, refuse_unsafe(prepared.config, dataset, note=note, meter=meter)


def _train_new(
    path: Path, config: RunConfig, data: Any, labels: Any, team: Team, *, root: Path, quiet: bool, note: Note,
    stop: StopRequest | None,
) -> Run:  # fmt: skip
    """Prepare and train in a directory that the caller holds and that says no more than the configuration."""
    prepared, verdicts = _prepare_new(config, data, labels, team, quiet=quiet, note=note)
    files = RunDirectory(path)
    keep_corrections(path, prepared.config, prepared.dataset.relabelled)
    store.write_text(files.config, render_toml(prepared.config))
    store.write_json(files.environment, describe_environment() | prepared.engine.describe())
    if verdicts:
        store.write_json(files.safety, {"verdicts": [verdict.as_dict() for verdict in verdicts]})
    return _train_in(path, prepared, root=root, quiet=quiet, note=note, stop=stop, resume=False)


def _resume(
    path: Path, data: Any, labels: Any, config: Any, settings: dict[str, Any], *, root: Path, quiet: bool, note: Note,
    stop: StopRequest | None, finish: bool,
) -> Run:  # fmt: skip
    """Go on with a run from its newest checkpoint, or make a model of that; one that had not begun to train begins again."""
    files = RunDirectory(path)
    record = store.read_json(files.record)
    unbegun = record.get("status") == RunStatus.PREPARING
    if unbegun:  # its config.toml may already say what was found in the data
        saved = build_config(record.get("config", {}), where=str(files.record), fill=False)
        refuse_differences(path, saved, resolve_config(config, settings, base=saved))
    else:
        saved = store.read_run_config(path)
    team = _join(saved)
    if finish and (unbegun or team.size > 1):
        got = f"{team.size} processes" if team.size > 1 else f"{path}, which had not begun to train"
        raise UsageError(f"--finish must be one process on a run with a checkpoint, got {got}. Use --resume alone.")
    if team.rank > 0 and unbegun:
        return _help(_prepare_new(saved, data, labels, team, quiet=True, note=lambda text: None)[0])
    if team.rank > 0:
        again = prepare_again(path, data, labels, config, settings, True, team)
        return _help(again, checkpoints=files.checkpoints)
    with store.lock_run(path):
        if unbegun:
            store.write_json(files.record, record | describe_process())
            return _train_new(path, saved, data, labels, team, root=root, quiet=quiet, note=note, stop=stop)
        again = prepare_again(path, data, labels, config, settings, quiet, team)
        note_other_machine(path, again, note)
        return _train_in(path, again, root=root, quiet=quiet, note=note, stop=stop, resume=True, finish=finish)


def _join(config: RunConfig) -> Team:
    """The processes that torchrun started, this one among them; a team of one otherwise."""
    return join_team(choose_device(config)) if started_by_torchrun() else Team()


def _help(prepared: Prepared, *, checkpoints: Path | None = None) -> Run:
    """Train as a process that is not the first: compute a share of each batch, and write nothing.

    Args:
        checkpoints: of the run that is resumed, to read; every process must see them.
    """
    result = fit_prepared(prepared, restore=checkpoints, probe=True)  # pauses where the first one looks inside
    run, _ = judge(prepared, result)  # with a share of the rows, as in training
    prepared.team.close()
    if result.problem:
        raise DivergedError(result.problem, run)
    return run


def _train_in(
    path: Path, prepared: Prepared, *, root: Path, quiet: bool, note: Note, stop: StopRequest | None, resume: bool,
    finish: bool = False,
) -> Run:  # fmt: skip
    """Train in a directory that is locked by the caller, and keep its record up to date."""
    files = RunDirectory(path)
    before = store.read_json(files.record)
    names = tuple(before.get("track", ()))
    settings = prepared.config.model_dump(mode="json", exclude_unset=True)
    trackers, ids = open_trackers(names, path, settings, run_ids=before.get("track_ids", {}), note=note)
    record = _describe_run(prepared) | {"track": names, "track_ids": ids}
    record["created"] = before.get("created", record["created"])
    try:
        store.write_json(files.record, record)
        events = EventLog(files.events, note=note)
        watchers = (build_progress(quiet=quiet), events, _ModelKeeper(path, prepared), trackers)
        if finish:
            result = restore_prepared(prepared, checkpoints=files.checkpoints, note=note)
        else:
            result = fit_prepared(
                prepared,
                observers=watchers,
                checkpoints=files.checkpoints,
                resume=resume,
                note=note,
                probe=True,
                stop=stop,
            )
        run = finish_run(path, prepared, result)
        trackers.log(collect_numbers(run), run.epoch)
        _tell_deeper(prepared, run, note)
        if run.test:
            _count_test_use(root, path, prepared, run, note)
        prepared.team.close()
        record |= {"status": result.status}
        store.write_json(files.record, record)
        _try_write_report(path, note)
        trackers.close(result.status, [files.model, files.report, files.config, files.metrics])
    except BaseException as error:
        if record["status"] == RunStatus.RUNNING:
            stopped = isinstance(error, Interrupted | KeyboardInterrupt)
            record["status"] = RunStatus.INTERRUPTED if stopped else RunStatus.FAILED
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


def _describe_run(prepared: Prepared) -> dict[str, Any]:
    """What the record says of a run that begins to train."""
    dataset, config = prepared.dataset, prepared.config
    return {
        "status": RunStatus.RUNNING, "created": time.strftime("%Y-%m-%dT%H:%M:%S"), "data": dataset.name,
        "model": prepared.net.label, "fingerprint": dataset.fingerprint, "class_names": list(dataset.class_names),
        "bad": len(dataset.bad), "seed": config.train.seed, "clearsight": __version__, "config": config.model_dump(mode="json"),
        **describe_process(), "weights": find_weights_hash(config), "relabelled": dataset.relabelled,
        "adjacent": describe_order(dataset, prepared.split.train),
    }  # fmt: skip


def _try_write_report(path: Path, note: Note) -> None:
    from clearsight.report.html import write_report

    try:
        write_report(path)
    except RunError as error:
        note(f"the run is finished and saved, but has no report: {error} Draw it with `clearsight report {path}`")


def _tell_deeper(prepared: Prepared, run: Run, note: Note) -> None:
    """After a head alone, because nothing else was said: what training more would cost, and the most that it could bring."""
    p, judged = prepared, run.valid
    if not p.config.model.pretrained or p.config.model.finetune != "auto" or run.status == "diverged":
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


def _count_test_use(root: Path, path: Path, prepared: Prepared, run: Run, note: Note) -> None:
    """Count that the test split was seen, where runs are kept; a run without such a place is not counted."""
    if not path.resolve().is_relative_to(root.resolve()):
        return
    try:
        add_test_use(root, prepared.dataset, prepared.split.test, model=run.bundle.fingerprint, by=str(path))
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
            bundle.save(RunDirectory(self._path).series / f"step-{done:09d}.clearsight", examples=examples)
        except OSError as error:
            raise RunError(
                f"{self._path} must be writable, got: {error.strerror}. Free space, then use --resume."
            ) from None


def _try_write_status(path: Path, record: dict[str, Any]) -> None:
    try:
        store.write_json(RunDirectory(path).record, record)
    except RunError:  # the disk is full: the error under way says so, and the old record stands
        return
