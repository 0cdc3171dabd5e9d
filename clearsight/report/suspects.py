"""The gallery of labels that are likely wrong, as one HTML page. It must not know how they were found."""

import numpy as np
from numpy.typing import NDArray

from clearsight.data.dataset import Dataset
from clearsight.report import page, pictures
from clearsight.report.text import find_confused_pairs

_SHOWN, _PAIRS = 200, 10
_NOTE = (
    "Each picture was judged by models that had not seen it; the worst come first. A suspect is no proof: look, then write "
    "the right class into the column new_label of suspects.csv, and train with --relabel suspects.csv. What is left empty "
    "stays as it is."
)


def render_suspects(
    dataset: Dataset,
    rows: NDArray[np.int64],
    suggested: NDArray[np.int64],
    confidence: NDArray[np.float64],
    joint: NDArray[np.int64],
    *,
    judged: int,
) -> str:
    """The page.

    Args:
        rows: (m,) of the data set, worst first. suggested: (m,) classes. confidence: (m, 2) probabilities of the label and of the
            suggested class. joint: (K, K) rows labelled i that are surely of class j. judged: how many rows were.
    """
    names, low, high = dataset.class_names, *(dataset.value_range or (0.0, 255.0))
    pairs = find_confused_pairs(joint, count=_PAIRS)
    lines = [f"{names[t]} that look like {names[a]}: {count:,} of {of:,}" for t, a, count, of in pairs]
    heading = page.section(
        f"{len(rows):,} of {judged:,} labels of {dataset.name} look wrong",
        page.paragraph(_NOTE),
        f"<pre>{page.escape_lines(chr(10).join(lines))}</pre>" if lines else "",
    )
    if dataset.picture_shape[0] == 1:
        table = [
            (dataset.row_name(int(row)), names[dataset.labels[row]], names[other], f"{own:.3f}")
            for row, other, (own, _) in zip(rows[:_SHOWN], suggested, confidence, strict=False)
        ]
        return page.render_page(
            "Label errors", [heading, page.table(("row", "label", "looks like", "p(label)"), table)]
        )
    items = [
        (
            pictures.draw_picture(dataset.images[row], low=low, high=high),
            f"labelled {names[dataset.labels[row]]}, looks like {names[other]}",
            (
                f"{names[dataset.labels[row]]} → {names[other]}?",
                f"{own:.0%} against {of_other:.0%}",
                f"row {row}: {dataset.row_name(int(row))}",
            ),
        )
        for row, other, (own, of_other) in zip(rows[:_SHOWN], suggested, confidence, strict=False)
    ]
    more = f" (the first {_SHOWN} of {len(rows):,})" if len(rows) > _SHOWN else ""
    height, width, _ = dataset.picture_shape
    gallery = page.section(f"Suspects{more}", page.pictures(items, cell="7.5rem", shape=f"{width}/{height}"))
    return page.render_page(f"Label errors of {dataset.name} – clearsight", [heading, gallery if items else ""])
