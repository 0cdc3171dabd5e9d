"""The pipeline in one sitting: Dataset, split, Preprocess, network, engine, fit, Bundle, evaluation.

`prepare` builds everything, `fit_prepared` trains, `judge` evaluates every split once. It must not know where a run is
kept: that is `run`'s affair.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.augment.presets import Augmentation
from clearsight.bundle.bundle import Bundle
from clearsight.config.rules import check_used
from clearsight.config.schema import RunConfig
from clearsight.core.progress import MeterBuilder, SilentMeter
from clearsight.core.threads import one_blas_thread
from clearsight.data.dataset import Dataset
from clearsight.data.preprocess import Preprocess, fit_preprocess
from clearsight.data.read.load import parse_background
from clearsight.data.split import Rows, Split
from clearsight.engines.dense_engine import Engine
from clearsight.engines.team import Team
from clearsight.errors import DataError, DivergedError, UsageError
from clearsight.evaluation.calibration import conformal_scores, fit_temperature, measure_calibration
from clearsight.evaluation.metrics import Evaluation, evaluate_logits, evaluate_numbers
from clearsight.evaluation.novelty import MOST_KNOWN, remember
from clearsight.models.convnet import ConvNet
from clearsight.models.mlp import MLP
from clearsight.pipeline.build import (
    build_engine,
    build_net,
    build_plan,
    describe_slow_products,
    find_huber,
    first_params,
)
from clearsight.pipeline.cost import measure_cost
from clearsight.pipeline.data import build_split, settle_augmentation
from clearsight.pipeline.head import build_partial, fit_head, settle_penalty
from clearsight.runs import store
from clearsight.training.fit import FitResult, Saved, check_stopping, fit, mean_loss
from clearsight.training.history import History
from clearsight.training.lr_finder import HIGH, LOW, STEPS, RateSearch, find_lr
from clearsight.training.observer import Observer
from clearsight.training.plan import TrainingRows
from clearsight.training.probes import describe_signals
from clearsight.training.schedules import learning_rates

Note = Callable[[str], None]
_SIGNAL_ROWS, _SIGNAL_VALUES = 256, 2**23  # whose way through the layers is measured: rows, values of the largest layer
_WEIGHT_HISTORY_BYTES = 2**30
_MOST_SCORES = 10_000  # of held-out rows that a model remembers


@dataclass(frozen=True, eq=False)
class Prepared:
    """All that a run needs before its first step."""

    config: RunConfig
    dataset: Dataset
    split: Split
    preprocess: Preprocess
    net: MLP | ConvNet
    engine: Engine
    lrs: NDArray[np.float64]
    augmentation: Augmentation
    team: Team
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Run:
    """A run that has ended.

    Args:
        path: its directory, None if it was kept in memory. status: `finished`, `stopped early` or `diverged`.
        epoch: whose weights are in force. bundle: the model. history: of the training.
        train, valid, test: evaluations, None for a split that does not exist.
        next_step: what to try after it, as a sentence; empty for a run in memory.
    """

    config: RunConfig
    path: Path | None
    status: str
    epoch: int
    bundle: Bundle
    history: History
    engine: str
    train: Evaluation
    valid: Evaluation | None
    test: Evaluation | None
    next_step: str = ""

    def __repr__(self) -> str:
        judged = self.test or self.valid or self.train
        place = f"{self.path}: " if self.path else ""
        return f"Run({place}{self.status} at epoch {self.epoch}, {judged!r})"

    def evaluations(self) -> dict[str, Evaluation]:
        """The evaluations that exist, by split."""
        found = {"train": self.train, "valid": self.valid, "test": self.test}
        return {split: evaluation for split, evaluation in found.items() if evaluation}

    def summary(self) -> dict[str, Any]:
        """The object that `train --json` prints; its keys are a contract."""
        seconds = self.history.seconds
        return {
            "run": str(self.path) if self.path else None,
            "bundle": str(self.path / store.MODEL) if self.path else None,
            "report": str(self.path / store.REPORT) if self.path else None,
            "status": self.status,
            "epoch": self.epoch,
            "seed": self.config.train.seed,
            "engine": self.engine,
            "parameters": self.bundle.net.num_parameters,
            "data": self.bundle.data,
            "seconds": seconds,
            "seconds_per_epoch": seconds / max(len(self.history.epochs), 1),
            "next_step": self.next_step or None,
            **{s: e.as_dict() if (e := self.evaluations().get(s)) else None for s in ("train", "valid", "test")},
        }


def prepare(
    config: RunConfig, dataset: Dataset, team: Team | None = None, *, meter: MeterBuilder = SilentMeter,
    announce: Note | None = None, begun: bool = False,
) -> Prepared:  # fmt: skip
    """Split, fit the preprocessing, build network, recipe, schedule and engine.

    Args:
        team: the processes that train together; by default this one alone.
        meter: shows progress while features for a pretrained network are computed.
        announce: is told, before that, what it costs to train more of such a network than its head.
        begun: True for a run that has begun, perhaps under a version that took a choice without effect.

    Raises:
        UsageError: choices that do not go together, or an lr of `auto` that is not found. DataError: data that does not
        allow them.
    """
    train, team = config.train, team or Team()
    if not begun:
        check_used(config)
    split = build_split(config, dataset)
    check_stopping(
        patience=train.patience, monitor=train.monitor, num_valid=len(split.valid), regression=dataset.is_regression
    )
    if dataset.is_regression and (
        train.class_weights != "none" or train.label_smoothing > 0 or train.sampling == "balanced"
    ):
        raise UsageError(
            "class_weights, label_smoothing and sampling must go with classes, got numbers to predict. Leave them out."
        )
    if not dataset.is_regression and len(dataset.class_names) < 2:
        raise DataError(
            f"a classifier must have two or more classes, got {list(dataset.class_names)} in {dataset.name}. "
            "Add pictures of another class."
        )
    preprocess = fit_preprocess(
        dataset, split.train, scaling=config.preprocess.scale, resize=config.preprocess.resize,
        background=parse_background(config.preprocess.background),
    )  # fmt: skip
    outputs = 1 if dataset.is_regression else len(dataset.class_names)
    needed = {"inputs": (config.model.inputs, preprocess.num_inputs), "outputs": (config.model.outputs, outputs)}
    for name, (wanted, got) in needed.items():
        if wanted is not None and wanted != got:
            raise UsageError(
                f"{name} must fit the data, which has {got}, got {wanted}. Correct the layers or the data."
            )
    net = build_net(config, preprocess, outputs=outputs, regression=dataset.is_regression)
    augmentation, notes = settle_augmentation(config, dataset)
    notes += describe_slow_products(config)
    steps = -(-len(split.train) // train.batch_size)
    if train.weight_history and net.num_values * 4 * (train.epochs + 1) > _WEIGHT_HISTORY_BYTES:
        raise UsageError(
            f"weight_history must stay under 1 GiB, got {train.epochs + 1} times {net.num_values:,} weights. "
            "Train fewer epochs or a smaller net."
        )
    schedule: dict[str, Any] = {
        "epochs": train.epochs, "steps_per_epoch": steps, "unit": train.schedule_unit,
        "warmup_epochs": train.warmup_epochs, "step_epochs": train.step_epochs, "step_gamma": train.step_gamma,
    }  # fmt: skip
    lrs = learning_rates(train.schedule, lr=config.lr, **schedule)
    params = first_params(config, net, dataset, split.train, preprocess, meter=meter)
    shared: dict[str, Any] = {"params": params, "meter": meter, "note": notes.append}
    if train.l2 == "auto":
        asked = "l2" in train.model_fields_set
        l2 = settle_penalty(config, net, dataset, split.train, preprocess, asked=asked, **shared)
        config = config.model_copy(update={"train": train.model_copy(update={"l2": l2})})
    if isinstance(net, ConvNet) and config.model.pretrained and config.depth != "head":
        if announce is not None:
            announce(f"this run takes {measure_cost(config, net, dataset, split, preprocess, params=params)}")
        fit_head(config, net, dataset, split.train, preprocess, **shared)
    if config.depth == "all":
        engine = build_engine(config, net, dataset, split, preprocess, augmentation, team, params=params)
    else:
        engine = build_partial(config, net, dataset, split, preprocess, team, **shared)
    prepared = Prepared(config, dataset, split, preprocess, net, engine, lrs, augmentation, team, tuple(notes))
    if train.lr != "auto":
        return prepared
    found = search_rate(prepared)
    if found.suggestion is None:
        raise UsageError(f"lr auto must find a rate, got none, because {found.reason}. Set --lr.")
    config = config.model_copy(update={"train": config.train.model_copy(update={"lr": found.suggestion})})
    text = f"lr {found.suggestion:.3g} found by a batch at each of {len(found.lrs)} rates"
    lrs = learning_rates(train.schedule, lr=config.lr, **schedule)
    return replace(prepared, config=config, lrs=lrs, notes=(*notes, text))


def search_rate(
    prepared: Prepared, *, low: float = LOW, high: float = HIGH, steps: int = STEPS, note: Note = lambda text: None
) -> RateSearch:
    """Look for a learning rate with the very engine and batches of a run, which are afterwards as before; see `find_lr`."""
    train, dataset, rows = prepared.config.train, prepared.dataset, prepared.split.train
    classes = dataset.labels[rows] if train.sampling == "balanced" else None
    with _computing(prepared, note):
        return find_lr(
            prepared.engine, train_rows=rows, batch_size=train.batch_size, seed=train.seed, low=low, high=high, steps=steps,
            shuffle=train.shuffle, classes=classes,
        )  # fmt: skip


def fit_prepared(
    prepared: Prepared,
    *,
    observers: Sequence[Observer] = (),
    checkpoints: Path | None = None,
    resume: bool = False,
    note: Note = lambda text: None,
    restore: Path | None = None,
    start: Saved | None = None,
    pause_epoch: int | None = None,
    validate: bool = True,
) -> FitResult:
    """Run the fit loop on prepared parts; see `fit`. Processes other than the first only read checkpoints, from `restore`.

    Args:
        validate: False leaves the validation rows to the caller, where only the end matters and nothing waits for them.
    """
    train, valid = prepared.config.train, prepared.split.valid
    rows = TrainingRows(
        prepared.dataset.labels, prepared.split.train, valid if validate or train.patience is not None else valid[:0],
        prepared.preprocess.target_mean, prepared.preprocess.target_std, find_huber(prepared.config),
    )  # fmt: skip
    with _computing(prepared, note):
        return fit(
            prepared.engine, rows, build_plan(train, prepared.lrs), observers=observers, checkpoints=checkpoints, resume=resume,
            restore=restore, note=note, team=prepared.team, start=start, pause_epoch=pause_epoch,
        )  # fmt: skip


def measure_signals(prepared: Prepared) -> dict[str, Any]:
    """What goes through the layers with the weights as they are now, on a few training rows; see `describe_signals`."""
    p, rows = prepared.preprocess, prepared.split.train
    net = prepared.net
    count = _SIGNAL_ROWS if isinstance(net, MLP) else max(4, min(_SIGNAL_ROWS, _SIGNAL_VALUES // net.largest_map))
    some = np.sort(np.random.default_rng(0).permutation(rows)[:count])
    labels = prepared.dataset.labels[some]
    with one_blas_thread(), np.errstate(all="ignore"):  # weights may be far off
        outputs = prepared.engine.layer_outputs(some)
        loss = mean_loss(
            list(outputs.values())[-1], labels, mean=p.target_mean, std=p.target_std, huber=find_huber(prepared.config)
        )
        return describe_signals(outputs, labels, loss=loss)


@contextmanager
def _computing(prepared: Prepared, note: Note) -> Iterator[None]:
    """What an engine needs around its work: NumPy's products in one thread, and the kernel compiled."""
    with nullcontext() if prepared.engine.name == "torch" else one_blas_thread():
        if prepared.engine.name == "dense":
            from clearsight.engines.dense.compiling import warm_up

            warm_up(prepared.dataset.images.dtype, note)
        yield


def build_bundle(prepared: Prepared, *, epoch: int, status: str) -> Bundle:
    """The model with the weights now in force."""
    dataset = prepared.dataset
    return Bundle(
        prepared.net, prepared.engine.params(), dataset.class_names, prepared.preprocess,
        data={"name": dataset.name, "fingerprint": dataset.fingerprint},
        training={
            "engine": prepared.engine.name, "seed": prepared.config.train.seed, "epoch": epoch, "status": status,
            **_describe_targets(dataset, prepared.split.train),
        },
    )  # fmt: skip


def _describe_targets(dataset: Dataset, rows: Rows) -> dict[str, float]:
    """The range of the numbers that a regression was trained on."""
    if not dataset.is_regression:
        return {}
    targets = dataset.labels[rows]
    return {"target_low": float(targets.min()), "target_high": float(targets.max())}


def evaluate_outputs(bundle: Bundle, logits: NDArray[np.float32], labels: NDArray[Any], *, split: str) -> Evaluation:
    """Metrics of a model's outputs (n, K) under labels (n,): indices into its classes, or targets."""
    if bundle.class_names:
        found = evaluate_logits(logits, labels, class_names=bundle.class_names, temperature=bundle.temperature)
    else:
        found = evaluate_numbers(bundle.preprocess.restore_targets(logits[:, 0]), labels)
    return replace(found, split=split)


def add_calibration(
    bundle: Bundle, evaluation: Evaluation, logits: NDArray[np.float32], labels: NDArray[Any], *, fitted_here: bool
) -> Evaluation:
    """The same evaluation with whether its confidence is true (see `measure_calibration`); of a regression as it is."""
    if not bundle.class_names or not np.isfinite(logits).all():
        return evaluation
    found = measure_calibration(logits, labels, temperature=bundle.temperature, fitted_here=fitted_here)
    return replace(evaluation, calibration=found)


def settle_source(config: RunConfig, dataset: Dataset) -> dict[str, str]:
    """Where everything came from by full paths, so that a run can go on from elsewhere: settings for `resolve_config`."""
    found = {"start_from": config.model.start_from, "weights": config.model.weights, "relabel": config.data.relabel}
    paths = {name: str(Path(path).expanduser().resolve()) for name, path in found.items() if path is not None}
    return {"source": dataset.origin, **paths}


def judge(
    prepared: Prepared, result: FitResult, *, path: Path | None = None
) -> tuple[Run, dict[str, NDArray[np.float32]]]:
    """Evaluate every split once, by the model as it will be saved; on an accelerator or with others, by the engine.

    Returns the run, and the logits of each split's rows.
    """
    bundle = build_bundle(prepared, epoch=result.epoch, status=result.status)
    dataset, found, logits = prepared.dataset, {}, {}
    apart = prepared.engine.device != "cpu" or prepared.team.size > 1 or prepared.engine.partial
    with one_blas_thread():
        for name, rows in prepared.split.parts().items():
            logits[name] = prepared.engine.logits(rows) if apart else bundle.logits(dataset.images, rows=rows)
        if "valid" in logits and prepared.config.eval.calibrate and prepared.team.rank == 0:
            bundle = _calibrate(bundle, prepared, logits["valid"])
        for name, rows in prepared.split.parts().items():
            found[name] = evaluate_outputs(bundle, logits[name], dataset.labels[rows], split=name)
    last = list(found)[-1]
    truth = dataset.labels[prepared.split.parts()[last]]
    found[last] = add_calibration(bundle, found[last], logits[last], truth, fitted_here=last == "valid")
    run = Run(
        prepared.config, path, result.status, result.epoch, bundle, result.history, prepared.engine.name,
        found["train"], found.get("valid"), found.get("test"),
    )  # fmt: skip
    return run, logits


def _calibrate(bundle: Bundle, prepared: Prepared, logits: NDArray[np.float32]) -> Bundle:
    """The same model with what the validation rows tell: its temperature, and how far held-out pictures are from others."""
    dataset, split = prepared.dataset, prepared.split
    if not (np.isfinite(bundle.params).all() and np.isfinite(logits).all()):
        return bundle
    changes: dict[str, Any] = {}
    if bundle.class_names:
        labels = dataset.labels[split.valid]
        temperature = fit_temperature(logits, labels)
        scores = conformal_scores(logits, labels, temperature=temperature)
        changes = {"temperature": temperature, "scores": scores[::-1][:: -(-len(scores) // _MOST_SCORES)][::-1]}
    rng = np.random.default_rng([prepared.config.train.seed, 0xFA])
    training, held_out = (rng.permutation(rows)[:MOST_KNOWN] for rows in (split.train, split.valid))
    kept = prepared.engine.features
    found = [
        bundle.features(dataset.images, rows=rows) if kept is None else kept[rows].reshape(len(rows), -1)
        for rows in (training, held_out)
    ]
    known = remember(*found) if all(np.isfinite(values).all() for values in found) else None
    return replace(bundle, known=known, **changes)


def train_dataset(config: RunConfig, dataset: Dataset) -> Run:
    """Train and evaluate in memory: no run directory, no progress.

    Raises:
        UsageError, DataError: see `prepare`. DivergedError: the loss became NaN.
    """
    prepared = prepare(config, dataset)
    result = fit_prepared(prepared)
    run, _ = judge(prepared, result)
    if result.problem:
        raise DivergedError(result.problem, run)
    return run
