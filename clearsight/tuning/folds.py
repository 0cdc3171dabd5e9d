"""Cross-validation with its directory: what `clearsight cv` and `clearsight.cross_validate` call.

Each fold is a run of its own configuration (`data.folds`, `data.fold`), so that `train` can repeat it. The test split is left
alone.
"""

import csv
import io
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight import store
from clearsight.config import RunConfig, check_used
from clearsight.durable import write_durably
from clearsight.errors import RunError, UsageError
from clearsight.intake import build_split, load_given, refuse_flaws, refuse_place, refuse_unsafe
from clearsight.meter import build_meter
from clearsight.pipeline import Note, resolve_config
from clearsight.settings import merge, render_toml
from clearsight.tuning.executors import check_executor, open_pool
from clearsight.tuning.jobs import Job, Outcome, choose_metric, note_patience
from clearsight.tuning.search import find_interval

RECORD, TABLE, OUTPUTS = "cv.json", "folds.csv", "out-of-fold.safetensors"


@dataclass(frozen=True)
class Fold:
    """One run: trained on `num_train` rows, judged on the `n` others."""

    repeat: int
    fold: int
    status: str
    n: int
    num_train: int
    epoch: int
    seconds: float
    metrics: dict[str, float]


@dataclass(frozen=True, eq=False)
class CrossValidated:
    """A cross-validation that has ended.

    Args:
        path: its directory. folds: one a run, by repeat and fold. metric: what `mean` is of.
        mean: over all runs. low, high: its 95 % interval, corrected for training rows that folds share (Nadeau & Bengio 2003).
        rows: (n,) rows of the data set that were in some fold. outputs: (repeats, n, K) float32 outputs for each row by the model
            that had not seen it. labels: (n,) their classes, or targets.
    """

    path: Path
    folds: list[Fold]
    metric: str
    mean: float
    low: float | None
    high: float | None
    rows: NDArray[np.int64]
    outputs: NDArray[np.float32]
    labels: NDArray[Any]

    def summary(self) -> dict[str, Any]:
        """The object that `cv --json` prints; its keys are a contract."""
        return {
            "cv": str(self.path), "metric": self.metric, "mean": self.mean, "interval": [self.low, self.high],
            "n": len(self.rows), "folds": [asdict(fold) for fold in self.folds], "outputs": str(self.path / OUTPUTS),
        }  # fmt: skip


def cross_validate(
    data: Any = None,
    labels: Any = None,
    *,
    config: RunConfig | str | Path | dict[str, Any] | None = None,
    folds: int = 5,
    repeats: int = 1,
    metric: str | None = None,
    workers: int | None = None,
    executor: str = "auto",
    out: str | Path | None = None,
    root: str | Path = "runs",
    quiet: bool = True,
    note: Note = lambda text: None,
    **settings: Any,
) -> CrossValidated:
    """Train on all folds but one, judge on that one, in turn; repeats draw the folds anew. Stratified; see `fold_training`.

    Args:
        data, labels, config, settings: as for `train`. Rows of the test split are in no fold; `test_fraction=0` leaves none out.
        metric: `accuracy`, `loss` or `mae`. workers, executor: see `open_pool`. out, root: as for `train`.

    Raises:
        UsageError, DataError, RunError: see there.
    """
    check_executor(executor, workers)
    if repeats < 1:
        raise UsageError(f"--repeats must be 1 or more, got {repeats}. Leave it out for one.")
    if isinstance(data, str | Path):
        settings = {"source": str(data), **settings}
    resolved = resolve_config(config, {**settings, "folds": folds})
    if repeats > 1 and not resolved.data.shuffle_split:
        raise UsageError(
            f"--repeats must be 1 without data.shuffle_split, got {repeats}: all would be alike. Leave it out."
        )
    dataset = load_given(resolved, data, labels, meter=build_meter(quiet=quiet))
    resolved = resolve_config(resolved, {"source": dataset.origin})
    refuse_place(out if out is not None else root, dataset)
    wanted = choose_metric(resolved, dataset, metric)
    check_used(resolved)
    for text in dataset.notes:
        note(text)
    refuse_flaws(resolved, dataset, note=note)
    refuse_unsafe(resolved, dataset, note=note, meter=build_meter(quiet=quiet))
    note_patience([resolved], note)
    if left := len(build_split(resolved, dataset).test):
        note(f"{left:,} rows are left for test and are in no fold; --set data.test_fraction=0 takes what it can in")
    base = resolved.model_dump(exclude_unset=True)
    first = resolved.data.fold_seed
    jobs = {
        repeat * folds + fold: Job(
            merge(base, {"data": {"fold": fold, "fold_seed": first + repeat}}), keep_outputs=True
        )
        for repeat in range(repeats)
        for fold in range(folds)
    }  # fmt: skip
    path = store.create_run(Path(root), data=dataset.name, model="cv", out=Path(out) if out else None)
    began, found = time.strftime("%Y-%m-%dT%H:%M:%S"), {}
    with (
        open_pool(dataset, [resolved], executor=executor, workers=workers) as pool,
        build_meter(quiet=quiet)("cross-validating", len(jobs), unit="runs") as advance,
    ):
        for number, outcome in pool.run(jobs):
            found[number] = outcome
            advance(1)
    outcomes = [found[number] for number in sorted(found)]
    result = _collect(path, outcomes, dataset.labels, folds=folds, repeats=repeats, metric=wanted)
    _write(path, result, resolved, {"created": began, "fingerprint": dataset.fingerprint})
    return result


def _collect(
    path: Path, outcomes: list[Outcome], labels: NDArray[Any], *, folds: int, repeats: int, metric: str
) -> CrossValidated:
    table = [
        Fold(k // folds, k % folds, one.status, one.n, one.num_train, one.epoch, one.seconds, one.metrics)
        for k, one in enumerate(outcomes)
    ]
    values = tuple(one.metrics[metric] for one in outcomes)
    low, high = find_interval(outcomes, metric)
    judged = [(one.rows, one.outputs) for one in outcomes if one.rows is not None and one.outputs is not None]
    rows = np.unique(np.concatenate([rows for rows, _ in judged]))
    outputs = np.full((repeats, len(rows), judged[0][1].shape[1]), np.nan, np.float32)
    for k, (own, values_of) in enumerate(judged):
        outputs[k // folds, np.searchsorted(rows, own)] = values_of
    return CrossValidated(path, table, metric, float(np.mean(values)), low, high, rows, outputs, labels[rows])


def _write(path: Path, result: CrossValidated, config: RunConfig, about: dict[str, Any]) -> None:
    from safetensors.numpy import save

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = list(result.folds[0].metrics)
    writer.writerow(["repeat", "fold", "status", "n", "num_train", "epoch", "seconds", *names])
    for fold in result.folds:
        head = [fold.repeat, fold.fold, fold.status, fold.n, fold.num_train, fold.epoch, round(fold.seconds, 3)]
        writer.writerow([*head, *(fold.metrics[name] for name in names)])
    store.write_text(path / store.CONFIG, render_toml(config))
    store.write_text(path / TABLE, out.getvalue())
    try:
        write_durably(path / OUTPUTS, save({"rows": result.rows, "outputs": result.outputs, "labels": result.labels}))
    except OSError as error:
        raise RunError(f"{path / OUTPUTS} must be writable, got: {error.strerror}. Free space.") from None
    store.write_json(path / RECORD, about | result.summary())
