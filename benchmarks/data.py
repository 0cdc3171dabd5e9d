"""Seconds to read pictures, to make counting pictures, and to vary pictures, beside what people write by hand.

    python -m benchmarks.data [--rounds 3] [--json FILE] [--table FILE] [--quick]

Peers: a loop of `zipfile` and Pillow; matplotlib's scatter; a loop of Pillow transforms, one picture at a time. It asserts
nothing about time.
"""

import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import (
    Prepare,
    Work,
    describe_run,
    measure_in_turns,
    render_rows,
    render_run,
    run_benchmark,
    summarize,
)
from clearsight.augment.presets import PRESETS, Augmentation
from clearsight.augment.transforms import augment_rows
from clearsight.data.named.counting import draw_counting, make_counting
from clearsight.data.read.load import data_folders, load_data

OURS = "clearsight"
SIDE = 224
MATPLOTLIB_SHARE = 50  # one picture in so many is drawn, and the time multiplied


def _after(prepare: Callable[[], None], work: Callable[[], object]) -> Prepare:
    """A piece of work with something to set up before."""

    def build() -> Work:
        prepare()

        def run() -> None:
            work()

        return run

    return build


def _rate(rows: dict[str, Any]) -> dict[str, Any]:
    """Rows with the ratio to the first one."""
    first = next(iter(rows.values()))["median"]
    return {name: row | {"ratio": row["median"] / first} for name, row in rows.items()}


def _find_zip() -> Path | None:
    found = [folder / "cifar10.zip" for folder in data_folders() if (folder / "cifar10.zip").is_file()]
    return found[0] if found else None


def read_by_hand(path: Path) -> np.ndarray:
    """What people write: every file of a zip through Pillow, stacked."""
    pictures = []
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".jpg"):
                pictures.append(np.asarray(Image.open(io.BytesIO(archive.read(info))).convert("RGB")))
    return np.stack(pictures)


def measure_reading(path: Path, rounds: int, cache: Path) -> dict[str, Any]:
    """Cold (empty cache), warm (second start) and by hand."""
    clear = partial(shutil.rmtree, cache, ignore_errors=True)
    read = partial(load_data, str(path))
    times = measure_in_turns(
        {
            f"{OURS}, first load": _after(clear, read),
            f"{OURS}, second load": _after(lambda: None, read),
            "zipfile and Pillow by hand": _after(lambda: None, partial(read_by_hand, path)),
        },
        rounds=rounds,
    )
    return _rate({name: summarize(found["seconds"]) for name, found in times.items()})


def draw_by_matplotlib(count: int) -> None:
    """The published way: scatter marks on a figure, one after the other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rng = np.random.default_rng(0)
    for _ in range(count):
        figure = Figure(figsize=(SIDE / 72, SIDE / 72), dpi=72)
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.scatter(*rng.uniform(-1, 1, (2, 5)), s=200)
        axes.set(xlim=(-2, 2), ylim=(-2, 2))
        axes.axis("off")
        canvas.draw()
        Image.fromarray(np.asarray(canvas.buffer_rgba())).save(io.BytesIO(), "PNG")


def measure_making(count: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Counting pictures of 1 to 5 discs, drawn alone and written as each kind of file."""
    counts = tuple(range(1, 6))
    make = partial(make_counting, counts=counts, per_class=count // 5, width=SIDE, height=SIDE, overwrite=True)
    few = max(1, count // MATPLOTLIB_SHARE)
    times = measure_in_turns(
        {
            f"{OURS}, drawn in memory": _after(
                lambda: None, partial(draw_counting, np.resize(counts, count), width=SIDE, height=SIDE)
            ),
            f"{OURS}, folder of PNG": _after(lambda: None, partial(make, folder / "counting")),
            f"{OURS}, zip of PNG": _after(lambda: None, partial(make, folder / "counting.zip")),
            f"{OURS}, NPZ": _after(lambda: None, partial(make, folder / "counting.npz")),
            f"matplotlib, {few} of {count} times {count // few}": _after(
                lambda: None, partial(draw_by_matplotlib, few)
            ),
        },
        rounds=rounds,
    )
    found = {name: summarize(kept["seconds"]) for name, kept in times.items()}
    for name, row in found.items():
        if name.startswith("matplotlib"):
            row.update({key: row[key] * (count / few) for key in ("median", "min", "max")})
    return _rate(found)


def vary_by_hand(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The preset `digits`, one picture at a time: rotation, shear, zoom and shift as one affine map by Pillow."""
    varied = np.empty_like(images)
    size = images.shape[1]
    for i, picture in enumerate(images):
        angle, slant = np.deg2rad(rng.uniform(-12, 12)), np.tan(np.deg2rad(rng.uniform(-10, 10)))
        zoom, (dx, dy) = 1 / rng.uniform(0.88, 1.12), rng.uniform(-0.08, 0.08, 2) * size
        a, b = np.cos(angle) * zoom, (-np.sin(angle) + slant) * zoom
        c, d = np.sin(angle) * zoom, np.cos(angle) * zoom
        middle = (size - 1) / 2
        place = (a, b, middle - a * middle - b * middle + dx, c, d, middle - c * middle - d * middle + dy)
        moved = Image.fromarray(picture[..., 0]).transform(
            (size, size), Image.Transform.AFFINE, place, Image.Resampling.BILINEAR
        )
        varied[i, ..., 0] = np.asarray(moved)
    return varied


def measure_varying(count: int, rounds: int) -> dict[str, Any]:
    """An epoch of 28x28 grey pictures by the preset `digits`, and of 32x32 colour ones by `photo`."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (count, 28, 28, 1)).astype(np.uint8)
    colour = rng.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    rows = np.arange(count)

    def vary(images: np.ndarray, preset: str) -> None:
        augment_rows(images, rows, augmentation=Augmentation(**PRESETS[preset]), seed=0, epoch=0, pool=rows)

    vary(grey, "digits")  # compiled before it is timed
    times = measure_in_turns(
        {
            f"{OURS}, 28x28x1, digits": _after(lambda: None, partial(vary, grey, "digits")),
            f"{OURS}, 32x32x3, photo": _after(lambda: None, partial(vary, colour, "photo")),
            "Pillow, 28x28x1, the same affine maps": _after(lambda: None, partial(vary_by_hand, grey, rng)),
        },
        rounds=rounds,
    )
    return _rate({name: summarize(found["seconds"]) for name, found in times.items()})


def measure(*, rounds: int, quick: bool, command: str) -> dict[str, Any]:
    """Everything, with the state of the machine."""
    record = describe_run(command)
    count = 500 if quick else 10_000
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CLEARSIGHT_CACHE"] = str(Path(folder) / "cache")
        path = _find_zip()
        if path is not None and not quick:
            record["reading"] = measure_reading(path, rounds, Path(folder) / "cache")
        record["making"] = measure_making(count, rounds, Path(folder))
    record["making_count"] = count
    record["varying_count"] = 1000 if quick else 60_000
    record["varying"] = measure_varying(record["varying_count"], rounds)
    return record


def render_table(record: dict[str, Any]) -> str:
    """The section of docs/benchmarks.md."""
    parts = ["## Data: reading, making and varying pictures", render_run(record)]
    titles = {
        "reading": "**CIFAR-10 from its zip** of 60,000 JPEG files, one process.",
        "making": f"**{record['making_count']:,} counting pictures** of {SIDE}x{SIDE}, 1 to 5 discs.",
        "varying": f"**{record['varying_count']:,} pictures varied**, one thread: what an epoch pays for augmentation.",
    }
    for key, title in titles.items():
        if key in record:
            bold = [name for name in record[key] if name.startswith(OURS)]
            parts += [title, render_rows(record[key], unit="seconds", bold=bold)]
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write the files that are asked for."""
    run_benchmark("data", arguments, measure=measure, render=render_table)


if __name__ == "__main__":
    main()
