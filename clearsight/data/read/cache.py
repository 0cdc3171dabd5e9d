"""Decoded pictures, and features of them, kept on disk between runs, so that a second start does not compute them again.

An entry is a folder `<key>/` of `images.npy` and `facts.json`, written whole or not at all, and mapped into memory when
read. The cache is bounded: the entries used longest ago go first. It must not know how pictures are decoded.

The place is `$CLEARSIGHT_CACHE`, else `$XDG_CACHE_HOME/clearsight`, else `~/.cache/clearsight`; the bound is
`$CLEARSIGHT_CACHE_BYTES`, by default 10 GB; 0 turns the cache off.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import UsageError

_DEFAULT_BYTES = 10 * 10**9
_IMAGES, _FACTS = "images.npy", "facts.json"
_PENDING = ".pending-"
_KEY = re.compile(r"[0-9a-f]{32}")
_PENDING_SECONDS = 3600.0


@dataclass(frozen=True)
class Entry:
    """One cached data set: where, how large, when it was used last (seconds since the epoch), and of what it was made."""

    path: Path
    size_bytes: int
    used: float
    source: str


def cache_folder() -> Path:
    """Where decoded pictures are kept; it may not exist."""
    if os.environ.get("CLEARSIGHT_CACHE"):
        return Path(os.environ["CLEARSIGHT_CACHE"]) / "pictures"
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "clearsight" / "pictures"


def cache_limit() -> int:
    """Largest size of the cache in bytes; 0 where it is off.

    Raises:
        UsageError: the environment variable is not a whole number of 0 or more.
    """
    text = os.environ.get("CLEARSIGHT_CACHE_BYTES", "")
    if not text:
        return _DEFAULT_BYTES
    if not (text.isascii() and text.isdecimal()):
        raise UsageError(
            f"CLEARSIGHT_CACHE_BYTES must be a whole number of 0 or more, got {text!r}. Use 0 for no cache."
        )
    return int(text)


def build_key(parts: Iterable[str]) -> str:
    """A name for an entry that is equal exactly for equal parts."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogateescape")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()[:32]


def load_entry(key: str) -> tuple[NDArray[Any] | None, dict[str, Any]] | None:
    """The array (if it has one), mapped read-only, and facts of an entry; None without one. A damaged one is removed."""
    path = cache_folder() / key
    if cache_limit() == 0 or not path.is_dir():
        return None
    try:
        facts: dict[str, Any] = json.loads((path / _FACTS).read_text(encoding="utf-8"))
        images = None
        if facts["shape"]:
            images = np.asarray(np.load(path / _IMAGES, mmap_mode="r", allow_pickle=False))
            if images.dtype.name != facts.get("dtype", "uint8") or list(images.shape) != facts["shape"]:
                raise ValueError("another shape than was written")
            if _hash_pixels(images) != facts["sha256"]:
                raise ValueError("other pixels than were written")
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        drop_entry(key)
        return None
    with contextlib.suppress(OSError):  # a cache that can be read but not written still serves
        os.utime(path)
    return images, facts


def _hash_pixels(images: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(images).view(np.uint8).data).hexdigest()


def drop_entry(key: str) -> None:
    """Remove an entry that turned out to be of no use."""
    shutil.rmtree(cache_folder() / key, ignore_errors=True)


def save_entry(
    key: str, facts: dict[str, Any], images: NDArray[Any] | None = None, *, source: str, what: str = "decoded pictures"
) -> str:
    """Keep what was read. Returns why that was not possible, empty if it was.

    Args:
        facts: plain values. images: (N, H, W, C), or features of them. source: what they were read from, for the listing.
        what: they are, for a message.
    """
    limit, size = cache_limit(), images.nbytes if images is not None else 0
    if limit == 0:
        return ""
    if size > limit:
        return (
            f"{what} are not kept for the next time: {size:,} bytes are more than the cache's "
            f"{limit:,} (set CLEARSIGHT_CACHE_BYTES)"
        )
    folder = cache_folder()
    pending: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_pending(folder)
        _make_room(limit - size)
        pending = Path(tempfile.mkdtemp(prefix=_PENDING, dir=folder))
        if images is not None:
            with (pending / _IMAGES).open("wb") as file:
                np.save(file, images, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        kept: dict[str, Any] = {"shape": None, "source": source}
        if images is not None:
            kept |= {"shape": list(images.shape), "dtype": images.dtype.name, "sha256": _hash_pixels(images)}
        text = json.dumps(facts | kept)
        (pending / _FACTS).write_text(text, encoding="utf-8")
        pending.rename(folder / key)
    except OSError as error:
        if (folder / key).is_dir():  # another process was faster
            return ""
        return f"{what} are not kept for the next time: {error.strerror or error} at {folder}"
    finally:
        if pending is not None:
            shutil.rmtree(pending, ignore_errors=True)
    return ""


def _remove_pending(folder: Path) -> None:
    """Take away what a killed process left half-written."""
    for path in folder.glob(f"{_PENDING}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _PENDING_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def list_entries() -> list[Entry]:
    """What the cache holds, used longest ago first."""
    entries = []
    folder = cache_folder()
    for path in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):
            if _KEY.fullmatch(path.name):
                source = _read_source(path)
                size = sum(file.stat().st_size for file in path.iterdir())
                entries.append(Entry(path, size, path.stat().st_mtime, source))
    return sorted(entries, key=lambda entry: entry.used)


def _read_source(path: Path) -> str:
    try:
        return str(json.loads((path / _FACTS).read_text(encoding="utf-8"))["source"])
    except (OSError, ValueError, KeyError, TypeError):
        return "damaged"


def clear_cache() -> tuple[int, int]:
    """Remove everything. Returns how many entries and how many bytes."""
    entries = list_entries()
    for path in [entry.path for entry in entries] + list(cache_folder().glob(f"{_PENDING}*")):
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):  # others' files may be there
        cache_folder().rmdir()
    return len(entries), sum(entry.size_bytes for entry in entries)


def _make_room(allowed: int) -> None:
    """Drop the entries used longest ago until the rest take at most `allowed` bytes."""
    entries = list_entries()
    total = sum(entry.size_bytes for entry in entries)
    for entry in entries:
        if total <= allowed:
            return
        shutil.rmtree(entry.path, ignore_errors=True)
        total -= entry.size_bytes
