"""Files below a folder, or in a zip or tar, listed and read in place; nothing is ever unpacked to disk.

Links out of a folder and to other folders are followed only if asked for; links in archives, names that leave the archive, and
archives that swell are refused. It must not know pictures.
"""

import lzma
import os
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from clearsight.errors import DataError

MAX_FILES = 1_000_000
MAX_FILE_BYTES = 256 * 2**20
_NOT_TEXT = "must have a name in UTF-8, got other bytes"
_MOST_LINKS_TO_ONE = 100  # folder: links that fan out again and again would multiply its files without end
_SYSTEM = ("thumbs.db", "desktop.ini", "__macosx", "icon\r", "@eadir", "$recycle.bin")
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


@dataclass
class Listing:
    """What a place holds, by paths below it.

    Args:
        members: files, in order of their paths. bad: those that cannot be used. empty: folders without any file that is read.
        unread: links that were left out. outside: links out of the place that were followed.
    """

    members: list[Member] = field(default_factory=list)
    bad: list[BadFile] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)


class Source(Protocol):
    """A place that holds files. `sequential`: reads are best in the order of the members' places. Close it in the end."""

    root: Path
    sequential: bool

    def list_files(self) -> Listing:
        """What it holds."""

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


def is_hidden(path: str) -> bool:
    """Whether a system or an editor made this file: its name, or a folder's above it, starts with a dot or is known."""
    return any(
        part.startswith(".") or part.lower() in _SYSTEM
        for part in path.replace("\\", "/").split("/")
        if part not in (".", "..")
    )


def open_source(path: Path, *, follow_links: bool = False) -> Source:
    """The files of a folder, zip or tar.

    Args:
        follow_links: read files behind links that leave a folder or lead to other folders. Links in archives are never followed.

    Raises:
        DataError: the archive is damaged, encrypted, or holds too many files.
    """
    if path.is_dir():
        return FolderSource(path, follow_links=follow_links)
    return TarSource(path) if is_tar(path) else ZipSource(path)


def _spell(path: str) -> str:
    """A path in which bytes that are not UTF-8 are spelt out."""
    return path.encode("utf-8", "backslashreplace").decode()


def _add_bad(listing: Listing, path: str, reason: str) -> None:
    listing.bad.append(BadFile(_spell(path), reason))


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
    if _spell(name) != name:
        return _NOT_TEXT
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


@dataclass(frozen=True)
class _Folder:
    """A folder to be listed: its path below the root, the real folders from the root down to it, whether a link is on the way."""

    path: str
    real: tuple[str, ...]
    linked: bool = False


class FolderSource:
    """Files below a folder. Links to files inside it are followed; links to folders, and out of it, with `follow_links` alone."""

    sequential = False

    def __init__(self, root: Path, *, follow_links: bool = False) -> None:
        self.root = root
        self._follow_links = follow_links

    def list_files(self) -> Listing:
        """See `Source`. Folders that links lead into without end, and broken links, are bad files."""
        listing, entered = Listing(), Counter[str]()
        waiting = [_Folder("", (str(self.root.resolve()),))]
        while waiting:
            folder = waiting.pop()
            try:
                entries = sorted(os.scandir(self.root / folder.path), key=lambda e: e.name)
            except OSError as error:
                _add_bad(listing, folder.path or ".", f"must be a folder that can be read, got {error.strerror}")
                continue
            if not entries and _spell(folder.path) != folder.path:
                _add_bad(listing, folder.path, _NOT_TEXT)
            elif not entries:
                listing.empty.append(folder.path)
            for entry in entries:
                path = f"{folder.path}/{entry.name}" if folder.path else entry.name
                try:
                    inner = self._take(entry, path, folder, listing)
                except (OSError, RuntimeError) as error:
                    what = getattr(error, "strerror", None) or "it leads to itself"
                    _add_bad(listing, path, f"must be a file, got a broken link ({what})")
                    continue
                if inner and inner.real[-1] in folder.real:
                    _add_bad(listing, path, "must not hold itself, got a link to a folder above it")
                elif inner and inner.linked and entered[inner.real[-1]] == _MOST_LINKS_TO_ONE:
                    _add_bad(
                        listing, path, f"must be reached by at most {_MOST_LINKS_TO_ONE} ways, got links that fan out"
                    )
                elif inner:
                    entered[inner.real[-1]] += inner.linked
                    waiting.append(inner)
            _check_count(len(listing.members), self.root)
        listing.members.sort(key=lambda m: m.path)
        listing.empty = sorted(set(listing.empty))
        listing.unread.sort()
        listing.outside.sort()
        return listing

    def _take(self, entry: os.DirEntry[str], path: str, folder: _Folder, listing: Listing) -> _Folder | None:
        """Put an entry where it belongs in the listing; a folder is returned instead. Raises an OSError for a broken link."""
        linked, is_folder = entry.is_symlink(), entry.is_dir()
        if not is_folder and _spell(path) != path:
            _add_bad(listing, path, _NOT_TEXT)
            return None
        real = os.path.join(folder.real[-1], entry.name)  # noqa: PTH118
        if linked:
            target = Path(entry.path).resolve(strict=True)
            inside, real = target.is_relative_to(folder.real[0]), str(target)
            if is_hidden(path) or not (self._follow_links or (inside and not is_folder)):
                listing.unread.append(_spell(path))
                listing.empty.append(path if is_folder else folder.path)
                return None
            if not inside:
                listing.outside.append(_spell(path))
        if is_folder:
            return _Folder(path, (*folder.real, real), folder.linked or linked)
        known = entry.stat()
        if not stat.S_ISREG(known.st_mode):
            _add_bad(listing, path, "must be a file, got a pipe or device")
            return None
        stamp = f"{known.st_mtime_ns}.{known.st_ctime_ns}"
        if folder.linked or linked:  # a link may come to lead to another file of the same size and age
            stamp += f".{known.st_dev}.{known.st_ino}"
        listing.members.append(Member(path, known.st_size, stamp))
        return None

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
            raise DataError(f"{member.path} must be readable, got {error.strerror}. Check its permissions.") from None


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

    def list_files(self) -> Listing:
        """See `Source`."""
        listing, folders = Listing(), set[str]()
        for info in self._zip.infolist():
            path = info.filename.replace("\\", "/")  # as some archivers on Windows write it
            reason = _find_flaw(path)
            if stat.S_ISLNK(info.external_attr >> 16):
                reason = "must be a file, got a link"
            elif info.flag_bits & 1:
                reason = "must not be encrypted, got a file with a password"
            if reason:
                _add_bad(listing, info.filename, reason)
            elif path.endswith("/"):
                folders.add(path.rstrip("/"))
            elif path in self._infos:
                _add_bad(listing, path, "must be in the zip once, got it twice")
            else:
                self._infos[path] = info
                listing.members.append(Member(path, info.file_size, f"{info.CRC:x}", info.header_offset))
        return _finish(listing, folders)

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

    def list_files(self) -> Listing:
        """See `Source`."""
        listing, folders = Listing(), set[str]()
        try:
            for info in self._tar:
                name = info.name.removeprefix("./")
                reason = _find_flaw(name)
                if not (info.isfile() or info.isdir()):
                    reason = "must be a file, got a link or device"
                if reason:
                    _add_bad(listing, name, reason)
                elif info.isdir():
                    folders.add(name)
                elif name in self._infos:
                    _add_bad(listing, name, "must be in the tar once, got it twice")
                else:
                    self._infos[name] = info
                    stamp = f"{self._changed}.{info.offset_data}"
                    listing.members.append(Member(name, info.size, stamp, info.offset_data))
                _check_count(len(listing.members) + len(listing.bad), self.root)
            self._check_end()
        except _DAMAGE as error:
            raise DataError(f"{self.root} must be a whole tar, got damage ({_say(error)}). Get it again.") from None
        return _finish(listing, folders)

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


def _finish(listing: Listing, folders: set[str]) -> Listing:
    """The listing of an archive in order, with the folders named in it below which there is no file."""
    own = {member.path.rpartition("/")[0] for member in listing.members}
    full = own | {str(parent) for folder in own for parent in PurePosixPath(folder).parents}
    listing.members.sort(key=lambda m: m.path)
    listing.empty = sorted(folders - full)
    return listing
