"""The corrections of labels that a run was trained with, kept beside it."""

import hashlib
from pathlib import Path
from typing import Any

from clearsight.config.schema import RunConfig
from clearsight.data.relabel import hash_corrections, read_corrections
from clearsight.errors import DataError, RunError
from clearsight.runs.directory import RunDirectory
from clearsight.runs.store import write_bytes


def keep_corrections(path: Path, config: RunConfig, relabelled: str) -> None:
    """Copy the corrections of labels that work began with into its directory, as people go on to fill the file in.

    Args:
        relabelled: SHA-256 of the file as it was when the data was read.

    Raises:
        DataError: it has changed since. RunError: the disk is full.
    """
    if config.data.relabel is None:
        return
    content = read_corrections(Path(config.data.relabel).expanduser())
    if hashlib.sha256(content).hexdigest() != relabelled:
        raise DataError(
            f"--relabel must stay as it is until the work has begun, got a change of {config.data.relabel}. Start again."
        )
    write_bytes(RunDirectory(path).corrections, content)


def use_own_corrections(path: Path, config: RunConfig, relabelled: Any) -> RunConfig:
    """The configuration with the corrections of labels that a directory keeps, wherever it lies now.

    Args:
        relabelled: their SHA-256 by the directory's record.

    Raises:
        RunError: they are no longer those that it began with.
    """
    own = RunDirectory(path).corrections
    if config.data.relabel is None or not own.is_file():
        return config
    if hash_corrections(own) != relabelled:
        raise RunError(f"{own} must be as the work began, got changes. Undo them, or start anew with --relabel.")
    return config.change("data", relabel=str(own))
