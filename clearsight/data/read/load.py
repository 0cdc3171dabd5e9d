"""From a name or a path to a `Dataset`: the one door through which data comes in."""

import contextlib
import os
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from clearsight.config.schema import Resize
from clearsight.core.progress import MeterBuilder, SilentMeter
from clearsight.data.dataset import Dataset, build_dataset
from clearsight.data.preprocess import find_range
from clearsight.data.read.arrays import holds_arrays, read_npz
from clearsight.data.read.files import is_tar
from clearsight.data.read.folder import PictureRequest, read_headers, read_picture_files
from clearsight.data.read.idx import find_idx, is_idx, read_idx_folder
from clearsight.data.read.pictures import MAX_PIXELS, PictureFacts, PictureFormat, resize_images
from clearsight.data.read.table import read_csv
from clearsight.errors import DataError, UsageError

_BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128)}
_MOST_MEGAPIXELS = 1000
_ZIPPED = (b"PK\x03\x04", b"PK\x05\x06")
_CHANNELS = {"auto": 0, "grey": 1, "rgb": 3}
DIGITS = tuple(str(k) for k in range(10))
NAMED: dict[str, tuple[str, ...]] = {
    "mnist": DIGITS,
    "fashion-mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}  # fmt: skip


def data_folders() -> list[Path]:
    """Where named data sets are looked for: `$CLEARSIGHT_DATA`, then the user's data directory."""
    folders = [Path(os.environ["CLEARSIGHT_DATA"])] if os.environ.get("CLEARSIGHT_DATA") else []
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return [*folders, Path(home) / "clearsight"]


def _load_digits() -> Dataset:
    """scikit-learn's digits, read from its file: importing the library takes most of a short run's start-up time."""
    places = getattr(find_spec("sklearn"), "submodule_search_locations", None) or []
    file = next(
        (path for place in places if (path := Path(place, "datasets", "data", "digits.csv.gz")).is_file()), None
    )
    if file is not None:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
        images, labels = table[:, :64].reshape(-1, 8, 8), table[:, 64].astype(np.int64)
    else:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images, labels = digits.images.astype(np.uint8), digits.target
    return build_dataset(
        {"train": (images, labels)},
        name="digits",
        class_names=DIGITS,
        value_range=(0.0, 16.0),
        sources={"train": "scikit-learn's load_digits"},
    )


def _find(source: str) -> Path:
    try:
        source.encode()
        path = Path(source).expanduser()
        if path.exists():
            return path
    except UnicodeEncodeError:
        raise DataError(f"DATA must be a path in UTF-8, got {source!r}. Rename the file.") from None
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, with a null byte, or of a user unknown
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"DATA must be a path that can be used, got {source[:80]!r}: {reason}. Check it.") from None
    if source in NAMED:
        for folder in data_folders():
            for place in (folder / source / f"{source}.npz", folder / source, folder / f"{source}.zip"):
                if place.exists():
                    return place
        places = ", ".join(str(folder / source) for folder in data_folders())
        raise DataError(
            f"{source} must be on this machine, got nothing at {places}. Get it with `clearsight data fetch {source}`."
        )
    raise DataError(
        f"DATA must be digits, {', '.join(NAMED)} or a path that exists, got {source!r}. Check the spelling."
    )


def _read_path(
    path: Path, source: str, label_column: str, task: str, request: PictureRequest, meter: MeterBuilder
) -> Dataset:
    name = (source if source in NAMED else path.resolve().stem) or "data"
    names = NAMED.get(source, ())
    if path.is_dir():
        if find_idx(path):
            return read_idx_folder(path, name=name, class_names=names, task=task)
        return read_picture_files(path, name=name, request=request, label_column=label_column, task=task, meter=meter)
    if not path.is_file():
        raise DataError(f"{path} must be a file or a folder, got a pipe or device. Save its content to a file first.")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise DataError(f"{path} must be readable, got {error.strerror}. Check the path and its permissions.") from None
    if not head:
        raise DataError(f"{path} must not be empty, got 0 bytes. Check the file.")
    if is_idx(path):
        if not any(path in paths for paths in find_idx(path.parent).values()):
            raise DataError(
                f"{path} must be named like train-images-idx3-ubyte or train-labels-idx1-ubyte, got {path.name}. Rename it."
            )
        return read_idx_folder(path.parent, name=path.resolve().parent.name, class_names=names, task=task)
    if _is_archive(path, head):
        return read_picture_files(path, name=name, request=request, label_column=label_column, task=task, meter=meter)
    if head.startswith(_ZIPPED):
        return read_npz(path, name=name, task=task)
    if path.suffix.lower() in (".csv", ".tsv", ".txt") or (b"," in head and b"\0" not in head):
        return read_csv(path, name=name, label_column=label_column, task=task)
    raise DataError(
        f"{path} must be a folder, a zip or tar of pictures, an IDX, NPZ or CSV file, got something else ({head[:8]!r}). "
        "Convert it."
    )


def survey_pictures(
    source: str, *, request: PictureRequest, label_column: str = "auto", most: int, meter: MeterBuilder = SilentMeter
) -> tuple[list[PictureFacts], int]:
    """What the headers of picture files say, and how many classes there are; nothing of other data. See `read_headers`.

    Raises:
        DataError: there is nothing, or it is not sound.
    """
    if source == "digits" and not Path(source).exists():
        return [], 0
    path, pictures = _find(source), False
    with contextlib.suppress(OSError):  # reading it says what is wrong
        if path.is_dir():
            pictures = not find_idx(path)
        elif path.is_file():
            pictures = holds_pictures(path)
    return (
        read_headers(path, request=request, label_column=label_column, most=most, meter=meter) if pictures else ([], 0)
    )


def holds_pictures(path: Path) -> bool:
    """Whether a file is an archive of pictures, by its name and first bytes."""
    with path.open("rb") as file:
        return _is_archive(path, file.read(512))


def _is_archive(path: Path, head: bytes) -> bool:
    """Whether a file is an archive of pictures; a zip may also hold arrays."""
    zipped = head.startswith(_ZIPPED)
    return is_tar(path) or (zipped and path.suffix.lower() != ".npz" and not holds_arrays(path))


def parse_background(text: str) -> tuple[int, int, int]:
    """`white`, `black`, `grey` or `#rrggbb` as RGB.

    Raises:
        UsageError: anything else.
    """
    if text in _BACKGROUNDS:
        return _BACKGROUNDS[text]
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
    raise UsageError(f"background must be {', '.join(_BACKGROUNDS)} or #rrggbb, got {text!r}. For example #ffffff.")


def count_pixels(megapixels: float) -> int:
    """Megapixels as pixels.

    Raises:
        UsageError: none, or more than a picture may ever have.
    """
    if not 0 < megapixels <= _MOST_MEGAPIXELS:
        raise UsageError(
            f"max_megapixels must lie above 0 and up to {_MOST_MEGAPIXELS}, got {megapixels}. For example 108."
        )
    return round(megapixels * 1e6)


def build_request(
    *,
    image_size: Any = None,
    resize: str = "squash",
    channels: str = "auto",
    background: str = "white",
    skip_bad: bool = False,
    follow_links: bool = False,
    max_megapixels: float = MAX_PIXELS / 1e6,
) -> PictureRequest:
    """What picture files shall be brought to, from the words of a configuration (see `PreprocessConfig`).

    Raises:
        UsageError: a word that is not known, or a size outside 2 to 4096.
    """
    sides = (
        (0, 0) if image_size is None else (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    )
    if image_size is not None and (len(sides) != 2 or not all(isinstance(s, int) and 2 <= s <= 4096 for s in sides)):
        raise UsageError(f"image_size must be one or two whole numbers of 2 to 4096, got {image_size}. For example 64.")
    if resize not in get_args(Resize):
        raise UsageError(f"resize must be one of {', '.join(get_args(Resize))}, got {resize!r}. Choose one of them.")
    if channels not in _CHANNELS:
        raise UsageError(f"channels must be one of {', '.join(_CHANNELS)}, got {channels!r}. Choose one of them.")
    wanted = PictureFormat(sides[0], sides[1], _CHANNELS[channels], cast(Resize, resize), parse_background(background))
    return PictureRequest(wanted, skip_bad, follow_links=follow_links, max_pixels=count_pixels(max_megapixels))


def _check_task(dataset: Dataset, task: str) -> Dataset:
    if dataset.is_regression != (task == "regression"):
        got = "numbers" if dataset.is_regression else "classes"
        raise UsageError(f"task must fit the labels of {dataset.name}, which are {got}, got {task}. Set data.task.")
    return dataset


def load_data(
    source: Any,
    labels: Any = None,
    *,
    label_column: str = "auto",
    task: str = "classification",
    name: str = "arrays",
    image_size: Any = None,
    resize: str = "squash",
    channels: str = "auto",
    background: str = "white",
    skip_bad: bool = False,
    follow_links: bool = False,
    max_megapixels: float = MAX_PIXELS / 1e6,
    meter: MeterBuilder = SilentMeter,
) -> Dataset:
    """Labelled pictures from a name, a path or arrays.

    Args:
        source: `digits` (always there), `mnist` and the like (see `data_folders`); the path of a folder, zip or tar of
            pictures, of an IDX folder, an NPZ or a CSV; an array of pictures (n, h, w), (n, h, w, c) or features (n, f);
            or a `Dataset`.
        labels: with an array: (n,) numbers or names, or (n, classes) one-hot.
        label_column: of a CSV or a `metadata.csv`: `first`, `last`, a header name or `auto`.
        task: `classification` or `regression`.
        name: of a data set made from arrays.
        image_size: side, or (height, width), that pictures are brought to; None leaves arrays as they are, and picture
            files too where all agree and are small, else 64x64.
        resize: `squash`, `crop` or `pad` (see `PictureFormat`).
        channels: of picture files: `grey`, `rgb`, or `auto`, which is grey where all are.
        background: under transparent pixels: `white`, `black`, `grey` or `#rrggbb`.
        skip_bad: leave out picture files that cannot be read.
        follow_links: read what links in a folder lead to, also out of the folder and to other folders.
        max_megapixels: of a picture file; larger ones are bad files.
        meter: shows progress.

    Raises:
        DataError: nothing there, not readable, or not sound; the message names file and row.
        UsageError: arguments that do not go together.
    """
    request = build_request(
        image_size=image_size, resize=resize, channels=channels, background=background, skip_bad=skip_bad,
        follow_links=follow_links, max_megapixels=max_megapixels,
    )  # fmt: skip
    return read_data(source, labels, label_column=label_column, task=task, name=name, request=request, meter=meter)


def read_data(
    source: Any,
    labels: Any = None,
    *,
    label_column: str = "auto",
    task: str = "classification",
    name: str = "arrays",
    request: PictureRequest,
    meter: MeterBuilder = SilentMeter,
) -> Dataset:
    """`load_data` with a request in place of single words: what a model asks for when it reads new pictures."""
    if task not in ("classification", "regression"):
        raise UsageError(f"task must be classification or regression, got {task!r}. Choose one of them.")
    if isinstance(source, Dataset):
        return _check_task(_resize(source, request), task)
    if isinstance(source, str | Path):
        if labels is not None:
            raise UsageError("labels must be given with arrays only, got them beside a path. Leave them out.")
        if str(source) == "digits" and not Path(source).exists():
            return _check_task(_resize(replace(_load_digits(), origin="digits"), request), task)
        path = _find(str(source))
        dataset = _read_path(path, str(source), label_column, task, request, meter)
        origin = str(source) if not Path(source).expanduser().exists() else str(path.resolve())
        return _resize(replace(dataset, origin=origin), request)
    if labels is None:
        raise UsageError("labels must be given with an array of pictures, got none. Pass labels=.")
    return _resize(build_dataset({"train": (source, labels)}, name=name, task=task), request)


def _resize(dataset: Dataset, request: PictureRequest) -> Dataset:
    """Stored arrays in the wanted size; picture files have it already."""
    wanted = request.format
    if not wanted.height or not request.resize_arrays or dataset.picture_shape[:2] == (wanted.height, wanted.width):
        return dataset
    if dataset.picture_shape[0] == 1:
        raise UsageError("image_size must go with pictures, got rows of features. Leave it out.")
    images = resize_images(dataset.images, wanted, find_range(dataset, np.arange(len(dataset))))
    return replace(dataset, images=images, source_hashes=dataset.row_hashes)
