"""Data sets from NPZ files. Object arrays and archives that swell are refused; nothing is unpickled."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.data.dataset import Dataset, build_dataset
from clearsight.errors import DataError

_MAX_BYTES = 16 * 2**30
_MAX_RATIO = 1000  # deflate cannot pack zeros tighter than about 1030 : 1
_MAX_MEMBERS = 1000
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


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    size, packed = sum(m.file_size for m in members), sum(m.compress_size for m in members)
    if len(members) > _MAX_MEMBERS:
        raise DataError(f"{path} must hold at most {_MAX_MEMBERS} arrays, got {len(members)}. Check the file.")
    if size > _MAX_BYTES or (size > 2**26 and size > _MAX_RATIO * max(packed, 1)):
        raise DataError(
            f"{path} must unpack to a sensible size, got {packed:,} bytes that claim to be {size:,}. Check the file."
        )


def read_npz(path: Path, *, name: str, task: str = "classification") -> Dataset:
    """An NPZ with `x_train, y_train, x_test, y_test`, `images, labels`, `train_images, ...`, `X, y` or the like.

    An optional `class_names` array names the classes.

    Raises:
        DataError: damaged, an object array, a decompression bomb, or without pictures and labels.
    """
    try:
        _check_archive(path)
        with np.load(path, allow_pickle=False) as archive:
            keys = {key: _classify(key) for key in archive.files}
            arrays: dict[tuple[str, str], NDArray[Any]] = {}
            for key, place in keys.items():
                if place and place in arrays:
                    raise DataError(
                        f"{path} must name each array once, got two for {place[0]} {place[1]}: {list(keys)}."
                    )
                if place:
                    arrays[place] = _read_member(archive, key, path)
            names = tuple(str(n) for n in _read_member(archive, "class_names", path)) if "class_names" in keys else ()
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


def _read_member(archive: Any, key: str, path: Path) -> NDArray[Any]:
    try:
        return np.asarray(archive[key])
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path} must hold plain arrays, got Python objects in {key!r}, which could run code. "
                "Save it as uint8 or float32."
            ) from None
        raise DataError(f"{path} must hold whole arrays, got damage in {key!r} ({error}). Save it again.") from None
