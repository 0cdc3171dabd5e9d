"""The binary archive of CIFAR-10 as pictures in one NPZ. It must not know where the archive came from.

Format: A. Krizhevsky, "Learning multiple layers of features from tiny images" (2009), and the page of the data set,
https://www.cs.toronto.edu/~kriz/cifar.html: records of a label byte, then the red, green and blue planes of 32 x 32 bytes.
"""

import gzip
import os
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.core.files import sync_folder
from clearsight.core.progress import MeterBuilder
from clearsight.errors import DataError

_KEYS = ("train_images", "train_labels", "test_images", "test_labels")
_NAMES = "cifar-10-batches-bin/batches.meta.txt"
_TRAIN = tuple(f"cifar-10-batches-bin/data_batch_{k}.bin" for k in range(1, 6))
_TEST = "cifar-10-batches-bin/test_batch.bin"
_RECORD_BYTES = 1 + 3 * 32 * 32
_MAX_MEMBER_BYTES = 2**26
_GET_AGAIN = "Delete it and fetch again."


def has_cifar10(path: Path) -> bool:
    """Whether `cifar10.npz` is there and whole.

    Raises:
        DataError: something else is in its place.
    """
    if not path.exists():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            whole = archive.testzip() is None and {f"{key}.npy" for key in _KEYS} <= set(archive.namelist())
    except (zipfile.BadZipFile, zlib.error, EOFError, IsADirectoryError):
        whole = False
    if not whole:
        raise DataError(
            f"{path} must be a whole NPZ file with {', '.join(_KEYS)}, got something else or damage. "
            "Delete it or move it, and fetch again."
        )
    return True


def convert_cifar10(archive: Path, path: Path, meter: MeterBuilder) -> None:
    """Decode the archive into an NPZ, then delete the archive."""
    arrays = read_cifar10(archive, meter=meter)
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with aside.open("wb") as file:
            np.savez(
                file,
                train_images=arrays["train_images"],
                train_labels=arrays["train_labels"],
                test_images=arrays["test_images"],
                test_labels=arrays["test_labels"],
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)
    archive.unlink()


def read_cifar10(archive: Path, *, meter: MeterBuilder) -> dict[str, NDArray[Any]]:
    """The pictures of CIFAR-10's binary archive, read in memory: no path of the archive is ever written to.

    Returns:
        `train_images`, `test_images`: uint8 (n, 32, 32, 3); `train_labels`, `test_labels`: class names (n,).

    Raises:
        DataError: the archive is damaged, or not that of CIFAR-10.
    """
    wanted = (_NAMES, *_TRAIN, _TEST)
    found: dict[str, bytes] = {}
    try:
        with (
            tarfile.open(archive, "r:gz") as tar,
            meter(f"reading {archive.name}", len(wanted), unit="files") as advance,
        ):
            for member in tar:
                if member.name not in wanted or member.name in found:
                    continue
                content = tar.extractfile(member) if member.isreg() and member.size <= _MAX_MEMBER_BYTES else None
                if content is None:
                    raise DataError(f"{member.name} of {archive} must be a plain file, got another. {_GET_AGAIN}")
                found[member.name] = content.read()
                advance()
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{archive} must be a whole tar.gz file, got damage ({error}). {_GET_AGAIN}") from None
    if missing := [name for name in wanted if name not in found]:
        raise DataError(f"{archive} must hold {missing[0]}, got none. {_GET_AGAIN}")
    names = np.array(found[_NAMES].decode("ascii", "replace").split())
    batches = [_decode_batch(found.pop(name), names, f"{name} of {archive}") for name in wanted[1:]]
    return {
        "train_images": np.concatenate([images for images, _ in batches[:-1]]),
        "train_labels": np.concatenate([labels for _, labels in batches[:-1]]),
        "test_images": batches[-1][0],
        "test_labels": batches[-1][1],
    }


def _decode_batch(raw: bytes, names: NDArray[Any], what: str) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Records of a label byte and 3 x 1024 channel-first bytes as pictures (n, 32, 32, 3) and class names (n,)."""
    if not raw or len(raw) % _RECORD_BYTES:
        raise DataError(f"{what} must hold records of {_RECORD_BYTES} bytes, got {len(raw)} bytes. {_GET_AGAIN}")
    records = np.frombuffer(raw, np.uint8).reshape(-1, _RECORD_BYTES)
    if (highest := int(records[:, 0].max())) >= len(names):
        raise DataError(f"{what} must have labels below {len(names)}, got {highest}. {_GET_AGAIN}")
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), names[records[:, 0]]
