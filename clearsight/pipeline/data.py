"""From a configuration to sound data: read, checked, split, and the augmentation that it allows.

It must not know networks or training.
"""

from pathlib import Path
from typing import Any

import numpy as np

from clearsight.augment.presets import MOVING, Augmentation, build_augmentation
from clearsight.config.rules import is_chosen, leave_out
from clearsight.config.schema import RunConfig
from clearsight.core.flaws import Flaw
from clearsight.core.progress import MeterBuilder, Note, SilentMeter
from clearsight.data.check import NEAR_ROWS_BEFORE_TRAINING, check_dataset
from clearsight.data.clean import drop_flawed
from clearsight.data.dataset import Dataset
from clearsight.data.read.load import load_data
from clearsight.data.relabel import hash_corrections, relabel
from clearsight.data.split import Split, fold_training, split_data, thin_training
from clearsight.errors import DataError, UsageError

_SHOWN_FILES = 3
DATASET_KEYS = (
    "data.source", "data.task", "data.label_column", "data.skip_bad", "data.follow_links", "data.max_megapixels", "data.relabel",
    "preprocess.image_size",
    "preprocess.resize", "preprocess.channels", "preprocess.background",
)  # fmt: skip
"""Settings that decide which pictures and labels there are."""
_DRAWING = ("valid_fraction", "test_fraction", "shuffle_split", "pool", "split_seed", "fold_seed", "group_by")


def load_dataset(
    config: RunConfig, data: Any = None, labels: Any = None, *, meter: MeterBuilder = SilentMeter
) -> Dataset:
    """The data set that a configuration means: read as it says and, with `skip_bad`, without flawed rows.

    Args:
        data: a name, path, array or `Dataset` in place of `config.data.source`. labels: of an array.
        meter: shows progress.

    Raises:
        UsageError, DataError: see `load_data`.
    """
    dataset = _read_source(config, data, labels, skip_bad=config.data.skip_bad, meter=meter)
    dataset = drop_flawed(dataset) if config.data.skip_bad else dataset
    if config.data.relabel is None:
        return dataset
    path = Path(config.data.relabel).expanduser()
    already = dataset.relabelled and dataset.relabelled == hash_corrections(path)
    return dataset if already else relabel(dataset, path)


def _read_source(config: RunConfig, data: Any, labels: Any, *, skip_bad: bool, meter: MeterBuilder) -> Dataset:
    wanted = config.preprocess
    return load_data(
        config.data.source if data is None else data, labels, label_column=config.data.label_column, task=config.data.task,
        image_size=wanted.image_size, resize=wanted.resize, channels=wanted.channels, background=wanted.background,
        skip_bad=skip_bad, follow_links=config.data.follow_links, max_megapixels=config.data.max_megapixels, meter=meter,
    )  # fmt: skip


def build_split(config: RunConfig, dataset: Dataset) -> Split:
    """The split that a configuration means for a data set.

    Raises:
        UsageError, DataError: see `split_data`.
    """
    data = config.data
    split = split_data(
        dataset, valid_fraction=0.0 if data.folds else data.valid_fraction, test_fraction=data.test_fraction,
        train_per_class=data.train_per_class, valid_per_class=data.valid_per_class, test_per_class=data.test_per_class,
        shuffle=data.shuffle_split, pool=data.pool, group_by=data.group_by, seed=data.split_seed,
    )  # fmt: skip
    if data.folds:
        split = fold_training(
            split, dataset, folds=data.folds, fold=data.fold, shuffle=data.shuffle_split, group_by=data.group_by,
            seeds=(data.split_seed, data.fold_seed),
        )  # fmt: skip
    seeds = data.split_seed, config.train.seed  # another seed draws other rows, which are part of its luck
    return thin_training(split, dataset.labels, share=data.train_fraction, seeds=seeds)


def find_flaws(config: RunConfig, dataset: Dataset, *, near: bool | None = None) -> list[Flaw]:
    """What is wrong with a data set under the split that a configuration means; see `check_dataset`.

    Args:
        near: look for near copies; by default where there are at most 10,000 pictures.
    """
    wanted = len(dataset) <= NEAR_ROWS_BEFORE_TRAINING if near is None else near
    return check_dataset(dataset, build_split(config, dataset).parts(), near=wanted, skip_bad=config.data.skip_bad)


def check_source(config: RunConfig, *, meter: MeterBuilder = SilentMeter) -> tuple[Dataset, list[Flaw]]:
    """Read what a configuration names, bad files left out and listed, and find all that is wrong with it.

    Raises:
        UsageError, DataError: it cannot be read at all.
    """
    dataset = _read_source(config, None, None, skip_bad=True, meter=meter)
    dataset = drop_flawed(dataset) if config.data.skip_bad else dataset
    return dataset, find_flaws(config, dataset, near=True)


def resolve_augmentation(config: RunConfig, dataset: Dataset) -> tuple[Augmentation, list[str]]:
    """How training pictures are varied, as far as the data allows the preset, and what was left out.

    Raises:
        UsageError: strengths for rows of features, or out of range.
    """
    wanted = config.augment
    augmentation, notes = build_augmentation(
        wanted.preset, wanted.overrides(), labels=dataset.labels, class_names=dataset.class_names
    )
    if augmentation.active() and dataset.picture_shape[0] == 1:
        raise UsageError("augment must go with pictures, got rows of features. Leave it out.")
    return augmentation, notes


def load_given(config: RunConfig, data: Any, labels: Any, *, meter: MeterBuilder = SilentMeter) -> Dataset:
    """The data set that was handed over, or if that is a name or None, the one that the configuration names."""
    given = None if isinstance(data, str | Path) else data
    return load_dataset(config, given, labels, meter=meter)


def find_unused(config: RunConfig, dataset: Dataset, data: Any = None) -> list[str]:
    """A sentence on each choice that this data leaves without effect, so that none is ignored in silence.

    They are told and not refused, because one configuration may serve several data sets.

    Args:
        data: what was handed over, which is not read again: an array, or a `Dataset` of another source.

    Raises:
        UsageError, DataError: see `resolve_augmentation` and `build_split`.
    """
    known = isinstance(data, Dataset) and is_source(config.data.source, data.origin)
    read = data is None or isinstance(data, str | Path) or known
    files, height, channels = read and bool(dataset.files), *dataset.picture_shape[::2]
    augmentation, _ = resolve_augmentation(config, dataset)
    moving = any(getattr(augmentation, name) > 0 for name in MOVING)
    drawn = [key for key in _DRAWING if is_chosen(config, "data", key)]
    split = build_split(config, dataset) if drawn or is_chosen(config, "eval", "calibrate") else None
    pictures, later = "reading picture files", "picture files, which the model may read later"
    needs = [
        ("data", "label_column", "reading a CSV or a metadata.csv", files or (read and dataset.is_table)),
        ("data", "skip_bad", "pictures", height > 1),
        ("data", "follow_links", "reading a folder of pictures", files and Path(dataset.origin).is_dir()),
        ("data", "max_megapixels", pictures, files),
        ("preprocess", "channels", pictures, files),
        ("preprocess", "resize", later, files or config.preprocess.image_size is not None),
        ("preprocess", "background", later, files),
        ("augment", "fill", f"transforms that move pictures ({', '.join(MOVING)})", moving),
        ("augment", "color", "pictures of three channels", channels == 3 or not augmentation.color),
        ("eval", "mistakes", "classes", not dataset.is_regression),
        ("eval", "floor", "the error of classes", not dataset.is_regression),
        ("eval", "calibrate", "a split with validation rows", split is None or len(split.valid) > 0),
        ("augment", "unsafe", "training with augmentation", bool(augmentation.active())),
    ]
    found = [
        f"{section}.{key} has no effect on {dataset.name}: it is for {partner}"
        for section, key, partner, used in needs
        if not used and is_chosen(config, section, key)
    ]
    return found + [
        f"data.{key} has no effect on {dataset.name}: the split is the same without it"
        for key in drawn
        if split is not None and _draws(leave_out(config, "data", key), dataset, split)
    ]


def _draws(config: RunConfig, dataset: Dataset, split: Split) -> bool:
    """Whether a configuration splits a data set so."""
    try:
        other = build_split(config, dataset)
    except (UsageError, DataError):  # without a choice there may be no split
        return False
    return all(np.array_equal(getattr(split, part), getattr(other, part)) for part in ("train", "valid", "test"))


def load_again(config: RunConfig, data: Any, labels: Any, *, fingerprint: Any, meter: MeterBuilder) -> Dataset:
    """The data set that a search or a cross-validation began with, to go on with.

    Raises:
        UsageError: other data is named. DataError: the data has changed.
    """
    if isinstance(data, str | Path) and not is_source(data, config.data.source):
        raise UsageError(f"--resume must go on with {config.data.source}, got {data} beside it. Leave that out.")
    dataset = load_given(config, data, labels, meter=meter)
    if dataset.fingerprint != fingerprint:
        raise DataError(
            f"--resume must find the same data as before, got other data in {config.data.source}. Bring it back."
        )
    return dataset


def is_source(data: Any, source: str) -> bool:
    """Whether `data` names what a run was trained on."""
    if not isinstance(data, str | Path):
        return False
    return str(data) == source or (
        Path(data).expanduser().exists() and str(Path(data).expanduser().resolve()) == source
    )


def refuse_flaws(config: RunConfig, dataset: Dataset, *, note: Note) -> None:
    """Tell of what may be wrong with a data set, and refuse it with errors, unless `data.check` is off.

    Raises:
        DataError: what is wrong.
    """
    if not config.data.check:
        return
    balanced = config.train.sampling == "balanced" or config.train.class_weights != "none"
    findings = find_flaws(config, dataset)
    for finding in findings:
        if finding.level == "warning" and not (finding.kind == "imbalance" and balanced):
            shown = f" For example {finding.files[0]}." if finding.files else ""
            note(finding.message + shown)
    errors = [f for f in findings if f.level == "error"]
    if errors:
        lines = [f"{f.message}{' (' + '; '.join(f.files[:_SHOWN_FILES]) + ')' if f.files else ''}" for f in errors]
        raise DataError(
            f"{' '.join(lines)} See `clearsight data check` for all of {dataset.name}; --set data.check=false trains regardless."
        )


def refuse_place(out: str | Path, origin: str) -> None:
    """Refuse a run directory inside a folder of data, where it would pass for a class.

    Args:
        origin: the full path of the data, or a name.

    Raises:
        UsageError: so.
    """
    folder = Path(origin)
    if folder.is_absolute() and folder.is_dir() and Path(out).resolve().is_relative_to(folder):
        raise UsageError(f"--out or --root must lie outside the data, got {out} in {folder}. Choose another place.")
