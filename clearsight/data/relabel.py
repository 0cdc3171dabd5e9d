"""Corrections of labels, from a CSV that a person has gone through. It must not know how suspects are found."""

import csv
import difflib
import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np

from clearsight.data.dataset import Dataset
from clearsight.errors import DataError, UsageError

_MOST_BYTES = 2**28
COLUMNS = ("row", "name", "label", "new_label")
LEAVE_OUT = "leave_out"  # a column that may be there


def relabel(dataset: Dataset, path: Path) -> Dataset:
    """The same data set with the labels that a CSV corrects, and without the pictures that it leaves out.

    Args:
        path: CSV with a header and at least the columns `row` (number of the picture, from 0), `name` (what it is called),
            `label` (its class until now) and `new_label` (its class from now on; empty to leave it). A column `leave_out` may
            say `yes` for pictures that belong to no class.

    Raises:
        UsageError: no such file, numbers instead of classes, or a file that is no such table. DataError: a row that is not that
            of this data, given twice, or a class that there is none of.
    """
    if dataset.is_regression:
        raise UsageError("--relabel must have classes, got numbers to predict. Leave it out.")
    labels, seen, changed = np.array(dataset.labels), set[int](), 0
    kept = np.ones(len(dataset), np.bool_)
    content = read_corrections(path)
    for line, fields in parse_corrections(content, path):
        where = f"in line {line} of {path}"
        new, out = fields["new_label"], fields[LEAVE_OUT].strip().lower()
        if not new.strip() and not out:
            continue
        if out not in ("", "yes") or (out and new.strip()):
            got = f"new_label {new!r} beside it" if out == "yes" else repr(fields[LEAVE_OUT][:40])
            raise DataError(f"leave_out must be yes alone or empty, got {got} {where}. Correct it.")
        new = new if new in dataset.class_names else new.strip()
        row = _parse_row(fields["row"], len(dataset), where)
        if row in seen:
            raise DataError(f"rows of --relabel must come once, got {row} again {where}. Remove one.")
        seen.add(row)
        if fields["name"] != dataset.row_name(row) or fields["label"] != dataset.class_names[labels[row]]:
            raise DataError(
                f"row {row} must be {dataset.row_name(row)} of class {dataset.class_names[labels[row]]}, as in {dataset.name}, "
                f"got {fields['name']} of class {fields['label']} {where}. Make the file from this data."
            )
        if out:
            kept[row] = False
            continue
        if new not in dataset.class_names:
            near = difflib.get_close_matches(new, dataset.class_names, n=1)
            advice = f"Did you mean {near[0]}?" if near else f"Classes are {', '.join(dataset.class_names[:12])}."
            raise DataError(f"new_label must be a class of {dataset.name}, got {new!r} {where}. {advice}")
        changed += dataset.class_names[labels[row]] != new
        labels[row] = dataset.class_names.index(new)
    left = f" and {np.count_nonzero(~kept):,} pictures left out" if not kept.all() else ""
    found = replace(dataset, labels=labels, relabelled=hashlib.sha256(content).hexdigest())
    return found.select(np.flatnonzero(kept), notes=[f"{changed:,} labels are changed{left} as {path} says"])


def hash_corrections(path: Path) -> str:
    """SHA-256 of a file of corrections.

    Raises:
        UsageError: it cannot be read.
    """
    return hashlib.sha256(read_corrections(path)).hexdigest()


def read_corrections(path: Path) -> bytes:
    """What such a file holds.

    Raises:
        UsageError: it cannot be read, or is too large to be one.
    """
    if path.exists() and not path.is_file():
        raise UsageError(f"--relabel must be a file, got {path}, which is none. Check the path.")
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= _MOST_BYTES else b""
    except OSError as error:
        raise UsageError(f"--relabel must be a readable file, got {path}: {error.strerror}. Check the path.") from None
    if size > _MOST_BYTES:
        raise UsageError(f"--relabel must be at most {_MOST_BYTES:,} bytes, got {size:,} in {path}. Check the path.")
    return content


def parse_corrections(content: bytes, path: Path) -> list[tuple[int, dict[str, str]]]:
    """Numbers of lines and their cells; a spreadsheet's other separators, its `sep=` line and its BOM are understood.

    Args:
        content: of the file. path: of it, for messages.

    Raises:
        UsageError, DataError: it is no such table.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"--relabel must be a CSV of UTF-8 text, got damage in {path} ({error}). Save it as such."
        ) from None
    file = io.StringIO(text, newline="")
    head, skipped = file.readline(), 0
    if head.strip().startswith("sep="):
        head, skipped = file.readline(), 1
    separator = max(",;\t", key=head.count)
    file.seek(0)
    for _ in range(skipped):
        file.readline()
    try:
        table = csv.DictReader(file, delimiter=separator)
        names = list(table.fieldnames or ())
        if missing := [name for name in COLUMNS if name not in names]:
            raise UsageError(
                f"--relabel must have the columns {', '.join(COLUMNS)}, got none {missing[0]} in {path}. Add it."
            )
        if twice := [name for name in COLUMNS if names.count(name) > 1]:
            raise UsageError(f"--relabel must have each column once, got {twice[0]} again in {path}. Remove one.")
        found = []
        for fields in table:
            more = any(cell.strip() for cell in fields.pop(None, ()))
            if more or any(fields[name] is None for name in COLUMNS):
                where = f"in line {table.line_num + skipped} of {path}"
                count = "more" if more else "fewer"
                raise DataError(f"lines of --relabel must have {len(names)} cells, got {count} {where}. Fix the file.")
            cells = {name: unguard_cell(fields[name]) for name in COLUMNS}
            found.append((table.line_num + skipped, cells | {LEAVE_OUT: fields.get(LEAVE_OUT) or ""}))
        return found
    except csv.Error as error:
        raise UsageError(
            f"--relabel must be a CSV of UTF-8 text, got damage in {path} ({error}). Save it as such."
        ) from None


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def guard_cell(text: str) -> str:
    """Text as a cell that no spreadsheet takes for a formula; `unguard_cell` undoes it."""
    return f"'{text}" if text.startswith((*_FORMULA, "'")) else text


def unguard_cell(text: str) -> str:
    """See `guard_cell`."""
    return text[1:] if text.startswith(tuple(f"'{sign}" for sign in (*_FORMULA, "'"))) else text


def _parse_row(text: str, count: int, where: str) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 19 and int(digits) < count):
        raise DataError(f"row must be a number from 0 to {count - 1}, got {text[:40]!r} {where}. Correct it.")
    return int(digits)
