"""From a name or a path to a `Dataset`: the one door through which data comes in."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clearsight.data.arrays import read_npz
from clearsight.data.dataset import Dataset, build_dataset
from clearsight.data.idx import find_idx, is_idx, read_idx_folder
from clearsight.data.table import read_csv
from clearsight.errors import DataError, UsageError

DIGITS = tuple(str(k) for k in range(10))
NAMED: dict[str, tuple[str, ...]] = {
    "mnist": DIGITS,
    "fashion-mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
}  # fmt: skip


def data_folders() -> list[Path]:
    """Where named data sets are looked for: `$CLEARSIGHT_DATA`, then the user's data directory."""
    folders = [Path(os.environ["CLEARSIGHT_DATA"])] if os.environ.get("CLEARSIGHT_DATA") else []
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return [*folders, Path(home) / "clearsight"]


def _load_digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return build_dataset(
        {"train": (digits.images.astype(np.uint8), digits.target)},
        name="digits",
        class_names=DIGITS,
        value_range=(0.0, 16.0),
        sources={"train": "scikit-learn's load_digits"},
    )


def _find(source: str) -> Path:
    try:
        source.encode()
        path = Path(source).expanduser()
        if path.exists():
            return path
    except UnicodeEncodeError:
        raise DataError(f"DATA must be a path in UTF-8, got {source!r}. Rename the file.") from None
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, with a null byte, or of a user unknown
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"DATA must be a path that can be used, got {source[:80]!r}: {reason}. Check it.") from None
    if source in NAMED:
        for folder in data_folders():
            if (folder / source).exists():
                return folder / source
        places = ", ".join(str(folder / source) for folder in data_folders())
        raise DataError(f"{source} must be on this machine, got nothing at {places}. Put its four IDX files there.")
    raise DataError(
        f"DATA must be digits, {', '.join(NAMED)} or a path that exists, got {source!r}. Check the spelling."
    )


def _read_path(path: Path, source: str, label_column: str, task: str) -> Dataset:
    name = (source if source in NAMED else path.resolve().stem) or "data"
    names = NAMED.get(source, ())
    if path.is_dir():
        if find_idx(path):
            return read_idx_folder(path, name=name, class_names=names, task=task)
        raise DataError(f"{path} must hold IDX files such as train-images-idx3-ubyte, got none. Check the folder.")
    if not path.is_file():
        raise DataError(f"{path} must be a file or a folder, got a pipe or device. Save its content to a file first.")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise DataError(f"{path} must be readable, got {error.strerror}. Check the path and its rights.") from None
    if not head:
        raise DataError(f"{path} must not be empty, got 0 bytes. Check the file.")
    if is_idx(path):
        if not any(path in paths for paths in find_idx(path.parent).values()):
            raise DataError(
                f"{path} must be named like train-images-idx3-ubyte or train-labels-idx1-ubyte, got {path.name}. Rename it."
            )
        return read_idx_folder(path.parent, name=path.resolve().parent.name, class_names=names, task=task)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return read_npz(path, name=name, task=task)
    if path.suffix.lower() in (".csv", ".txt") or (b"," in head and b"\0" not in head):
        return read_csv(path, name=name, label_column=label_column, task=task)
    raise DataError(f"{path} must be an IDX, NPZ or CSV file, got something else ({head[:8]!r}). Convert it.")


def _check_task(dataset: Dataset, task: str) -> Dataset:
    if dataset.is_regression != (task == "regression"):
        got = "numbers" if dataset.is_regression else "classes"
        raise UsageError(f"task must fit the labels of {dataset.name}, which are {got}, got {task}. Set data.task.")
    return dataset


def load_data(
    source: Any, labels: Any = None, *, label_column: str = "auto", task: str = "classification", name: str = "arrays"
) -> Dataset:
    """Labelled pictures from a name, a path or arrays.

    Args:
        source: `digits` (always there), `mnist`, `fashion-mnist` (see `data_folders`); the path of an IDX folder, an NPZ
            or a CSV; an array of pictures (n, h, w), (n, h, w, c) or features (n, f); or a `Dataset`, returned as it is.
        labels: with an array: (n,) numbers or names, or (n, classes) one-hot.
        label_column: of a CSV: `first`, `last`, a header name or `auto`.
        task: `classification` or `regression`.
        name: of a data set made from arrays.

    Raises:
        DataError: nothing there, not readable, or not sound; the message names file and row.
        UsageError: arguments that do not go together.
    """
    if task not in ("classification", "regression"):
        raise UsageError(f"task must be classification or regression, got {task!r}. Choose one of them.")
    if isinstance(source, Dataset):
        return _check_task(source, task)
    if isinstance(source, str | Path):
        if labels is not None:
            raise UsageError("labels must be given with arrays only, got them beside a path. Leave them out.")
        if str(source) == "digits" and not Path(source).exists():
            return _check_task(replace(_load_digits(), origin="digits"), task)
        path = _find(str(source))
        dataset = _read_path(path, str(source), label_column, task)
        return replace(dataset, origin=str(source) if not Path(source).expanduser().exists() else str(path.resolve()))
    if labels is None:
        raise UsageError("labels must be given with an array of pictures, got none. Pass labels=.")
    return build_dataset({"train": (source, labels)}, name=name, task=task)
