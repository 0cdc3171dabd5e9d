"""One published file from one mirror: resumed where a break left it, bounded in size, checked by its SHA-256.

Bytes gather in `NAME.part`, with what tells whether the mirror's file is still the same beside it; pooch checks the whole and
puts it in its place. It must not know of data sets, nor which mirror is next.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from clearsight import __version__
from clearsight.core.files import sync_folder
from clearsight.core.progress import MeterBuilder, Note

_CHUNK_BYTES = 2**15
_MAX_REDIRECTS = 5
_MAX_RESUMES = 5


@dataclass(frozen=True)
class RemoteFile:
    """A published file: its name, its size in bytes, its SHA-256."""

    name: str
    size: int
    sha256: str


class MirrorError(Exception):
    """A mirror does not give the file; the text says why."""


class _BreakError(MirrorError):
    """The same in the middle of the file: what came is kept, and asking again may go on from there."""


@dataclass(frozen=True)
class Link:
    """What every request needs."""

    session: Any
    meter: MeterBuilder
    note: Note
    timeout_seconds: float


def open_session() -> Any:
    """A session of requests as `Link` needs it; to be used as a context manager."""
    import requests

    session: Any = requests.Session()
    session.headers.update({"User-Agent": f"clearsight/{__version__}", "Accept-Encoding": "identity"})
    session.headers["Connection"] = "close"  # one kept open may be dead by the next file
    session.get_redirect_target = lambda response: None  # or it would read the body of a redirect, however large
    return session


def download(link: Link, url: str, file: RemoteFile, target: Path) -> None:
    """Fetch from one mirror. A file joined from several answers whose sum is wrong is fetched once more in one piece."""
    part = target / f"{file.name}.part"
    if not _receive(link, url, file, part):
        _settle(url, file, part)
        return
    try:
        _settle(url, file, part)
    except MirrorError as error:
        link.note(f"{url} {error} after resuming; starting again at 0")
        _receive(link, url, file, part)
        _settle(url, file, part)


def _settle(url: str, file: RemoteFile, part: Path) -> None:
    """Let pooch check a whole .part and put it in its place; with a wrong checksum it is deleted."""
    import pooch  # type: ignore[import-untyped]

    def hand_over(address: str, place: str, _: object) -> None:
        os.replace(part, place)

    with part.open("rb") as received:
        os.fsync(received.fileno())
    _find_record(part).unlink(missing_ok=True)
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # it would announce every file on standard error
    try:
        pooch.retrieve(url, known_hash=f"sha256:{file.sha256}", fname=file.name, path=part.parent, downloader=hand_over)
    except ValueError:  # what pooch says to a wrong checksum
        raise MirrorError("gave a file with a wrong checksum") from None
    finally:
        logger.setLevel(level)
    sync_folder(part.parent)


def _receive(link: Link, url: str, file: RemoteFile, part: Path) -> bool:
    """Bring a .part to its full size. Returns whether it was joined from several answers, perhaps of several files."""
    joined, breaks = part.exists(), 0
    while (have := part.stat().st_size if part.exists() else 0) != file.size:
        if have > file.size:
            link.note(f"{part.name} held {have:,} bytes of {file.size:,} and was dropped")
            _drop(part)
            continue
        try:
            joined = _receive_once(link, url, file, part, have) > 0
        except _BreakError as error:
            now, breaks = part.stat().st_size if part.exists() else 0, breaks + 1
            if now <= have or breaks > _MAX_RESUMES:
                raise
            joined = True
            link.note(f"{url} {error} after {now:,} of {file.size:,} bytes")
    return joined


def _receive_once(link: Link, url: str, file: RemoteFile, part: Path, have: int) -> int:
    """One answer into a .part that holds `have` bytes. Returns how many of them were kept."""
    import urllib3

    response, start = _open(link, url, file, part, have)
    with response:
        length = response.headers.get("Content-Length", "")
        if length.isdigit() and int(length) != file.size - start:
            raise MirrorError(f"offers {int(length):,} bytes instead of {file.size - start:,}")
        if have:
            verb = f"resuming at {have:,}" if start else "starting again at 0"
            link.note(f"{file.name}: {verb} of {file.size:,} bytes")
        done = start
        with (
            part.open("ab" if start else "wb") as out,
            link.meter(file.name, file.size - start, unit="bytes") as advance,
        ):
            if not start:
                _write_record(part, url, response.headers)
            while True:
                try:
                    chunk = response.raw.read(_CHUNK_BYTES, decode_content=False)
                except (urllib3.exceptions.HTTPError, OSError) as error:
                    raise _BreakError(f"broke off ({_explain(error, link.timeout_seconds)})") from None
                done += len(chunk)
                if not chunk or done > file.size:
                    break
                out.write(chunk)
                advance(len(chunk))
    if done > file.size:
        _drop(part)
        raise MirrorError(f"sends more than the {file.size:,} bytes of the file")
    if done < file.size:
        raise _BreakError("broke off (connection closed)")
    return start


def _open(link: Link, url: str, file: RemoteFile, part: Path, have: int) -> tuple[Any, int]:
    """An answer whose body can be read, and the place in the file where it begins: `have`, or 0 where that is refused."""
    for start in dict.fromkeys((have, 0)):
        headers = {"Range": f"bytes={start}-", **_find_condition(part, url)} if start else {}
        response = _ask(link, url, headers)
        if response.status_code == 200:
            return response, 0
        if start and response.status_code == 206:
            if response.headers.get("Content-Range", "").strip() == f"bytes {start}-{file.size - 1}/{file.size}":
                return response, start
        elif not start or response.status_code != 416:
            response.close()
            raise MirrorError(f"answers {response.status_code} {response.reason}".rstrip())
        response.close()
    raise MirrorError("answers a part where the whole was asked for")


def _ask(link: Link, url: str, headers: dict[str, str]) -> Any:
    import requests
    import urllib3

    for _ in range(_MAX_REDIRECTS + 1):
        try:
            response = link.session.get(
                url, headers=headers, stream=True, allow_redirects=False, timeout=link.timeout_seconds
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise MirrorError(f"cannot be reached ({_explain(error, link.timeout_seconds)})") from None
        if response.status_code not in (301, 302, 303, 307, 308):
            return response
        response.close()
        url = _follow(url, response.headers.get("Location", ""))
    raise MirrorError(f"redirects more than {_MAX_REDIRECTS} times")


def is_address(url: str) -> bool:
    """Whether text is an address of the web."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def _follow(source: str, location: str) -> str:
    """The address that a redirect from `source` leads to, if it may be followed."""
    try:
        target = urljoin(source, location)
    except ValueError:
        target = location
    if not location or not is_address(target):
        raise MirrorError(f"redirects to {location!r}, which is no web address")
    if source.startswith("https:") and not target.startswith("https:"):
        raise MirrorError(f"redirects from https to {target}, which is not protected")
    return target


def _explain(error: BaseException, timeout_seconds: float) -> str:
    """The innermost reason of a network error; libraries wrap it several times."""
    import requests
    import urllib3

    inner: BaseException | None = error
    while inner is not None:
        error = inner
        causes = (getattr(error, "reason", None), error.__cause__, *error.args)
        inner = next((cause for cause in causes if isinstance(cause, BaseException)), None)
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
        return f"no answer within {timeout_seconds:g} s"
    if isinstance(error, urllib3.exceptions.IncompleteRead):
        return "connection closed"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(reason).splitlines()[0][:120]


def _find_record(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _drop(part: Path) -> None:
    part.unlink(missing_ok=True)
    _find_record(part).unlink(missing_ok=True)


def _write_record(part: Path, url: str, headers: Mapping[str, str]) -> None:
    """Keep what tells whether the file of a mirror is still the same. Not fsynced: the checksum has the last word."""
    tag = headers.get("ETag", "")
    validator = tag if tag.startswith('"') else headers.get("Last-Modified", "")
    _find_record(part).write_text(json.dumps({"url": url, "validator": validator}), encoding="utf-8")


def _find_condition(part: Path, url: str) -> dict[str, str]:
    """The If-Range header for going on with a .part; none where it came from elsewhere (the checksum decides then)."""
    try:
        record = json.loads(_find_record(part).read_text(encoding="utf-8"))
        validator = record["validator"] if record["url"] == url else ""
        return {"If-Range": validator} if validator else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}
