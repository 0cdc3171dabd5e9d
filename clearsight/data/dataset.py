"""The one data set class: pictures as they are, labels, class names, and where every row came from.

It must not know files, models or training. Floats exist only in a batch; pictures stay as small as they came.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clearsight.core.notebook import render_facts, show_classes
from clearsight.data.read.files import BadFile
from clearsight.data.read.pictures import PictureFacts
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
        origin: the name or absolute path from which `load_data` brings it again; `arrays` where nothing does.
        notes: what was assumed while reading, for the user to see.
        files: the picture file of each row, as a path below its source; empty where rows are not files.
        facts: what each of those files' headers says.
        bad: files that were left out, with reasons.
        empty: (split, class) of class folders without a file.
        relabelled: SHA-256 of the CSV that its labels were corrected by; empty for none.
        is_table: whether rows were read from a table of numbers, as a CSV is.
        source_hashes: (N,) uint64, of what each row came from, whatever size it was brought to; None where the pixels are that.
    """

    name: str
    images: NDArray[Any]
    labels: NDArray[Any]
    class_names: tuple[str, ...]
    given: NDArray[np.int8]
    value_range: tuple[float, float] | None = None
    sources: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    origin: str = "arrays"
    files: tuple[str, ...] = ()
    facts: tuple[PictureFacts, ...] = ()
    bad: tuple[BadFile, ...] = ()
    empty: tuple[tuple[str, str], ...] = ()
    relabelled: str = ""
    is_table: bool = False
    source_hashes: NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        height, width, channels = self.picture_shape
        size = f"pictures of {height}x{width}x{channels}" if height > 1 else f"rows of {width * channels} numbers"
        labels = "numbers to predict" if self.is_regression else f"{len(self.class_names)} classes"
        return f"Dataset({self.name}: {len(self):,} {size}, {labels})"

    def _repr_html_(self) -> str:
        flat = self.is_regression or self.picture_shape[0] == 1
        shown = [] if flat else show_classes(self.images, self.labels, self.class_names, self.value_range)
        return render_facts(repr(self), {"pixels": self.images.dtype, "from": self.origin}, shown)

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

    @cached_property
    def pictures_fingerprint(self) -> str:
        """SHA-256 over the pictures alone, which stays when labels are corrected."""
        about = f"{self.images.dtype.str}{self.images.shape}".encode()
        return hashlib.sha256(about + np.ascontiguousarray(self.images).data).hexdigest()

    @cached_property
    def row_hashes(self) -> NDArray[np.uint64]:
        """(N,) of what each row came from: the bytes of its file, or its pixels before they were resized."""
        from clearsight.data.duplicates import hash_rows

        return hash_rows(self.images) if self.source_hashes is None else self.source_hashes

    @cached_property
    def copies(self) -> list[NDArray[np.int64]]:
        """Groups of rows whose pictures are equal byte by byte; none for rows of features, which may well be equal."""
        from clearsight.data.duplicates import find_copies

        return find_copies(self.images) if self.picture_shape[0] > 1 else []

    def select(self, rows: NDArray[np.int64], *, notes: Sequence[str] = ()) -> "Dataset":
        """The same data set with some rows alone, and notes added."""
        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            given=self.given[rows],
            files=tuple(self.files[row] for row in rows) if self.files else (),
            facts=tuple(self.facts[row] for row in rows) if self.facts else (),
            source_hashes=None if self.source_hashes is None else self.source_hashes[rows],
            notes=(*self.notes, *notes),
        )

    def row_name(self, row: int) -> str:
        """Where a row came from, in words: its picture file, or split, number within it, file."""
        if self.files:
            return self.files[row]
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
        return np.ascontiguousarray(shaped, np.uint8), (0.0, 1.0)
    if kind == np.uint8:
        return np.ascontiguousarray(shaped), (0.0, 255.0)
    if kind.kind in "ui":
        if array.min() >= 0 and array.max() <= 255 and kind != np.uint16:
            return np.ascontiguousarray(shaped, np.uint8), None
        return np.ascontiguousarray(shaped, np.float32), (0.0, 65535.0) if kind == np.uint16 else None
    with np.errstate(over="ignore"):
        floats = np.ascontiguousarray(shaped, np.float32)
    finite = np.isfinite(floats.reshape(len(floats), -1)).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        bad = np.asarray(array[row]).ravel()
        value = bad[~np.isfinite(floats[row].ravel())][0]
        raise DataError(f"{what} must be finite, got {value} at row {row}. Remove the row or fix its values.")
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
    array = _label_array(labels, what)
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
                "Fix it, or set data.task=regression to predict numbers."
            )
    elif array.dtype.kind not in "bui":
        raise DataError(f"{what} must be numbers or names, got an array of {array.dtype}. Convert it.")
    upper = len(class_names) or None
    outside = (array < 0) | (array >= (upper or 2**53))  # beyond 2^53 a float is no longer one whole number
    if outside.any():
        row = int(np.argmax(outside))
        limit = f"lie in [0, {upper})" if upper else "be 0 or more" if array[row] < 0 else "be less than 2^53"
        raise DataError(f"{what} must {limit}, got {array[row]} at row {row}. Check the class list.")
    array = array.astype(np.int64)
    if class_names:
        return array, tuple(class_names)
    values, indices = np.unique(array, return_inverse=True)
    return indices.astype(np.int64), tuple(str(v) for v in values)


def _label_array(labels: ArrayLike, what: str) -> NDArray[Any]:
    """Labels as an array that did not turn numbers or missing values into names on the way."""
    try:
        array = np.asarray(labels)
        if array.dtype.kind == "T" or (array.dtype.kind == "U" and not isinstance(labels, np.ndarray)):
            array = np.asarray(labels, dtype=object)
    except ValueError:
        raise DataError(
            f"{what} must be one value a row, got rows of different lengths. Give one label each."
        ) from None
    if array.dtype.kind == "O" and array.size and all(isinstance(v, int | float | np.number) for v in array.flat):
        array = np.array(array.tolist())
    return array


def _named_labels(
    array: NDArray[Any], class_names: Sequence[str], what: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    if array.dtype.kind == "O":
        for row, value in enumerate(array):
            if not isinstance(value, str):
                raise DataError(f"{what} must be all names or all numbers, got {value!r} at row {row}. Fix the row.")
    if array.dtype.kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{what} must be UTF-8 names, got {error.object!r}. Decode them first.") from None
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


def check_targets(targets: ArrayLike, *, rows: int, what: str = "targets") -> NDArray[np.float32]:
    """Numbers to predict as (n,) float32.

    Raises:
        DataError: not numbers, not one a row, NaN or infinite (with the row).
    """
    try:
        array = np.asarray(targets)
    except ValueError:
        raise DataError(f"{what} must be one number a row, got rows of different lengths. Reshape them.") from None
    if array.dtype.kind not in "buif":
        raise DataError(f"{what} must be numbers for regression, got an array of {array.dtype}. Convert them.")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or len(array) != rows:
        raise DataError(f"{what} must be one number a picture ({rows}), got shape {array.shape}. Reshape them.")
    with np.errstate(over="ignore"):
        floats = array.astype(np.float32)
    finite = np.isfinite(floats)
    if not finite.all():
        row = int(np.argmin(finite))
        raise DataError(f"{what} must be finite as float32, got {array[row]} at row {row}. Fix the row.")
    return floats


def build_dataset(
    parts: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    name: str,
    task: str = "classification",
    class_names: Sequence[str] = (),
    value_range: tuple[float, float] | None = None,
    sources: dict[str, str] | None = None,
    label_sources: dict[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Dataset:
    """A checked `Dataset` from arrays, one pair (images, labels) for each of `train`, `valid`, `test` that exists.

    Class names are those of the training part unless given: another part may lack a class, never bring a new one.
    Integer labels are indices into given class names, and names themselves where none are given. Errors name the file
    in `sources`, and for labels that in `label_sources` where it is another.

    Raises:
        DataError: anything that `check_images`, `check_labels`, `check_targets` refuse; parts that differ in shape.
    """
    checked: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
    ranges: dict[str, tuple[float, float] | None] = {}
    names = _check_names(class_names, sources)
    for split in (s for s in SPLITS if s in parts):
        images, labels = parts[split]
        what = "" if len(parts) == 1 else f" of {split}"
        places = [f" in {s[split]}" if s and split in s else "" for s in (sources, label_sources or sources)]
        pictures, ranges[split] = check_images(images, what=f"images{what}{places[0]}")
        if task == "regression":
            targets = check_targets(labels, rows=len(pictures), what=f"targets{what}{places[1]}")
            checked[split] = (pictures, targets)
            continue
        known = () if class_names or split == "train" else names
        encoded, found = _encode_part(labels, len(pictures), tuple(class_names), known, f"labels{what}{places[1]}")
        names = names or found
        checked[split] = (pictures, encoded)
    shapes = {split: images.shape[1:] for split, (images, _) in checked.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(f"pictures must have one shape in all splits, got {shapes}. Resize them to one shape.")
    if len(set(ranges.values())) > 1:
        found_types = ", ".join(f"{np.asarray(parts[split][0]).dtype} in {split}" for split in ranges)
        raise DataError(f"images must have one range in all splits, got {found_types}. Convert them to one type.")
    if task == "classification" and len(names) < 2:
        where = f" in {next(iter(sources.values()))}" if sources else ""
        raise DataError(
            f"a classifier must have two or more classes, got {list(names)}{where}. Add pictures of another class."
        )
    images = [images for images, _ in checked.values()]
    return Dataset(
        name=name,
        images=images[0] if len(images) == 1 else np.concatenate(images),
        labels=np.concatenate([labels for _, labels in checked.values()]),
        class_names=names if task == "classification" else (),
        given=np.concatenate([np.full(len(labels), SPLITS.index(s), np.int8) for s, (_, labels) in checked.items()]),
        value_range=value_range or next(iter(ranges.values())),
        sources=sources or {},
        notes=tuple(notes),
    )


def _check_names(class_names: Sequence[str], sources: dict[str, str] | None) -> tuple[str, ...]:
    names = tuple(class_names)
    where = f" in {next(iter(sources.values()))}" if sources else ""
    for at, name in enumerate(names):
        if not name or name in names[:at]:
            raise DataError(f"class_names{where} must be different and not empty, got {name!r} at {at}. Rename it.")
    return names


def _encode_part(
    labels: ArrayLike, rows: int, class_names: tuple[str, ...], known: tuple[str, ...], what: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels of one split as indices into `class_names` where given, else matched by name with `known` where there are any."""
    encoded, found = check_labels(labels, rows=rows, class_names=class_names, what=what)
    if not known or found == known:
        return encoded, found
    position = {name: k for k, name in enumerate(known)}
    for k, name in enumerate(found):
        if name not in position and (encoded == k).any():
            row = int(np.argmax(encoded == k))
            raise DataError(
                f"{what} must be among the {len(known)} known classes, got {name!r} at row {row}. "
                "Add training pictures of it, or take it out."
            )
    return np.array([position.get(n, -1) for n in found], np.int64)[encoded], known
