"""Reading the two parts of a model file out of a folder or a zip without trusting a byte of it.

Nothing is unpacked to disk, nothing is unpickled, sizes are checked before memory is taken, and the safetensors header is
validated here in full, before its library sees it. It must not know what the tensors mean.
"""

import errno
import io
import json
import math
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.data.read.files import read_zip_end
from clearsight.errors import ModelFileError

TENSORS, DESCRIPTION = "model.safetensors", "model.json"
MEMBERS = (TENSORS, DESCRIPTION)
RUN_RECORD, RUN_MODEL = (
    "run.json",
    "model.clearsight",
)  # of a run directory, whose other files are no concern of a model
_PARTS = {TENSORS: "the weights", DESCRIPTION: "the description"}
_MAX_JSON_BYTES = 16 * 2**20
_MAX_TENSOR_BYTES = 8 * 2**30
_MAX_HEADER_BYTES = 10 * 2**20
_MAX_DIRECTORY_BYTES = 4096
_DTYPES = {"F32": 4, "U8": 1}
_FOREIGN = (
    (b"\x80", "a Python pickle, which can run code"),
    (b"\x89HDF", "an HDF5 file (Keras)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x1f\x8b", "a gzip file"),
)


def read_members(path: Path) -> dict[str, bytes]:
    """`model.safetensors` and `model.json` of a model folder or `.clearsight` zip, as bytes.

    Raises:
        ModelFileError: missing, foreign, damaged, too large, or holding anything else.
    """
    try:
        if path.is_dir() and (path / RUN_RECORD).is_file() and not (path / DESCRIPTION).is_file():
            raise ModelFileError(
                f"MODEL must be a run that has ended, got {path}, which has no model yet. `clearsight train --resume {path} "
                "--finish` makes one of its newest checkpoint."
            )
        if path.is_dir():
            return {name: _read_file(path / name, path) for name in MEMBERS}
        if path.exists() and not path.is_file():
            raise ModelFileError(f"{path} must be a file or a folder, got a pipe or device. Save it to a file first.")
        with path.open("rb") as file:
            head = file.read(8)
        if not head.startswith(b"PK"):
            kind = next((text for magic, text in _FOREIGN if head.startswith(magic)), f"something else ({head!r})")
            raise ModelFileError(f"{path} must be a .clearsight model, got {kind}. Export the model again.")
        _check_end_of_zip(path)
        with zipfile.ZipFile(path) as archive:
            return _read_zip(archive, path)
    except FileNotFoundError:
        raise ModelFileError(f"{path} must exist, got nothing there. Check the path.") from None
    except OSError as error:
        if error.errno == errno.EINVAL:  # a place before the file's beginning, which a damaged table names
            raise _describe_damage(path, "it names a place outside the file") from None
        raise ModelFileError(
            f"{path} must be readable, got {error.strerror or error}. Check its permissions."
        ) from None
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        EOFError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        struct.error,
    ) as error:
        raise _describe_damage(path, str(error)) from None


def _describe_damage(path: Path, reason: str) -> ModelFileError:
    """What to say of a zip with wrong bytes: which part they are in, as far as the reader's reason tells."""
    part = next((name for name in MEMBERS if f"'{name}'" in reason), None)
    where = f"its part {part} ({_PARTS[part]})" if part else "the zip's table of contents"
    why = " ".join(reason.split())[:80]
    return ModelFileError(
        f"{path} must be as it was written, got damaged bytes in {where}{f': {why}' if why else ''}. Copy the file again."
    )


def _read_file(path: Path, folder: Path) -> bytes:
    if path.is_symlink() or not path.is_file():
        got = "a link" if path.is_symlink() else "none"
        raise ModelFileError(f"{folder} must hold a plain file {path.name}, got {got}. Copy the whole model folder.")
    _check_size(path.name, path.stat().st_size, folder)
    return path.read_bytes()


def _check_size(name: str, size: int, path: Path) -> None:
    limit = _MAX_TENSOR_BYTES if name == TENSORS else _MAX_JSON_BYTES
    if size > limit:
        raise ModelFileError(f"{name} must be at most {limit:,} bytes, got {size:,} in {path}. Get the model again.")


def _check_end_of_zip(path: Path) -> None:
    """Refuse a directory of many entries before it is read: a million of them would take memory and time."""
    entries, directory = read_zip_end(path)
    if entries == 0 and directory == 0 and not zipfile.is_zipfile(path):
        raise ModelFileError(
            f"{path} must be a whole file, got one that is cut off or damaged at its end. Copy it again."
        )
    if entries != len(MEMBERS) or directory > _MAX_DIRECTORY_BYTES:
        raise ModelFileError(f"{path} must hold just {' and '.join(MEMBERS)}, got {entries} entries. Get it again.")


def _read_zip(archive: zipfile.ZipFile, path: Path) -> dict[str, bytes]:
    names = sorted(entry.filename for entry in archive.infolist())
    if names != sorted(MEMBERS):
        raise ModelFileError(f"{path} must hold just {' and '.join(MEMBERS)}, got {names}. Get it again.")
    content = {}
    for entry in archive.infolist():
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise ModelFileError(f"{path} must hold plain files, got a link for {entry.filename}. Get it again.")
        if entry.flag_bits & 1:
            raise ModelFileError(f"{path} must not be encrypted, got {entry.filename} encrypted. Unpack it first.")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ModelFileError(f"{path} must store {entry.filename} uncompressed, got it packed. Get it again.")
        if entry.file_size != entry.compress_size:
            raise ModelFileError(
                f"{path} must say one size for {entry.filename}, got {entry.file_size:,} and {entry.compress_size:,}. "
                "Get it again."
            )
        _check_size(entry.filename, entry.file_size, path)
        content[entry.filename] = archive.read(entry)
    return content


def parse_json(raw: bytes, *, what: str) -> dict[str, Any]:
    """A JSON object without duplicate keys, of bounded depth.

    Raises:
        ModelFileError: not UTF-8, not JSON, not an object, a key twice, or nested too deeply.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ModelFileError(f"{what} must name each key once, got {twice!r} twice. Get the model again.")
        return found

    try:
        parsed = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except UnicodeDecodeError:
        raise ModelFileError(f"{what} must be UTF-8, got other bytes. Get the model again.") from None
    except RecursionError:
        raise ModelFileError(f"{what} must be flat JSON, got one nested too deeply. Get the model again.") from None
    except ValueError as error:
        raise ModelFileError(f"{what} must be JSON, got damage ({error}). Get the model again.") from None
    if not isinstance(parsed, dict):
        raise ModelFileError(f"{what} must be a JSON object, got {type(parsed).__name__}. Get the model again.")
    return parsed


def parse_tensors(raw: bytes, *, what: str = TENSORS) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file, once its header is found sound: names, types, shapes, ranges without gap or overlap.

    Raises:
        ModelFileError: any of that is wrong, or bytes are missing or left over.
    """
    again = "Get the model again."
    if len(raw) < 8:
        raise ModelFileError(f"{what} must start with its header's length, got {len(raw)} bytes. {again}")
    length = struct.unpack_from("<Q", raw)[0]
    if not 2 <= length <= min(_MAX_HEADER_BYTES, len(raw) - 8):
        raise ModelFileError(
            f"{what} must have a header of 2 to {_MAX_HEADER_BYTES:,} bytes within the file, got {length:,} in a file "
            f"of {len(raw):,}. {again}"
        )
    header = parse_json(raw[8 : 8 + length], what=f"the header of {what}")
    header.pop("__metadata__", None)
    places = []
    for name, entry in header.items():
        start, stop = _check_entry(name, entry, what)
        places.append((start, stop, name))
    at = 0
    for start, stop, name in sorted(places):
        if start != at:
            raise ModelFileError(
                f"tensors of {what} must follow each other without gap or overlap, got {name[:80]!r} at {start}, not {at}. "
                f"{again}"
            )
        at = stop
    if at != len(raw) - 8 - length:
        raise ModelFileError(f"{what} must hold {at:,} bytes of tensors, got {len(raw) - 8 - length:,}. {again}")
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors: dict[str, NDArray[Any]] = load(raw)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelFileError(f"{what} must be a safetensors file, got damage ({error}). {again}") from None
    return tensors


def _check_entry(name: str, entry: Any, what: str) -> tuple[int, int]:
    def whole(values: Any, count: int | None) -> bool:
        right = isinstance(values, list) and all(type(v) is int and 0 <= v < 2**48 for v in values)
        return right and (count is None or len(values) == count)

    wrong = ""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        wrong = "dtype, shape and data_offsets"
    elif not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
        wrong = f"a dtype among {', '.join(_DTYPES)}"
    elif not whole(entry["shape"], None) or len(entry["shape"]) > 8:
        wrong = "a shape of whole numbers"
    elif not whole(entry["data_offsets"], 2) or entry["data_offsets"][0] > entry["data_offsets"][1]:
        wrong = "a range in order"
    elif math.prod(entry["shape"]) * _DTYPES[entry["dtype"]] != entry["data_offsets"][1] - entry["data_offsets"][0]:
        wrong = "as many bytes as its shape needs"
    if wrong:
        raise ModelFileError(
            f"tensor {name[:80]!r} of {what} must have {wrong}, got {str(entry)[:120]}. Get the model again."
        )
    return entry["data_offsets"][0], entry["data_offsets"][1]


def pack_zip(members: dict[str, bytes]) -> bytes:
    """A `.clearsight` zip with these members, with fixed dates, so that equal models are equal files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in MEMBERS:
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), members[name])
    return buffer.getvalue()


def pack_tensors(tensors: dict[str, NDArray[Any]]) -> bytes:
    """A safetensors file of float32 and uint8 arrays."""
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(array) for name, array in tensors.items()})
