"""Labels that are likely wrong: a cross-validation, its suspects, a gallery to look at and a CSV to correct.

What `clearsight label-errors` and `clearsight.find_label_errors` call.
"""

import csv
import io
import warnings
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.actions.cross_validate import RECORD, CrossValidated, cross_validate
from clearsight.config.build import build_config
from clearsight.config.resolve import name_source, resolve_config
from clearsight.core.numerics import softmax
from clearsight.core.progress import build_meter
from clearsight.data.dataset import Dataset
from clearsight.data.relabel import LEAVE_OUT, guard_cell, parse_corrections, read_corrections
from clearsight.diagnose.suspects import Suspects, find_suspects
from clearsight.errors import ClearsightError, DivergedError, UsageError
from clearsight.pipeline.choice import resolve_family
from clearsight.pipeline.data import load_given
from clearsight.report.label_errors import render_suspects
from clearsight.runs import store
from clearsight.runs.corrections import use_own_corrections

TABLE, GALLERY = "suspects.csv", "suspects.html"


@dataclass(frozen=True, eq=False)
class LabelErrors:
    """Suspects among the labels of a data set.

    Args:
        path: the directory of the cross-validation, with `suspects.csv` and `suspects.html` in it.
        dataset: the data. rows: (m,) its suspect rows, worst first. suggested: (m,) classes that they seem to be of.
        confidence: (m, 2) probabilities of the label and of the suggested class. suspects: see there.
        cross_validated: the judges. accuracy: the share of labels, as they are, that they agree with.
    """

    path: Path
    dataset: Dataset
    rows: NDArray[np.int64]
    suggested: NDArray[np.int64]
    confidence: NDArray[np.float64]
    suspects: Suspects
    cross_validated: CrossValidated
    accuracy: float

    def summary(self) -> dict[str, Any]:
        """The object that `label-errors --json` prints; its keys are a contract."""
        names = self.dataset.class_names
        return {
            "cv": str(self.path), "n": len(self.cross_validated.rows), "accuracy": self.accuracy,
            "table": str(self.path / TABLE), "gallery": str(self.path / GALLERY),
            "suspects": [
                {
                    "row": int(row), "name": self.dataset.row_name(int(row)), "label": names[self.dataset.labels[row]],
                    "suggested": names[other], "probability_of_label": float(own), "probability_of_suggested": float(of_other),
                }
                for row, other, (own, of_other) in zip(self.rows, self.suggested, self.confidence, strict=True)
            ],
        }  # fmt: skip


def find_label_errors(data: Any = None, labels: Any = None, *, quiet: bool = True, **options: Any) -> LabelErrors:
    """Look for wrong labels: k-fold, so that each picture is judged by a model that had not seen it, and confident learning.

    Args:
        data, labels, options: as for `cross_validate`.

    Raises:
        UsageError, DataError, RunError: see there.
    """
    resume = options.get("resume")
    if resume is None:
        own_names = signature(cross_validate).parameters
        settings = {key: value for key, value in options.items() if key not in own_names}
        config = resolve_config(options.get("config"), name_source(data, settings))
        config = resolve_family(config, data, note=options.get("note", _say_nothing), meter=build_meter(quiet=quiet))
        options = {key: value for key, value in options.items() if key in own_names} | {"config": config}
    else:
        path = store.find_directory(str(resume), Path(options.get("root", "runs")), RECORD)
        record = store.read_json(path / RECORD)
        config = use_own_corrections(path, build_config(record.get("config", {})), record.get("relabelled"))
        _refuse_corrected(path / TABLE)
    _refuse_left_out(config.data.relabel)
    data = load_given(config, data, labels, meter=build_meter(quiet=quiet))
    if data.is_regression:
        raise UsageError("label errors must be sought among classes, got numbers to predict. Leave --target out.")
    found = cross_validate(data, labels, quiet=quiet, **options)
    classes = len(data.class_names)
    shares = softmax(found.outputs.astype(np.float64).reshape(-1, classes)).reshape(found.outputs.shape)
    for fold, its_rows in zip(found.folds, found.judged, strict=True):  # a model that diverged judges nobody
        if fold.status == "diverged":
            shares[fold.repeat, np.searchsorted(found.rows, its_rows)] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # rows that no repeat could judge
        shares = np.nanmean(shares, axis=0)
    known = np.isfinite(shares).all(axis=1)
    if not known.any():
        raise DivergedError(
            "folds must have finite losses to judge labels, got none. Try a tenth of the learning rate."
        )
    if not known.all():
        options.get("note", _say_nothing)(
            f"{int((~known).sum()):,} rows were not checked, because training on their folds diverged"
        )
    judged, places = find_suspects(shares[known], found.labels[known]), np.flatnonzero(known)
    at = places[judged.rows]
    own = np.stack([shares[at, judged.labels], shares[at, judged.suggested]], axis=1)
    right = float((shares[known].argmax(axis=1) == found.labels[known]).mean())
    result = LabelErrors(found.path, data, found.rows[at], judged.suggested, own, judged, found, right)
    write_suspects(result)
    return result


def write_suspects(found: LabelErrors) -> None:
    """Write the table and the page, whose buttons fill the table in."""
    table = _render_csv(found)
    store.write_text(found.path / TABLE, table)
    page = render_suspects(
        found.dataset, found.rows, found.suggested, found.confidence, judged=len(found.cross_validated.rows),
        agreed=found.accuracy, table=table, cells=[_render_line([guard_cell(name)]) for name in found.dataset.class_names],
    )  # fmt: skip
    store.write_text(found.path / GALLERY, page)


def _say_nothing(text: str) -> None:
    pass


def _refuse_left_out(relabel: str | None) -> None:
    """Refuse corrections that leave pictures out: rows of the new table would not be rows of the data."""
    if relabel is None:
        return
    path = Path(relabel).expanduser()
    left = sum(bool(fields[LEAVE_OUT].strip()) for _, fields in parse_corrections(read_corrections(path), path))
    if left:
        raise UsageError(
            f"label errors must be sought among all pictures, got {left:,} that {path} leaves out, so that rows of a new table "
            "would not be those of the data. Use a copy of the file with its column leave_out empty."
        )


def _refuse_corrected(path: Path) -> None:
    """Refuse to write a table anew in which a person has filled something in."""
    if not path.is_file():
        return
    try:
        found = parse_corrections(read_corrections(path), path)
        filled = f"{sum(bool((fields['new_label'] + fields[LEAVE_OUT]).strip()) for _, fields in found):,}"
    except ClearsightError:
        filled = "a table that was changed"
    if filled != "0":
        raise UsageError(
            f"{path} must hold no corrections to be written anew, got {filled}. Train with --relabel {path}, or move it."
        )


def _render_line(values: list[Any]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow(values)
    return out.getvalue().removesuffix("\r\n")


def _render_csv(found: LabelErrors) -> str:
    """A line a suspect, its last two cells empty for a person to fill."""
    out = io.StringIO()
    names = (
        "row",
        "name",
        "label",
        "suggested",
        "probability_of_label",
        "probability_of_suggested",
        LEAVE_OUT,
        "new_label",
    )
    writer = csv.DictWriter(out, names, lineterminator="\r\n")  # so that cells with either are quoted
    writer.writeheader()
    for line in found.summary()["suspects"]:
        rounded = {key: round(value, 6) for key, value in line.items() if isinstance(value, float)}
        words = {key: guard_cell(value) for key, value in line.items() if isinstance(value, str)}
        writer.writerow(line | rounded | words | {LEAVE_OUT: "", "new_label": ""})
    return out.getvalue()
