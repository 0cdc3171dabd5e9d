"""Pictures in a folder, zip or tar as one `Dataset`: listed, decoded in parallel or taken from the cache.

It must not know training, nor judge the pictures: that is `check`'s affair.
"""

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from clearsight.core.progress import MeterBuilder, SilentMeter
from clearsight.data.dataset import SPLITS, Dataset, check_targets
from clearsight.data.read.cache import build_key, drop_entry, load_entry, save_entry
from clearsight.data.read.files import BadFile, Member, Source, is_hidden, open_source
from clearsight.data.read.layout import Layout, arrange_files
from clearsight.data.read.pictures import (
    MAX_PIXELS,
    PictureFacts,
    PictureFormat,
    calm_decoder,
    decode_picture,
    read_facts,
)
from clearsight.errors import DataError

DECODER_VERSION = 1  # of everything that decides a stored pixel; a new one makes cached pictures old
LARGEST_AUTO_SIDE = 128
_AUTO_SIZE = (64, 64)
_BATCH, _BATCH_BYTES = 32, 2**24
_SMALL_BYTES = 8192  # below it threads spend more time on Python's lock than on decoding
_LISTED = 20
_T = TypeVar("_T")


@dataclass(frozen=True)
class PictureRequest:
    """How picture files shall be stored: a format, of which the size (0, 0) and channels 0 are found from the data.

    The size is then that of all pictures if they agree and it is at most 128x128, else 64x64; the channels are 1 if
    every picture is grey, else 3. `skip_bad` leaves out files that cannot be used; `resize_arrays` brings pictures that
    are not files to the size, too. `follow_links`: see `open_source`. `max_pixels`: of a file; larger ones cannot be used.
    """

    format: PictureFormat = field(default_factory=lambda: PictureFormat(channels=0))
    skip_bad: bool = False
    resize_arrays: bool = True
    follow_links: bool = False
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True, eq=False)
class _Decoded:
    images: NDArray[np.uint8]
    rows: NDArray[np.int64]  # which members the images are of
    facts: list[PictureFacts]  # of those rows
    hashes: NDArray[np.uint64]  # of those rows' files
    bad: list[BadFile]
    notes: list[str]


def read_picture_files(
    path: Path,
    *,
    name: str,
    request: PictureRequest,
    label_column: str = "auto",
    task: str = "classification",
    meter: MeterBuilder = SilentMeter,
) -> Dataset:
    """Labelled pictures of a folder, zip or tar.

    Args:
        path: the place. name: of the data set.
        request: size, channels, policy and background; whether bad files are left out.
        label_column: of a `metadata.csv` or `labels.csv`.
        task: with `regression`, labels (of the table, or the class folders' names) are numbers.
        meter: shows progress.

    Returns:
        Classes in order of their names. `bad` holds the files left out, `facts` what the headers of the others say.

    Raises:
        DataError: no layout fits, or a file is bad (all are listed) unless `skip_bad`.
    """
    with closing(open_source(path, follow_links=request.follow_links)) as source:
        listing = source.list_files()
        hidden = [path for path in (*(b.path for b in listing.bad), *listing.unread) if is_hidden(path)]
        layout = arrange_files(
            listing, root=str(path), read=source.read, label_column=label_column, as_numbers=task == "regression"
        )
        known = {b.path for b in layout.bad}
        layout.bad += [b for b in listing.bad if b.path not in known and not is_hidden(b.path)]
        if hidden:
            layout.notes.append(f"{len(hidden)} hidden links or special files were left out: {hidden[0]!r}")
        decoded = _load_decoded(source, layout, request, meter)
    layout.bad += decoded.bad
    if layout.bad and not request.skip_bad:
        raise DataError(render_bad(layout.bad, str(path)))
    if len(decoded.rows) == 0:
        raise DataError(
            f"{path} must hold pictures that can be read, got none of {len(layout.members)}. Check the files."
        )
    return _assemble(path, name, layout, decoded, task)


def read_headers(
    path: Path, *, request: PictureRequest, label_column: str = "auto", most: int, meter: MeterBuilder = SilentMeter
) -> tuple[list[PictureFacts], int]:
    """What the headers of a folder, zip or tar of pictures say, and how many classes there are; nothing is decoded.

    Returns:
        Nothing of more than `most` files. A file whose header cannot be read is left out: `read_picture_files` refuses it.

    Raises:
        DataError: no layout fits.
    """
    with closing(open_source(path, follow_links=request.follow_links)) as source:
        listing = source.list_files()
        if len(listing.members) > most:
            return [], 0
        layout = arrange_files(listing, root=str(path), read=source.read, label_column=label_column)
        limit = request.max_pixels
        files = _name_files(layout.members, limit)
        facts, *_ = _load_facts(source, layout.members, files, meter, limit=limit)
    return list(facts.values()), len(set(layout.labels))


def render_bad(bad: list[BadFile], root: str) -> str:
    """All bad files in one message: the first twenty with their reasons."""
    lines = [f"{b.path}: {b.reason.removeprefix(b.path + ' ').rstrip('.')}" for b in bad[:_LISTED]]
    more = f"; and {len(bad) - _LISTED} more (`clearsight data check` lists all)" if len(bad) > _LISTED else ""
    noun = "file" if len(bad) == 1 else "files"
    return (
        f"{root} must hold pictures that can be read, got {len(bad)} bad {noun}: {'; '.join(lines)}{more}. "
        "Fix or remove them, or go on without them with --skip-bad."
    )


def _assemble(path: Path, name: str, layout: Layout, decoded: _Decoded, task: str) -> Dataset:
    chosen = [layout.labels[row] for row in decoded.rows]
    given = np.array([SPLITS.index(layout.splits[row]) for row in decoded.rows], np.int8)
    if task == "regression":
        class_names: tuple[str, ...] = ()
        labels: NDArray[Any] = check_targets(_as_numbers(chosen, path), rows=len(chosen), what=f"labels of {path}")
    else:
        _note_lost_classes(layout, decoded.rows)
        class_names = tuple(sorted(set(chosen) | {label for _, label in layout.empty}))
        position = {label: k for k, label in enumerate(class_names)}
        labels = np.array([position[label] for label in chosen], np.int64)
    notes = [*layout.notes, *decoded.notes]
    if layout.bad:
        were = "file was" if len(layout.bad) == 1 else "files were"
        notes.append(f"{len(layout.bad)} bad {were} left out (`clearsight data check` lists them)")
    return Dataset(
        name=name,
        images=decoded.images,
        labels=labels,
        class_names=class_names,
        given=given,
        value_range=(0.0, 255.0),
        sources={SPLITS[k]: str(path) for k in np.unique(given)},
        notes=tuple(notes),
        files=tuple(layout.members[row].path for row in decoded.rows),
        facts=tuple(decoded.facts),
        source_hashes=decoded.hashes,
        bad=tuple(layout.bad),
        empty=tuple(layout.empty),
    )


def _note_lost_classes(layout: Layout, rows: NDArray[np.int64]) -> None:
    """Count classes of which every file is bad as empty ones."""
    every = set(zip(layout.splits, layout.labels, strict=True))
    left = {(layout.splits[row], layout.labels[row]) for row in rows}
    layout.empty += sorted(every - left)


def _as_numbers(labels: list[str], path: Path) -> list[float]:
    numbers = []
    for label in labels:
        try:
            numbers.append(float(label))
        except ValueError:
            raise DataError(
                f"labels must be numbers for regression, got {label!r} in {path}. Name the folders by numbers or give a table."
            ) from None
    return numbers


def _load_decoded(source: Source, layout: Layout, request: PictureRequest, meter: MeterBuilder) -> _Decoded:
    """Headers, then pixels, each from the cache or read now and kept there."""
    members, limit = layout.members, request.max_pixels
    files = _name_files(members, limit)
    facts, hashes, bad, problem = _load_facts(source, members, files, meter, limit=limit)
    if not facts:
        return _Decoded(np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, np.int64), [], hashes[:0], bad, [])
    settled, notes = resolve_format(request.format, list(facts.values()))
    key = build_key([files, str(settled), str(list(facts))])
    found = load_entry(key)
    if found and found[0] is not None and _fits(found[1], "rows", len(found[0]), len(members)):
        images, kept = found[0], found[1]
    else:
        drop_entry(key)
        images, kept = _decode(source, members, list(facts), settled, meter, limit=limit)
        if not kept["passing"]:
            problem = save_entry(key, kept, images, source=str(source.root.resolve())) or problem
        saved = load_entry(key)
        images = saved[0] if saved and saved[0] is not None else images  # mapped: the pages can leave the memory
    bad = bad + [BadFile(*b) for b in kept["bad"]]
    rows = np.array(kept["rows"], np.int64)
    notes += [problem] if problem else []
    return _Decoded(images, rows, [facts[row] for row in kept["rows"]], hashes[rows], bad, notes)


def _name_files(members: list[Member], limit: int) -> str:
    """The key under which what these files hold is kept."""
    import PIL

    version = f"{DECODER_VERSION} {PIL.__version__} {limit}"
    return build_key([version, *(f"{m.path}\n{m.size}\n{m.stamp}" for m in members)])


def _load_facts(
    source: Source, members: list[Member], key: str, meter: MeterBuilder, *, limit: int
) -> tuple[dict[int, PictureFacts], NDArray[np.uint64], list[BadFile], str]:
    """Headers of the files that have one, by their place in `members`; hashes of all files' bytes (0 for those that cannot be
    read); the files without a header; and why these could not be kept.
    """
    found = load_entry(key)
    if found and _fits(found[1], "of", len(members), len(found[1].get("facts", ()))) and _has_hashes(found[1]):
        kept = found[1]
        distinct = [PictureFacts(f[0], f[1], f[2], f[3], tuple(f[4])) for f in kept["facts"]]
        sound = {i: distinct[f] for i, f in enumerate(kept["of"]) if f >= 0}
        return sound, np.array(kept["hashes"], np.uint64), [BadFile(*b) for b in kept["bad"]], ""

    drop_entry(key)

    place = {member.path: at for at, member in enumerate(members)}
    hashes = np.zeros(len(members), np.uint64)

    def scan(member: Member, content: bytes) -> PictureFacts | BadFile:
        hashes[place[member.path]] = int.from_bytes(hashlib.sha256(content).digest()[:8], "little")
        try:
            return read_facts(content, member.path, suffix=Path(member.path).suffix, max_pixels=limit)
        except DataError as error:
            return BadFile(member.path, str(error))

    with meter("reading headers", len(members)) as advance:
        scanned = _map_files(source, members, scan, advance)
    sound = {i: facts for i, facts in enumerate(scanned) if isinstance(facts, PictureFacts)}
    bad = [facts for facts in scanned if isinstance(facts, BadFile)]
    position = {facts: at for at, facts in enumerate(dict.fromkeys(sound.values()))}
    kept = {
        "facts": [[f.height, f.width, f.format, f.mode, list(f.notes)] for f in position],
        "of": [position[sound[i]] if i in sound else -1 for i in range(len(members))],
        "bad": [[b.path, b.reason] for b in bad],
        "hashes": hashes.tolist(),
    }
    passing = any(b.passing for b in bad)
    return sound, hashes, bad, "" if passing else save_entry(key, kept, source=str(source.root.resolve()))


def _has_hashes(kept: dict[str, Any]) -> bool:
    """Whether cached facts hold a hash a file, which earlier versions did not keep."""
    hashes = kept.get("hashes")
    sound = isinstance(hashes, list) and len(hashes) == len(kept["of"])
    return sound and all(isinstance(one, int) and 0 <= one < 2**64 for one in hashes or ())


def _fits(kept: dict[str, Any], key: str, count: int, limit: int) -> bool:
    """Whether cached facts are of the form that was written: a cache may be damaged, or another version's."""
    rows, bad = kept.get(key), kept.get("bad")
    return (
        isinstance(rows, list)
        and isinstance(bad, list)
        and len(rows) == count
        and all(isinstance(row, int) and -1 <= row < limit for row in rows)
        and all(isinstance(b, list) and len(b) == 2 and all(isinstance(text, str) for text in b) for b in bad)
    )


def _decode(
    source: Source, members: list[Member], chosen: list[int], settled: PictureFormat, meter: MeterBuilder, *, limit: int
) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Pixels of the chosen members that can be decoded, and which those are: `rows`, and the `bad` ones."""
    images = np.empty((len(chosen), settled.height, settled.width, settled.channels), np.uint8)
    place = {members[i].path: at for at, i in enumerate(chosen)}

    def decode(member: Member, content: bytes) -> BadFile | None:
        try:
            images[place[member.path]] = decode_picture(content, member.path, settled, max_pixels=limit)
        except DataError as error:
            return BadFile(member.path, str(error))
        return None

    with meter("decoding pictures", len(chosen)) as advance:
        problems = _map_files(source, [members[i] for i in chosen], decode, advance)
    good = [at for at, problem in enumerate(problems) if problem is None]
    failed = [problem for problem in problems if problem is not None]
    kept = {
        "rows": [chosen[at] for at in good],
        "bad": [[b.path, b.reason] for b in failed],
        "passing": any(b.passing for b in failed),
    }
    return images[good] if failed else images, kept


def resolve_format(wanted: PictureFormat, facts: list[PictureFacts]) -> tuple[PictureFormat, list[str]]:
    """The format with size and channels found where they were left open, and notes about what was assumed."""
    notes = []
    height, width = wanted.height, wanted.width
    if not height:
        sizes = Counter((f.height, f.width) for f in facts)
        height, width = next(iter(sizes))
        if len(sizes) > 1 or max(height, width) > LARGEST_AUTO_SIDE or height == 1:
            small, large = min(sizes, key=lambda s: s[0] * s[1]), max(sizes, key=lambda s: s[0] * s[1])
            have = f"have {len(sizes)} sizes from {small[1]}x{small[0]} to {large[1]}x{large[0]}"
            if len(sizes) == 1:
                have = f"are {width}x{height}"
            height, width = _AUTO_SIZE
            verb = {"squash": "squashed", "crop": "cropped", "pad": "padded"}[wanted.resize]
            notes.append(f"pictures {have} and are {verb} to {width}x{height} (choose with --image-size and --resize)")
    channels = wanted.channels or (1 if all(f.is_grey for f in facts) else 3)
    grey = sum(f.is_grey for f in facts)
    if not wanted.channels and channels == 3 and grey:
        notes.append(f"{grey} of {len(facts)} pictures are grey and became RGB like the others")
    return PictureFormat(height, width, channels, wanted.resize, wanted.background), notes


def _map_files(
    source: Source, members: list[Member], work: Callable[[Member, bytes], _T], advance: Callable[[int], None]
) -> list[_T]:
    """`work(member, content)` of every file, in threads; Pillow decodes outside Python's lock.

    At most a few batches are read ahead. A file that cannot be read counts as a bad one of `work`'s kind.
    """
    order = sorted(range(len(members)), key=lambda i: members[i].place) if source.sequential else range(len(members))
    results: list[Any] = [None] * len(members)

    def run(batch: Sequence[int], contents: list[bytes | DataError] | None) -> int:
        for i, at in enumerate(batch):
            content = _try_read(source, members[at]) if contents is None else contents[i]
            if isinstance(content, DataError):
                results[at] = BadFile(members[at].path, str(content), passing=True)
            else:
                results[at] = work(members[at], content)
        return len(batch)

    mean_bytes = sum(m.size for m in members) / max(len(members), 1)
    workers = 1 if mean_bytes < _SMALL_BYTES else os.cpu_count() or 1
    waiting: deque[Future[int]] = deque()
    with calm_decoder(), ThreadPoolExecutor(workers) as pool:
        try:
            for batch in _batches(members, order):
                contents = [_try_read(source, members[at]) for at in batch] if source.sequential else None
                waiting.append(pool.submit(run, batch, contents))
                if len(waiting) > 2 * workers:
                    advance(waiting.popleft().result())
            while waiting:
                advance(waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()
    return results


def _batches(members: list[Member], order: Sequence[int]) -> Iterator[Sequence[int]]:
    """Runs of `order`, ended by a number of files or of bytes, so that few bytes wait in memory."""
    start, size = 0, 0
    for i, at in enumerate(order):
        size += members[at].size
        if size >= _BATCH_BYTES or i + 1 - start == _BATCH or i + 1 == len(order):
            yield order[start : i + 1]
            start, size = i + 1, 0


def _try_read(source: Source, member: Member) -> bytes | DataError:
    try:
        return source.read(member)
    except DataError as error:
        return error
