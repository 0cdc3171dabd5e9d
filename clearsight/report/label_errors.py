"""The gallery of labels that are likely wrong, as one HTML page with buttons to decide. It must not know how they were found."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.data.dataset import Dataset
from clearsight.report import page, pictures

MOST_SHOWN = 1000
_MOST_PARTS = 10
_NOTE = (
    "Models that had not seen these pictures are confident of another class than the label. "
    "The models can be wrong: look at each picture and decide. The most suspicious come first."
)
_KEYS = (
    "Keyboard: Tab moves to the next picture. 1 keeps the label, 2 uses the suggested one, and 3 leaves the picture out; each "
    "also moves on."
)


def describe_suspects(
    dataset: Dataset, rows: NDArray[np.int64], suggested: NDArray[np.int64], *, judged: int
) -> list[str]:
    """How many labels look wrong, and a line for each pair of label and suggested class; the lines add up to all suspects."""
    names = dataset.class_names
    pairs = Counter(zip(dataset.labels[rows].tolist(), suggested.tolist(), strict=True)).most_common()
    lines = [
        f"{count:,} labelled {names[own]}, suggested {names[other]}" for (own, other), count in pairs[:_MOST_PARTS]
    ]
    if rest := sum(count for _, count in pairs[_MOST_PARTS:]):
        lines.append(f"{rest:,} in {len(pairs) - _MOST_PARTS:,} other pairs of classes")
    return [f"{len(rows):,} of {judged:,} labels of {dataset.name} may be wrong", *lines]


def render_suspects(
    dataset: Dataset,
    rows: NDArray[np.int64],
    suggested: NDArray[np.int64],
    confidence: NDArray[np.float64],
    *,
    judged: int,
    agreed: float,
    table: str,
    cells: Sequence[str],
) -> str:
    """The page.

    Args:
        rows: (m,) of the data set, worst first. suggested: (m,) classes. confidence: (m, 2) probabilities of the label and of the
            suggested class. judged: how many rows were. agreed: the share of labels that the models agree with.
        table: the CSV of corrections as it is written, a line a row, its last two cells empty. cells: the classes as its cells.
    """
    title, *parts = describe_suspects(dataset, rows, suggested, judged=judged)
    shown = min(len(rows), MOST_SHOWN)
    more = f" The first {shown:,} are shown; suspects.csv has all." if shown < len(rows) else ""
    agreement = f"The models agree with {agreed:.1%} of the {judged:,} labels.{more}"
    heading = page.section(
        title,
        page.items(parts, kind="parts") if parts else "",
        page.paragraph(agreement),
        page.paragraph(_NOTE) if parts else "",
    )
    if not len(rows):
        return page.render_page(f"Label errors of {dataset.name} – clearsight", [heading])
    cards = [
        _describe_card(dataset, place, int(rows[place]), int(suggested[place]), confidence[place])
        for place in range(shown)
    ]
    height, width, _ = dataset.picture_shape
    gallery = page.section(
        "Decide", page.paragraph(_KEYS, kind="note"), page.render("suspects", cards=cards, shape=f"{width}/{height}")
    )
    facts = {
        "table": table.encode("utf-8", "backslashreplace").decode(),
        "cells": list(cells),
        "classes": list(dataset.class_names),
        "own": dataset.labels[rows].tolist(),
        "suggested": suggested.tolist(),
    }
    return page.render_page(
        f"Label errors of {dataset.name} – clearsight", [heading, gallery, page.render("save_bar")],
        style="suspects.css", script="suspects.js", facts=facts,
    )  # fmt: skip


def _describe_card(
    dataset: Dataset, place: int, row: int, other: int, confidence: NDArray[np.float64]
) -> dict[str, Any]:
    """What is shown of one suspect, with its choices."""
    names, low, high = dataset.class_names, *(dataset.value_range or (0.0, 255.0))
    own, name = names[dataset.labels[row]], dataset.row_name(row)
    data = ""
    if dataset.picture_shape[0] > 1:
        data = page.encode_png(pictures.draw_picture(dataset.images[row], low=low, high=high))
    return {
        "place": place, "name": name, "data": data, "text": f"labelled {own}, suggested {names[other]}", "own": own,
        "short": name if dataset.files else name.split(" (")[0],  # without the source, which is the same for all
        "other": names[other], "confidence": [f"{share:.0%}" for share in confidence], "has_more": len(names) > 2,
        "choices": [("keep", f"keep {own}"), ("suggested", f"relabel to {names[other]}"), ("out", "leave out")],
    }  # fmt: skip
