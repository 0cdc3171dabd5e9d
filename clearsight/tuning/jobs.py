"""One training run as a worker does it: plain values in, plain values out. It must not know searches or who waits for it."""

import threading
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.config import RunConfig, build_config
from clearsight.data.dataset import Dataset
from clearsight.errors import UsageError
from clearsight.pipeline import build_bundle, evaluate_outputs, fit_prepared, prepare
from clearsight.training.fit import Saved
from clearsight.training.progress import SilentProgress

METRICS = {"accuracy": 1, "loss": -1, "mae": -1}
"""What runs are judged by, and whether more (1) or less (-1) is better."""


class Stopped(BaseException):
    """A worker was asked to stop."""


@dataclass(frozen=True, eq=False)
class Job:
    """What to train.

    Args:
        settings: nested values of a RunConfig.
        split: whose rows the run is judged on, `valid` or `test`.
        start: what a paused run saved, to go on from. pause_epoch: leave off after so many epochs; None to train to the end.
        keep_outputs: hand the outputs for the judged rows back.
    """

    settings: dict[str, Any]
    split: str = "valid"
    start: Saved | None = None
    pause_epoch: int | None = None
    keep_outputs: bool = False


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of it.

    Args:
        status: as of `FitResult`; `problem` says what diverged.
        metrics: `accuracy`, `loss`, `mae` on the judged rows, as far as they exist; of the weights in force.
        n: judged rows. num_train: rows trained on. epoch: whose weights are in force. seconds: of training.
        best_lr: the rate in force. saved: where a paused run goes on from.
        rows, outputs: (n,) judged rows of the data set and (n, K) outputs for them, if they were asked for.
    """

    status: str
    problem: str
    metrics: dict[str, float]
    n: int
    num_train: int
    epoch: int
    lr: float
    seconds: float
    saved: Saved | None = None
    rows: NDArray[np.int64] | None = None
    outputs: NDArray[np.float32] | None = None


class _Stoppable(SilentProgress):
    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def advance(self, steps: int, *, epoch: int, loss: float) -> None:
        """Told of every chunk of steps, some fifth of a second."""
        if self._stop.is_set():
            raise Stopped


def run_job(dataset: Dataset, job: Job, stop: threading.Event | None = None) -> Outcome:
    """Train, and judge on the validation rows or the test rows.

    Raises:
        UsageError, DataError: see `prepare`. Stopped: `stop` was set.
    """
    prepared = prepare(build_config(job.settings), dataset)
    progress = _Stoppable(stop) if stop else SilentProgress()
    result = fit_prepared(prepared, progress=progress, start=job.start, pause_epoch=job.pause_epoch, validate=False)
    rows = prepared.split.parts().get(job.split, prepared.split.train[:0])
    outcome = Outcome(
        result.status, result.problem, {}, len(rows), len(prepared.split.train), result.epoch, prepared.config.lr,
        result.history.seconds, result.saved,
    )  # fmt: skip
    if len(rows) == 0:
        return outcome
    bundle = build_bundle(prepared, epoch=result.epoch, status=result.status)
    outputs = prepared.engine.logits(rows)
    judged = evaluate_outputs(bundle, outputs, dataset.labels[rows], split=job.split)
    found = {name: getattr(judged, name) for name in METRICS}
    outcome = replace(outcome, metrics={name: float(value) for name, value in found.items() if value is not None})
    return replace(outcome, rows=rows, outputs=outputs) if job.keep_outputs else outcome


def choose_metric(config: RunConfig, wanted: str | None) -> str:
    """The metric by name, or the usual one: accuracy of classes, mean absolute error of numbers."""
    return wanted or ("mae" if config.data.task == "regression" else "accuracy")


def read_metric(outcome: Outcome, metric: str) -> float:
    """The metric of a run.

    Raises:
        UsageError: it does not exist for this data, or there were no rows to judge.
    """
    if outcome.n == 0:
        raise UsageError("runs must have validation rows to be judged on, got none. Set --set data.valid_fraction=0.1.")
    if metric not in outcome.metrics:
        raise UsageError(
            f"--metric must be one of {', '.join(outcome.metrics)} for this data, got {metric}. Choose one of them."
        )
    return outcome.metrics[metric]
