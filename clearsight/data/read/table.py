"""Data sets from CSV files: one picture a row, its pixels in columns, its label in another.

A fast pass reads the numbers; when it fails, a slow pass finds the row and column to blame.
"""

import csv
import io
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.data.dataset import Dataset, build_dataset
from clearsight.errors import DataError, UsageError

_LABEL_NAMES = ("label", "class", "target", "y", "digit", "species", "category")
_MAX_BYTES = 8 * 2**30
_LARGEST = float(np.finfo(np.float32).max)
_SAMPLE_CELLS = 500_000  # read as text at first, to tell header, width and label column
_INDEX_NAMES = ("", "unnamed: 0", "index", "id", "row", "#")
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_MANY_NUMBERS = 8  # columns named 0, 1, 2, ... beside others, so that a row is surely a header
_FEW = 0.01  # cells outside 0..255 that are taken as mistakes in pixels, and not as numbers of another kind


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and "_" not in text


def _is_finite(text: str) -> bool:
    return _is_number(text) and abs(float(text)) <= _LARGEST


def _find_separator(text: str) -> str:
    """What stands most often in the first line outside quotes; a comma where nothing does."""
    line = re.sub(r'"[^"]*"', "", text.lstrip("\r\n").partition("\n")[0])
    return max(_SEPARATORS, key=line.count)


def _rows(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, and the line of the file on which it ends."""
    reader = csv.reader(io.StringIO(text), delimiter=separator)
    return ((reader.line_num, row) for row in reader if row)


def _sample(text: str, separator: str) -> list[list[str]]:
    rows, cells = [], 0
    for _, row in _rows(text, separator):
        rows.append(row)
        cells += len(row)
        if cells > _SAMPLE_CELLS:
            break
    return rows


def _find_index(header: list[str], sample: list[list[str]], path: Path) -> int | None:
    """The column that seems to number the rows: one without a name, or called index or the like; without a header, the first.

    Raises:
        DataError: a column without a name that holds something else.
    """
    for at in [k for k, name in enumerate(header) if name.strip().lower() in _INDEX_NAMES] if header else [0]:
        if _are_distinct([row[at] for row in sample]):
            return at
        if header and not header[at]:
            raise DataError(
                f"{path} must name every column in its header, got no name for column {at + 1}. Name it, or remove it."
            )
    return None


def _are_distinct(cells: list[str]) -> bool:
    """Whether cells are whole numbers of which none comes twice."""
    values = [cell.strip() for cell in cells]
    return len(set(values)) == len(values) and all(value.isascii() and value.isdigit() for value in values)


def _numbers_rows(values: NDArray[np.float64], *, named: bool) -> bool:
    """Whether a column numbers the rows: all different, or where no header says what it is, 0, 1, 2, ... or 1, 2, 3, ..."""
    if named:
        return len(np.unique(values)) == len(values)
    return len(values) > 2 and values[0] in (0, 1) and bool((np.diff(values) == 1).all())


def _find_label(
    label_column: str, header: list[str], sample: list[list[str]], path: Path, *, index: int | None
) -> tuple[int, str]:
    """Which column holds the label, and a note where that was worked out; the first is the one after row numbers with a name."""
    width = len(sample[0])
    if label_column in ("first", "last"):
        return (int(bool(header) and index == 0) if label_column == "first" else width - 1), ""
    if label_column != "auto":
        if header.count(label_column) > 1:
            raise UsageError(
                f"label_column must name one column of {path}, got {label_column!r}, which {header.count(label_column)} "
                "columns are called. Rename one."
            )
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
            "label. Set data.label_column to first, last or a name."
        )
    at = likely[0]
    place = repr(header[at]) if header else "first" if at == 0 else "last" if at == width - 1 else f"number {at + 1}"
    return at, f"{path.name}: took the {place} column as the label"


def _looks_like_label(values: list[str]) -> bool:
    """Whole numbers, more than one distinct, with repeats: a border pixel is constant, a measurement hardly repeats."""
    if not all(v.strip().lstrip("-").isdigit() for v in values):
        return False
    return 2 <= len(set(values)) <= max(2, len(values) // 2)


def _blame(text: str, separator: str, header: list[str], width: int, label_at: int, path: Path) -> DataError:
    """The first row that is wrong, as an error; rows count as the lines of the file."""
    rows = _rows(text, separator)
    if header:
        next(rows)
    for number, row in rows:
        if len(row) != width:
            return DataError(
                f"{path} must have {width} columns in each row, got {len(row)} in row {number}. Fix the row."
            )
        for column, value in enumerate(row):
            if column != label_at and not _is_finite(value):
                return DataError(
                    f"{path} must hold finite numbers, got {value[:80]!r} in row {number}, column {column + 1}. Fix the cell."
                )
    return DataError(f"{path} must be a table of numbers, got something that could not be read. Check the file.")


def read_csv(path: Path, *, name: str, label_column: str = "auto", task: str = "classification") -> Dataset:
    """A CSV of pixels or features with one label column.

    Args:
        path: UTF-8, with or without byte-order mark, header and quotes; commas, semicolons or tabs between columns.
        name: of the data set.
        label_column: `first`, `last`, a header name, or `auto`: a usual header name, else the only column of words,
            else the one end column whose values repeat.
        task: `classification` or `regression`.

    Returns:
        Integers in 0..255 stay uint8. Where their number is a perfect square of 8x8 or more, a row is a picture. A column that
        numbers the rows is left out with a note.

    Raises:
        DataError: empty, ragged, not numbers (with row and column). UsageError: the label column cannot be told.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} must be at most 8 GiB, got {path.stat().st_size:,} bytes. Use NPZ.")
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
        del raw
        if "\r" in text and "\n" not in text:  # the line ends of old Macs
            text = text.replace("\r", "\n")
    except OSError as error:
        raise DataError(f"{path} must be readable, got {error.strerror}. Check the path and its permissions.") from None
    except UnicodeDecodeError as error:
        row = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} must be UTF-8 text, got byte 0x{error.object[error.start]:02x} in row {row}. Save it as UTF-8."
        ) from None
    try:
        separator = _find_separator(text)
        rows = _sample(text, separator)
        header, header_note = _find_header(rows, path)
        sample = rows[1 if header else 0 :]
        if not sample:
            raise DataError(f"{path} must hold at least one row of data, got none. Check the file.")
        width = len(header or sample[0])
        if width < 2:
            raise DataError(f"{path} must have two or more columns, got one. Save it with commas between them.")
        if any(len(row) != width for row in sample):
            raise _blame(text, separator, header, width, width, path)
        index = _find_index(header, sample, path) if width > 2 else None
        label_at, note = _find_label(label_column, header, sample, path, index=index)
        lines, raw_labels = _read_labels(text, separator, header, width, label_at, path)
        columns = [c for c in range(width) if c != label_at]
        pixels = _numbers(text, separator, next(_rows(text, separator))[0] if header else 0, columns)
        if len(pixels) != len(lines) or not (np.abs(pixels) <= _LARGEST).all():
            raise ValueError("not finite")
    except csv.Error as error:
        raise DataError(f"{path} must be a CSV file, got {error}. Check the quotes.") from None
    except ValueError as error:
        if isinstance(error, DataError | UsageError):
            raise
        raise _blame(text, separator, header, width, label_at, path) from None
    notes = [f"{path.name}: columns are separated by {_SEPARATORS[separator]}"] if separator != "," else []
    if index in columns and _numbers_rows(pixels[:, columns.index(index)], named=bool(header)):
        pixels = np.delete(pixels, columns.index(index), axis=1)
        columns.remove(index)
        notes.append(f"{path.name}: column {index + 1} numbers the rows and was left out")
    labels = _check_labels(raw_labels, lines, task, path)
    images, shape_note = _as_pictures(pixels, lines, columns, path)
    notes += [text for text in (header_note, note, shape_note) if text]
    parts = {"train": (images, labels)}
    found = build_dataset(parts, name=name, task=task, sources={"train": path.name}, notes=notes)
    return replace(found, is_table=True)


def _find_header(rows: list[list[str]], path: Path) -> tuple[list[str], str]:
    """The first row where it is a header, and a note where that was worked out from column numbers."""
    first = rows[0] if rows else []
    numbers = [v for v in first if _is_number(v)]
    least = 4 if len(numbers) == len(first) else _MANY_NUMBERS
    if len(numbers) >= least and numbers == [str(k) for k in range(len(numbers))]:
        return first, f"{path.name}: took the first row, 0 to {len(numbers) - 1}, as a header"
    if len(numbers) >= len(first) / 2:
        return [], ""
    wider = len(rows) > 1 and all(len(row) == len(first) + 1 for row in rows[1:])  # as R writes row names
    return ["", *first] if wider and _are_distinct([row[0] for row in rows[1:]]) else first, ""


def _read_labels(
    text: str, separator: str, header: list[str], width: int, label_at: int, path: Path
) -> tuple[list[int], list[str]]:
    """For each row its line in the file and its label, without spaces around."""
    lines, labels, rows = [], [], _rows(text, separator)
    if header:
        next(rows)
    for line, row in rows:
        if len(row) != width:
            raise _blame(text, separator, header, width, label_at, path)
        lines.append(line)
        labels.append(row[label_at].strip())
    return lines, labels


def _check_labels(labels: list[str], lines: list[int], task: str, path: Path) -> NDArray[Any]:
    """Labels as names or numbers; what `build_dataset` would refuse is refused here, with its line."""
    numeric = {v: _is_number(v) for v in set(labels)}
    names = task != "regression" and not any(numeric.values())
    for label, line in zip(labels, lines, strict=True):
        if not label:
            rule = "a label in each row"
        elif names:
            continue
        elif not numeric[label]:
            rule = "numbers to predict" if task == "regression" else "labels that are all names or all numbers"
        elif task == "regression":
            rule = "" if _is_finite(label) else "finite numbers to predict"
        else:
            whole = float(label).is_integer() and 0 <= float(label) < 2**53
            rule = "" if whole else "labels that are names or whole numbers from 0"
        if rule:
            raise DataError(f"{path} must hold {rule}, got {label[:80]!r} in row {line}. Fix the cell.")
    return np.array(labels) if names else np.array([float(v) for v in labels])


def _numbers(text: str, separator: str, skip: int, columns: list[int]) -> NDArray[np.float64]:
    return np.loadtxt(
        io.StringIO(text), delimiter=separator, skiprows=skip, usecols=columns, quotechar='"', ndmin=2, comments=None
    )


def _as_pictures(
    pixels: NDArray[np.float64], lines: list[int], columns: list[int], path: Path
) -> tuple[NDArray[Any], str]:
    """Whole numbers in 0..255 as uint8, and as square pictures where that fits; a few others among them are refused."""
    side = math.isqrt(pixels.shape[1])
    square = side >= 8 and side * side == pixels.shape[1]
    right = (pixels >= 0) & (pixels <= 255) & (np.floor(pixels) == pixels)
    if not right.all():
        if not square:
            return pixels, ""
        row, column = np.unravel_index(int(np.argmin(right)), right.shape)
        where = f"{pixels[row, column]:g} in row {lines[row]}, column {columns[column] + 1}"
        if 1 - right.mean() < _FEW:
            raise DataError(
                f"{path} must hold pixels, whole numbers of 0 to 255, got {where}. Fix the cell, or save other numbers as NPZ."
            )
        return pixels, f"{path.name}: read each row as {side * side} numbers, not as a picture: {where}"
    values = pixels.astype(np.int16)  # not uint8: only the data can tell whether they end at 255 or at 16
    if not square:
        return values, ""
    return values.reshape(-1, side, side), f"{path.name}: read each row as a {side}x{side} picture"
