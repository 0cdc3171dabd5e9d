"""One run, from settings to a run directory: what `clearsight train` and `clearsight.train` call.

It owns the directory's life: made, locked, filled, resumed, marked as finished, interrupted or diverged.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clearsight import __version__, store
from clearsight.assemble import choose_device
from clearsight.augment.safety import Verdict
from clearsight.config import RunConfig
from clearsight.data.check import Finding
from clearsight.data.dataset import Dataset
from clearsight.errors import DataError, DivergedError, Interrupted, RunError, UsageError
from clearsight.intake import find_flaws, load_dataset, measure_safety, render_unsafe
from clearsight.meter import MeterBuilder, build_meter
from clearsight.outcome import collect_numbers, describe_environment, finish_run
from clearsight.pipeline import (
    Note,
    Prepared,
    Run,
    build_bundle,
    fit_prepared,
    judge,
    measure_signals,
    prepare,
    resolve_config,
    search_rate,
)  # fmt: skip
from clearsight.settings import find_differences, render_toml
from clearsight.tracking import TrackedProgress, open_trackers
from clearsight.training.lr_finder import RateSearch
from clearsight.training.progress import SilentProgress, build_progress
from clearsight.training.team import Team, join_team, started_by_torchrun

_SHOWN_FILES = 3


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
    if isinstance(data, str | Path):
        if "source" in settings:
            raise UsageError(f"source must be left out beside data, got {settings['source']!r}. Give one of them.")
        settings = {"source": str(data), **settings}
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
            return _train_in(path, again, looks=_find_looks(path, root), quiet=quiet, note=tell, resume=True)
    resolved = resolve_config(config, settings)
    team = _join(resolved)
    if team.rank > 0:
        quiet, tell = True, lambda text: None
    dataset = _load(resolved, data, labels, quiet=quiet)
    resolved = resolve_config(resolved, {"source": dataset.origin, **_settle_start(resolved)})
    _check_place(out if out is not None else root, dataset)
    for text in dataset.notes:
        tell(text)
    if resolved.data.check:
        balanced = resolved.train.sampling == "balanced" or resolved.train.class_weights != "none"
        _stop_at_errors(find_flaws(resolved, dataset), dataset.name, tell, balanced=balanced)
    prepared = prepare(resolved, dataset, team)
    resolved = prepared.config
    for text in prepared.notes:
        tell(text)
    verdicts = _check_safety(resolved, dataset, prepared, quiet, tell)
    if team.rank > 0:
        team.hear_first()
        return _help(prepared)
    with team.speaking_first():
        model, place = resolved.model.family, Path(out) if out else None
        path = store.create_run(Path(root), data=dataset.name, model=model, out=place)
    with store.lock_run(path):
        store.write_text(path / store.CONFIG, render_toml(resolved))
        store.write_json(path / "environment.json", describe_environment() | prepared.engine.describe())
        if verdicts:
            store.write_json(path / store.SAFETY, {"verdicts": [verdict.as_dict() for verdict in verdicts]})
        return _train_in(
            path, prepared, looks=_find_looks(path, root), quiet=quiet, note=tell, resume=False, track=tuple(track)
        )


def load_and_search(
    config: RunConfig, *, low: float, high: float, steps: int, note: Note, meter: MeterBuilder
) -> tuple[RateSearch, tuple[str, ...]]:
    """Look for a learning rate for the data and network of a configuration; also what was assumed about the data.

    Raises:
        UsageError, DataError: see `prepare` and `find_lr`.
    """
    dataset = load_dataset(config, meter=meter)
    wanted = config.train.model_copy(update={"lr": None})  # so that none is looked for on the way
    prepared = prepare(config.model_copy(update={"train": wanted}), dataset)
    found = search_rate(prepared, low=low, high=high, steps=steps, note=note)
    return found, (*dataset.notes, *prepared.notes)


def _stop_at_errors(findings: list[Finding], name: str, tell: Note, *, balanced: bool) -> None:
    """Tell the warnings, and refuse data with errors."""
    for finding in findings:
        if finding.level == "warning" and not (finding.kind == "imbalance" and balanced):
            shown = f" For example {finding.files[0]}." if finding.files else ""
            tell(finding.message + shown)
    errors = [f for f in findings if f.level == "error"]
    if errors:
        lines = [f"{f.message}{' (' + '; '.join(f.files[:_SHOWN_FILES]) + ')' if f.files else ''}" for f in errors]
        raise DataError(
            f"{' '.join(lines)} See `clearsight data check` for all of {name}; --set data.check=false trains regardless."
        )


def _check_place(out: str | Path, dataset: Dataset) -> None:
    """Refuse a run directory inside a folder of pictures, where it would pass for a class."""
    folder = Path(dataset.origin)
    if dataset.files and folder.is_dir() and Path(out).resolve().is_relative_to(folder):
        raise UsageError(f"--out or --root must lie outside the data, got {out} in {folder}. Choose another place.")


def _check_safety(config: RunConfig, dataset: Dataset, prepared: Prepared, quiet: bool, tell: Note) -> list[Verdict]:
    """Measure whether the augmentation keeps labels; refuse or warn as the configuration says."""
    if not prepared.augmentation.active() or config.augment.unsafe == "ignore":
        return []
    _, verdicts = measure_safety(config, dataset, meter=build_meter(quiet=quiet))
    unsafe = render_unsafe(verdicts)
    if unsafe and config.augment.unsafe == "refuse":
        raise UsageError(
            f"augment must keep labels, got transforms that change them on {dataset.name}: {'; '.join(unsafe)}. Set them to 0, "
            "choose another preset, or --set augment.unsafe=warn; `clearsight data safety` shows pictures."
        )
    for level in ("unsafe", "doubtful"):
        for text in render_unsafe(verdicts, level):
            tell(f"augmentation is {level}, {text}")
    if any(verdict.level == "unknown" for verdict in verdicts):
        tell("whether the augmentation keeps labels is unknown: too few pictures are clear to quick probes")
    return verdicts


def _load(config: RunConfig, data: Any, labels: Any, *, quiet: bool) -> Dataset:
    given = None if isinstance(data, str | Path) else data
    return load_dataset(config, given, labels, meter=build_meter(quiet=quiet))


def _note_other_machine(path: Path, prepared: Prepared, tell: Note) -> None:
    """Tell what differs from the machine that the run began on, because the bits may then differ too."""
    before, now = store.read_json(path / "environment.json"), prepared.engine.describe()
    changed = [f"{key} {before[key]} became {value}" for key, value in now.items() if before.get(key, value) != value]
    if changed:
        tell(f"the run began elsewhere: {', '.join(changed)}; it may end with other last digits")


def _settle_start(config: RunConfig) -> dict[str, str]:
    """The model to start from by its full path, so that the run can go on from elsewhere."""
    start = config.model.start_from
    return {} if start is None else {"start_from": str(Path(start).expanduser().resolve())}


def _join(config: RunConfig) -> Team:
    """The processes that torchrun started, this one among them; a team of one otherwise."""
    return join_team(choose_device(config)) if started_by_torchrun() else Team()


def _help(prepared: Prepared, *, checkpoints: Path | None = None) -> Run:
    """Train as a process that is not the first: compute a share of each batch, and write nothing.

    Args:
        checkpoints: of the run that is resumed, to read; every process must see them.
    """
    result = fit_prepared(prepared, progress=SilentProgress(), restore=checkpoints)
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
    wanted = resolve_config(config, settings, base=saved)
    if differences := find_differences(saved, wanted):
        raise UsageError(
            f"--resume must go on with the configuration of {path}, got {'; '.join(differences)}. Start a new run for that."
        )
    if record.get("status") in ("finished", "stopped early", "diverged"):
        raise UsageError(
            f"--resume must name a run that has not ended, got {path}, {record['status']}. Start a new run."
        )
    dataset = _load(saved, data, labels, quiet=quiet)
    for key, now in (("fingerprint", dataset.fingerprint), ("class_names", list(dataset.class_names))):
        if record.get(key) != now:
            raise DataError(
                f"--resume must find the same data as before, got another {key.replace('_', ' ')}: {_short(record.get(key))} "
                f"became {_short(now)} in {saved.data.source}. Bring the old data back, or start a new run."
            )
    known = saved.model_copy(
        update={"model": saved.model.model_copy(update={"start_from": None})}
    )  # the checkpoint knows
    return replace(prepare(known, dataset, team), config=saved)


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value)


def _find_looks(path: Path, root: str | Path) -> Path:
    """Where looks at test splits are counted: the folder of runs, or what holds a run made elsewhere."""
    return Path(root) if path.resolve().is_relative_to(Path(root).resolve()) else path.parent


def _train_in(
    path: Path, prepared: Prepared, *, looks: Path, quiet: bool, note: Note, resume: bool, track: tuple[str, ...] = ()
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
    }
    before = store.read_json(path / store.RECORD) if resume else {}
    record["created"] = before.get("created", record["created"])
    names, ids = track if not resume else tuple(before.get("track", ())), before.get("track_ids", {})
    settings = prepared.config.model_dump(mode="json", exclude_unset=True)
    trackers, ids = open_trackers(names, path, settings, run_ids=ids, note=note)
    record |= {"track": names, "track_ids": ids}
    try:
        store.write_json(path / store.RECORD, record)
        signals = _read_signals(path, prepared, resume=resume)
        result = fit_prepared(
            prepared,
            progress=TrackedProgress(build_progress(quiet=quiet), trackers),
            checkpoints=path / store.CHECKPOINTS,
            resume=resume,
            note=note,
            keep=lambda step: _keep_model(path, prepared, step),
        )
        run = finish_run(path, prepared, result, signals)
        trackers.log(collect_numbers(run), run.epoch)
        if run.test:
            store.add_look(looks, fingerprint=prepared.dataset.fingerprint, rows=prepared.split.test, by=str(path))
        prepared.team.close()
        record |= {"status": result.status}
        store.write_json(path / store.RECORD, record)
        write_report(path)
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


def _keep_model(path: Path, prepared: Prepared, step: int) -> None:
    """The model as it is now, into the series that `keep_steps` asks for."""
    bundle = build_bundle(prepared, epoch=0, status=f"step {step}")
    rows = prepared.split.train[:3]
    try:
        bundle.save(path / store.SERIES / f"step-{step:09d}.clearsight", examples=prepared.dataset.images[rows])
    except OSError as error:
        raise RunError(f"{path} must be writable, got: {error.strerror}. Free space, then use --resume.") from None


def _read_signals(path: Path, prepared: Prepared, *, resume: bool) -> dict[str, Any]:
    """What goes through the layers before training: measured now, or when the run began."""
    if resume and (path / store.SIGNALS).is_file():
        return store.read_json(path / store.SIGNALS)
    signals = {"first": measure_signals(prepared)}
    store.write_json(path / store.SIGNALS, signals)
    return signals


def _try_write_status(path: Path, record: dict[str, Any]) -> None:
    try:
        store.write_json(path / store.RECORD, record)
    except RunError:  # the disk is full: the error under way says so, and the old record stands
        return
