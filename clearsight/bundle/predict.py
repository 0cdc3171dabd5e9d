"""Predictions for files of pictures: single ones, folders, zips, tars and `.npy` arrays; one bad file fails only itself."""

import csv
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice
from operator import call
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.bundle.bundle import Bundle, read_picture
from clearsight.core.progress import MeterBuilder, SilentMeter
from clearsight.core.threads import count_cores
from clearsight.data.dataset import check_images
from clearsight.data.read.arrays import read_array
from clearsight.data.read.files import is_hidden, open_source
from clearsight.data.read.load import holds_pictures
from clearsight.data.read.pictures import MAX_PIXELS, calm_decoder, check_file, read_facts
from clearsight.errors import ClearsightError, DataError, UsageError

TABLE_HEAD = ("name", "answer", "confidence", "far", "set", "error")
_AT_ONCE = 128  # files read ahead by threads, and pictures predicted together


@dataclass(frozen=True, eq=False)
class _Read:
    """What some files gave: names and pictures (n, H, W, C) with notes on each, or an error."""

    names: list[str]
    images: NDArray[Any] | None = None
    notes: list[tuple[str, ...]] = field(default_factory=list)
    error: ClearsightError | None = None
    files: int = 1
    file: str = ""  # of several pictures

    @property
    def is_picture(self) -> bool:
        """Whether this is one picture file, which may be predicted together with others."""
        return self.error is None and bool(self.notes)


def predict_files(
    bundle: Bundle,
    paths: list[Path],
    *,
    abstain_below: float = 0.0,
    sets: float | None = None,
    max_pixels: int = MAX_PIXELS,
    leave_out: Path | None = None,
    meter: MeterBuilder = SilentMeter,
) -> tuple[list[dict[str, Any]], list[ClearsightError]]:
    """Predictions for picture files, all files in folders, zips and tars, and `.npy` arrays; one bad file fails only itself.

    Args:
        paths: of files or folders; where nothing has that name, it may be a pattern such as `photos/*.jpg`.
        abstain_below: confidence below which no class is named. sets: level of a set of classes to name too.
        max_pixels: of a picture file. leave_out: a file in those folders that is none of theirs. meter: shows progress.

    Files that systems and editors make, whose names begin with a dot for example, are left out of folders and archives.

    Returns:
        For each picture `name` and either `label` (None where abstained) with `probabilities` by class, `number` for
        regression, or `error`; `far`, whether it is far from those trained on (None if unknown), `set`, and `notes` where the
        file is odd. And the errors met.

    Raises:
        UsageError: a confidence or level outside 0 to 1, or sets that cannot be; see `Bundle.find_sets`.
    """
    if not 0 <= abstain_below <= 1:
        raise UsageError(f"--abstain-below must lie between 0 and 1, got {abstain_below}. For example 0.8.")
    if not bundle.class_names and (abstain_below or sets is not None):
        raise UsageError("--abstain-below and --sets must have a classifier, got a regression model. Leave them out.")
    if sets is not None:
        bundle.find_sets(np.full((1, len(bundle.class_names)), 0.5, np.float32), level=sets)  # refused before the work
    answers: list[dict[str, Any]] = []
    problems: list[ClearsightError] = []
    with ExitStack() as stack:
        tasks = [
            task for path in map(_expand, paths) for task in _list_tasks(bundle, path, max_pixels, stack, leave_out)
        ]
        advance = stack.enter_context(meter("predicting", len(tasks)))
        for read in _read_all(tasks):
            try:
                if read.error is not None:
                    raise read.error
                answers += _answer(bundle, read, abstain_below=abstain_below, sets=sets)
            except ClearsightError as error:
                problems.append(error)
                answers.append({"name": read.file or read.names[0], "error": str(error)})
            advance(read.files)
    return answers, problems


def _list_tasks(
    bundle: Bundle, path: Path, max_pixels: int, stack: ExitStack, leave_out: Path | None
) -> Iterator[Callable[[], _Read]]:
    """What reads each file that a path stands for; `stack` closes archives in the end."""
    if found := _match(path):
        for match in found:
            yield from _list_tasks(bundle, match, max_pixels, stack, leave_out)
        return
    try:
        if path.suffix.lower() == ".npy" and not path.is_dir():
            yield partial(_read_array, bundle, path)
            return
        if not (path.is_dir() or (path.is_file() and holds_pictures(path))):
            yield partial(_read_picture, bundle, str(path), lambda: path, max_pixels)
            return
        source = open_source(path)
        stack.callback(source.close)
        listing = source.list_files()
    except (ClearsightError, OSError) as error:
        known = (
            error
            if isinstance(error, ClearsightError)
            else DataError(f"{path} must be readable, got {error}. Check it.")
        )
        yield partial(_Read, [str(path)], error=known)
        return
    bad = [one for one in listing.bad if not is_hidden(one.path)]
    members = [one for one in listing.members if not (is_hidden(one.path) or _is_same(path / one.path, leave_out))]
    if not (members or bad or listing.unread):
        yield partial(_Read, [str(path)], error=DataError(f"{path} must hold pictures, got none. Check the path."))
    for one in bad:
        text = f"{path}/{one.path} {one.reason}"
        text = text if text.endswith(".") else f"{text}. Remove it, or name other files."
        yield partial(_Read, [f"{path}/{one.path}"], error=DataError(text))
    for link in listing.unread:
        text = f"{path}/{link} must be a file in {path}, got a link to elsewhere. Name what it leads to."
        yield partial(_Read, [f"{path}/{link}"], error=DataError(text))
    for member in sorted(members, key=lambda member: member.place) if source.sequential else members:
        yield partial(_read_picture, bundle, f"{path}/{member.path}", partial(source.read, member), max_pixels)


def _is_same(path: Path, other: Path | None) -> bool:
    return other is not None and path.name == other.name and path.resolve() == other.resolve()


def _expand(path: Path) -> Path:
    """With the home folder in the place of `~`, which no shell replaces inside quotes."""
    try:
        return path.expanduser()
    except RuntimeError:  # of a user unknown
        return path


def _match(path: Path) -> list[Path]:
    """What a pattern stands for, where nothing has it as its name."""
    try:
        found = [] if path.exists() else sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        return [one for one in found if not any(parent in found for parent in one.parents)]  # folders hold the rest
    except (ValueError, OSError, IndexError):  # no pattern either; reading it says what is wrong
        return []


def _read_all(tasks: list[Callable[[], _Read]]) -> Iterator[_Read]:
    """What each task gives, in their order; threads read a bounded number of files ahead."""
    waiting = iter(tasks)
    with calm_decoder(), ThreadPoolExecutor(count_cores()) as pool:
        while batch := list(islice(waiting, _AT_ONCE)):
            for together, group in groupby(pool.map(call, batch), key=lambda read: read.is_picture):
                found = list(group)
                yield from [_join(found)] if together else found


def _join(reads: list[_Read]) -> _Read:
    """Several picture files as one."""
    images = np.concatenate([read.images for read in reads if read.images is not None])
    notes = [note for read in reads for note in read.notes]
    return _Read([name for read in reads for name in read.names], images, notes, files=len(reads))


def _read_picture(bundle: Bundle, name: str, read: Callable[[], Path | bytes], max_pixels: int) -> _Read:
    """A picture file, by its path, or by its bytes in an archive."""
    try:
        content = read()
        images = read_picture(content, bundle.preprocess, what=name, max_pixels=max_pixels)[None]
        notes = read_facts(content, name, suffix=Path(name).suffix, max_pixels=max_pixels).notes
    except ClearsightError as error:
        return _Read([name], error=error)
    return _Read([name], images, [notes])


def _read_array(bundle: Bundle, path: Path) -> _Read:
    """The pictures of an array file."""
    p = bundle.preprocess
    try:
        check_file(path)
        with path.open("rb") as file:
            images = read_array(file, path.stat().st_size, str(path))
        single = ((p.height, p.width, p.channels), (p.height, p.width) if p.channels == 1 else (), (p.num_inputs,))
        if images.shape in single and images.ndim:  # one picture without its batch axis
            images = images.reshape(1, p.height, p.width, p.channels)
        images, _ = check_images(images, what=f"images in {path}")
        p.check_shape(images, what=f"pictures in {path}")
    except ClearsightError as error:
        return _Read([str(path)], error=error)
    return _Read([f"{path}[{i}]" for i in range(len(images))], images, file=str(path))


def _answer(bundle: Bundle, read: _Read, *, abstain_below: float, sets: float | None) -> list[dict[str, Any]]:
    """The answers to some pictures."""
    values, away = bundle.predict_and_compare(read.images, known_units=bool(read.notes))
    answers: list[dict[str, Any]] = []
    for i, name in enumerate(read.names):
        if not bundle.class_names:
            answer: dict[str, Any] = {"name": name, "number": float(values[i])}
        else:
            label = bundle.class_names[int(values[i].argmax())] if values[i].max() >= abstain_below else None
            shares = dict(zip(bundle.class_names, map(float, values[i]), strict=True))
            answer = {"name": name, "label": label, "probabilities": shares}
        answer["far"] = None if away is None else bool(away[i])
        if read.notes and read.notes[i]:
            answer["notes"] = list(read.notes[i])
        answers.append(answer)
    if sets is not None:
        for answer, inside in zip(answers, bundle.find_sets(values, level=sets), strict=True):
            answer["set"] = inside
    return answers


def render_table(answers: list[dict[str, Any]], class_names: tuple[str, ...]) -> str:
    """Answers of `predict_files` as CSV, a row each: name, answer, confidence, far, set, error, and a share a class."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*TABLE_HEAD, *(f"share of {name}" for name in class_names)])
    for answer in answers:
        shares = answer.get("probabilities", {})
        label = answer.get("label") if class_names else answer.get("number")
        confidence = f"{max(shares.values()):.6f}" if shares else None
        far = {True: "yes", False: "no", None: ""}[answer.get("far")]
        writer.writerow(
            [answer["name"], label, confidence, far, " | ".join(answer.get("set", ())), answer.get("error")]
            + [f"{shares[name]:.6f}" if shares else None for name in class_names]
        )
    return file.getvalue()
