"""Synthetic counting pictures: blue discs on white, never touching, as many as the label says; in memory or as files.

A disc sits on a pixel, as a scatter plot's markers do. Centres lie in the central half of the picture's width and height,
at least 0.2 apart where that half runs from -1 to 1, and any two discs have a background pixel between them. Sizes are
those of scatter marks on a figure 288 pixels high at 72 dpi (diameter = the root of the mark's area), scaled with the
picture's shorter side. It must not know who reads the files.
"""

import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clearsight.core.files import sync_folder
from clearsight.core.progress import MeterBuilder, SilentMeter
from clearsight.errors import ClearsightError, UsageError

Sizes = Literal["fixed", "various"]
MIN_SIDE, MAX_SIDE = 32, 8192
_MARK_AREAS = {"fixed": (200.0, 200.0), "various": (25.0, 250.0)}  # square points, of a figure 288 points high
_FIGURE_HEIGHT, _APART = 288.0, 0.2
_GAP = 1 + 2**0.5  # two half pixels of soft edge, and a step to a diagonal neighbour
_TRIES, _RESTARTS = 24, 2000
_TRAIN, _TEST, _TRIAL = 0, 1, 2  # streams of random numbers that never meet
_CHUNK_PIXELS = 2**22  # 84 pictures of 224x224
_WHITE, _BLUE = np.full(3, 255.0), np.array([0x1F, 0x77, 0xB4], float)
PALETTE: NDArray[np.uint8] = np.rint(_WHITE + np.linspace(0, 1, 256)[:, None] * (_BLUE - _WHITE)).astype(np.uint8)


@dataclass(frozen=True)
class _Canvas:
    """What all pictures of one size and kind share; places are (row, column) of a pixel."""

    shape: tuple[int, int]
    first: tuple[int, int]  # the first place a centre may have
    places: tuple[int, int]  # how many rows and columns of places
    squares: tuple[float, float]  # of the smallest and the largest radius; uniform between
    room: NDArray[np.float32]  # (2a+1, 2b+1) how large disc and gap there may be, plus the radius of the disc amid it
    offsets: NDArray[np.int64]  # (pixels,) of a disc's square, from its centre, in a flat picture
    distances: NDArray[np.float32]  # (pixels,) to the centre


@lru_cache(maxsize=8)
def _plan_canvas(width: int, height: int, sizes: Sizes) -> _Canvas:
    shape, unit = (height, width), (height / 4, width / 4)
    smallest, largest = ((area**0.5 / 2) * min(shape) / _FIGURE_HEIGHT for area in _MARK_AREAS[sizes])
    first = (int(np.ceil(unit[0] - 0.5)), int(np.ceil(unit[1] - 0.5)))
    last = (int(np.floor(3 * unit[0] - 0.5)), int(np.floor(3 * unit[1] - 0.5)))
    far = [int(np.ceil(max(2 * largest + _GAP, _APART * u))) for u in unit]
    rows, columns = (np.arange(-n, n + 1) for n in far)
    room = np.hypot(rows[:, None], columns)
    square = np.arange(-int(largest + 0.5), int(largest + 0.5) + 1)
    distances = np.hypot(square[:, None], square)
    if (
        sizes == "fixed"
    ):  # discs are equal: all places where two touch, diagonally too, are disc + disc + 3x3, by Fourier
        disc, full = largest + 0.5 - distances > 1 / 510, (2 * len(square) + 1,) * 2  # half a level of 255 is nothing
        spectrum = np.fft.rfft2(disc, full) ** 2 * np.fft.rfft2(np.ones((3, 3)), full)
        touching = np.fft.irfft2(spectrum, full) > 0.5
        room[:] = np.inf
        room[tuple(slice(n - len(square), n + len(square) + 1) for n in far)][touching] = -np.inf
    room[np.hypot(rows[:, None] / unit[0], columns / unit[1]) < _APART] = -np.inf
    places = (last[0] - first[0] + 1, last[1] - first[1] + 1)
    offsets = (square[:, None] * width + square).ravel()
    soft = distances.ravel().astype(np.float32)
    return _Canvas(shape, first, places, (smallest**2, largest**2), room.astype(np.float32), offsets, soft)


_Discs = tuple[list[tuple[int, int]], NDArray[np.float64]]


def _place(canvas: _Canvas, count: int, rng: np.random.Generator) -> _Discs:
    """Places of discs, each uniform over all that are still free, until none is left or all are there; and all radii."""
    radii = np.sqrt(rng.uniform(*canvas.squares, count))
    rows, columns = canvas.places
    deep, wide = canvas.room.shape
    padded = np.full((rows + deep - 1, columns + wide - 1), np.inf, np.float32)
    inner = padded[deep // 2 : deep // 2 + rows, wide // 2 : wide // 2 + columns]
    guesses = iter(rng.integers(rows * columns, size=4 * count).tolist())
    found: list[tuple[int, int]] = []
    for radius in radii.tolist():
        needed = np.float32(radius + _GAP)
        for guess, _ in zip(guesses, range(_TRIES), strict=False):
            row, column = divmod(guess, columns)
            if inner[row, column] >= needed:
                break
        else:
            free = np.flatnonzero(inner >= needed)
            if not len(free):
                return found, radii
            row, column = divmod(int(free[rng.integers(len(free))]), columns)
        window = padded[row : row + deep, column : column + wide]
        np.minimum(window, canvas.room - np.float32(radius), out=window)
        found.append((row, column))
    return found, radii


@lru_cache(maxsize=64)
def find_largest_count(width: int, height: int, sizes: Sizes) -> int:
    """How many discs pictures of this size can take: what one in sixteen of 64 trial pictures took before it was full.

    Beyond 1024 pixels a smaller picture of the same shape answers, as the gap between discs weighs least in large ones.
    """
    shrink = max(1.0, max(width, height) / 1024)
    canvas = _plan_canvas(max(MIN_SIDE, round(width / shrink)), max(MIN_SIDE, round(height / shrink)), sizes)
    rngs = [np.random.default_rng([trial, _TRIAL, 0]) for trial in range(64)]
    return sorted(len(_place(canvas, 1000, rng)[0]) for rng in rngs)[-4]


def _scatter(canvas: _Canvas, count: int, rng: np.random.Generator) -> _Discs:
    """Places (row, column) and radii of `count` discs; a picture that is full too early is begun anew."""
    for _ in range(_RESTARTS):
        found, radii = _place(canvas, count, rng)
        if len(found) == count:
            return found, radii
    raise UsageError(f"counts must fit into the picture, got {count} in vain {_RESTARTS} times. Choose fewer discs.")


def _draw_levels(canvas: _Canvas, counts: NDArray[np.int64], first: int, stream: int, seed: int) -> NDArray[np.uint8]:
    """Pictures (n, H, W) as uint8: how much of a pixel is disc, from 0 (white) to 255 (blue)."""
    height, width = canvas.shape
    levels = np.zeros((len(counts), height, width), np.uint8)
    if not counts.any():
        return levels
    rngs = (np.random.default_rng([index, stream, seed]) for index in range(first, first + len(counts)))
    drawn = [_scatter(canvas, count, rng) for count, rng in zip(counts.tolist(), rngs, strict=True)]
    rows, columns = (np.array([place for found, _ in drawn for place in found]) + canvas.first).T
    centres = (np.repeat(np.arange(len(counts)), counts) * height + rows) * width + columns
    edges = np.concatenate([radii for _, radii in drawn]).astype(np.float32) + np.float32(0.5)
    cover = np.rint(255 * np.clip(edges[:, None] - canvas.distances, 0, 1)).astype(np.uint8)
    inside = cover > 0  # what lies around a disc may belong to its neighbour
    levels.reshape(-1)[(centres[:, None] + canvas.offsets)[inside]] = cover[inside]
    return levels


def _color(levels: NDArray[np.uint8], out: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Levels (n, H, W) as RGB in `out` (n, H, W, 3), contiguous."""
    out.fill(255)
    flat, pixels = levels.reshape(-1), out.reshape(-1)
    inside = np.flatnonzero(flat != 0)
    for channel in range(3):
        pixels[3 * inside + channel] = PALETTE[flat[inside], channel]
    return out


def _draw_chunks(
    canvas: _Canvas, counts: NDArray[np.int64], stream: int, seed: int, advance: Callable[[int], None]
) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
    """(rows, levels) of some pictures after the other, so that memory does not grow with their number."""
    step = max(1, _CHUNK_PIXELS // (canvas.shape[0] * canvas.shape[1]))
    for start in range(0, len(counts), step):
        yield slice(start, start + step), _draw_levels(canvas, counts[start : start + step], start, stream, seed)
        advance(len(counts[start : start + step]))


def _check_counts(counts: NDArray[np.int64], *, width: int, height: int, sizes: Sizes, seed: int) -> None:
    for name, side in (("width", width), ("height", height)):
        if not MIN_SIDE <= side <= MAX_SIDE:
            raise UsageError(
                f"{name} must be from {MIN_SIDE} to {MAX_SIDE} pixels, got {side}. Choose, for example, 224."
            )
    if sizes not in _MARK_AREAS:
        raise UsageError(f"sizes must be fixed or various, got {sizes!r}. Choose one of them.")
    if seed < 0:
        raise UsageError(f"seed must be 0 or more, got {seed}. Choose another.")
    if len(counts) and counts.min() < 0:
        raise UsageError(f"counts must be 0 or more, got {counts.min()}. Correct it.")
    if len(counts) and counts.max() > (largest := find_largest_count(width, height, sizes)):
        limit = f"{largest}, the most {sizes} discs that fit into {width}x{height} pixels"
        raise UsageError(f"counts must be at most {limit}, got {counts.max()}. Choose fewer discs or longer sides.")


def draw_counting(
    counts: NDArray[np.int64], *, width: int = 432, height: int = 288, sizes: Sizes = "fixed", seed: int = 0,
    meter: MeterBuilder = SilentMeter,
) -> NDArray[np.uint8]:  # fmt: skip
    """Pictures with so many discs; picture i is a function of (seed, i, counts[i]) and the four settings alone.

    Args:
        counts: (n,) whole numbers, 0 or more.
        width, height: in pixels, from 32 to 8192 each.
        sizes: `fixed`, mark area 200 at 432x288; `various`, area uniform from 25 to 250.
        seed: 0 or more. meter: told of every picture.

    Returns:
        (n, height, width, 3) uint8 RGB: white, and discs of matplotlib's first blue (#1f77b4) with soft edges.

    Raises:
        UsageError: a value out of range, or more discs than fit; the message says how many do.
    """
    counts = np.asarray(counts)
    if counts.ndim != 1 or counts.dtype.kind not in "iu":
        raise UsageError(f"counts must be a list of whole numbers, got {counts.dtype} {counts.shape}. Correct it.")
    _check_counts(counts, width=width, height=height, sizes=sizes, seed=seed)
    canvas = _plan_canvas(width, height, sizes)
    images = np.empty((len(counts), height, width, 3), np.uint8)
    with meter("drawing pictures", len(counts)) as advance:
        for rows, levels in _draw_chunks(canvas, counts, _TRAIN, seed, advance):
            _color(levels, images[rows])
    return images


def parse_counts(text: str) -> tuple[int, ...]:
    """Whole numbers from text such as `1-5`, `1,3,7` or `0,45-49`, in ascending order.

    Raises:
        UsageError: not such a list, a range that runs downwards, or a number twice.
    """
    found: list[int] = []
    for word in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", word, re.ASCII)
        if not match:
            raise UsageError(f"counts must be numbers or ranges such as 1-5,9, got {word.strip()[:40]!r}. Correct it.")
        low, high = int(match[1]), int(match[2] or match[1])
        if high < low:
            raise UsageError(f"counts must have ranges that run upwards, got {word.strip()!r}. Write {high}-{low}.")
        found.extend(range(low, high + 1))
    if twice := sorted(count for count in set(found) if found.count(count) > 1):
        raise UsageError(f"counts must name each number once, got {twice[0]} twice in {text[:80]!r}. Remove one.")
    return tuple(sorted(found))


@dataclass(frozen=True)
class _Part:
    """One split: its pictures run through all counts again and again, so that more per class keeps the first ones."""

    name: str  # train, test, or nothing where there is one split
    stream: int
    counts: NDArray[np.int64]
    labels: NDArray[Any]  # names of classes, or float32
    files: list[str]


def _plan_part(name: str, stream: int, counts: tuple[int, ...], per_class: int, *, numbers: bool) -> _Part:
    every, rows = np.tile(np.array(counts, np.int64), per_class), range(per_class * len(counts))
    if numbers:
        files = [f"{name or 'pictures'}/{row + 1:0{max(5, len(str(len(rows))))}}.png" for row in rows]
        return _Part(name, stream, every, every.astype(np.float32), files)
    names, top = [f"{count:0{len(str(max(counts)))}}" for count in counts], f"{name}/" if name else ""
    digits, k = max(5, len(str(per_class))), len(counts)
    files = [f"{top}{names[row % k]}/{row // k + 1:0{digits}}.png" for row in rows]
    return _Part(name, stream, every, np.tile(np.array(names), per_class), files)


def _encode(levels: NDArray[np.uint8]) -> bytes:
    """One picture (H, W) of levels as a PNG with a palette."""
    picture, file = Image.fromarray(levels), BytesIO()
    picture.putpalette(PALETTE.tobytes())
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


_Put = Callable[[str, bytes], None]
_Draw = Callable[[_Part], Iterator[tuple[slice, NDArray[np.uint8]]]]


def _write_pictures(put: _Put, parts: list[_Part], draw: _Draw, pool: ThreadPoolExecutor, table: bytes) -> None:
    for part in parts:
        for rows, levels in draw(part):
            for name, content in zip(part.files[rows], pool.map(_encode, levels), strict=True):
                put(name, content)
    if table:
        put("metadata.csv", table)


def _put_file(root: Path, name: str, content: bytes) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    with (root / name).open("wb") as file:
        file.write(content)
        _sync(file)


def _put_member(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    member = zipfile.ZipInfo(name)  # its date is always the same
    member.external_attr = 0o644 << 16
    archive.writestr(member, content)


def _write_arrays(archive: zipfile.ZipFile, parts: list[_Part], draw: _Draw, shape: tuple[int, int]) -> None:
    for part in parts:
        prefix = f"{part.name}_" if part.name else ""
        with archive.open(f"{prefix}labels.npy", "w") as member:
            np.lib.format.write_array(member, part.labels)
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(part.files), *shape, 3)}
        with archive.open(f"{prefix}images.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for _, levels in draw(part):
                member.write(_color(levels, np.empty((*levels.shape, 3), np.uint8)).data)


def _check_out(out: Path, *, folder: bool, overwrite: bool) -> None:
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise UsageError(f"out must be a new path, got {out}, which exists. Choose another, or set overwrite.")
    if out.is_symlink() or not (out.is_dir() if folder else out.is_file()):
        raise UsageError(f"out must be of the asked kind to be overwritten, got {out}. Choose another path.")
    for path in sorted(out.iterdir()) if folder else ():
        if path.name not in ("train", "test", "pictures", "metadata.csv") and not path.name.isdigit():
            raise UsageError(f"out must hold counting pictures alone, got {path}. Choose another path to write to.")
    for path in sorted(out.rglob("*")) if folder else ():
        if not path.is_dir() and path.name != "metadata.csv" and not re.fullmatch(r"\d{5,}\.png", path.name):
            raise UsageError(f"out must hold counting pictures alone, got {path}. Choose another path to write to.")


def make_counting(
    out: Path, *, counts: tuple[int, ...], per_class: int, width: int = 432, height: int = 288, sizes: Sizes = "fixed",
    seed: int = 0, target: Literal["class", "number"] = "class", test_per_class: int = 0,
    meter: MeterBuilder = SilentMeter, overwrite: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Write counting pictures: a folder of PNG files, a zip of the same (`.zip`), or arrays (`.npz`), whole or not at all.

    Picture i of the training rows is picture i of `draw_counting` for `counts` over and over; test pictures come from a
    random stream of their own. Classes are folders such as `07`, in the order of their numbers; with target `number` a
    `metadata.csv` (`file_name,count`) stands beside `pictures`. With test pictures all of it is under `train` and `test`.
    An NPZ holds `images` (n, H, W, 3) uint8 and `labels` (names, or float32 numbers), or `train_images`, `test_images`, ...

    Returns:
        What was made: `path`, `format`, `train` and `test` (numbers of pictures), and the settings.

    Raises:
        UsageError: a value out of range, more discs than fit, or `out` exists. ClearsightError: it cannot be written.
    """
    for name, value, least in (("per_class", per_class, 1), ("test_per_class", test_per_class, 0)):
        if value < least:
            raise UsageError(f"{name} must be {least} or more, got {value}. Correct it.")
    if target not in ("class", "number"):
        raise UsageError(f"target must be class or number, got {target!r}. Choose one of them.")
    if not counts or len(set(counts)) < len(counts):
        raise UsageError(f"counts must name each number once, and at least one, got {counts}. Correct them.")
    counts = tuple(sorted(counts))
    _check_counts(np.array(counts, np.int64), width=width, height=height, sizes=sizes, seed=seed)
    canvas, numbers, suffix = _plan_canvas(width, height, sizes), target == "number", out.suffix.lower()
    folder = suffix not in (".zip", ".npz")
    train = _plan_part("train" if test_per_class else "", _TRAIN, counts, per_class, numbers=numbers)
    parts = [train, _plan_part("test", _TEST, counts, test_per_class, numbers=numbers)][: 1 + (test_per_class > 0)]
    lines = [f"{name},{count}\n" for part in parts for name, count in zip(part.files, part.counts, strict=True)]
    table = "".join(["file_name,count\n", *lines]).encode() if numbers else b""
    aside, old = (out.parent / f".{out.name}.{os.getpid()}.{word}" for word in ("tmp", "old"))
    new_parents = [parent for parent in out.parents if not parent.exists()]
    try:
        _check_out(out, folder=folder, overwrite=overwrite)
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
            meter("drawing pictures", sum(len(part.files) for part in parts)) as advance,
        ):
            draw: _Draw = lambda p: _draw_chunks(canvas, p.counts, p.stream, seed, advance)
            if folder:
                _write_pictures(partial(_put_file, aside), parts, draw, pool, table)
            else:
                with aside.open("wb") as file:
                    method = zipfile.ZIP_DEFLATED if suffix == ".npz" else zipfile.ZIP_STORED  # a PNG is packed already
                    with zipfile.ZipFile(file, "w", method, compresslevel=1) as archive:
                        if suffix == ".npz":
                            _write_arrays(archive, parts, draw, canvas.shape)
                        else:
                            _write_pictures(partial(_put_member, archive), parts, draw, pool, table)
                    _sync(file)
        _check_out(out, folder=folder, overwrite=overwrite)  # it may have come meanwhile
        if overwrite and out.exists():
            os.replace(out, old)
        os.replace(aside, out)
        sync_folder(out.parent)
    except OSError as error:
        raise ClearsightError(f"{out} must be writable, got {error.strerror}. Free space or choose another.") from None
    finally:
        if os.path.lexists(old) and not os.path.lexists(out):
            os.replace(old, out)  # what had the name comes back
        for path in (aside, old):
            shutil.rmtree(path, ignore_errors=True)
            with suppress(OSError):
                path.unlink()
        for parent in new_parents:  # only those that are still empty
            with suppress(OSError):
                parent.rmdir()
    return {
        "path": str(out), "format": "folder" if folder else suffix[1:], "train": len(train.files),
        "test": len(counts) * test_per_class, "counts": list(counts), "target": target, "width": width, "height": height,
        "sizes": sizes, "seed": seed,
    }  # fmt: skip
