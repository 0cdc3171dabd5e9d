"""From what a run recorded to a `Case`, which is all that the doctor's rules see."""

from pathlib import Path
from typing import Any

import numpy as np

from clearsight.config.schema import RunConfig
from clearsight.data.dataset import Dataset
from clearsight.data.split import Rows
from clearsight.diagnose.case import Case, Choices, Judged
from clearsight.engines.probe import Probe
from clearsight.errors import RunError, UsageError
from clearsight.evaluation.metrics import Evaluation
from clearsight.pipeline.prepare import Prepared
from clearsight.runs import store
from clearsight.runs.directory import RunDirectory
from clearsight.runs.events import read_course
from clearsight.runs.record import ENDED
from clearsight.runs.results import read_results
from clearsight.training.fit import FitResult
from clearsight.training.history import History


def describe_order(dataset: Dataset, rows: Rows) -> float | None:
    """Share of training rows, in their order, whose successor has the same class; None for numbers or a single row."""
    if dataset.is_regression or len(rows) < 2:
        return None
    labels = dataset.labels[rows]
    return float((labels[1:] == labels[:-1]).mean())


def build_case(
    config: RunConfig, *, status: str, classes: tuple[str, ...], history: History, judged: dict[str, dict[str, Any]],
    last: Probe | None, adjacent: float | None = None, unsafe: tuple[str, ...] = (),
) -> Case:  # fmt: skip
    """A case.

    Args:
        classes: names, empty for a regression. judged: by split, as `Evaluation.as_dict` gives it. last: of the weights in force.
        adjacent: see `describe_order`. unsafe: transforms found to change labels.
    """
    found = {name: one for name, values in judged.items() if (one := _read_judged(values)) is not None}
    counts = tuple(found["train"].confusion.sum(axis=1).tolist()) if "train" in found else ()
    intervals = [values["calibration"]["interval"] for values in judged.values() if values.get("calibration")]
    known = [(low, high) for low, high in intervals if low is not None]
    return Case(
        status, _describe_choices(config), classes, counts, adjacent, history.step_losses,
        history.steps_per_epoch, tuple(history.epochs), tuple(history.probes), last, found,
        known[-1] if known else None, unsafe,
    )  # fmt: skip


def _read_judged(values: dict[str, Any]) -> Judged | None:
    if values.get("confusion") is None:
        return None
    confusion, loss, n = np.array(values["confusion"], np.int64), values["loss"], int(values["n"])
    if (
        confusion.ndim != 2
        or len(confusion) != confusion.shape[1]
        or confusion.min() < 0
        or not 0 < n == confusion.sum()
    ):
        raise ValueError(f"a confusion matrix of {n} rows has other counts")
    return Judged(n, int(np.trace(confusion)), float("nan") if loss is None else float(loss), confusion)


def _describe_choices(config: RunConfig) -> Choices:
    model, train, network = config.model, config.train, config.network
    head = model.pretrained and config.depth == "head"
    return Choices(
        dense=network.dense and not model.pretrained, head=head, pretrained=model.pretrained,
        normalised=not network.dense and model.norm != "none", hidden=tuple(config.hidden) if network.dense else (),
        activations=tuple(config.activations), init=model.init,
        optimizer=train.optimizer, rate=config.lr,
        momentum=train.momentum if train.optimizer in ("momentum", "nesterov", "muon") else 0.0,
        batch_size=train.batch_size, epochs=train.epochs,
        decay=train.l1 + (train.l2 if isinstance(train.l2, float) else 0.0) + (train.weight_decay or 0.0),
        dropout=train.dropout, schedule=train.schedule, patience=train.patience,
        shuffled=train.shuffle,
        weighted=train.class_weights != "none" or train.sampling == "balanced",
    )  # fmt: skip


def read_case(path: Path, results: tuple[dict[str, Any], History] | None = None) -> Case:
    """The case of a run that has ended, from the files in its directory.

    Args:
        results: from `read_results`, where they have been read.

    Raises:
        UsageError: it has not ended. RunError: a file is missing or damaged.
    """
    files, record = RunDirectory(path), store.read_json(RunDirectory(path).record)
    if record.get("status") not in ENDED:
        raise UsageError(
            f"RUN must have ended, got {path}, which is {store.find_status(path, record)}. "
            f"Go on with `clearsight train --resume {path}`, or add --finish to make a model of what is there."
        )
    metrics, history = results or read_results(path)
    history.probes = read_course(path).probes
    try:
        classes = tuple(record["class_names"])
        if classes and not metrics["train"]["confusion"]:
            raise ValueError("no confusion matrix")
        return build_case(
            store.read_run_config(path), status=record["status"],
            classes=classes, history=history,
            judged={name: metrics[name] for name in ("train", "valid", "test") if metrics.get(name)},
            last=_read_last(files), adjacent=record.get("adjacent"),
            unsafe=read_unsafe(files),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, UsageError) as error:
        raise RunError(
            f"the files of {path} must be whole, got damage ({error!r}). Restore them or train again."
        ) from None


def build_run_case(
    prepared: Prepared,
    result: FitResult,
    evaluations: dict[str, Evaluation],
    *,
    last: Probe,
    unsafe: tuple[str, ...] = (),
) -> Case:
    """The case of a training that has just ended."""
    return build_case(
        prepared.config, status=result.status, classes=prepared.dataset.class_names, history=result.history,
        judged={name: found.as_dict() for name, found in evaluations.items()}, last=last,
        adjacent=describe_order(prepared.dataset, prepared.split.train), unsafe=unsafe,
    )  # fmt: skip


def _read_last(files: RunDirectory) -> Probe | None:
    """The look at the weights in force; None of a run of an earlier version, whose looks had other numbers."""
    found = store.read_json(files.probes).get("last") if files.probes.is_file() else None
    try:
        return Probe.from_dict(found) if isinstance(found, dict) else None
    except ValueError:
        return None


def read_unsafe(files: RunDirectory) -> tuple[str, ...]:
    """Names of transforms that were found to change labels, and used."""
    verdicts = store.read_json(files.safety)["verdicts"] if files.safety.is_file() else []
    return tuple(one["name"] for one in verdicts if one["level"] == "unsafe" and one["strength"] is not None)
