"""Using a trained model: evaluate it on labelled data, and predict files. It must not know how models are trained."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.bundle.bundle import Bundle
from clearsight.bundle.load import load
from clearsight.config.schema import RunConfig
from clearsight.core.progress import MeterBuilder, Note, SilentMeter
from clearsight.data.dataset import SPLITS, Dataset
from clearsight.data.duplicates import hash_rows
from clearsight.data.read.folder import PictureRequest
from clearsight.data.read.load import count_pixels, read_data
from clearsight.data.read.pictures import PictureFormat
from clearsight.errors import DataError, RunError, UsageError
from clearsight.evaluation.metrics import Evaluation
from clearsight.pipeline.data import build_split, is_source, load_dataset
from clearsight.pipeline.judge import add_calibration, evaluate_outputs
from clearsight.runs import store
from clearsight.runs.corrections import use_own_corrections
from clearsight.runs.directory import RunDirectory
from clearsight.runs.test_uses import LOOKS, add_test_use


def align_classes(dataset: Dataset, class_names: tuple[str, ...]) -> NDArray[Any]:
    """Labels of a data set as indices into a model's classes, matched by name and never by position; targets as they are.

    Raises:
        DataError: a class that the model does not know, or numbers where it wants classes.
    """
    if dataset.is_regression and not class_names:
        return dataset.labels
    if dataset.is_regression or not class_names:
        raise DataError("data and model must both be for classes or both for numbers, got one of each. Set data.task.")
    position = {name: k for k, name in enumerate(class_names)}
    for k, name in enumerate(dataset.class_names):
        if name not in position and (dataset.labels == k).any():
            row = dataset.row_name(int(np.argmax(dataset.labels == k)))
            raise DataError(f"classes must be among {', '.join(class_names)}, got {name!r} at {row}. Check the data.")
    index = np.array([position.get(name, -1) for name in dataset.class_names], np.int64)
    return np.asarray(index[dataset.labels])


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's outputs (n, K) for some rows (n,) of a data set, and the truth (n,): indices into its classes, or numbers."""

    bundle: Bundle
    dataset: Dataset
    rows: NDArray[np.int64]
    split: str
    truth: NDArray[Any]
    outputs: NDArray[np.float32]


def evaluate(
    model: Bundle | str | Path,
    data: Any = None,
    labels: Any = None,
    *,
    split: str | None = None,
    label_column: str = "auto",
    skip_bad: bool = False,
    follow_links: bool = False,
    max_megapixels: float | None = None,
    note: Note = lambda text: None,
    meter: MeterBuilder = SilentMeter,
) -> Evaluation:
    """Evaluate a model.

    Args:
        model: a bundle, a model file or a run directory.
        data: a name, a path, an array or a `Dataset`; None for the data of the model's own run.
        labels: of an array.
        split: `train`, `valid`, `test` or `all`. On the data that the model was trained on, these are the splits of its run,
            and the default is `test`, else `valid`, else `train`. On other data they are what it brings, and the default is
            `test` if it brings one, else `all`.
        label_column: of a CSV or a `metadata.csv`.
        skip_bad: leave out picture files that cannot be read instead of refusing the data.
        follow_links: read what links in a folder lead to; on the data of the model's own run, as the run did or if so asked.
        max_megapixels: of a picture file; by default that of the model's run, or 50.
        note: is told what was assumed or left out while reading.
        meter: shows progress while pictures are read.

    Picture files are read exactly as for training: same size, channels, resizing and background.

    Returns:
        The metrics; `split` says which rows were judged.

    Raises:
        UsageError, DataError: see `predict_data`.
    """
    answered = predict_data(
        model, data, labels, split=split, label_column=label_column, skip_bad=skip_bad, follow_links=follow_links,
        max_megapixels=max_megapixels, note=note, meter=meter,
    )  # fmt: skip
    found = evaluate_outputs(answered.bundle, answered.outputs, answered.truth, split=answered.split)
    own = answered.dataset.fingerprint == answered.bundle.data.get("fingerprint")
    found = add_calibration(
        answered.bundle, found, answered.outputs, answered.truth, fitted_here=own and answered.split == "valid"
    )
    if answered.split == "test":
        count_test_use(answered, by="evaluate")
    if not answered.bundle.class_names:
        _note_outside(answered.bundle, answered.truth, answered.outputs[:, 0], note)
    return found


def count_test_use(answered: Predictions, *, by: str) -> None:
    """Count that a test split was seen, where the model's run is one of a folder of runs that counts."""
    root = answered.bundle.path.parent.parent if answered.bundle.path else None
    if root is not None and (root / LOOKS).is_file():
        with contextlib.suppress(RunError):  # a place that may only be read
            bundle = answered.bundle
            add_test_use(root, answered.dataset, answered.rows, model=bundle.fingerprint, by=f"{by} {bundle.path}")


def predict_data(
    model: Bundle | str | Path,
    data: Any = None,
    labels: Any = None,
    *,
    split: str | None = None,
    label_column: str = "auto",
    skip_bad: bool = False,
    follow_links: bool = False,
    max_megapixels: float | None = None,
    note: Note = lambda text: None,
    meter: MeterBuilder = SilentMeter,
) -> Predictions:
    """What a model answers on a split of labelled data; for the arguments see `evaluate`.

    Raises:
        UsageError: no data, a split that does not exist, or training rows that would pass for new ones. DataError: classes
            or sizes that the model does not know.
    """
    bundle = model if isinstance(model, Bundle) else load(model)
    task = "classification" if bundle.class_names else "regression"
    config = own_config(bundle)
    limit = find_limit(config, max_megapixels)
    if data is None:
        if config is None or config.data.source == "arrays":
            raise UsageError(
                "DATA must be given for a model without a run directory or trained on arrays, got none. Name it."
            )
        data, label_column = config.data.source, config.data.label_column
    same_column = config is not None and label_column in ("auto", config.data.label_column)
    if config is not None and same_column and labels is None and is_source(data, config.data.source):
        asked = {"skip_bad": skip_bad, "follow_links": follow_links, "max_megapixels": max_megapixels}
        own = config.change("data", **{key: value for key, value in asked.items() if value})
        dataset = load_dataset(own, meter=meter)
    else:
        p = bundle.preprocess
        wanted = p.picture_format if p.height > 1 and p.channels in (1, 3) else PictureFormat(channels=0)
        request = PictureRequest(
            wanted, skip_bad, resize_arrays=config is not None and config.preprocess.image_size is not None,
            follow_links=follow_links, max_pixels=limit,
        )  # fmt: skip
        dataset = read_data(data, labels, label_column=label_column, task=task, request=request, meter=meter)
    for text in dataset.notes:
        note(text)
    foreign = dataset.fingerprint != bundle.data.get("fingerprint")
    if foreign:
        parts = {name: np.flatnonzero(dataset.given == k) for k, name in enumerate(SPLITS)}
        parts = {name: rows for name, rows in parts.items() if len(rows)}
        default = "test" if "test" in parts else "all"
        bundle.preprocess.check_range(dataset.images)
    elif config is not None:
        parts = build_split(config, dataset).parts()
        default = next(name for name in ("test", "valid", "train") if name in parts)
    elif split == "all":
        parts, default = {}, "all"
    else:
        raise UsageError(
            "DATA must be new to a model outside its run directory, got the data it was trained on. Name the run directory, "
            "or use --split all."
        )
    parts["all"] = np.arange(len(dataset))
    chosen = default if split is None else split
    if chosen not in parts:
        raise UsageError(
            f"--split must be one of {', '.join(parts)} for this data, got {chosen!r}. Choose one of them."
        )
    if foreign:
        _note_seen(bundle, dataset.images, parts[chosen], note)
    rows, truth = parts[chosen], align_classes(dataset, bundle.class_names)
    return Predictions(bundle, dataset, rows, chosen, truth[rows], bundle.logits(dataset.images, rows=rows))


def find_limit(config: RunConfig | None, max_megapixels: float | None) -> int:
    """The largest number of pixels of a picture file: what is asked for, or what the model's run allowed."""
    return count_pixels((config or RunConfig()).data.max_megapixels if max_megapixels is None else max_megapixels)


def _note_outside(bundle: Bundle, targets: NDArray[Any], logits: NDArray[np.float32], note: Note) -> None:
    """Tell how the error differs where numbers lie outside the range that the model was trained on."""
    low, high = bundle.training.get("target_low"), bundle.training.get("target_high")
    if low is None or high is None:
        return
    errors = np.abs(bundle.preprocess.restore_targets(logits) - targets)
    outside = (targets < low) | (targets > high)
    if outside.any():
        inside = f"inside it is {errors[~outside].mean():.3g}" if not outside.all() else "none lie inside"
        note(
            f"{int(outside.sum()):,} of {len(targets):,} numbers lie outside the range trained on, {low:g} to {high:g}: "
            f"there the mean absolute error is {errors[outside].mean():.3g}, {inside}"
        )


def _note_seen(bundle: Bundle, images: NDArray[Any], rows: NDArray[np.int64], note: Note) -> None:
    """Tell how many of some rows the model was trained or validated on, where its run directory knows."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = RunDirectory(bundle.path.parent).seen if bundle.path else None
    if path is None or not path.is_file():
        return
    try:
        seen = load_file(path)["hashes"]
    except (OSError, SafetensorError, KeyError, ValueError):
        note(f"{path} is damaged, so it is not known whether the model has seen these pictures")
        return
    count = int(np.isin(hash_rows(images)[rows], seen).sum())
    if count:
        share = f"{count:,} of {len(rows):,} pictures were also used to train or choose the model"
        note(f"{share}; on new pictures it may do worse")


def own_config(bundle: Bundle) -> RunConfig | None:
    """The configuration of the run whose directory the model lies in, if it does."""
    if bundle.path is None:
        return None
    place = (
        bundle.path.parent.parent if bundle.path.parent.name == RunDirectory(Path()).series.name else bundle.path.parent
    )
    if not RunDirectory(place).record.is_file():
        return None
    return use_own_corrections(
        place, store.read_run_config(place), store.read_json(RunDirectory(place).record).get("relabelled")
    )
