"""Data sets from CSV files: one picture a row, its pixels in columns, its label in another.

A fast pass reads the numbers; when it fails, a slow pass finds the row and column to blame.
"""

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.data.dataset import Dataset, build_dataset
from clearsight.errors import DataError, UsageError

_LABEL_NAMES = ("label", "class", "target", "y", "digit", "species", "category")
_MAX_BYTES = 8 * 2**30


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _rows(text: str) -> list[list[str]]:
    return [row for row in csv.reader(io.StringIO(text)) if row]


def _find_label(label_column: str, header: list[str], sample: list[list[str]], path: Path) -> tuple[int, str]:
    """Which column holds the label, and a note where that was worked out."""
    width = len(sample[0])
    if label_column in ("first", "last"):
        return (0 if label_column == "first" else width - 1), ""
    if label_column != "auto":
        if label_column in header:
            return header.index(label_column), ""
        known = ", ".join(header[:8]) if header else "(no header: only first or last)"
        raise UsageError(f"label_column must be a column of {path}, got {label_column!r}; it has {known}. Choose one.")
    named = [i for i, name in enumerate(header) if name.strip().lower() in _LABEL_NAMES]
    words = [i for i in range(width) if not _is_number(sample[0][i])]
    likely = named or words or [i for i in (0, width - 1) if _looks_like_label([row[i] for row in sample])]
    if len(likely) != 1:
        raise UsageError(
            f"label_column must be given for {path}: {'no' if not likely else 'more than one'} column looks like the "
            "label. Use --label-column first, last or a name."
        )
    at = likely[0]
    place = repr(header[at]) if header else "first" if at == 0 else "last" if at == width - 1 else f"number {at + 1}"
    return at, f"{path.name}: took the {place} column as the label"


def _looks_like_label(values: list[str]) -> bool:
    """Whole numbers, more than one distinct, with repeats: a border pixel is constant, a measurement hardly repeats."""
    if not all(v.strip().lstrip("-").isdigit() for v in values):
        return False
    return 2 <= len(set(values)) <= max(2, len(values) // 2)


def _blame(rows: list[list[str]], width: int, label_at: int, first: int, path: Path) -> DataError:
    """The first row that is wrong, as an error; rows count as the lines of the file."""
    for number, row in enumerate(rows, start=first):
        if len(row) != width:
            return DataError(
                f"{path} must have {width} columns in each row, got {len(row)} in row {number}. Mend the row."
            )
        for column, value in enumerate(row):
            if column != label_at and not _is_number(value):
                return DataError(
                    f"{path} must hold numbers, got {value!r} in row {number}, column {column + 1}. Mend the cell."
                )
    return DataError(f"{path} must be a table of numbers, got something that could not be read. Check the file.")


def read_csv(path: Path, *, name: str, label_column: str = "auto", task: str = "classification") -> Dataset:
    """A CSV of pixels or features with one label column.

    Args:
        path: UTF-8, with or without byte-order mark, header and quotes.
        name: of the data set.
        label_column: `first`, `last`, a header name, or `auto`: a usual header name, else the only column of words,
            else the one end column whose values repeat.
        task: `classification` or `regression`.

    Returns:
        Integers in 0..255 stay uint8. Where their number is a perfect square of 8x8 or more, a row is a picture.

    Raises:
        DataError: empty, ragged, not numbers (with row and column). UsageError: the label column cannot be told.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} must be at most 8 GiB, got {path.stat().st_size:,} bytes. Use NPZ.")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} must be readable, got {error.strerror}. Check the path and its rights.") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} must be UTF-8 text, got byte 0x{error.object[error.start]:02x} at {error.start}. Save it as UTF-8."
        ) from None
    try:
        rows = _rows(text[: 2**20] if len(text) <= 2**20 else text[: text.rfind("\n", 0, 2**20)])
        header = rows[0] if rows and sum(_is_number(v) for v in rows[0]) < len(rows[0]) / 2 else []
        sample = rows[1 if header else 0 :]
        if not sample:
            raise DataError(f"{path} must hold at least one row of data, got none. Check the file.")
        width = len(header or sample[0])
        if width < 2 or any(len(row) != width for row in sample):
            raise _blame(sample, max(width, 2), -1, 2 if header else 1, path)
        label_at, note = _find_label(label_column, header, sample, path)
        pixels = _numbers(text, 1 if header else 0, [c for c in range(width) if c != label_at])
        raw_labels = [row[label_at] for row in _rows(text)[1 if header else 0 :]]
    except csv.Error as error:
        raise DataError(f"{path} must be a CSV file, got {error}. Check the quotes.") from None
    except ValueError as error:
        if isinstance(error, DataError | UsageError):
            raise
        raise _blame(_rows(text)[1 if header else 0 :], width, label_at, 2 if header else 1, path) from None
    notes = [note] if note else []
    images, shape_note = _as_pictures(pixels, path)
    notes += [shape_note] if shape_note else []
    labels: NDArray[Any] = np.array(raw_labels)
    if all(_is_number(v) for v in set(raw_labels)):
        labels = labels.astype(np.float64)
    return build_dataset({"train": (images, labels)}, name=name, task=task, sources={"train": path.name}, notes=notes)


def _numbers(text: str, skip: int, columns: list[int]) -> NDArray[np.float64]:
    return np.loadtxt(
        io.StringIO(text), delimiter=",", skiprows=skip, usecols=columns, quotechar='"', ndmin=2, comments=None
    )


def _as_pictures(pixels: NDArray[np.float64], path: Path) -> tuple[NDArray[Any], str]:
    """Whole numbers in 0..255 as uint8, and as square pictures where that fits."""
    with np.errstate(invalid="ignore"):
        if not ((pixels >= 0) & (pixels <= 255) & (np.floor(pixels) == pixels)).all():
            return pixels, ""
    side = math.isqrt(pixels.shape[1])
    values = pixels.astype(np.int16)  # not uint8: only the data can tell whether they end at 255 or at 16
    if side < 8 or side * side != pixels.shape[1]:
        return values, ""
    return values.reshape(-1, side, side), f"{path.name}: read each row as a {side}x{side} picture"
