"""What a run that has ended left of its numbers."""

import tomllib
from pathlib import Path
from typing import Any

from clearsight.errors import RunError
from clearsight.runs import store
from clearsight.runs.directory import RunDirectory
from clearsight.training.history import History, read_history


def read_text(path: Path) -> str:
    """A text that a run wrote.

    Raises:
        RunError: it is missing.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(
            f"run must hold {path.name}, got {path}: {error.strerror}. Is {path.parent} a run directory?"
        ) from None


def read_results(path: Path) -> tuple[dict[str, Any], History]:
    """Metrics as they were written, and the history without weights and probes.

    Raises:
        RunError: a file is missing or damaged.
    """
    files = RunDirectory(path)
    metrics = store.read_json(files.metrics)
    try:
        batch_size = int(tomllib.loads(read_text(files.config))["train"]["batch_size"])
        steps = -(-metrics["train"]["n"] // batch_size)
        return metrics, read_history(read_text(files.epochs), read_text(files.steps), steps_per_epoch=steps)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"the files of {path} must be whole, got damage ({error}). Restore them or train again."
        ) from None
