"""Files below a folder, or in a zip or tar, listed and read in place; nothing is ever unpacked to disk.

Links that leave the folder, names that leave the archive, and archives that swell are refused. It must not know pictures.
"""

import lzma
import os
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from clearsight.errors import DataError

MAX_FILES = 1_000_000
MAX_FILE_BYTES = 256 * 2**20
_END_OF_ZIP, _END_OF_ZIP64 = b"PK\x05\x06", b"PK\x06\x06"
_DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, NotImplementedError,
    RuntimeError,
)  # fmt: skip
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


@dataclass(frozen=True)
class Member:
    """One file: its path below the root with `/` between, its size in bytes, and a stamp that changes with its content."""

    path: str
    size: int
    stamp: str
    place: int = 0  # in an archive, so that it can be read from front to back


@dataclass(frozen=True)
class BadFile:
    """A file that cannot be used, and the reason as a sentence or the end of one."""

    path: str
    reason: str
    passing: bool = False  # it may be well the next time, as after a failed read


class Source(Protocol):
    """A place that holds files. `sequential`: reads are best in the order of the members' places. Close it in the end."""

    root: Path
    sequential: bool

    def members(self) -> tuple[list[Member], list[BadFile], list[str]]:
        """Files in order of their paths, those that cannot be used, and folders without any file."""

    def read(self, member: Member) -> bytes:
        """A file's content. May be called from several threads. Raises a DataError if that fails."""

    def close(self) -> None:
        """Let go of the file."""


def read_zip_end(path: Path) -> tuple[int, int]:
    """How many entries a zip says it has, and the bytes of their directory: to be judged before the directory is read.

    The larger of the two records counts, as `zipfile` believes the 64-bit one. (0, 0) where there is no end record.
    """
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65557 - 76))
        tail = file.read()
    at = tail.rfind(_END_OF_ZIP)
    if at < 0 or len(tail) < at + 22:
        return 0, 0
    entries, directory = struct.unpack_from("<HI", tail, at + 10)
    if at >= 76 and tail[at - 76 : at - 72] == _END_OF_ZIP64:
        many, large = struct.unpack_from("<QQ", tail, at - 76 + 32)
        unknown = entries == 0xFFFF, directory == 0xFFFFFFFF
        entries = many if unknown[0] else max(entries, many)
        directory = large if unknown[1] else max(directory, large)
    return entries, directory


def is_tar(path: Path) -> bool:
    """Whether the name says that this is a tar; zips are known by their first bytes."""
    return path.name.lower().endswith(_TAR_SUFFIXES)


def open_source(path: Path) -> Source:
    """The files of a folder, zip or tar.

    Raises:
        DataError: the archive is damaged, encrypted, or holds too many files.
    """
    if path.is_dir():
        return FolderSource(path)
    return TarSource(path) if is_tar(path) else ZipSource(path)


def _check_size(size: int, what: str) -> None:
    if size > MAX_FILE_BYTES:
        raise DataError(f"{what} must be at most {MAX_FILE_BYTES // 2**20} MB, got {size / 2**20:,.0f} MB. Shrink it.")


def _check_count(count: int, path: Path) -> None:
    if count > MAX_FILES:
        raise DataError(f"{path} must hold at most {MAX_FILES:,} files, got {count:,} or more. Split it.")


def _find_flaw(name: str) -> str:
    """Why a path in an archive cannot be used; empty if it can."""
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or name[1:2] == ":":
        return "must have a path inside the archive, got one that leaves it"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "must have a name in UTF-8, got other bytes"
    return "must have a name without null bytes, got one" if "\0" in name else ""


def _say(error: BaseException) -> str:
    """An error's text on one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _whole(member: Member, root: Path) -> Iterator[None]:
    """Around the reading of a file in an archive: not too large, and damage becomes a DataError."""
    _check_size(member.size, member.path)
    try:
        yield
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(f"{member.path} must be whole in {root}, got damage ({_say(error)}). Get it again.") from None


def _check_content(content: bytes, member: Member, root: Path) -> bytes:
    """The content, if it has the size that the archive says; one byte more was asked for at most."""
    if len(content) != member.size:
        got = f"{len(content)}{' or more' if len(content) > member.size else ''}"
        raise DataError(f"{member.path} must have the {member.size} bytes that {root} says, got {got}. Get it again.")
    return content


class FolderSource:
    """Files below a folder. Links to files inside it are followed; links to folders, and out of it, are not."""

    sequential = False

    def __init__(self, root: Path) -> None:
        self.root = root

    def members(self) -> tuple[list[Member], list[BadFile], list[str]]:
        """See `Source`."""
        found: list[Member] = []
        bad: list[BadFile] = []
        empty: list[str] = []
        top = self.root.resolve()
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            try:
                entries = sorted(os.scandir(self.root / folder), key=lambda e: e.name)
            except OSError as error:
                bad.append(BadFile(folder or ".", f"must be a folder that can be read, got {error.strerror}"))
                continue
            if not entries and (reason := _find_flaw(folder)):
                bad.append(BadFile(folder.encode("utf-8", "backslashreplace").decode(), reason))
            elif not entries:
                empty.append(folder)
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
                elif reason := self._add(entry, path, top, found):
                    bad.append(BadFile(path.encode("utf-8", "backslashreplace").decode(), reason))
            _check_count(len(found), self.root)
        return sorted(found, key=lambda m: m.path), bad, sorted(empty)

    def _add(self, entry: os.DirEntry[str], path: str, top: Path, found: list[Member]) -> str:
        """Take a file into `found`, or return why it cannot be used."""
        try:
            path.encode()
        except UnicodeEncodeError:
            return "must have a name in UTF-8, got other bytes"
        try:
            if entry.is_symlink():
                target = Path(entry.path).resolve(strict=True)
                if not target.is_relative_to(top):
                    return "must be a file of this folder, got a link that leaves it"
                if target.is_dir():
                    return "must be a file, got a link to a folder; these are not followed"
            known = entry.stat()
        except (OSError, RuntimeError) as error:
            return f"must be a file, got a broken link ({getattr(error, 'strerror', None) or 'it leads to itself'})"
        if not stat.S_ISREG(known.st_mode):
            return "must be a file, got a pipe or device"
        found.append(Member(path, known.st_size, f"{known.st_mtime_ns}.{known.st_ctime_ns}"))
        return ""

    def close(self) -> None:
        """See `Source`."""

    def read(self, member: Member) -> bytes:
        """See `Source`."""
        _check_size(member.size, member.path)
        try:
            return (self.root / member.path).read_bytes()
        except FileNotFoundError:
            raise DataError(
                f"{member.path} must stay while it is read, got nothing there any more. Read again."
            ) from None
        except OSError as error:
            raise DataError(f"{member.path} must be readable, got {error.strerror}. Check its rights.") from None


class ZipSource:
    """Files in a zip."""

    sequential = False

    def __init__(self, root: Path) -> None:
        self.root = root
        entries, directory = read_zip_end(root)
        _check_count(max(entries, directory // 46), root)
        try:
            self._zip = zipfile.ZipFile(root)
        except _DAMAGE as error:
            raise DataError(f"{root} must be a whole zip, got damage ({_say(error)}). Get it again.") from None
        listed = len(self._zip.infolist())
        if listed != entries:
            self._zip.close()
            raise DataError(
                f"{root} must be a whole zip, got {listed} files where its end says {entries}. Get it again."
            )
        self._infos: dict[str, zipfile.ZipInfo] = {}

    def members(self) -> tuple[list[Member], list[BadFile], list[str]]:
        """See `Source`."""
        found: list[Member] = []
        bad: list[BadFile] = []
        folders: set[str] = set()
        for info in self._zip.infolist():
            path = info.filename.replace("\\", "/")  # as some archivers on Windows write it
            reason = _find_flaw(path)
            if stat.S_ISLNK(info.external_attr >> 16):
                reason = "must be a file, got a link"
            elif info.flag_bits & 1:
                reason = "must not be encrypted, got a file with a password"
            if reason:
                bad.append(BadFile(info.filename.encode("utf-8", "backslashreplace").decode(), reason))
            elif path.endswith("/"):
                folders.add(path.rstrip("/"))
            elif path in self._infos:
                bad.append(BadFile(path, "must be in the zip once, got it twice"))
            else:
                self._infos[path] = info
                found.append(Member(path, info.file_size, f"{info.CRC:x}", info.header_offset))
        return sorted(found, key=lambda m: m.path), bad, _find_empty(folders, found)

    def close(self) -> None:
        """See `Source`."""
        self._zip.close()

    def read(self, member: Member) -> bytes:
        """See `Source`."""
        with _whole(member, self.root), self._zip.open(self._infos[member.path]) as file:
            return _check_content(file.read(member.size + 1), member, self.root)


class TarSource:
    """Files in a tar, compressed or not, read in the order in which they lie there."""

    sequential = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        known = root.stat()
        self._changed = f"{known.st_dev}.{known.st_ino}.{known.st_size}.{known.st_mtime_ns}.{known.st_ctime_ns}"
        self._infos: dict[str, Any] = {}
        try:
            self._tar = tarfile.open(root)  # noqa: SIM115
        except _DAMAGE as error:
            raise DataError(f"{root} must be a whole tar, got damage ({_say(error)}). Get it again.") from None

    def members(self) -> tuple[list[Member], list[BadFile], list[str]]:
        """See `Source`."""
        found: list[Member] = []
        bad: list[BadFile] = []
        folders: set[str] = set()
        try:
            for info in self._tar:
                name = info.name.removeprefix("./")
                reason = _find_flaw(name)
                if not (info.isfile() or info.isdir()):
                    reason = "must be a file, got a link or device"
                if reason:
                    bad.append(BadFile(name.encode("utf-8", "backslashreplace").decode(), reason))
                elif info.isdir():
                    folders.add(name)
                elif name in self._infos:
                    bad.append(BadFile(name, "must be in the tar once, got it twice"))
                else:
                    self._infos[name] = info
                    found.append(Member(name, info.size, f"{self._changed}.{info.offset_data}", info.offset_data))
                _check_count(len(found) + len(bad), self.root)
            self._check_end()
        except _DAMAGE as error:
            raise DataError(f"{self.root} must be a whole tar, got damage ({_say(error)}). Get it again.") from None
        return sorted(found, key=lambda m: m.path), bad, _find_empty(folders, found)

    def _check_end(self) -> None:
        """Refuse a tar that ends in anything but zeros, where `tarfile` would quietly stop, and read on for the checksum."""
        file: Any = self._tar.fileobj
        file.seek(self._tar.offset)
        if file.read(tarfile.BLOCKSIZE) != b"\0" * tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"no file header at byte {self._tar.offset:,}")
        while file.read(2**20):
            pass

    def close(self) -> None:
        """See `Source`."""
        self._tar.close()

    def read(self, member: Member) -> bytes:
        """See `Source`."""
        with _whole(member, self.root), self._lock:
            file = self._tar.extractfile(self._infos[member.path])
            return _check_content(file.read() if file else b"", member, self.root)


def _find_empty(folders: set[str], found: list[Member]) -> list[str]:
    """Folders named in an archive below which there is no file."""
    own = {member.path.rpartition("/")[0] for member in found}
    full = own | {str(parent) for folder in own for parent in PurePosixPath(folder).parents}
    return sorted(folders - full)
