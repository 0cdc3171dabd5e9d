"""Data sets from NPZ files, and single .npy arrays. Object arrays and archives that swell are refused; nothing is unpickled."""

import math
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from clearsight.data.dataset import Dataset, build_dataset
from clearsight.data.read.files import read_zip_end
from clearsight.errors import DataError

_MAX_BYTES = 16 * 2**30
_MAX_RATIO = 1000  # deflate cannot pack zeros tighter than about 1030 : 1
_MAX_MEMBERS = 1000
_MAX_DIRECTORY_BYTES = 2**20
_MAX_HEADER_BYTES = 2**16
_IMAGES = ("images", "image", "x", "data", "pictures")
_LABELS = ("labels", "label", "y", "target", "targets")
_SPLITS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}


def _classify(key: str) -> tuple[str, str] | None:
    """(split, "images" or "labels") of a key such as `x_train`, `train_images`, `y`, `X`; None where it says nothing."""
    words = [w for w in key.lower().replace("-", "_").split("_") if w]
    split = next((_SPLITS[w] for w in words if w in _SPLITS), "train")
    rest = [w for w in words if w not in _SPLITS]
    if len(rest) != 1:
        return None
    return (split, "images") if rest[0] in _IMAGES else (split, "labels") if rest[0] in _LABELS else None


def read_array(file: IO[bytes], size: int, what: str) -> NDArray[Any]:
    """One .npy array out of `size` bytes, its header checked against that size before memory is taken.

    Raises:
        DataError: damaged, cut off, too long, or an object array.
    """
    again = "Save it again."
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file, max_header_size=_MAX_HEADER_BYTES)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TokenError) as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise DataError(f"{what} must be a plain .npy array, got damage ({reason}). {again}") from None
    if dtype.hasobject:
        raise DataError(
            f"{what} must be a plain array, got Python objects, which could run code. Save it as uint8 or float32."
        )
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != size - file.tell():
        raise DataError(
            f"{what} must hold as many bytes as its shape {shape} of {dtype} needs, got {size - file.tell():,}. {again}"
        )
    array = np.frombuffer(file.read(), dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _check_archive(path: Path) -> None:
    entries, directory = read_zip_end(path)
    if entries > _MAX_MEMBERS or directory > _MAX_DIRECTORY_BYTES:
        raise DataError(f"{path} must hold at most {_MAX_MEMBERS} arrays, got {entries}. Check the file.")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    size, packed = sum(m.file_size for m in members), sum(m.compress_size for m in members)
    names = [m.filename for m in members]
    if twice := [n for n in names if names.count(n) > 1]:
        raise DataError(f"{path} must name each array once, got {twice[0]!r} twice. Save it again.")
    if size > _MAX_BYTES or (size > 2**26 and size > _MAX_RATIO * max(packed, 1)):
        raise DataError(
            f"{path} must unpack to a sensible size, got {packed:,} bytes that claim to be {size:,}. Check the file."
        )


def holds_arrays(path: Path) -> bool:
    """Whether a zip holds arrays and no pictures; damaged ones do not."""
    try:
        if read_zip_end(path)[0] > _MAX_MEMBERS:
            return False
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError):
        return False


def read_npz(path: Path, *, name: str, task: str = "classification") -> Dataset:
    """An NPZ with `x_train, y_train, x_test, y_test`, `images, labels`, `train_images, ...`, `X, y` or the like.

    An optional `class_names` array names the classes.

    Raises:
        DataError: damaged, an object array, a decompression bomb, or without pictures and labels.
    """
    try:
        _check_archive(path)
        with zipfile.ZipFile(path) as archive:
            members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
            keys = {key: _classify(key) for key in members}
            arrays: dict[tuple[str, str], NDArray[Any]] = {}
            for key, place in keys.items():
                if place and place in arrays:
                    raise DataError(
                        f"{path} must name each array once, got two for {place[0]} {place[1]}: {list(keys)}. Remove one."
                    )
                if place:
                    arrays[place] = _read_member(archive, members[key], path)
            names = _read_names(archive, members["class_names"], path) if "class_names" in members else ()
    except OSError as error:
        raise DataError(f"{path} must be a readable NPZ file, got {error}. Check the path.") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path} must be a whole NPZ file, got damage ({error}). Save it again.") from None
    splits = [s for s in ("train", "valid", "test") if (s, "images") in arrays or (s, "labels") in arrays]
    missing = [f"{s} {k}" for s in splits or ["train"] for k in ("images", "labels") if (s, k) not in arrays]
    if missing or "train" not in splits:
        raise DataError(
            f"{path} must hold pictures and labels such as x_train, y_train or images, labels; "
            f"got {sorted(keys)}, without {', '.join(missing or ['train images'])}. Rename the arrays."
        )
    parts = {s: (arrays[s, "images"], arrays[s, "labels"]) for s in splits}
    ignored = sorted(k for k, place in keys.items() if place is None and k != "class_names")
    notes = [f"{path.name}: ignored {', '.join(ignored)}"] if ignored else []
    return build_dataset(
        parts, name=name, task=task, class_names=names, sources=dict.fromkeys(splits, path.name), notes=notes
    )


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> NDArray[Any]:
    with archive.open(member) as file:
        return read_array(file, member.file_size, f"{member.filename.removesuffix('.npy')!r} of {path}")


def _read_names(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> tuple[str, ...]:
    names = _read_member(archive, member, path)
    if names.ndim != 1 or names.dtype.kind not in "UTiu":
        raise DataError(
            f"class_names of {path} must be a list of names, got {names.dtype} {names.shape}. Save it as strings."
        )
    return tuple(str(name) for name in names)
