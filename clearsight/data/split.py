"""Which rows are for training, validation and test: disjoint, complete, stratified, a function of a seed.

Written here and not taken from a library, because a split decides what a saved model was tested on: it must not change
with a library's version. It must not know pictures.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clearsight.data.dataset import TEST, TRAIN, VALID, Dataset
from clearsight.errors import DataError, UsageError

Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of each part, ascending. Every row is in exactly one; `unused` is empty unless counts were asked for."""

    train: Rows
    valid: Rows
    test: Rows
    unused: Rows

    def parts(self) -> dict[str, Rows]:
        """The non-empty ones of train, valid and test, by name."""
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        return {name: rows for name, rows in parts.items() if len(rows)}


def _draw(
    labels: NDArray[np.generic], rows: Rows, fraction: float, shuffle: bool, rng: np.random.Generator
) -> tuple[Rows, Rows]:
    """(rest, drawn): a `fraction` of `rows`, each class in proportion, rounded so that the total is right.

    A class gives its last row away only where no other has one to spare.

    Drawn at random, or without `shuffle` from the end of each class.
    """
    if fraction == 0 or len(rows) == 0:
        return rows, rows[:0]
    groups = [rows[labels[rows] == k] for k in np.unique(labels[rows])]
    exact = np.array([len(g) * fraction for g in groups])
    counts = np.floor(exact).astype(int)
    sizes = np.array([len(g) for g in groups])
    by_rest = np.argsort(-(exact - counts), kind="stable")
    spare = counts[by_rest] + 1 < sizes[by_rest]  # a class gives its last row away only where no other has one to spare
    counts[np.concatenate([by_rest[spare], by_rest[~spare]])[: round(exact.sum()) - counts.sum()]] += 1
    drawn = np.concatenate(
        [(rng.permutation(g) if shuffle else g[::-1])[:n] for g, n in zip(groups, counts, strict=True)]
    )
    drawn.sort()
    return np.setdiff1d(rows, drawn, assume_unique=True), drawn


def _set_copies_aside(dataset: Dataset, rows: Rows) -> tuple[Rows, dict[int, Rows]]:
    """`rows` with one row of each group of copies, and by that row the others, which must go where it goes."""
    among = np.zeros(len(dataset), bool)
    among[rows] = True
    groups = [group[among[group]] for group in dataset.copies]
    followers = {int(group[0]): group[1:] for group in groups if len(group) > 1}
    if not followers:
        return rows, {}
    return np.setdiff1d(rows, np.concatenate(list(followers.values())), assume_unique=True), followers


def _add_copies(rows: Rows, followers: dict[int, Rows]) -> Rows:
    found = [followers[row] for row in rows.tolist() if row in followers] if followers else []
    return np.sort(np.concatenate([rows, *found])) if found else rows


def _by_count(
    labels: NDArray[np.generic], rows: Rows, counts: tuple[int, int, int], shuffle: bool, rng: np.random.Generator
) -> tuple[Rows, Rows, Rows]:
    parts: tuple[list[Rows], list[Rows], list[Rows]] = ([], [], [])
    for k in np.unique(labels[rows]):
        group = rows[labels[rows] == k]
        if sum(counts) > len(group):
            raise DataError(
                f"train_per_class + valid_per_class + test_per_class must fit in every class, got {sum(counts)} but "
                f"class {k} has {len(group)} rows. Ask for fewer."
            )
        if shuffle:
            group = rng.permutation(group)
        ends = np.cumsum((0, *counts))
        for part, start, end in zip(parts, ends[:-1], ends[1:], strict=True):
            part.append(group[start:end])
    train, valid, test = (np.sort(np.concatenate(part)) for part in parts)
    return train, valid, test


def split_data(
    dataset: Dataset,
    *,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.2,
    train_per_class: int | None = None,
    valid_per_class: int = 0,
    test_per_class: int = 0,
    shuffle: bool = True,
    pool: bool = False,
    seed: int = 0,
) -> Split:
    """Split a data set. Splits that came with the data are kept; only what is missing is drawn from the training rows.

    Args:
        dataset: what to split.
        valid_fraction: share of the training rows (after the test rows were taken) for validation, in [0, 1).
        test_fraction: share of all rows for test, in [0, 1), where the data brings no test split.
        train_per_class, valid_per_class, test_per_class: exact numbers a class instead of fractions; the rest is unused.
        shuffle: False takes each class in file order: first training, then validation, then test.
        pool: True puts all given splits together first and draws anew.
        seed: of the drawing; equal seeds, equal splits.

    Returns:
        Disjoint, complete row numbers. Classes keep their proportions to within one row; regression is not stratified.
        Where fractions are drawn, exact copies of a picture count as one and go where the first of them goes.

    Raises:
        UsageError: a fraction outside [0, 1) or a negative count. DataError: no training row is left, or a class is too
            small for the counts.
    """
    for name, value in (("valid_fraction", valid_fraction), ("test_fraction", test_fraction)):
        if not 0 <= value < 1:
            raise UsageError(f"{name} must lie in [0, 1), got {value}. Use 0 for none.")
    counts = (train_per_class or 0, valid_per_class, test_per_class)
    if min(counts) < 0 or (train_per_class is None and any(counts)) or train_per_class == 0:
        raise UsageError(
            f"train_per_class must be 1 or more where counts are given, got {train_per_class}, {valid_per_class}, "
            f"{test_per_class}. Set it too."
        )
    rng = np.random.default_rng([seed, 0x59117])
    given = np.zeros_like(dataset.given) if pool else dataset.given
    train, valid, test = (np.flatnonzero(given == split) for split in (TRAIN, VALID, TEST))
    labels = np.zeros(len(dataset)) if dataset.is_regression else dataset.labels
    if train_per_class is not None:
        if len(valid) or len(test):
            raise UsageError("train_per_class must go with pool=true where the data brings splits. Set data.pool=true.")
        train, valid, test = _by_count(labels, train, counts, shuffle, rng)
    else:
        train, followers = _set_copies_aside(dataset, train)
        if len(test) == 0:
            train, test = _draw(labels, train, test_fraction, shuffle, rng)
            test = _add_copies(test, followers)
        if len(valid) == 0:
            train, valid = _draw(labels, train, valid_fraction, shuffle, rng)
            valid = _add_copies(valid, followers)
        train = _add_copies(train, followers)
    if len(train) == 0:
        raise DataError(f"training must keep at least one row, got {len(dataset)} rows in all. Lower the fractions.")
    used = np.zeros(len(dataset), bool)
    for part in (train, valid, test):
        used[part] = True
    return Split(train, valid, test, np.flatnonzero(~used))


def thin_training(split: Split, labels: NDArray[np.generic], *, share: float, seeds: tuple[int, ...]) -> Split:
    """The split with a share of its training rows, each class in proportion and none lost; the others become unused.

    Raises:
        DataError: no row would be left.
    """
    if share == 1:
        return split
    rest, left_out = _draw(labels, split.train, 1 - share, True, np.random.default_rng([*seeds, 0x7415]))
    if len(rest) == 0:
        raise DataError(f"train_fraction must leave rows to train on, got {share:g} of {len(split.train)}. Raise it.")
    return replace(split, train=rest, unused=np.sort(np.concatenate([split.unused, left_out])))
