"""Run directories: where a run keeps its plain files, who may write there, and which runs there are.

The files are the truth; nothing else knows of a run. It must not know how training works.
"""

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clearsight.config.build import build_config
from clearsight.config.files import find_differences, read_config_file
from clearsight.config.schema import RunConfig
from clearsight.core.files import write_durably
from clearsight.errors import RunError, UsageError
from clearsight.runs.directory import RunDirectory
from clearsight.runs.liveness import is_alive
from clearsight.runs.record import UNDER_WAY, RunRecord, RunStatus


def create_run(root: Path, *, data: str, model: str, out: Path | None = None) -> Path:
    """Make a new, empty run directory: `out`, or `root/<time>-<data>-<model>`.

    Raises:
        UsageError: `out` holds something already. RunError: it cannot be made.
    """
    words = "-".join(re.sub(r"[^\w.-]+", "-", word).strip("-.") or "data" for word in (data, model))
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{words[:80]}"
    try:
        if out is not None:
            if out.exists() and not (out.is_dir() and _is_free({path.name for path in out.iterdir()})):
                raise UsageError(f"--out must be a new or empty folder, got {out}, which holds files. Choose another.")
            out.mkdir(parents=True, exist_ok=True)
            return out
        root.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            path = root / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return path
    except OSError as error:
        raise RunError(
            f"run directory must be writable, got {out or root}: {error.strerror}. Use --out elsewhere."
        ) from None
    raise RunError(f"run directory must be new, got a thousand of this second in {root}. Use --out.")


def clear_run(path: Path, *, keep: bool) -> None:
    """Take away a run that came to nothing while it was prepared; `keep` leaves its folder, which was there before."""
    for inner in path.iterdir() if keep else ():
        inner.unlink()
    if not keep:
        shutil.rmtree(path, ignore_errors=True)


def _is_free(names: set[str]) -> bool:
    """Whether a folder with these files may become a run: it is empty, or holds what is left where no record could be written."""
    return not names or (".lock" in names and names <= {path.name for path in RunDirectory(Path()).before_record})


def is_locked(path: Path) -> bool:
    """Whether a process works on a run now."""
    try:
        with lock_run(path):
            return False
    except RunError:
        return True


@contextmanager
def lock_run(path: Path) -> Iterator[None]:
    """Hold a run directory. The lock belongs to the process, so a crash leaves none behind.

    Raises:
        RunError: another process works on the run, or the folder is not writable.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(RunDirectory(path).lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(
            f"run must be used by one process at a time, got {path}, in use. Wait for it, or stop it."
        ) from None
    except OSError as error:
        raise RunError(
            f"run directory must be writable, got {path}: {error.strerror}. Change its permissions."
        ) from None
    try:
        yield
    finally:
        lock.release()


def find_directory(name: str, root: Path, record: str) -> Path:
    """The directory that holds a file `record`, by its path or its name below `root`; `last` is the newest.

    Raises:
        UsageError: there is none.
    """
    if name == "last" and root.is_dir():
        found = [path.parent for path in root.glob(f"*/{record}")]
        if found:
            return max(found, key=lambda path: (path / record).stat().st_mtime)
    for path in (Path(name), root / name):
        if name and (path / record).is_file():
            return path
    raise UsageError(f"--resume must name a directory with a {record}, got {name!r}. See the folder {root}.")


def write_text(path: Path, text: str) -> None:
    """Replace a file of a run, whole or not at all.

    Raises:
        RunError: the disk is full or the place not writable.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """The same for bytes."""
    try:
        write_durably(path, content)
    except OSError as error:
        raise RunError(
            f"{path} must be writable, got: {error.strerror}. Free space or change its permissions."
        ) from None


def write_json(path: Path, value: Any) -> None:
    """The same for a JSON value; see `drop_infinite`."""
    write_text(path, json.dumps(drop_infinite(value), indent=1, allow_nan=False) + "\n")


def drop_infinite(value: Any) -> Any:
    """The same value with None for NaN and infinity, which JSON lacks."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {key: drop_infinite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [drop_infinite(item) for item in value]
    return value


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that a run wrote.

    Raises:
        RunError: missing or damaged.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise RunError(
            f"run must hold {path.name}, got {path}: {error.strerror}. Is {path.parent} a run directory?"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} must be JSON, got damage ({error}). Restore the file or train again.") from None
    if not isinstance(value, dict):
        raise RunError(f"{path} must be a JSON object, got {type(value).__name__}. Restore the file or train again.")
    return value


def read_run(path: Path) -> RunRecord:
    """What a run directory says of itself.

    Raises:
        RunError: it is none, or damaged.
    """
    files = RunDirectory(path)
    record = read_json(files.record)
    record["status"] = find_status(path, record)
    metrics = read_json(files.metrics) if files.metrics.is_file() else {}
    try:
        accuracy = {
            split: float(metrics[split]["accuracy"])
            for split in ("train", "valid", "test")
            if metrics.get(split) and metrics[split].get("accuracy") is not None
        }
    except (TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{files.metrics} must hold numbers, got damage ({error}). Restore the file.") from None
    text = {key: str(record.get(key, "?")) for key in ("status", "created", "data", "model")}
    return RunRecord(path, text["status"], text["created"], text["data"], text["model"], accuracy)


def find_status(path: Path, record: dict[str, Any]) -> str:
    """How a run stands: what its record says, or `killed` where nobody works on it any more."""
    status = str(record.get("status", "?"))
    if status not in UNDER_WAY:
        return status
    alive = is_alive(record, sign=RunDirectory(path).events)
    if alive is None:  # a record of an earlier version
        alive = is_locked(path)
    return status if alive else RunStatus.KILLED


def read_run_config(path: Path) -> RunConfig:
    """The configuration that a run began with.

    Raises:
        RunError: `config.toml` is no longer what the run began with, or damaged.
    """
    files = RunDirectory(path)
    record = read_json(files.record)
    began = record.get("config")
    try:
        now = build_config(_drop_retired(read_config_file(files.config)), where=str(files.config), fill=False)
        if "config" not in record and "bad" not in record:  # the first format had neither
            return now
        if not isinstance(began, dict):
            raise RunError(f"{files.record} must hold the configuration, got none. Restore the file or train again.")
        before = build_config(began, where=str(files.record), fill=False)
    except UsageError as error:
        raise RunError(str(error)) from None
    if differences := find_differences(before, now):
        raise RunError(
            f"{files.config} must be as the run began, got {'; '.join(differences)[:200]}. Undo that, or start a new run."
        )
    return before  # which also tells what was set to none


def _drop_retired(values: dict[str, Any]) -> dict[str, Any]:
    """Without settings that earlier versions wrote and that changed no result."""
    train = values.get("train")
    return (
        values | {"train": {key: train[key] for key in train if key != "threads"}}
        if isinstance(train, dict)
        else values
    )


def list_runs(root: Path) -> tuple[list[RunRecord], list[str]]:
    """All runs below `root`, oldest first, and a note for each folder that is damaged."""
    runs, notes = [], []
    if root.exists() and not root.is_dir():
        raise UsageError(f"--root must be a folder, got {root}, which is a file. Name the folder of the runs.")
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        if RunDirectory(path).record.is_file():
            try:
                runs.append(read_run(path))
            except RunError as error:
                notes.append(str(error))
    return sorted(runs, key=lambda run: run.created), notes


def find_run(name: str, root: Path) -> Path:
    """A run directory from its path, or from its name below `root`; `last` is the newest.

    Raises:
        UsageError: there is none.
    """
    if name == "last":
        runs, _ = list_runs(root)
        if runs:
            return runs[-1].path
    for path in (Path(name), root / name):
        try:
            if name and RunDirectory(path).record.is_file():
                return path
        except (OSError, ValueError):  # a name too long, or with a null byte
            break
    raise UsageError(f"RUN must be a run directory, got {name!r}. See `clearsight runs list`.")


def remove_run(path: Path) -> None:
    """Delete a run directory that no process uses.

    Raises:
        RunError: in use, or not removable.
    """
    with lock_run(path):
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise RunError(f"run must be removable, got {path}: {error.strerror}. Change its permissions.") from None
