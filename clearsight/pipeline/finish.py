"""What a run leaves behind: every split judged once, the model, tables, what a report shows. It must not know how runs begin."""

import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.config.build import build_config
from clearsight.config.files import merge
from clearsight.config.rules import check_used
from clearsight.config.schema import RunConfig
from clearsight.core.files import write_durably
from clearsight.data.duplicates import hash_rows
from clearsight.data.photographs import describe_photographs
from clearsight.data.split import Rows
from clearsight.diagnose.examine import examine
from clearsight.diagnose.next_step import Ended, NextStep, find_next_step
from clearsight.errors import RunError, UsageError
from clearsight.evaluation.metrics import Evaluation, worst_mistakes
from clearsight.pipeline.case import build_run_case, read_unsafe
from clearsight.pipeline.choice import has_weights
from clearsight.pipeline.judge import Run, judge
from clearsight.pipeline.prepare import Prepared, probe_prepared
from clearsight.runs import store
from clearsight.runs.directory import RunDirectory
from clearsight.training.fit import FitResult

_PARITY_ROWS = 5000
_READING = ("label_column", "task", "relabel", "skip_bad", "follow_links", "max_megapixels")


def finish_run(path: Path, prepared: Prepared, result: FitResult) -> Run:
    """Evaluate every split once, and write model, metrics and history."""
    run, logits = judge(prepared, result, path=path)
    run = replace(run, next_step=advise(prepared, run).text)
    dataset, parts = prepared.dataset, prepared.split.parts()
    judged = next(name for name in ("test", "valid", "train") if name in parts)
    mistakes, shown = _collect_mistakes(prepared, judged, parts[judged], logits[judged], run.bundle.temperature)
    files = RunDirectory(path)
    looked, last = result.history.probes, probe_prepared(prepared)
    run = replace(
        run,
        findings=tuple(
            examine(build_run_case(prepared, result, run.evaluations(), last=last, unsafe=read_unsafe(files)))
        ),
    )
    probes = {"first": looked[0][1].as_dict()} if looked else {}  # a run of an earlier version has none
    store.write_json(files.probes, probes | {"last": last.as_dict()})
    if result.history.weights:
        shown["weights"] = np.stack(result.history.weights)
    try:
        run.bundle.save(files.model, examples=dataset.images[parts[judged][:3]])
        _save_arrays(files.shown, shown)
        seen = np.concatenate([prepared.split.train, prepared.split.valid])
        _save_arrays(files.seen, {"hashes": hash_rows(dataset.images)[seen]})
    except OSError as error:
        raise RunError(f"{path} must be writable, got: {error.strerror}. Free space, then use --resume.") from None
    store.write_text(files.epochs, result.history.render_epochs_csv())
    store.write_text(files.steps, result.history.render_steps_csv())
    where = ("run", "bundle", "report")  # a run directory may be moved
    summary = {key: value for key, value in run.summary().items() if key not in where}
    metrics = summary | {"mistakes_split": judged, "mistakes": mistakes, "unused": len(prepared.split.unused)}
    store.write_json(files.metrics, metrics)
    return run


def advise(prepared: Prepared, run: Run) -> NextStep:
    """What to try after a run that has a directory."""
    config, dataset, evaluations = prepared.config, prepared.dataset, run.evaluations()
    judged = list(evaluations)[-1]
    of, train = evaluations[judged], evaluations["train"]
    photographs = (
        "" if config.model.pretrained else describe_photographs(dataset.facts, classes=len(dataset.class_names))
    )
    losses = run.history.column("valid_loss")
    ended = Ended(
        run.status, judged, hits=_count_hits(of), n=of.n, train_hits=_count_hits(train), train_n=train.n,
        majority=0.0 if of.confusion is None else float(of.confusion.sum(axis=1).max() / of.n), epochs=config.train.epochs,
        lr=config.lr, valid_losses=tuple(losses), valid_n=len(prepared.split.valid), r2=of.r2,
        hidden=config.hidden if config.network.dense else (), photographs=photographs,
        weights_here=bool(photographs) and has_weights(), head=config.model.pretrained and config.depth == "head",
        varied=bool(prepared.augmentation.active()), pictures=dataset.picture_shape[0] > 1, colour=dataset.picture_shape[2] == 3,
        dropout=config.train.dropout, data="" if dataset.origin == "arrays" else shlex.quote(config.data.source),
        reading=_write_reading(config), run=shlex.quote(str(run.path)),
    )  # fmt: skip
    return find_next_step(ended, accepts=partial(_accepts, config))


def _write_reading(config: RunConfig) -> str:
    """The flags that say how the data of a run is read, each after a space."""
    data, usual = config.data, type(config.data).model_fields
    changed = [(key, getattr(data, key)) for key in _READING if getattr(data, key) != usual[key].default]
    words = [(key, str(value).lower() if isinstance(value, bool) else value) for key, value in changed]
    return "".join(f" --set {shlex.quote(f'data.{key}={value}')}" for key, value in words)


def _count_hits(of: Evaluation) -> int:
    return 0 if of.accuracy is None else round(of.accuracy * of.n)


def _accepts(config: RunConfig, settings: dict[str, Any]) -> bool:
    """Whether a command with the settings of a run and some others would begin."""
    try:
        check_used(build_config(merge(config.model_dump(exclude_unset=True), settings)))
    except UsageError:
        return False
    return True


def _collect_mistakes(
    prepared: Prepared, split: str, rows: Rows, logits: NDArray[np.float32], temperature: float
) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    dataset = prepared.dataset
    if dataset.is_regression:
        some = np.random.default_rng(0).permutation(len(rows))[:_PARITY_ROWS]
        answers = prepared.preprocess.restore_targets(logits[some, 0])
        return [], {"parity": np.stack([dataset.labels[rows[some]], answers]).astype(np.float32)}
    worst = worst_mistakes(logits / temperature, dataset.labels[rows], count=prepared.config.eval.mistakes)
    found = [
        {
            "row": dataset.row_name(int(rows[at])),
            "true": dataset.class_names[dataset.labels[rows[at]]],
            "answer": dataset.class_names[answer],
            "loss": loss,
        }
        for at, answer, loss in worst
    ]
    return found, {"mistakes": dataset.images[rows[[at for at, _, _ in worst]]]} if worst else {}


def _save_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    from safetensors.numpy import save

    write_durably(path, save({k: np.ascontiguousarray(v) for k, v in arrays.items()}))


def collect_numbers(run: Run) -> dict[str, float]:
    """What was measured at the end, by names such as `test/accuracy`."""
    found = {}
    for split, judged in run.evaluations().items():
        for name in ("accuracy", "loss", "mae", "r2"):
            value = getattr(judged, name)
            if value is not None:
                found[f"final/{split}_{name}"] = float(value)
    return found
