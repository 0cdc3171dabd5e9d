"""One training run as a worker does it: plain values in, plain values out. It must not know searches or who waits for it."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.config.build import build_config
from clearsight.config.rules import uses_torch
from clearsight.config.schema import RunConfig
from clearsight.data.dataset import Dataset
from clearsight.errors import UsageError
from clearsight.pipeline.data import build_split
from clearsight.pipeline.judge import build_bundle, evaluate_outputs
from clearsight.pipeline.prepare import fit_prepared, prepare
from clearsight.training.fit import Saved
from clearsight.training.observer import Observer

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
        status: as of `FitResult`.
        metrics: `accuracy`, `loss`, `mae` on the judged rows, as far as they exist; of the weights in force.
        n: judged rows. num_train: rows trained on. epoch: whose weights are in force. seconds: of training.
        saved: where a paused run goes on from.
        model: fingerprint of a model that was judged on test rows.
        rows, outputs: (n,) judged rows of the data set and (n, K) outputs for them, if they were asked for.
    """

    status: str
    metrics: dict[str, float]
    n: int
    num_train: int
    epoch: int
    seconds: float
    saved: Saved | None = None
    model: str = ""
    rows: NDArray[np.int64] | None = None
    outputs: NDArray[np.float32] | None = None


class _Stoppable(Observer):
    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def on_steps(self, done: int, *, epoch: int, losses: NDArray[Any], lrs: NDArray[np.float64]) -> None:
        """Told of every chunk of steps, some fifth of a second."""
        if self._stop.is_set():
            raise Stopped


def run_job(dataset: Dataset, job: Job, stop: threading.Event | None = None) -> Outcome:
    """Train, and judge on the validation rows or the test rows.

    Raises:
        UsageError, DataError: see `prepare`. Stopped: `stop` was set.
    """
    prepared = prepare(build_config(job.settings), dataset)
    observers = (_Stoppable(stop),) if stop else ()
    result = fit_prepared(prepared, observers=observers, start=job.start, pause_epoch=job.pause_epoch, validate=False)
    rows = prepared.split.parts().get(job.split, prepared.split.train[:0])
    seconds = result.history.seconds
    outcome = Outcome(result.status, {}, len(rows), len(prepared.split.train), result.epoch, seconds, result.saved)
    if len(rows) == 0:
        return outcome
    bundle = build_bundle(prepared, epoch=result.epoch, status=result.status)
    outputs = prepared.engine.logits(rows)
    judged = evaluate_outputs(bundle, outputs, dataset.labels[rows], split=job.split)
    found = {name: getattr(judged, name) for name in METRICS}
    outcome = replace(outcome, metrics={name: float(value) for name, value in found.items() if value is not None})
    if job.split == "test":
        outcome = replace(outcome, model=bundle.fingerprint)
    return replace(outcome, rows=rows, outputs=outputs) if job.keep_outputs else outcome


def run_job_alone(dataset: Dataset, job: Job) -> Outcome:
    """The same in a process that does nothing else: PyTorch takes one thread, so that results do not depend on the machine."""
    config = build_config(job.settings)
    if uses_torch(config):
        from clearsight.models.modules import import_torch

        import_torch().set_num_threads(1)
    return run_job(dataset, job)


def choose_metric(config: RunConfig, dataset: Dataset, wanted: str | None, *, split: str = "valid") -> str:
    """The metric by name, or the usual one: accuracy of classes, mean absolute error of numbers.

    Raises:
        UsageError: there is no such metric for the data, or no row of the split to judge.
    """
    fitting = ("loss", "mae") if dataset.is_regression else ("accuracy", "loss")
    metric = wanted or ("mae" if dataset.is_regression else "accuracy")
    if metric not in fitting:
        raise UsageError(
            f"--metric must be one of {', '.join(fitting)} for this data, got {metric!r}. Choose one of them."
        )
    if split not in build_split(config, dataset).parts():
        raise UsageError(f"runs must have {split} rows to be judged on, got none. Set data.{split}_fraction above 0.")
    return metric


def note_patience(configs: Iterable[RunConfig], note: Callable[[str], None]) -> None:
    """Tell that early stopping chooses by the rows that runs are then judged on."""
    if any(config.train.patience is not None for config in configs):
        note(
            "patience chooses the best epoch on the same rows that measure the result, so results look a "
            "little better than they are"
        )
