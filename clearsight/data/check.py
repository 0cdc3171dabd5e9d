"""What is wrong with a data set, found before training: files, copies, leakage, classes, pixels, shift between splits.

Every finding has a level: an `error` makes training on the data meaningless and stops it, a `warning` is worth a look,
a `note` is worth knowing. It must not know how anything is trained or drawn.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.core.flaws import LEVELS, Flaw
from clearsight.data.dataset import SPLITS, Dataset
from clearsight.data.duplicates import find_blank, find_near_copies, rows_at_once
from clearsight.data.shift import find_shift

NEAR_ROWS_BEFORE_TRAINING = 10_000
_TINY_CLASS = 10
_IMBALANCE = 5.0
_SQUASH = 2.0
_CONSTANT_SHARE = 0.05
_RARE = 0.5
Parts = Mapping[str, NDArray[np.int64]]


def check_dataset(dataset: Dataset, parts: Parts, *, near: bool = True, skip_bad: bool = False) -> list[Flaw]:
    """Everything that is found, errors first.

    Args:
        dataset: read with `skip_bad`, so that bad files are listed in it and not raised.
        parts: row numbers of train, valid and test as they will be used.
        near: look for near copies too (some 3 seconds for 70,000 pictures).
        skip_bad: bad files are known and left out, so they are no error.
    """
    found = [*_check_files(dataset, skip_bad), *_check_classes(dataset, parts)]
    if dataset.picture_shape[0] > 1:
        found += [*_check_copies(dataset, parts), *_check_sizes(dataset), *_check_pixels(dataset, parts)]
        if near:
            found += _check_near_copies(dataset, parts)
        found += [Flaw("warning", "shift", text) for text in find_shift(dataset.images, parts)]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def _plural(count: int, noun: str) -> str:
    ending = "" if count == 1 else "es" if noun.endswith("ss") else "s"
    return f"{count:,} {noun}{ending}"


def _has(count: int) -> str:
    return "has" if count == 1 else "have"


def _check_files(dataset: Dataset, skip_bad: bool) -> list[Flaw]:
    found = []
    if dataset.bad:
        files = tuple(f"{b.path}: {b.reason.removeprefix(b.path + ' ').rstrip('.')}" for b in dataset.bad)
        found.append(Flaw(
            "note" if skip_bad else "error", "unreadable",
            f"{_plural(len(dataset.bad), 'file')} cannot be read. Repair or remove {'it' if len(dataset.bad) == 1 else 'them'}, "
            "or leave out what cannot be read with --skip-bad.", files,
        ))  # fmt: skip
    by_kind: dict[str, list[int]] = defaultdict(list)
    for row, facts in enumerate(dataset.facts):
        for note in facts.notes:
            by_kind[
                "several frames; only the first is used"
                if "frames" in note
                else "a name that does not match the format"
            ].append(row)
    for kind, rows in by_kind.items():
        names = tuple(f"{dataset.files[row]}: {'; '.join(dataset.facts[row].notes)}" for row in rows)
        found.append(
            Flaw("warning", "odd-file", f"{_plural(len(rows), 'file')} {_has(len(rows))} {kind}.", names, tuple(rows))
        )
    return found


def _check_classes(dataset: Dataset, parts: Parts) -> list[Flaw]:
    if dataset.is_regression:
        targets = dataset.labels[parts["train"]]
        if len(targets) > 1 and (targets == targets[0]).all():
            return [
                Flaw(
                    "error",
                    "constant-target",
                    f"targets must differ, got {targets[0]:g} in every training row. Check them.",
                )
            ]
        return []
    return [*_check_names(dataset), *_check_counts(dataset, parts)]


def _check_names(dataset: Dataset) -> list[Flaw]:
    """Whether classes are two or more, differ, and have pictures."""
    names = dataset.class_names
    found = []
    if len(names) < 2:
        found.append(Flaw(
            "error", "one-class",
            f"a classifier must have two or more classes, got {list(names)}. Add pictures of another class.",
        ))  # fmt: skip
    lower: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if len(name) > 1:  # the letters a and A are two classes
            lower[name.casefold()].append(name)
    for twins in lower.values():
        if len(twins) > 1:
            found.append(Flaw(
                "error", "class-names", f"classes must differ by more than case, got {' and '.join(map(repr, twins))}. "
                "Put their pictures together or rename one."
            ))  # fmt: skip
    for split, name in dataset.empty:
        found.append(Flaw(
            "error", "empty-class", f"class {name!r} of {split} must hold pictures, got none. Add some or remove its folder.",
        ))  # fmt: skip
    return found


def _check_counts(dataset: Dataset, parts: Parts) -> list[Flaw]:
    """Whether every class has pictures enough in every split."""
    names, found = dataset.class_names, []
    counts = {split: np.bincount(dataset.labels[rows], minlength=len(names)) for split, rows in parts.items()}
    train = counts["train"]
    for split, own in counts.items():
        unknown = [names[k] for k in np.flatnonzero((train == 0) & (own > 0))]
        if split != "train" and unknown:
            found.append(Flaw(
                "error", "unknown-class", f"classes of {split} must have training pictures, got none of "
                f"{', '.join(map(repr, unknown))}. Add training pictures, or remove the class.",
            ))  # fmt: skip
        missing = [names[k] for k in np.flatnonzero((train > 0) & (own == 0))]
        if split != "train" and missing:
            found.append(Flaw(
                "warning", "missing-class", f"{split} has no pictures of {', '.join(map(repr, missing))}, so it cannot show "
                f"how well the model recognises {'it' if len(missing) == 1 else 'them'}.",
            ))  # fmt: skip
    total = np.bincount(dataset.labels, minlength=len(names))
    tiny = [f"{names[k]} ({total[k]})" for k in np.flatnonzero((total > 0) & (total < _TINY_CLASS))]
    if tiny:
        found.append(Flaw(
            "warning", "tiny-class", f"{_plural(len(tiny), 'class')} {_has(len(tiny))} fewer than {_TINY_CLASS} pictures: "
            f"{', '.join(tiny)}. A class with one picture can be used for training or for testing, not both.",
        ))  # fmt: skip
    present = train[train > 0]
    if len(present) > 1 and present.max() >= _IMBALANCE * present.min():
        most, least = names[int(train.argmax())], names[int(np.argmin(np.where(train > 0, train, train.max() + 1)))]
        found.append(Flaw(
            "warning", "imbalance",
            f"classes are uneven: {most!r} has {train.max():,} training pictures, {least!r} {present.min():,}. Consider "
            "--class-weights balanced or --sampling balanced, and look at the figures for each class.",
        ))  # fmt: skip
    return found


def _split_of(dataset: Dataset, parts: Parts) -> NDArray[np.int8]:
    split = np.full(len(dataset), -1, np.int8)
    for name, rows in parts.items():
        split[rows] = SPLITS.index(name)
    return split


def _join(dataset: Dataset, groups: Sequence[Any]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Files and rows of groups of rows, a group to a line."""
    return (
        tuple(" = ".join(dataset.row_name(int(row)) for row in group) for group in groups),
        tuple(int(row) for group in groups for row in group),
    )


def _appear(count: int) -> str:
    return "appears" if count == 1 else "appear"


def _check_copies(dataset: Dataset, parts: Parts) -> list[Flaw]:
    split = _split_of(dataset, parts)
    conflicts, leaks, copies = [], [], []
    for rows in dataset.copies:
        if len(set(dataset.labels[rows].tolist())) > 1:
            conflicts.append(rows)
        elif len(set(split[rows].tolist()) - {-1}) > 1:
            leaks.append(rows)
        else:
            copies.append(rows)
    found = []
    if conflicts:
        found.append(Flaw(
            "error", "label-conflict",
            f"{_plural(len(conflicts), 'picture')} {_appear(len(conflicts))} more than once with different labels. "
            "Correct the labels, or leave such pictures out with --skip-bad.", *_join(dataset, conflicts),
        ))  # fmt: skip
    if leaks:
        found.append(Flaw(
            "error", "leakage", f"{_plural(len(leaks), 'picture')} {_appear(len(leaks))} in more than one of "
            f"{', '.join(parts)}, so results would look better than they are. Remove the copies, or leave them out with "
            "--skip-bad.", *_join(dataset, leaks),
        ))  # fmt: skip
    if copies:
        found.append(Flaw(
            "warning", "copies", f"{_plural(len(copies), 'picture')} {_appear(len(copies))} more than once within a split, "
            "and every copy counts. Use --skip-bad to keep one of each.",
            *_join(dataset, copies),
        ))  # fmt: skip
    return found


def _check_near_copies(dataset: Dataset, parts: Parts) -> list[Flaw]:
    pairs = find_near_copies(dataset.images)
    if len(pairs) == 0:
        return []
    split = _split_of(dataset, parts)
    across = split[pairs[:, 0]] != split[pairs[:, 1]]
    other = dataset.labels[pairs[:, 0]] != dataset.labels[pairs[:, 1]]
    found = []
    for kind, chosen, words in (
        ("near-conflict", other, "nearly equal but have different labels; one label may be wrong"),
        (
            "near-leakage",
            across & ~other,
            "nearly equal but in different splits; results may look better than they are",
        ),
        ("near-copies", ~across & ~other, "nearly equal within a split"),
    ):
        if chosen.any():
            noun = f"{_plural(int(chosen.sum()), 'pair')} of pictures {'is' if chosen.sum() == 1 else 'are'}"
            found.append(Flaw("warning", kind, f"{noun} {words}.", *_join(dataset, pairs[chosen].tolist())))
    return found


def _check_sizes(dataset: Dataset) -> list[Flaw]:
    if not dataset.facts:
        return []
    height, width, _ = dataset.picture_shape
    sizes = np.array([(f.height, f.width) for f in dataset.facts], float)
    distortion = np.abs(np.log((sizes[:, 1] / sizes[:, 0]) / (width / height)))
    small = np.flatnonzero((sizes[:, 0] < _RARE * height) & (sizes[:, 1] < _RARE * width))
    long = np.flatnonzero(distortion > np.log(_SQUASH))
    found = []
    if len(long):
        found.append(Flaw(
            "warning", "aspect",
            f"{len(long):,} of {_plural(len(sizes), 'picture')} {_has(len(long))} proportions that differ from "
            f"{width}x{height} by more than a factor of {_SQUASH:g}. Choose --resize crop or pad, or "
            "another --image-size.", *_name_sizes(dataset, long),
        ))  # fmt: skip
    if len(small):
        found.append(Flaw(
            "warning", "small",
            f"{len(small):,} of {_plural(len(sizes), 'picture')} {_has(len(small))} less than half the width and height of "
            f"{width}x{height}. Enlarging cannot add detail.",
            *_name_sizes(dataset, small),
        ))  # fmt: skip
    return found


def _name_sizes(dataset: Dataset, rows: NDArray[np.int64]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    facts = dataset.facts
    return tuple(f"{dataset.files[r]}: {facts[r].width}x{facts[r].height}" for r in rows), tuple(int(r) for r in rows)


def _check_pixels(dataset: Dataset, parts: Parts) -> list[Flaw]:
    found = []
    blank = np.flatnonzero(find_blank(dataset.images))
    if len(blank):
        names = tuple(dataset.row_name(int(row)) for row in blank)
        found.append(Flaw(
            "warning", "blank", f"{_plural(len(blank), 'picture')} {_has(len(blank))} only one colour. Check whether "
            "something went wrong.", names,
            tuple(int(row) for row in blank),
        ))  # fmt: skip
    flat, train = dataset.images.reshape(len(dataset), -1), parts["train"]
    same, step = np.ones(flat.shape[1], bool), rows_at_once(dataset.images)
    for start in range(0, len(train), step):
        same &= (flat[train[start : start + step]] == flat[train[0]]).all(axis=0)
    constant = int(same.sum())
    if len(train) > 1 and constant > _CONSTANT_SHARE * flat.shape[1]:
        found.append(Flaw(
            "note", "constant-pixels", f"{constant:,} of {flat.shape[1]:,} pixel values are the same in every training picture.",
        ))  # fmt: skip
    if dataset.value_range:
        low, high = dataset.value_range
        top = float(dataset.images.max())
        if top < low + (high - low) / 16:
            found.append(Flaw(
                "warning", "dark", f"the brightest pixel is {top:g} on a scale from {low:g} to {high:g}, so the pictures are "
                "nearly black. Rescale them.",
            ))  # fmt: skip
    return found
