"""The one data set class: pictures as they are, labels, class names, and where every row came from.

It must not know files, models or training. Floats exist only in a batch; pictures stay as small as they came.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clearsight.errors import DataError

TRAIN, VALID, TEST = 0, 1, 2
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled pictures.

    Args:
        name: what to call it, for example in a run directory's name.
        images: (N, H, W, C), uint8, or float32 where the source is not 8-bit.
        labels: (N,) int64 class indices in [0, K), or (N,) float32 targets for regression.
        class_names: K names in index order; empty for regression.
        given: (N,) int8, the split each row came in: 0 train (also "none given"), 1 valid, 2 test.
        value_range: smallest and largest value a pixel can take, or None where only the data can tell.
        sources: for each given split that exists, the file it came from.
        notes: what was assumed while reading, for the user to see.
    """

    name: str
    images: NDArray[Any]
    labels: NDArray[Any]
    class_names: tuple[str, ...]
    given: NDArray[np.int8]
    value_range: tuple[float, float] | None = None
    sources: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def is_regression(self) -> bool:
        """True where labels are numbers to predict, not classes."""
        return not self.class_names

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over pictures, labels, class names and given splits: equal exactly for equal data."""
        digest = hashlib.sha256()
        for array in (self.images, self.labels, self.given):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        digest.update("\0".join(self.class_names).encode())
        return digest.hexdigest()

    def row_name(self, row: int) -> str:
        """Where a row came from, in words: split, number within it, file."""
        split = int(self.given[row])
        number = int(np.count_nonzero(self.given[:row] == split))
        source = self.sources.get(SPLITS[split])
        return f"row {number} of {SPLITS[split]}" + (f" ({source})" if source else "")


def check_images(images: ArrayLike, *, what: str = "images") -> tuple[NDArray[Any], tuple[float, float] | None]:
    """Any sensible array of pictures or features as (N, H, W, C), and its value range where the type tells it.

    Args:
        images: (n, h, w), (n, h, w, c) or (n, features); bool, integer or float. Features become (n, 1, features, 1).
        what: how errors call the array.

    Returns:
        uint8 where all values are integers in 0..255, float32 otherwise; views where possible. The range is (0, 255)
        for uint8, (0, 65535) for uint16, (0, 1) for bool, and None for the rest.

    Raises:
        DataError: object or complex type, wrong rank, no rows, channels first, NaN or infinite values (with the row).
    """
    try:
        array = np.asarray(images)
    except ValueError as error:
        raise DataError(
            f"{what} must be one rectangular array, got pictures of different shapes ({error}). Make them equal in size."
        ) from None
    if array.dtype.kind not in "buif":
        raise DataError(f"{what} must be numbers, got an array of {array.dtype}. Convert it to uint8 or float32.")
    if array.ndim not in (2, 3, 4):
        raise DataError(
            f"{what} must have shape (n, height, width), (n, height, width, channels) or (n, features), "
            f"got {array.shape}. Reshape it."
        )
    if len(array) == 0:
        raise DataError(f"{what} must hold at least one row, got shape {array.shape}. Check the source.")
    if array.size == 0:
        raise DataError(f"{what} must not have an empty side, got shape {array.shape}. Check the source.")
    if array.ndim == 4 and array.shape[3] > 4:
        if array.shape[1] <= 4:
            raise DataError(
                f"{what} must be (n, height, width, channels), got {array.shape}, which looks like channels first. "
                "Use images.transpose(0, 2, 3, 1)."
            )
        raise DataError(f"{what} must have 1 to 4 channels, got {array.shape[3]} of {array.shape}. Reshape it.")
    shaped = array[:, None, :, None] if array.ndim == 2 else array[..., None] if array.ndim == 3 else array
    kind = array.dtype
    if kind == np.bool_:
        return shaped.astype(np.uint8), (0.0, 1.0)
    if kind == np.uint8:
        return np.ascontiguousarray(shaped), (0.0, 255.0)
    if kind.kind in "ui":
        if array.min() >= 0 and array.max() <= 255 and kind != np.uint16:
            return shaped.astype(np.uint8), None
        return shaped.astype(np.float32), (0.0, 65535.0) if kind == np.uint16 else None
    with np.errstate(over="ignore"):
        floats = np.ascontiguousarray(shaped, np.float32)
    finite = np.isfinite(floats.reshape(len(floats), -1)).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        bad = np.asarray(array[row]).ravel()
        value = bad[~np.isfinite(floats[row].ravel())][0]
        raise DataError(f"{what} must be finite, got {value} at row {row}. Remove the row or mend its values.")
    return floats, None


def check_labels(
    labels: ArrayLike, *, rows: int, class_names: Sequence[str] = (), what: str = "labels"
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Any sensible labels as class indices and class names.

    Args:
        labels: (n,) or (n, 1) integers, whole floats, booleans or strings; or (n, K) one-hot.
        rows: how many pictures there are.
        class_names: the known classes in order; integers are then indices into it, strings must be in it.
        what: how errors call the array.

    Returns:
        (n,) int64 in [0, K), and the K names. Without `class_names`, the distinct values in their order.

    Raises:
        DataError: length, rank or type is wrong; NaN, fractions, negative numbers, unknown classes (with the row).
    """
    try:
        array = np.asarray(labels)
    except ValueError:
        raise DataError(
            f"{what} must be one value a row, got rows of different lengths. Give one label each."
        ) from None
    if array.ndim == 0 or len(array) != rows:
        got = 0 if array.ndim == 0 else len(array)
        raise DataError(f"{what} must be as many as the pictures ({rows}), got {got}. Check that both belong together.")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2 and array.dtype.kind in "buif":
        right = ((array == 0) | (array == 1)).all(axis=1) & (array.sum(axis=1) == 1)
        if not right.all():
            row = int(np.argmin(right))
            raise DataError(
                f"{what} with {array.shape[1]} columns must be one-hot (a single 1 a row), got "
                f"{array[row].tolist()[:12]} at row {row}. Give class numbers instead."
            )
        array = array.argmax(axis=1)
        class_names = class_names or [str(k) for k in range(np.asarray(labels).shape[1])]
    if array.ndim != 1:
        raise DataError(f"{what} must have shape (n,) or be one-hot (n, classes), got {array.shape}. Reshape them.")
    if array.dtype.kind in "OUS":
        return _named_labels(array, class_names, what)
    if array.dtype.kind == "f":
        whole = np.isfinite(array) & (np.floor(array) == array)
        if not whole.all():
            row = int(np.argmin(whole))
            raise DataError(
                f"{what} must be whole numbers or names, got {array[row]} at row {row}. "
                "Mend it, or set data.task=regression to predict numbers."
            )
    elif array.dtype.kind not in "bui":
        raise DataError(f"{what} must be numbers or names, got an array of {array.dtype}. Convert it.")
    array = array.astype(np.int64)
    upper = len(class_names) or None
    outside = (array < 0) | ((array >= upper) if upper else False)
    if outside.any():
        row = int(np.argmax(outside))
        limit = f"lie in [0, {upper})" if upper else "be 0 or more"
        raise DataError(f"{what} must {limit}, got {array[row]} at row {row}. Check the class list.")
    if class_names:
        return array, tuple(class_names)
    values, indices = np.unique(array, return_inverse=True)
    return indices.astype(np.int64), tuple(str(v) for v in values)


def _named_labels(
    array: NDArray[Any], class_names: Sequence[str], what: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if array.dtype.kind == "O":
        for row, value in enumerate(array):
            if not isinstance(value, str):
                raise DataError(f"{what} must be all names or all numbers, got {value!r} at row {row}. Mend the row.")
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "replace")
    values, indices = np.unique(array.astype(str), return_inverse=True)
    names = [str(v) for v in values]
    if "" in names:
        row = int(np.argmax(array == ""))
        raise DataError(f"{what} must not be empty, got an empty name at row {row}. Name the class or drop the row.")
    if class_names:
        known = {name: k for k, name in enumerate(class_names)}
        for name, value in zip(names, values, strict=True):
            if name not in known:
                row = int(np.argmax(array == value))
                raise DataError(
                    f"{what} must be one of {', '.join(class_names)}, got {name!r} at row {row}. Check the class list."
                )
        return np.array([known[n] for n in names], np.int64)[indices], tuple(class_names)
    return indices.astype(np.int64), tuple(names)


def check_targets(targets: ArrayLike, *, rows: int) -> NDArray[np.float32]:
    """Numbers to predict as (n,) float32.

    Raises:
        DataError: not numbers, not one a row, NaN or infinite (with the row).
    """
    array = np.asarray(targets)
    if array.dtype.kind not in "buif":
        raise DataError(f"targets must be numbers for regression, got an array of {array.dtype}. Convert them.")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or len(array) != rows:
        raise DataError(f"targets must be one number a picture ({rows}), got shape {array.shape}. Reshape them.")
    finite = np.isfinite(array)
    if not finite.all():
        row = int(np.argmin(finite))
        raise DataError(f"targets must be finite, got {array[row]} at row {row}. Mend the row.")
    return array.astype(np.float32)


def build_dataset(
    parts: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    name: str,
    task: str = "classification",
    class_names: Sequence[str] = (),
    value_range: tuple[float, float] | None = None,
    sources: dict[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Dataset:
    """A checked `Dataset` from arrays, one pair (images, labels) for each of `train`, `valid`, `test` that exists.

    Class names are those of the training part unless given: another part may lack a class, never bring a new one.

    Raises:
        DataError: anything that `check_images`, `check_labels`, `check_targets` refuse; parts that differ in shape.
    """
    checked: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
    ranges, names = set(), tuple(class_names)
    for split in (s for s in SPLITS if s in parts):
        images, labels = parts[split]
        what = "" if len(parts) == 1 else f" of {split}"
        pictures, value = check_images(images, what=f"images{what}")
        ranges.add(value)
        if task == "regression":
            checked[split] = (pictures, check_targets(labels, rows=len(pictures)))
            continue
        encoded, found = _encode_part(labels, len(pictures), names, split, what)
        names = names or found
        checked[split] = (pictures, encoded)
    shapes = {split: images.shape[1:] for split, (images, _) in checked.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(f"pictures must have one shape in all splits, got {shapes}. Resize them to one shape.")
    if task == "classification" and len(names) < 2:
        raise DataError(
            f"a classifier must have two or more classes, got {list(names)}. Add pictures of another class."
        )
    images = [images for images, _ in checked.values()]
    return Dataset(
        name=name,
        images=images[0] if len(images) == 1 else np.concatenate(images),
        labels=np.concatenate([labels for _, labels in checked.values()]),
        class_names=names if task == "classification" else (),
        given=np.concatenate([np.full(len(labels), SPLITS.index(s), np.int8) for s, (_, labels) in checked.items()]),
        value_range=value_range or (ranges.pop() if len(ranges) == 1 else None),
        sources=sources or {},
        notes=tuple(notes),
    )


def _encode_part(
    labels: ArrayLike, rows: int, names: tuple[str, ...], split: str, what: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels of one split against the classes known so far, always matched by name and never by position."""
    encoded, found = check_labels(
        labels, rows=rows, class_names=names if split == "train" else (), what=f"labels{what}"
    )
    if split == "train" or not names or found == names:
        return encoded, found
    position = {name: k for k, name in enumerate(names)}
    numbers = np.asarray(labels).dtype.kind in "buif"
    for k, name in enumerate(found):
        index = int(name) if numbers and name.isdigit() and name not in position else -1
        if name not in position and not 0 <= index < len(names):
            row = int(np.argmax(encoded == k))
            raise DataError(
                f"labels{what} must be among the {len(names)} known classes, got {name!r} at row {row}. "
                "Add training pictures of it, or take it out."
            )
        position.setdefault(name, index)
    return np.array([position[n] for n in found], np.int64)[encoded], names
