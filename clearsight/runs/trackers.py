"""Runs in the books of others, by choice: TensorBoard event files and MLflow. It must not know how training works.

What is written here is a copy; the run directory is the truth. A tracker that fails is left off with a note, and training goes
on.
"""

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from clearsight.errors import UsageError
from clearsight.training.history import EpochRow
from clearsight.training.observer import Observer

_HOMES = {"tensorboard": ("tensorboard.summary", "TensorBoard"), "mlflow": ("mlflow", "MLflow")}  # module and title
EXPERIMENT = "clearsight"
_LONGEST = 500  # of a parameter, in letters, as MLflow allows


class Tracker(Protocol):
    """Where numbers go while a run goes on."""

    def log(self, numbers: dict[str, float], step: int) -> None:
        """Numbers by name after so many epochs."""

    def close(self, status: str, files: list[Path]) -> None:
        """The run has ended; `files` are worth keeping."""


class TensorBoardTracker:
    """Event files in a folder."""

    def __init__(self, path: Path) -> None:
        from tensorboard.summary import Writer
        from tensorboard.summary._output import DirectoryOutput

        self._writer = Writer(DirectoryOutput(str(path)))

    def log(self, numbers: dict[str, float], step: int) -> None:
        """See `Tracker`."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, status: str, files: list[Path]) -> None:
        """See `Tracker`."""
        self._writer.close()


class MlflowTracker:
    """A run of the experiment `clearsight`, where `MLFLOW_TRACKING_URI` says."""

    def __init__(self, title: str, settings: dict[str, Any], *, run_id: str | None) -> None:
        from mlflow import MlflowClient

        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.WARNING)  # they tell of each table that they make
        self._client = MlflowClient()
        if run_id is None:
            wanted = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
            experiment = self._client.get_experiment_by_name(wanted)
            place = experiment.experiment_id if experiment else self._client.create_experiment(wanted)
            run_id = self._client.create_run(place, run_name=title).info.run_id
            for key, value in settings.items():
                self._client.log_param(run_id, key, str(value)[:_LONGEST])
        self.run_id = str(run_id)

    def log(self, numbers: dict[str, float], step: int) -> None:
        """See `Tracker`."""
        for name, value in numbers.items():
            self._client.log_metric(self.run_id, name.replace("/", "_"), value, step=step)

    def close(self, status: str, files: list[Path]) -> None:
        """See `Tracker`."""
        for file in files:
            if file.is_file():
                self._client.log_artifact(self.run_id, str(file))
        self._client.set_terminated(self.run_id, {"interrupted": "KILLED", "failed": "FAILED"}.get(status, "FINISHED"))


def _render_failure(name: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return f"{name} is left off, because it failed: {reason}"


class Trackers(Observer):
    """Several trackers as one, none of which can stop a run.

    Args:
        trackers: by name. note: is told which one failed and why.
    """

    def __init__(self, trackers: dict[str, Tracker], note: Callable[[str], None]) -> None:
        self._trackers, self._note = trackers, note

    def _each(self, what: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # what a library says of its own libraries
                    what(tracker)
            except Exception as error:  # any of a library's own
                self._note(_render_failure(name, error))
                del self._trackers[name]

    def log(self, numbers: dict[str, float], step: int) -> None:
        """See `Tracker`."""
        self._each(lambda tracker: tracker.log(numbers, step))

    def on_epoch(self, row: EpochRow) -> None:
        """See `Observer`."""
        numbers = {
            "train/loss": row["train_loss"], "train/accuracy": row["train_accuracy"], "valid/loss": row["valid_loss"],
            "valid/accuracy": row["valid_accuracy"], "lr": row["lr"], "seconds": row["seconds"],
        }  # fmt: skip
        self.log({name: value for name, value in numbers.items() if value is not None}, row["epoch"])

    def close(self, status: str, files: list[Path]) -> None:
        """See `Tracker`."""
        self._each(lambda tracker: tracker.close(status, files))


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that cannot be had, before any work is done.

    Raises:
        UsageError: an unknown name, or a library that is missing.
    """
    for name in names:
        if name not in _HOMES:
            raise UsageError(f"--track must be one of {', '.join(_HOMES)}, got {name!r}. Choose one of them.")
        module, title = _HOMES[name]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import_module(module)
        except ImportError:
            raise UsageError(
                f"--track {name} must have {title}, got none installed. Install it with `pip install 'clearsight[track]'`."
            ) from None


def open_trackers(
    names: tuple[str, ...],
    path: Path,
    settings: dict[str, Any],
    *,
    run_ids: dict[str, str],
    note: Callable[[str], None],
) -> tuple[Trackers, dict[str, str]]:
    """The trackers of a run, and what they go on under if it is resumed.

    Args:
        names: as `check_trackers` passed them. path: the run directory. settings: nested settings of the run.
        run_ids: what this gave before, for a run that is resumed. note: is told which one failed and why.
    """
    flat = {f"{section}.{key}": value for section, values in settings.items() for key, value in values.items()}
    found: dict[str, Tracker] = {}
    ids = dict(run_ids)
    for name in names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what a library says of its own libraries
                if name == "tensorboard":
                    found[name] = TensorBoardTracker(path / "tensorboard")
                else:
                    tracker = MlflowTracker(path.name, flat, run_id=run_ids.get(name))
                    found[name], ids[name] = tracker, tracker.run_id
        except Exception as error:  # any of a library's own
            note(_render_failure(name, error))
    return Trackers(found, note), ids
