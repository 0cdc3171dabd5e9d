"""Going on with a run that was stopped: the same data, the same choices, and what has changed about the machine."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from clearsight.config.files import find_differences
from clearsight.config.resolve import resolve_config
from clearsight.config.schema import RunConfig
from clearsight.core.progress import Note, build_meter
from clearsight.data.relabel import hash_corrections
from clearsight.engines.team import Team
from clearsight.errors import DataError, RunError, UsageError
from clearsight.pipeline.data import load_given
from clearsight.pipeline.head import check_weights
from clearsight.pipeline.prepare import Prepared, prepare
from clearsight.runs import store
from clearsight.runs.corrections import use_own_corrections
from clearsight.runs.directory import RunDirectory
from clearsight.runs.record import ENDED


def note_other_machine(path: Path, prepared: Prepared, tell: Note) -> None:
    """Tell what differs from the machine that the run began on, because the bits may then differ too."""
    before, now = store.read_json(RunDirectory(path).environment), prepared.engine.describe()
    changed = [f"{key} {before[key]} became {value}" for key, value in now.items() if before.get(key, value) != value]
    if changed:
        tell(
            f"the run began on another machine or version: {', '.join(changed)}. The last digits of its results may differ"
        )


def refuse_differences(path: Path, saved: RunConfig, wanted: RunConfig) -> None:
    """Refuse to go on with other choices than those that a run began with.

    Raises:
        UsageError: so.
    """
    if differences := find_differences(saved, wanted):
        raise UsageError(
            f"--resume must go on with the configuration of {path}, got {'; '.join(differences)}. Start a new run for that."
        )


def prepare_again(
    path: Path, data: Any, labels: Any, config: Any, settings: dict[str, Any], quiet: bool, team: Team
) -> Prepared:
    """The parts of a run that has not ended, once it is sure that nothing has changed since."""
    files = RunDirectory(path)
    record = store.read_json(files.record)
    saved = store.read_run_config(path)
    if "source" in settings and Path(settings["source"]).expanduser().exists():
        settings = settings | {"source": str(Path(settings["source"]).expanduser().resolve())}
    own = use_own_corrections(path, saved, record.get("relabelled"))
    wanted = _resolve_corrections(resolve_config(config, settings, base=saved), saved, own)
    refuse_differences(path, saved, wanted)
    if record.get("status") in ENDED:
        advice = "Start a new run." if files.report.is_file() else f"Draw its report with `clearsight report {path}`."
        raise UsageError(f"--resume must name a run that has not ended, got {path}, {record['status']}. {advice}")
    dataset = load_given(own, data, labels, meter=build_meter(quiet=quiet))
    if "fingerprint" not in record:
        raise RunError(f"{files.record} must hold the data's fingerprint, got none. Restore the file or train again.")
    for key, now in (("fingerprint", dataset.fingerprint), ("class_names", list(dataset.class_names))):
        if record.get(key) != now:
            raise DataError(
                f"--resume must find the same data as before, got another {key.replace('_', ' ')}: {_short(record.get(key))} "
                f"became {_short(now)} in {saved.data.source}. Bring the old data back, or start a new run."
            )
    check_weights(record.get("weights"), saved)
    known = saved.change("model", start_from=None)  # the checkpoint knows
    prepared = prepare(known, dataset, team, meter=build_meter(quiet=quiet), begun=True)
    return replace(prepared, config=saved)


def _resolve_corrections(wanted: RunConfig, saved: RunConfig, own: RunConfig) -> RunConfig:
    """With the path of corrections that a run began with, where the wanted ones are the same by another path."""
    new = wanted.data.relabel
    if new is None or saved.data.relabel in (None, new) or own.data.relabel is None:
        return wanted
    if hash_corrections(Path(new).expanduser()) != hash_corrections(Path(own.data.relabel)):
        return wanted
    return wanted.change("data", relabel=saved.data.relabel)


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else str(value)
