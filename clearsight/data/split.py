"""Which rows are for training, validation and test: disjoint, complete, stratified, a function of a seed.

Written here and not taken from a library, because a split decides what a saved model was tested on: it must not change
with a library's version. (Folds are scikit-learn's: they never hold test rows.) It must not know pictures.
"""

import re
from dataclasses import dataclass, replace
from typing import Any

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


def find_bound(dataset: Dataset, *, group_by: str | None = None) -> list[Rows]:
    """Groups of two and more rows that no split may part: copies of a picture, and files whose names say that they are one's.

    Args:
        group_by: regular expression; what it finds in a file's name (its first group, if it has one) names the file's group.

    Raises:
        UsageError: it is no regular expression, finds nothing in some name, or rows are not files.
    """
    if group_by is None:
        return dataset.copies
    if not dataset.files:
        raise UsageError("group_by must go with picture files, got rows without names. Leave it out.")
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise UsageError(f"group_by must be a regular expression, got {group_by!r}: {error}. Correct it.") from None
    names = []
    for file in dataset.files:
        found = pattern.search(file)
        if found is None:
            raise UsageError(f"group_by must find something in every file name, got nothing in {file}. Correct it.")
        names.append(found.group(1 if pattern.groups else 0) or "")
    group = np.unique(names, return_inverse=True)[1]
    for copies in dataset.copies:  # equal pictures in several groups join them
        group[np.isin(group, group[copies])] = group[copies[0]]
    order = np.argsort(group, kind="stable")
    edges = np.flatnonzero(np.diff(group[order])) + 1
    return [rows for rows in np.split(order, edges) if len(rows) > 1]


def find_groups(dataset: Dataset, *, group_by: str | None = None) -> NDArray[np.int64]:
    """Of each row (n,) the first row of what it is bound to; see `find_bound`."""
    group = np.arange(len(dataset))
    for bound in find_bound(dataset, group_by=group_by):
        group[bound] = bound[0]
    return group


def _set_bound_aside(bound: list[Rows], rows: Rows, *, count: int) -> tuple[Rows, dict[int, Rows]]:
    """`rows` (of `count` in all) with one row of each bound group, and by that row the others, which must go where it goes."""
    among = np.zeros(count, bool)
    among[rows] = True
    groups = [group[among[group]] for group in bound]
    followers = {int(group[0]): group[1:] for group in groups if len(group) > 1}
    if not followers:
        return rows, {}
    return np.setdiff1d(rows, np.concatenate(list(followers.values())), assume_unique=True), followers


def _add_bound(rows: Rows, followers: dict[int, Rows]) -> Rows:
    found = [followers[row] for row in rows.tolist() if row in followers] if followers else []
    return np.sort(np.concatenate([rows, *found])) if found else rows


def _check_given(dataset: Dataset, given: NDArray[np.int8], bound: list[Rows]) -> None:
    """Refuse splits that came with the data and part what belongs together."""
    for rows in bound:
        if len(np.unique(given[rows])) > 1:
            other = rows[given[rows] != given[rows[0]]][0]
            raise DataError(
                f"group_by must not part the splits that came with the data, got {dataset.row_name(int(rows[0]))} and "
                f"{dataset.row_name(int(other))} in two of them. Set data.pool=true to draw anew."
            )


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
    group_by: str | None = None,
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
        group_by: see `find_bound`.
        seed: of the drawing; equal seeds, equal splits.

    Returns:
        Disjoint, complete row numbers. Classes keep their proportions to within one row; regression is not stratified.
        Where fractions are drawn, bound rows (see `find_bound`) count as one and go where the first of them goes.

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
    bound = find_bound(dataset, group_by=group_by)
    if group_by is not None:
        _check_given(dataset, given, bound)
    if train_per_class is not None:
        if len(valid) or len(test):
            raise UsageError("train_per_class must go with pool=true where the data brings splits. Set data.pool=true.")
        train, valid, test = _by_count(labels, train, counts, shuffle, rng)
    else:
        train, followers = _set_bound_aside(bound, train, count=len(dataset))
        if len(test) == 0:
            train, test = _draw(labels, train, test_fraction, shuffle, rng)
            test = _add_bound(test, followers)
        if len(valid) == 0:
            train, valid = _draw(labels, train, valid_fraction, shuffle, rng)
            valid = _add_bound(valid, followers)
        train = _add_bound(train, followers)
    if len(train) == 0:
        raise DataError(f"training must keep at least one row, got {len(dataset)} rows in all. Lower the fractions.")
    used = np.zeros(len(dataset), bool)
    for part in (train, valid, test):
        used[part] = True
    return Split(train, valid, test, np.flatnonzero(~used))


def fold_training(
    split: Split,
    dataset: Dataset,
    *,
    folds: int,
    fold: int,
    shuffle: bool = True,
    group_by: str | None = None,
    seeds: tuple[int, ...] = (0, 0),
) -> Split:
    """The split with its training and validation rows parted anew: one of `folds` parts is for validation, the rest for training.

    Parts are nearly equal in size and in their share of each class (scikit-learn's `StratifiedKFold`); bound rows (see
    `find_bound`) stay together (`StratifiedGroupKFold`), and numbers to predict are not stratified. Test rows are as they were.

    Raises:
        UsageError: no such fold, or more folds than rows (or groups) of the smallest class.
    """
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    if not 0 <= fold < folds:
        raise UsageError(f"fold must lie in 0 to {folds - 1}, got {fold}. Choose one of the {folds}.")
    rows = np.sort(np.concatenate([split.train, split.valid]))
    group = find_groups(dataset, group_by=group_by)
    apart = np.unique(group[rows])
    smallest, where = len(apart), "all rows"
    if not dataset.is_regression:
        counts = {k: len(np.unique(group[rows[dataset.labels[rows] == k]])) for k in np.unique(dataset.labels[rows])}
        worst = min(counts, key=lambda k: counts[k])
        smallest, where = counts[worst], f"class {dataset.class_names[worst]}"
    if smallest < folds:
        raise UsageError(
            f"folds must be at most the pictures or groups of a class, got {folds} for {smallest} of {where}. Lower it."
        )
    seed = int(np.random.default_rng([*seeds, 0xF01D]).integers(2**31))
    random: dict[str, Any] = {"shuffle": shuffle, "random_state": seed if shuffle else None}
    grouped = len(apart) < len(rows)
    if dataset.is_regression:
        splitter: Any = GroupKFold(folds, **random) if grouped else KFold(folds, **random)
    else:
        splitter = StratifiedGroupKFold(folds, **random) if grouped else StratifiedKFold(folds, **random)
    parts = list(splitter.split(np.zeros(len(rows)), dataset.labels[rows], group[rows] if grouped else None))
    train, valid = parts[fold]
    return replace(split, train=rows[np.sort(train)], valid=rows[np.sort(valid)])


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
