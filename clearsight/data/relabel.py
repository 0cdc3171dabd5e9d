"""Corrections of labels, from a CSV that a person has gone through. It must not know how suspects are found."""

import csv
import difflib
from dataclasses import replace
from pathlib import Path

import numpy as np

from clearsight.data.dataset import Dataset
from clearsight.errors import DataError, UsageError

COLUMNS = ("row", "name", "label", "new_label")


def relabel(dataset: Dataset, path: Path) -> Dataset:
    """The same data set with the labels that a CSV corrects.

    Args:
        path: CSV with a header and at least the columns `row` (number of the picture, from 0), `name` (what it is called),
            `label` (its class until now) and `new_label` (its class from now on; empty to leave it).

    Raises:
        UsageError: no such file, numbers instead of classes, or a file that is no such table. DataError: a row that is not that
            of this data, given twice, or a class that there is none of.
    """
    if dataset.is_regression:
        raise UsageError("--relabel must have classes, got numbers to predict. Leave it out.")
    labels, seen, changed = np.array(dataset.labels), set[int](), 0
    for line, fields in _read(path):
        where = f"in line {line} of {path}"
        new = (fields["new_label"] or "").strip()
        if not new:
            continue
        row = _parse_row(fields["row"] or "", len(dataset), where)
        if row in seen:
            raise DataError(f"rows of --relabel must come once, got {row} again {where}. Remove one.")
        seen.add(row)
        if fields["name"] != dataset.row_name(row) or fields["label"] != dataset.class_names[labels[row]]:
            raise DataError(
                f"row {row} must be {dataset.row_name(row)} of class {dataset.class_names[labels[row]]}, as in {dataset.name}, "
                f"got {fields['name']} of class {fields['label']} {where}. Make the file from this data."
            )
        if new not in dataset.class_names:
            near = difflib.get_close_matches(new, dataset.class_names, n=1)
            advice = f"Did you mean {near[0]}?" if near else f"Classes are {', '.join(dataset.class_names[:12])}."
            raise DataError(f"new_label must be a class of {dataset.name}, got {new!r} {where}. {advice}")
        changed += dataset.class_names[labels[row]] != new
        labels[row] = dataset.class_names.index(new)
    note = f"{changed:,} labels are changed as {path} says"
    return replace(dataset, labels=labels, relabelled=str(path), notes=(*dataset.notes, note))


def _read(path: Path) -> list[tuple[int, dict[str, str | None]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (table.fieldnames or ())]
            if missing:
                raise UsageError(
                    f"--relabel must have the columns {', '.join(COLUMNS)}, got none {missing[0]} in {path}. Add it."
                )
            return [(table.line_num, {name: fields.get(name) for name in COLUMNS}) for fields in table]
    except OSError as error:
        raise UsageError(f"--relabel must be a readable file, got {path}: {error.strerror}. Check the path.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(
            f"--relabel must be a CSV of UTF-8 text, got damage in {path} ({error}). Save it as such."
        ) from None


def _parse_row(text: str, count: int, where: str) -> int:
    if not (text.strip().isascii() and text.strip().isdecimal() and int(text) < count):
        raise DataError(f"row must be a number from 0 to {count - 1}, got {text!r} {where}. Correct it.")
    return int(text)
