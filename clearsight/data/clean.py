"""A data set without what is wrong with it beyond doubt: copies, conflicting labels, classes without a picture."""

from dataclasses import replace

import numpy as np

from clearsight.data.dataset import Dataset
from clearsight.errors import DataError


def drop_flawed(dataset: Dataset) -> Dataset:
    """The data set without exact copies: one row of each is kept, a test row if there is one, and none where labels differ.

    Classes that have no picture are left out, too. What was left out is noted.

    Raises:
        DataError: fewer than two classes are left.
    """
    drop, conflicts = [], 0
    for rows in dataset.copies:
        if len(set(dataset.labels[rows].tolist())) > 1:
            drop += rows.tolist()
            conflicts += len(rows)
        else:
            kept = rows[np.argmax(dataset.given[rows])]
            drop += [row for row in rows.tolist() if row != kept]
    notes = []
    if conflicts:
        notes.append(f"{conflicts} rows whose pictures have copies of another label were left out")
    if len(drop) > conflicts:
        notes.append(f"{len(drop) - conflicts} copies of pictures were left out")
    if drop:
        dataset = dataset.select(np.setdiff1d(np.arange(len(dataset)), drop), notes=notes)
    return dataset if dataset.is_regression else _drop_empty_classes(dataset)


def _drop_empty_classes(dataset: Dataset) -> Dataset:
    counts = np.bincount(dataset.labels, minlength=len(dataset.class_names))
    full = np.flatnonzero(counts)
    if len(full) == len(counts):
        return replace(dataset, empty=())
    names = [dataset.class_names[k] for k in np.flatnonzero(counts == 0)]
    if len(full) < 2:
        raise DataError(
            f"a classifier must have two or more classes with pictures, got {len(full)}. Add pictures of {', '.join(names)}."
        )
    position = np.cumsum(counts > 0) - 1
    return replace(
        dataset,
        labels=position[dataset.labels],
        class_names=tuple(dataset.class_names[k] for k in full),
        empty=(),
        notes=(*dataset.notes, f"classes without a picture were left out: {', '.join(names)}"),
    )
