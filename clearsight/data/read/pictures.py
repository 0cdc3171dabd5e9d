"""One picture file as stored pixels: decoded, turned upright, on a background, in the wanted channels and size.

The one way in which picture files become arrays, in training, evaluation and prediction alike. Only raster formats that
Pillow decodes in-process are opened, so no file can start another program. It must not know folders or data sets.
"""

import io
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.config.schema import Resize
from clearsight.errors import DataError

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "PNG": (".png", ".apng"), "GIF": (".gif",), "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",), "TIFF": (".tif", ".tiff"), "PPM": (".ppm", ".pgm", ".pbm", ".pnm"), "MPO": (".jpg", ".jpeg", ".mpo"),
}  # fmt: skip
MAX_PIXELS = 50_000_000  # of a file, unless the caller allows more
# Held by one picture above MAX_PIXELS at a time, so that threads cannot multiply their memory.
_large = threading.Lock()
_GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I", "F")
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I")
_ORIENTATION = 0x0112
_DAMAGE = (
    OSError, ValueError, SyntaxError, IndexError, EOFError, KeyError, TypeError, AttributeError, OverflowError,
    MemoryError, ZeroDivisionError, AssertionError, RuntimeError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class PictureFormat:
    """What every picture file is brought to.

    Args:
        height, width: in pixels; (0, 0) leaves pictures as large as they are.
        channels: 1 grey or 3 RGB.
        resize: `squash` stretches both sides; `crop` fills the frame and cuts off what is over, evenly on both sides;
            `pad` fits the whole picture in and fills the rest with the background.
        background: RGB, 0..255, laid under transparent pixels.
    """

    height: int = 0
    width: int = 0
    channels: int = 3
    resize: Resize = "squash"
    background: tuple[int, int, int] = (255, 255, 255)


@dataclass(frozen=True)
class PictureFacts:
    """What a file's header says: upright size, format, mode, and what a user should know about it."""

    height: int
    width: int
    format: str
    mode: str
    notes: tuple[str, ...] = ()

    @property
    def is_grey(self) -> bool:
        """Whether no pixel can have a colour."""
        return self.mode in _GREY_MODES


@contextmanager
def calm_decoder() -> Iterator[None]:
    """Silence Pillow's warnings: what cannot be decoded raises, a flaw in the EXIF data is no matter.

    Warning filters belong to the process and not to a thread, so this is entered once around all threads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check_file(path: Path) -> None:
    """Raise a DataError unless `path` is a file that can be read: not missing, a folder, a pipe or a device."""
    try:
        kind = path.stat().st_mode
        if stat.S_ISREG(kind):
            with path.open("rb"):
                return
    except FileNotFoundError:
        raise DataError(f"{path} must exist, got nothing there. Check the path.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{str(path)[:80]} must be readable, got {reason}. Check the path and its permissions."
        ) from None
    if stat.S_ISDIR(kind):
        raise DataError(f"{path} must be a file, got a folder. Name the files in it.")
    raise DataError(f"{path} must be a file, got a pipe or device. Save its content to a file first.")


@contextmanager
def _opened(content: Any, what: str, max_pixels: int) -> Iterator[Any]:
    """The file as an open Pillow picture of at most `max_pixels`; whatever goes wrong inside becomes a DataError."""
    from PIL import Image, UnidentifiedImageError

    most = f"{what} must have at most {max_pixels / 1e6:g} megapixels"
    advice = "Shrink it, or raise --max-megapixels."
    try:
        with ExitStack() as stack:
            picture = _open(content, max_pixels, stack)
            if picture.width * picture.height == 0:
                raise DataError(f"{what} must have pixels, got {picture.width}x{picture.height}. Save it again.")
            if picture.width * picture.height > max_pixels:
                size = f"{picture.width * picture.height / 1e6:,.4g} ({picture.width}x{picture.height})"
                raise DataError(f"{most}, got {size}. {advice}")
            yield picture
    except UnidentifiedImageError:
        raise DataError(f"{what} must be a picture ({', '.join(FORMATS)}), got {_describe(content)}.") from None
    except Image.DecompressionBombError:
        raise DataError(f"{most}, got far more. {advice}") from None
    except DataError:
        raise
    except _DAMAGE as error:
        raise DataError(f"{what} must be a whole picture, got damage ({error}). Save it again.") from None


def _open(content: Any, max_pixels: int, stack: ExitStack) -> Any:
    """An open Pillow picture, with `_large` held if it is large.

    Pillow itself refuses headers of some 179 megapixels and more, by a value that is the process's own. It is moved only while
    one such picture is open, and only as far as the caller allows.
    """
    from PIL import Image

    if isinstance(content, Image.Image):
        return content.copy()  # decoding may change a picture that was opened from a file

    def read() -> Any:
        file = io.BytesIO(content) if isinstance(content, bytes) else content
        return stack.enter_context(Image.open(file, formats=FORMATS))

    try:
        picture = read()
        if MAX_PIXELS < picture.width * picture.height <= max_pixels:
            stack.enter_context(_large)
        return picture
    except Image.DecompressionBombError:
        if max_pixels <= MAX_PIXELS:
            raise
    stack.enter_context(_large)
    usual = Image.MAX_IMAGE_PIXELS
    if usual is not None and max_pixels > 2 * usual:
        stack.callback(setattr, Image, "MAX_IMAGE_PIXELS", usual)
        Image.MAX_IMAGE_PIXELS = -(-max_pixels // 2)
    return read()


def _describe(content: bytes | Path) -> str:
    """What a file that is no picture seems to be, and what to do."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            content = file.read(512)
    head = content[:512].lstrip().lower()
    for kind, marks in {
        "a PDF": (b"%pdf",),
        "an EPS": (b"%!ps", b"\xc5\xd0\xd3\xc6"),
        "an SVG": (b"<svg", b"<?xml"),
    }.items():
        if head.startswith(marks):
            return f"{kind}. Export it as PNG"
    if not content:
        return "an empty file. Save it again"
    if len(content) > 11 and content[4:8] == b"ftyp":
        return "an HEIC, AVIF or video file. Export it as JPEG"
    letters = head.decode("utf-8", "ignore")  # the cut may split a letter
    is_text = b"\0" not in head and len(letters.encode()) > len(head) - 4
    return "text. Remove it" if is_text else "something else. Convert it"


def read_facts(content: bytes | Path, what: str, *, suffix: str = "", max_pixels: int = MAX_PIXELS) -> PictureFacts:
    """A picture file's header, without decoding its pixels. Within `calm_decoder`.

    Args:
        content: the file's bytes, or its path.
        what: how errors call it.
        suffix: of its name, to note where it says another format.
        max_pixels: larger ones are refused.

    Raises:
        DataError: no picture, too large, or a damaged header.
    """
    with _opened(content, what, max_pixels) as picture:
        height, width = picture.height, picture.width
        late = isinstance(content, bytes) and (b"eXIf" in content or b"Orientation" in content)
        if (picture.format != "PNG" or late) and _find_orientation(picture) >= 5:  # asking a PNG decodes it
            height, width = width, height
        notes = []
        if suffix and suffix.lower() not in _SUFFIXES.get(picture.format, ()):
            notes.append(f"is a {picture.format} file named {suffix}")
        if getattr(picture, "is_animated", False):
            notes.append("has several frames; only the first is used")
        return PictureFacts(height, width, picture.format, picture.mode, tuple(notes))


def decode_picture(
    content: Any, what: str, wanted: PictureFormat, *, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]:
    """A picture file (its path or bytes) or a Pillow picture as uint8 (H, W, C). Within `calm_decoder`.

    EXIF orientation is applied; transparency is laid on the background; 16-bit greys are scaled to 8; CMYK and the like
    become RGB; the first of several frames is taken. Resizing is Pillow's antialiased bilinear filter; a JPEG of more than
    twice the wanted size is decoded at a half, a quarter or an eighth first, as the format allows.

    Pictures of more than `MAX_PIXELS` are decoded one at a time; of more than `max_pixels` they are refused.

    Raises:
        DataError: the file is missing, damaged, too large or no picture.
    """
    with _opened(content, what, max_pixels) as picture:
        orientation = _find_orientation(picture)
        if wanted.height and picture.format == "JPEG":
            sides = (2 * wanted.width, 2 * wanted.height)
            picture.draft(picture.mode, sides if orientation < 5 else sides[::-1])
        picture.load()
        upright = _turn(_flatten(picture, what, wanted.background), orientation)
        mode = "L" if wanted.channels == 1 else "RGB"
        fitted = fit_picture(upright if upright.mode == mode else upright.convert(mode), wanted)
        return np.asarray(fitted).reshape(fitted.height, fitted.width, wanted.channels)


def _find_orientation(picture: Any) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none, where EXIF is damaged, and in a TIFF, which Pillow turns itself."""
    if picture.format == "TIFF":
        return 1
    try:
        found = picture.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _turn(picture: Any, orientation: int) -> Any:
    from PIL.Image import Transpose

    turns = (
        Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM,
        Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90,
    )  # fmt: skip
    return picture.transpose(turns[orientation - 2]) if orientation > 1 else picture


def _flatten(picture: Any, what: str, background: tuple[int, int, int]) -> Any:
    """16-bit greys as 8 bits, rounded, and transparency laid on the background."""
    from PIL import Image

    clear = picture.info.get("transparency")
    if picture.mode in _SIXTEEN_BIT:
        greys = _check_greys(np.asarray(picture), 65535, what).astype(np.uint32)
        small = ((greys * 255 + 32767) // 65535).astype(np.uint8)
        if not isinstance(clear, int):
            return Image.fromarray(small)
        return Image.fromarray(np.where((greys == clear)[..., None], np.array(background, np.uint8), small[..., None]))
    if picture.mode == "RGB" and isinstance(clear, tuple) and max(clear) > 255:
        picture.info["transparency"] = tuple(
            value >> 8 for value in clear
        )  # Pillow keeps the high byte of 16-bit colours
    if picture.mode == "F":
        return Image.fromarray(np.rint(_check_greys(np.asarray(picture), 255, what)).astype(np.uint8))
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        coloured = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, (*background, 255)), coloured)
    return picture


def _check_greys(greys: NDArray[Any], top: int, what: str) -> NDArray[Any]:
    right = (greys >= 0) & (greys <= top)
    if not right.all():
        raise DataError(
            f"{what} must have greys of 0 to {top}, got {greys[~right][0]}. Scale it, or pass a .npy array."
        )
    if greys.dtype.kind == "f" and 0 < greys.max() <= 1:
        raise DataError(f"{what} must have greys of 0 to {top}, got 0 to {greys.max():g}. Multiply them by {top}.")
    return greys


def fit_picture(picture: Any, wanted: PictureFormat, *, border: float | None = None) -> Any:
    """A Pillow picture brought to the wanted size by the wanted policy; `border` is its value if not that of the background."""
    from PIL import Image

    size, filter_ = (wanted.width, wanted.height), Image.Resampling.BILINEAR
    if not wanted.height or picture.size == size:
        return picture
    if wanted.resize == "squash":
        return picture.resize(size, filter_)
    ratios = wanted.width / picture.width, wanted.height / picture.height
    if wanted.resize == "crop":
        shown = wanted.width / max(ratios), wanted.height / max(ratios)
        left, top = max(0.0, (picture.width - shown[0]) / 2), max(0.0, (picture.height - shown[1]) / 2)
        right, bottom = min(picture.width, left + shown[0]), min(picture.height, top + shown[1])  # despite rounding
        return picture.resize(size, filter_, box=(left, top, right, bottom))
    inner = tuple(max(1, round(side * min(ratios))) for side in picture.size)
    colour = Image.new("RGB", (1, 1), wanted.background).convert(picture.mode if picture.mode != "F" else "L")
    framed = Image.new(picture.mode, size, colour.getpixel((0, 0)) if border is None else border)
    framed.paste(picture.resize(inner, filter_), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return framed


def resize_images(
    images: NDArray[Any], wanted: PictureFormat, value_range: tuple[float, float] = (0.0, 255.0)
) -> NDArray[Any]:
    """Stored pictures (N, H, W, C), uint8 or float32, brought to the wanted size as picture files are; C is kept.

    A `pad` border is the background at the place of 0..255 that it has in `value_range`.
    """
    from PIL import Image

    n, _, _, channels = images.shape
    fitted = np.empty((n, wanted.height, wanted.width, channels), images.dtype)
    low, high = value_range
    for c in range(channels):
        level = low + wanted.background[min(c, 2)] / 255 * (high - low)
        border = level if images.dtype.kind == "f" else round(level)
        for i in range(n):
            fitted[i, :, :, c] = np.asarray(fit_picture(Image.fromarray(images[i, :, :, c]), wanted, border=border))
    return fitted
