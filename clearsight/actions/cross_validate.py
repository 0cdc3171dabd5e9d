"""Cross-validation with its directory: what `clearsight cv` and `clearsight.cross_validate` call.

Each fold is a run of its own configuration (`data.folds`, `data.fold`), so that `train` can repeat it, and is on disk before the
next is counted. All rows are in the folds but a test split that came with the data or was asked for.
"""

import csv
import io
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from clearsight.actions.opening import open_directory
from clearsight.config.build import build_config
from clearsight.config.files import check_count, merge
from clearsight.config.resolve import name_source, resolve_config
from clearsight.config.rules import check_used
from clearsight.config.schema import RunConfig
from clearsight.core.files import write_durably
from clearsight.core.progress import Note, build_meter
from clearsight.data.dataset import TEST, Dataset
from clearsight.data.split import Rows
from clearsight.errors import DivergedError, Interrupted, RunError, UsageError
from clearsight.pipeline.choice import resolve_family
from clearsight.pipeline.data import build_split, find_unused, load_again, load_given, refuse_flaws, refuse_place
from clearsight.pipeline.head import check_weights, find_weights_hash, warm_features
from clearsight.pipeline.prepare import resolve_source
from clearsight.pipeline.safety import refuse_unsafe
from clearsight.runs import store
from clearsight.runs.corrections import keep_corrections, use_own_corrections
from clearsight.search.executors import check_executor, open_pool
from clearsight.search.jobs import Job, Outcome, choose_metric, note_patience
from clearsight.search.loop import find_interval

RECORD, TABLE, OUTPUTS, FOLDS = "cv.json", "folds.csv", "out-of-fold.safetensors", "folds"


@dataclass(frozen=True)
class _Plan:
    folds: int
    repeats: int
    metric: str


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
            that had not seen it. labels: (n,) their classes, or targets. judged: the rows of each run.
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
    judged: tuple[NDArray[np.int64], ...]

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
    resume: str | Path | None = None,
    quiet: bool = True,
    note: Note = lambda text: None,
    **settings: Any,
) -> CrossValidated:
    """Train on all folds but one, judge on that one, in turn; repeats draw the folds anew. Stratified; see `fold_training`.

    Args:
        data, labels, config, settings: as for `train`. No test split is drawn unless `test_fraction` is set;
            one that came with the data is in no fold unless `pool=True`.
        metric: `accuracy`, `loss` or `mae`. workers, executor: see `open_pool`. out, root: as for `train`.
        resume: the directory of a cross-validation to go on with, or `last`; everything else but how to compute is taken from it.

    Raises:
        UsageError, DataError, RunError: see there.
    """
    check_executor(executor, workers)
    way = _Way(executor, workers, quiet, note)
    if resume is not None:
        if any(value not in (None, {}) for value in (config, metric, out, settings)) or folds != 5 or repeats != 1:
            raise UsageError("--resume must stand alone but for how to compute, got more. Leave that out.")
        return _resume(store.find_directory(str(resume), Path(root), RECORD), data, labels, way)
    check_count("--folds", folds, least=2)
    check_count("--repeats", repeats)
    settings = name_source(data, settings)
    resolved = resolve_config(config, {**settings, "folds": folds})
    asked = resolved
    if "test_fraction" not in resolved.data.model_fields_set:
        resolved = resolve_config(resolved, {"test_fraction": 0.0})
    if repeats > 1 and not resolved.data.shuffle_split:
        raise UsageError(
            f"--repeats must be 1 without data.shuffle_split, got {repeats}: all would be alike. Leave it out."
        )
    resolved = resolve_family(resolved, data, note=note, meter=build_meter(quiet=quiet))
    dataset = load_given(resolved, data, labels, meter=build_meter(quiet=quiet))
    resolved = resolve_config(resolved, resolve_source(resolved, dataset))
    refuse_place(out if out is not None else root, dataset.origin)
    plan = _Plan(folds, repeats, choose_metric(resolved, dataset, metric))
    check_used(resolved)
    for text in (*dataset.notes, *find_unused(asked, dataset, data)):
        note(text)
    refuse_flaws(resolved, dataset, note=note)
    refuse_unsafe(resolved, dataset, note=note, meter=build_meter(quiet=quiet))
    note_patience([resolved], note)
    note(_tell_rows(dataset, test=build_split(resolved, dataset).test))
    about = {
        "created": time.strftime("%Y-%m-%dT%H:%M:%S"), "fingerprint": dataset.fingerprint, "plan": asdict(plan),
        "weights": find_weights_hash(resolved), "relabelled": dataset.relabelled,
        "config": resolved.model_dump(mode="json", exclude_unset=True),
    }  # fmt: skip
    with open_directory(resolved, data=dataset.name, kind="cv", out=out, root=root, record=RECORD, about=about) as path:
        keep_corrections(path, resolved, dataset.relabelled)
        return _run_folds(path, dataset, resolved, plan, way)


def _tell_rows(dataset: Dataset, *, test: Rows) -> str:
    """Which rows the folds are made of."""
    if len(test) == 0:
        return f"all {len(dataset):,} pictures are in the folds; --set data.test_fraction=0.2 keeps a test split out of them"
    came = bool((dataset.given[test] == TEST).all())
    way = "came with the data; --set data.pool=true takes them in" if came else "were asked for by data.test_fraction"
    return f"{len(test):,} test pictures are in no fold, as they {way}"


@dataclass(frozen=True)
class _Way:
    """How to compute, which changes nothing that is found."""

    executor: str
    workers: int | None
    quiet: bool
    note: Note


def _resume(path: Path, data: Any, labels: Any, way: _Way) -> CrossValidated:
    with store.lock_run(path):
        record = store.read_json(path / RECORD)
        try:
            config, plan = build_config(record["config"]), TypeAdapter(_Plan).validate_python(record["plan"])
        except (KeyError, TypeError, ValueError, UsageError) as error:
            raise RunError(f"{path / RECORD} must be as it was written, got damage ({error}). Start anew.") from None
        meter = build_meter(quiet=way.quiet)
        own = use_own_corrections(path, config, record.get("relabelled"))
        dataset = load_again(own, data, labels, fingerprint=record.get("fingerprint"), meter=meter)
        check_weights(record.get("weights"), config)
        return _run_folds(path, dataset, config, plan, way)


def _run_folds(path: Path, dataset: Dataset, config: RunConfig, plan: _Plan, way: _Way) -> CrossValidated:
    """What is still to do in a directory that the caller has locked; then everything together."""
    base, first = config.model_dump(exclude_unset=True), config.data.fold_seed
    jobs = {
        repeat * plan.folds + fold: Job(
            merge(base, {"data": {"fold": fold, "fold_seed": first + repeat}}), keep_outputs=True
        )
        for repeat in range(plan.repeats)
        for fold in range(plan.folds)
    }  # fmt: skip
    found = {number: one for number, job in jobs.items() if (one := _read_fold(path, number, job, dataset)) is not None}
    left = {number: job for number, job in jobs.items() if number not in found}
    with _telling_how_to_go_on(path, way.note), _leaving_nothing(path):
        if left:
            meter = build_meter(quiet=way.quiet)
            warm_features(config, dataset, meter=meter, note=way.note, runs=len(left))
            with (
                open_pool(dataset, [config], executor=way.executor, workers=way.workers) as pool,
                build_meter(quiet=way.quiet)("cross-validating", len(jobs), unit="runs") as advance,
            ):
                advance(len(found))
                for number, outcome in pool.run(left):
                    _write_fold(path, number, outcome)
                    found[number] = outcome
                    advance(1)
        diverged = [number for number, one in found.items() if one.status == "diverged"]
        if len(diverged) == len(jobs):
            raise DivergedError("folds must have finite losses, got none in any. Try a tenth of the learning rate.")
        if diverged:
            way.note(f"{len(diverged)} of {len(jobs)} runs diverged and count with the weights they had before")
        result = _collect(path, [found[number] for number in sorted(found)], dataset.labels, plan)
        _write(path, result)
    return result


@contextmanager
def _leaving_nothing(path: Path) -> Iterator[None]:
    """Where not even one fold could begin, the same place may be named again."""
    try:
        yield
    except UsageError:
        if not (path / FOLDS).exists():
            shutil.rmtree(path, ignore_errors=True)
        raise


@contextmanager
def _telling_how_to_go_on(path: Path, note: Note) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, Interrupted):
        note(f"the folds that are done are saved; go on with `clearsight cv --resume {path}`")
        raise


def _fold_file(path: Path, number: int) -> Path:
    return path / FOLDS / f"{number:04d}.safetensors"


def _write_fold(path: Path, number: int, outcome: Outcome) -> None:
    from safetensors.numpy import save

    plain = {item.name: getattr(outcome, item.name) for item in fields(outcome) if item.name not in _ARRAYS}
    arrays = {name: getattr(outcome, name) for name in ("rows", "outputs") if getattr(outcome, name) is not None}
    file = _fold_file(path, number)
    try:
        file.parent.mkdir(exist_ok=True)
        write_durably(file, save(arrays, metadata={"outcome": json.dumps(plain)}))
    except OSError as error:
        raise RunError(
            f"{file} must be writable, got: {error.strerror}. Free space, then use --resume {path}."
        ) from None


_ARRAYS = ("rows", "outputs", "saved")


def _read_fold(path: Path, number: int, job: Job, dataset: Dataset) -> Outcome | None:
    """A fold that was done before; None where there is none, or a file that is damaged or of another fold."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(_fold_file(path, number), framework="numpy") as file:
            plain, arrays = json.loads(file.metadata()["outcome"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        found = Outcome(**plain, **arrays)
        same = np.array_equal(arrays["rows"], build_split(build_config(job.settings), dataset).valid)
        return found if same and len(arrays["outputs"]) == found.n else None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def _collect(path: Path, outcomes: list[Outcome], labels: NDArray[Any], plan: _Plan) -> CrossValidated:
    folds, repeats, metric = plan.folds, plan.repeats, plan.metric
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
    return CrossValidated(
        path,
        table,
        metric,
        float(np.mean(values)),
        low,
        high,
        rows,
        outputs,
        labels[rows],
        tuple(own for own, _ in judged),
    )


def _write(path: Path, result: CrossValidated) -> None:
    from safetensors.numpy import save

    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = list(result.folds[0].metrics)
    writer.writerow(["repeat", "fold", "status", "n", "num_train", "epoch", "seconds", *names])
    for fold in result.folds:
        head = [fold.repeat, fold.fold, fold.status, fold.n, fold.num_train, fold.epoch, round(fold.seconds, 3)]
        writer.writerow([*head, *(fold.metrics[name] for name in names)])
    store.write_text(path / TABLE, out.getvalue())
    try:
        write_durably(path / OUTPUTS, save({"rows": result.rows, "outputs": result.outputs, "labels": result.labels}))
    except OSError as error:
        raise RunError(f"{path / OUTPUTS} must be writable, got: {error.strerror}. Free space.") from None
    store.write_json(path / RECORD, store.read_json(path / RECORD) | result.summary())
