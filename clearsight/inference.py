"""Using a trained model: evaluate it on labelled data, and predict files. It must not know how models are trained."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight import store
from clearsight.bundle import Bundle, load
from clearsight.config import build_config, read_config_file
from clearsight.data.arrays import read_array
from clearsight.data.dataset import SPLITS, Dataset, check_images
from clearsight.data.load import load_data
from clearsight.data.pictures import check_file
from clearsight.errors import ClearsightError, DataError, UsageError
from clearsight.evaluation.metrics import Evaluation, evaluate_logits, evaluate_numbers
from clearsight.pipeline import prepare


def align_classes(dataset: Dataset, class_names: tuple[str, ...]) -> NDArray[np.int64]:
    """Labels of a data set as indices into a model's classes, matched by name and never by position.

    Raises:
        DataError: a class that the model does not know, or numbers where it wants classes.
    """
    if dataset.is_regression or not class_names:
        raise DataError("data and model must both be for classes or both for numbers, got one of each. Set data.task.")
    position = {name: k for k, name in enumerate(class_names)}
    for k, name in enumerate(dataset.class_names):
        if name not in position and (dataset.labels == k).any():
            row = dataset.row_name(int(np.argmax(dataset.labels == k)))
            raise DataError(f"classes must be among {', '.join(class_names)}, got {name!r} at {row}. Check the data.")
    index = np.array([position.get(name, -1) for name in dataset.class_names], np.int64)
    return np.asarray(index[dataset.labels])


def evaluate(
    model: Bundle | str | Path,
    data: Any = None,
    labels: Any = None,
    *,
    split: str | None = None,
    label_column: str = "auto",
) -> tuple[str, Evaluation]:
    """Evaluate a model.

    Args:
        model: a bundle, a model file or a run directory.
        data: a name, a path, an array or a `Dataset`. None takes the data and split of the model's own run.
        labels: of an array.
        split: `train`, `valid`, `test` or `all`. By default `test` where it exists, else `valid`, else `train`; for other
            data `test` if it brings one, else `all`.
        label_column: of a CSV.

    Returns:
        Which rows were judged, and the metrics.

    Raises:
        UsageError: a split that does not exist, or no data. DataError: classes or sizes that the model does not know.
    """
    bundle = model if isinstance(model, Bundle) else load(model)
    task = "classification" if bundle.class_names else "regression"
    if data is None:
        folder = Path(model) if isinstance(model, str | Path) else Path()
        folder = folder if folder.is_dir() else folder.parent
        if isinstance(model, Bundle) or not (folder / store.CONFIG).is_file():
            raise UsageError("DATA must be given for a model outside its run directory, got none. Name the data.")
        config = build_config(read_config_file(folder / store.CONFIG), where=str(folder / store.CONFIG))
        if config.data.source == "arrays":
            raise UsageError(f"DATA must be given for {folder}, which was trained on arrays, got none. Name the data.")
        dataset = load_data(config.data.source, label_column=config.data.label_column, task=task)
        if dataset.fingerprint != bundle.data.get("fingerprint"):
            raise DataError(
                f"{config.data.source} must be the data that the model was trained on, got other. Name DATA to judge it on that."
            )
        parts = prepare(config, dataset).split.parts()
    else:
        dataset = load_data(data, labels, label_column=label_column, task=task)
        parts = {name: np.flatnonzero(dataset.given == k) for k, name in enumerate(SPLITS)}
        parts = {name: rows for name, rows in parts.items() if len(rows)}
        if set(parts) == {"train"}:
            split = split or "all"
    parts["all"] = np.arange(len(dataset))
    chosen = split or next(name for name in ("test", "valid", "train") if name in parts)
    if chosen not in parts:
        raise UsageError(
            f"--split must be one of {', '.join(parts)} for this data, got {chosen!r}. Choose one of them."
        )
    rows = parts[chosen]
    if task == "regression":
        return chosen, evaluate_numbers(bundle.predict(dataset.images[rows]), dataset.labels[rows])
    truth = align_classes(dataset, bundle.class_names)[rows]
    logits = bundle.logits(dataset.images[rows])
    return chosen, evaluate_logits(logits, truth, class_names=bundle.class_names, temperature=bundle.temperature)


def predict_files(bundle: Bundle, paths: list[Path]) -> tuple[list[dict[str, Any]], list[ClearsightError]]:
    """Predictions for picture files and `.npy` arrays; one bad file fails only itself.

    Returns:
        For each picture `name` and either `label` with `probabilities` by class, `number` for regression, or `error`;
        and the errors met.
    """
    answers: list[dict[str, Any]] = []
    problems: list[ClearsightError] = []
    for path in paths:
        try:
            names, images = _read_inputs(bundle, path)
            answers += _answer(bundle, names, images)
        except ClearsightError as error:
            problems.append(error)
            answers.append({"name": str(path), "error": str(error)})
    return answers, problems


def _read_inputs(bundle: Bundle, path: Path) -> tuple[list[str], NDArray[Any]]:
    if path.suffix.lower() != ".npy":
        return [str(path)], bundle.read_pictures([path])
    check_file(path)
    with path.open("rb") as file:
        images = read_array(file, path.stat().st_size, str(path))
    p = bundle.preprocess
    single = ((p.height, p.width, p.channels), (p.height, p.width) if p.channels == 1 else (), (p.num_inputs,))
    if images.shape in single and images.ndim:  # one picture without its batch axis
        images = images.reshape(1, p.height, p.width, p.channels)
    images, _ = check_images(images, what=f"images in {path}")
    p.check_shape(images, what=f"pictures in {path}")
    return [f"{path}[{i}]" for i in range(len(images))], images


def _answer(bundle: Bundle, names: list[str], images: NDArray[Any]) -> list[dict[str, Any]]:
    if not bundle.class_names:
        return [{"name": n, "number": float(v)} for n, v in zip(names, bundle.predict(images), strict=True)]
    return [
        {
            "name": name,
            "label": bundle.class_names[int(row.argmax())],
            "probabilities": dict(zip(bundle.class_names, map(float, row), strict=True)),
        }
        for name, row in zip(names, bundle.predict_proba(images), strict=True)
    ]
