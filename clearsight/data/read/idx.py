"""IDX files, the format of MNIST: a magic number, the sizes, then the bytes. Plain or gzipped, told by content.

Format: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits". It must not know what is pictured.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.data.dataset import Dataset, build_dataset
from clearsight.errors import DataError

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_BYTES = 8 * 2**30
_MAX_RATIO = 1000  # deflate cannot pack zeros tighter than about 1030 : 1
_GZIP = b"\x1f\x8b"
_SPLIT_WORDS = {"train": "train", "t10k": "test", "test": "test", "valid": "valid", "val": "valid"}


def is_idx(path: Path) -> bool:
    """Whether a file starts like an IDX file, gzipped or not."""
    try:
        head = _read(path, 4)
    except (OSError, DataError):
        return False
    return len(head) == 4 and head[:2] == b"\0\0" and head[2] in _TYPES and 1 <= head[3] <= 4


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP
        file.seek(0)
        try:
            return (gzip.GzipFile(fileobj=file) if zipped else file).read(limit)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{path} must be a whole gzip file, got damage ({error}). Download it again.") from None


def read_idx(path: Path) -> NDArray[Any]:
    """One IDX array, in its own type.

    Raises:
        DataError: wrong magic number, sizes of 0 or beyond 8 GiB, or more or fewer bytes than the sizes say.
    """
    try:
        head = _read(path, 4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or not 1 <= head[3] <= 4:
            raise DataError(
                f"{path} must start with an IDX magic number, got 0x{head.hex() or '(nothing)'}. Check that it is IDX."
            )
        dtype, rank = np.dtype(_TYPES[head[2]]), head[3]
        sizes_raw = _read(path, 4 + 4 * rank)[4:]
        if len(sizes_raw) < 4 * rank:
            raise DataError(f"{path} must hold {rank} sizes, got a file that ends inside them. Download it again.")
        shape = struct.unpack(f">{rank}I", sizes_raw)
        wanted = math.prod(shape) * dtype.itemsize
        if 0 in shape or wanted > _MAX_BYTES:
            raise DataError(f"{path} must have sizes above 0 and at most 8 GiB in all, got {shape}. Check the file.")
        start, size = 4 + 4 * rank, path.stat().st_size
        if wanted > 2**26 and wanted > _MAX_RATIO * size:  # before memory is taken for it
            raise DataError(
                f"{path} must hold {wanted} bytes for sizes {shape}, got a file of {size} bytes. "
                "The file is damaged; get it again."
            )
        raw = _read(path, start + wanted + 1)
    except OSError as error:
        raise DataError(f"{path} must be readable, got {error.strerror}. Check the path and its permissions.") from None
    got = len(raw) - start
    if got != wanted:
        count = f"{got}" if got < wanted else "more"
        raise DataError(
            f"{path} must hold {wanted} bytes for sizes {shape}, got {count}. The file is damaged; get it again."
        )
    return np.frombuffer(raw, dtype, offset=start).reshape(shape)


def find_idx(folder: Path) -> dict[tuple[str, str], list[Path]]:
    """The IDX files of a folder as {(split, "images" or "labels"): paths}, by name, whatever their endings."""
    found: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(folder.iterdir()):
        name = path.name.lower()
        kind = (
            "images" if "images" in name or "idx3" in name else "labels" if "labels" in name or "idx1" in name else ""
        )
        split = next((s for word, s in _SPLIT_WORDS.items() if name.startswith(word)), "")
        if kind and split and path.is_file() and not name.startswith("."):
            found.setdefault((split, kind), []).append(path)
    return found


def read_idx_folder(
    folder: Path, *, name: str, class_names: tuple[str, ...] = (), task: str = "classification"
) -> Dataset:
    """All splits of an IDX folder: `train-images...`, `train-labels...`, and `t10k-` or `test-`, and `valid-`, if there.

    Raises:
        DataError: a file is missing or damaged, pictures and labels are swapped, or their numbers differ.
    """
    files = find_idx(folder)
    splits = [s for s in ("train", "valid", "test") if (s, "images") in files or (s, "labels") in files]
    if "train" not in splits:
        got = f"only {' and '.join(splits)}" if splits else "none"
        raise DataError(f"{folder} must hold train-images and train-labels in IDX format, got {got}. Check the folder.")
    notes = [f"ignored {path} beside {first.name}" for first, *others in files.values() for path in others]
    parts, sources, label_sources = {}, {}, {}
    for split in splits:
        pair = []
        for kind, ranks in (("images", (2, 3, 4)), ("labels", (1,))):
            if (split, kind) not in files:
                raise DataError(f"{folder} must hold {split} {kind} too, got none. Add the file.")
            array = read_idx(files[split, kind][0])
            if array.ndim not in ranks:
                raise DataError(
                    f"{files[split, kind][0]} must hold {kind}, got an array of shape {array.shape}. "
                    "Are pictures and labels swapped?"
                )
            pair.append(array)
        parts[split] = (pair[0], pair[1])
        sources[split], label_sources[split] = (files[split, kind][0].name for kind in ("images", "labels"))
    return build_dataset(
        parts, name=name, class_names=class_names, task=task, sources=sources, label_sources=label_sources, notes=notes
    )
