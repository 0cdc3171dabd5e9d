"""The pipeline in one sitting: Dataset, split, Preprocess, network, engine, fit, Bundle, evaluation.

`prepare` builds everything, `fit_prepared` trains, `judge` evaluates every split once. It must not know where a run is
kept: that is `run`'s affair.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clearsight.augment.presets import Augmentation
from clearsight.config.rules import check_used
from clearsight.config.schema import RunConfig
from clearsight.core.progress import MeterBuilder, Note, SilentMeter
from clearsight.core.threads import one_blas_thread
from clearsight.data.dataset import Dataset
from clearsight.data.preprocess import Preprocess, fit_preprocess
from clearsight.data.read.load import parse_background
from clearsight.data.split import Rows, Split
from clearsight.engines.base import Engine
from clearsight.engines.probe import Probe
from clearsight.engines.team import Team
from clearsight.errors import DataError, UsageError
from clearsight.models.convnet import ConvNet
from clearsight.models.mlp import MLP
from clearsight.pipeline.build import (
    build_engine,
    build_net,
    build_plan,
    build_rates,
    describe_slow_products,
    find_huber,
    first_params,
)
from clearsight.pipeline.cost import measure_cost
from clearsight.pipeline.data import build_split, resolve_augmentation
from clearsight.pipeline.head import HeadTrainer
from clearsight.pipeline.probe import choose_probe_rows
from clearsight.training.fit import FitResult, Saved, check_stopping, fit, restore_best
from clearsight.training.lr_finder import HIGH, LOW, STEPS, RateSearch, find_lr
from clearsight.training.observer import Observer
from clearsight.training.plan import TrainingRows
from clearsight.training.probing import find_probe_steps
from clearsight.training.stop import StopRequest

_WEIGHT_HISTORY_BYTES = 2**30


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
    _check_fits(config, dataset, split)
    preprocess = fit_preprocess(
        dataset, split.train, scaling=config.preprocess.scale, resize=config.preprocess.resize,
        background=parse_background(config.preprocess.background),
    )  # fmt: skip
    net = _build_fitting_net(config, dataset, preprocess)
    augmentation, notes = resolve_augmentation(config, dataset)
    notes += describe_slow_products(config)
    params = first_params(config, net, dataset, split.train, preprocess, meter=meter)
    head = HeadTrainer(net, params, dataset, preprocess, meter, notes.append) if isinstance(net, ConvNet) else None
    if train.l2 == "auto" and head:
        l2 = head.resolve_penalty(config, split.train, asked="l2" in train.model_fields_set)
        config = config.change("train", l2=l2)
    if head and config.model.pretrained and config.depth != "head":
        if announce is not None:
            announce(f"this run takes {measure_cost(config, head.net, dataset, split, preprocess, params=params)}")
        head.fit_head(config, split.train)
    if config.depth == "all" or head is None:
        engine = build_engine(config, net, dataset, split, preprocess, augmentation, team, params=params)
    else:
        engine = head.build_engine(config, split, team)
    lrs = build_rates(config, len(split.train))
    prepared = Prepared(config, dataset, split, preprocess, net, engine, lrs, augmentation, team, tuple(notes))
    return _resolve_rate(prepared) if train.lr == "auto" else prepared


def _check_fits(config: RunConfig, dataset: Dataset, split: Split) -> None:
    """Refuse choices that the data does not allow.

    Raises:
        UsageError: so. DataError: there is one class only.
    """
    train = config.train
    check_stopping(
        patience=train.patience, monitor=train.monitor, num_valid=len(split.valid), regression=dataset.is_regression
    )
    weighs = train.class_weights != "none" or train.label_smoothing > 0 or train.sampling == "balanced"
    if dataset.is_regression and weighs:
        raise UsageError(
            "class_weights, label_smoothing and sampling must go with classes, got numbers to predict. Leave them out."
        )
    if not dataset.is_regression and len(dataset.class_names) < 2:
        raise DataError(
            f"a classifier must have two or more classes, got {list(dataset.class_names)} in {dataset.name}. "
            "Add pictures of another class."
        )


def _build_fitting_net(config: RunConfig, dataset: Dataset, preprocess: Preprocess) -> MLP | ConvNet:
    """The network, whose ends fit the data.

    Raises:
        UsageError: its ends were said to be others, or a history of its weights would be too large.
    """
    outputs = 1 if dataset.is_regression else len(dataset.class_names)
    needed = {"inputs": (config.model.inputs, preprocess.num_inputs), "outputs": (config.model.outputs, outputs)}
    for name, (wanted, got) in needed.items():
        if wanted is not None and wanted != got:
            raise UsageError(
                f"{name} must fit the data, which has {got}, got {wanted}. Correct the layers or the data."
            )
    net = build_net(config, preprocess, outputs=outputs, regression=dataset.is_regression)
    kept = config.train.epochs + 1 if config.train.weight_history else 0
    if net.num_values * 4 * kept > _WEIGHT_HISTORY_BYTES:
        raise UsageError(
            f"weight_history must stay under 1 GiB, got {kept} times {net.num_values:,} weights. "
            "Train fewer epochs or a smaller net."
        )
    return net


def _resolve_rate(prepared: Prepared) -> Prepared:
    """With a learning rate that was looked for.

    Raises:
        UsageError: none was found.
    """
    config, found = prepared.config, search_rate(prepared)
    if found.suggestion is None:
        raise UsageError(f"lr auto must find a rate, got none, because {found.reason}. Set train.lr.")
    config = config.change("train", lr=found.suggestion)
    text = f"lr {found.suggestion:.3g} found by a batch at each of {len(found.lrs)} rates"
    return replace(
        prepared, config=config, lrs=build_rates(config, len(prepared.split.train)), notes=(*prepared.notes, text)
    )


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
    probe: bool = False,
    stop: StopRequest | None = None,
) -> FitResult:
    """Run the fit loop on prepared parts; see `fit`. Processes other than the first only read checkpoints, from `restore`.

    Args:
        validate: False leaves the validation rows to the caller, where only the end matters and nothing waits for them.
        probe: look inside the network on the way, which changes nothing of it; see `find_probe_steps`.
    """
    train, valid = prepared.config.train, prepared.split.valid
    rows = TrainingRows(
        prepared.dataset.labels, prepared.split.train, valid if validate or train.patience is not None else valid[:0],
        prepared.preprocess.target_mean, prepared.preprocess.target_std, find_huber(prepared.config),
    )  # fmt: skip
    plan = build_plan(train, prepared.lrs)
    if probe:
        some, steps = find_probe_rows(prepared), -(-len(rows.train) // plan.batch_size)
        when = find_probe_steps(epochs=plan.epochs, steps=steps, rows=len(rows.train), n=len(some))
        plan = replace(plan, probe_rows=some, probe_steps=when)
    with _computing(prepared, note):
        return fit(
            prepared.engine, rows, plan, observers=observers, checkpoints=checkpoints, resume=resume,
            restore=restore, note=note, team=prepared.team, start=start, pause_epoch=pause_epoch, stop=stop,
        )  # fmt: skip


def find_probe_rows(prepared: Prepared) -> Rows:
    """See `choose_probe_rows`."""
    return choose_probe_rows(prepared.config, prepared.net, prepared.engine, prepared.split.train)


def probe_prepared(prepared: Prepared) -> Probe:
    """A look inside the network as it is now, without a trial step."""
    with one_blas_thread(), np.errstate(all="ignore"):  # weights may be far off
        return prepared.engine.probe(find_probe_rows(prepared))


def restore_prepared(prepared: Prepared, *, checkpoints: Path, note: Note = lambda text: None) -> FitResult:
    """The best weights of a training that was stopped, in force; see `restore_best`."""
    steps = -(-len(prepared.split.train) // prepared.config.train.batch_size)
    return restore_best(prepared.engine, steps_per_epoch=steps, checkpoints=checkpoints, note=note)


@contextmanager
def _computing(prepared: Prepared, note: Note) -> Iterator[None]:
    """What an engine needs around its work: NumPy's products in one thread, and the kernel compiled."""
    with nullcontext() if prepared.engine.name == "torch" else one_blas_thread():
        if prepared.engine.name == "dense":
            from clearsight.engines.dense.compiling import warm_up

            warm_up(prepared.dataset.images.dtype, note)
        yield


def resolve_source(config: RunConfig, dataset: Dataset) -> dict[str, str]:
    """Where everything came from by full paths, so that a run can go on from elsewhere: settings for `resolve_config`."""
    found = {"start_from": config.model.start_from, "weights": config.model.weights, "relabel": config.data.relabel}
    paths = {name: str(Path(path).expanduser().resolve()) for name, path in found.items() if path is not None}
    return {"source": dataset.origin, **paths}
