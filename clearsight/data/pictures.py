"""One picture file as the array that a model stores: decoded, turned upright, in the right channels, size and range.

Only raster formats that Pillow decodes in-process are opened, so no file can start another program.
"""

import stat
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.data.preprocess import Preprocess
from clearsight.errors import DataError

_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
_MAX_PIXELS = 50_000_000
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I")


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
        raise DataError(f"{str(path)[:80]} must be readable, got {reason}. Check the path and its rights.") from None
    if stat.S_ISDIR(kind):
        raise DataError(f"{path} must be a file, got a folder. Name the files in it.")
    raise DataError(f"{path} must be a file, got a pipe or device. Save its content to a file first.")


def read_picture(path: Path, preprocess: Preprocess) -> NDArray[Any]:
    """A picture file as (H, W, C) in the model's size and value range; uint8 where that range is 0..255.

    EXIF orientation is applied, transparency is laid on black, 16-bit greys are scaled to 8, the first frame of several
    is taken, and the picture is squashed to size with an antialiasing bilinear filter.

    Raises:
        DataError: the file is missing, damaged, too large or no picture; or the model takes rows of features.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if preprocess.height == 1:
        raise DataError(f"{path} must be a row of numbers for this model, got a picture. Pass a .npy array.")
    check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what cannot be decoded raises; a flaw in the EXIF data is no matter
            with Image.open(path, formats=_FORMATS) as opened:
                if opened.width * opened.height > _MAX_PIXELS:
                    raise DataError(
                        f"{path} must have at most {_MAX_PIXELS:,} pixels, got {opened.width}x{opened.height}. Shrink it."
                    )
                picture = ImageOps.exif_transpose(opened)
                picture.load()
                picture = _flatten(picture, path).convert("L" if preprocess.channels == 1 else "RGB")
    except UnidentifiedImageError:
        raise DataError(
            f"{path} must be a picture ({', '.join(_FORMATS)}), got something else. Convert it first."
        ) from None
    except Image.DecompressionBombError:
        raise DataError(f"{path} must have at most {_MAX_PIXELS:,} pixels, got far more. Shrink it.") from None
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError, IndexError, EOFError, KeyError, TypeError, struct.error) as error:
        raise DataError(f"{path} must be a whole picture, got damage ({error}). Save it again.") from None
    if picture.size != (preprocess.width, preprocess.height):
        picture = picture.resize((preprocess.width, preprocess.height), Image.Resampling.BILINEAR)
    array = np.asarray(picture).reshape(preprocess.height, preprocess.width, -1)
    if array.shape[2] != preprocess.channels:
        raise DataError(f"{path} must give {preprocess.channels} channels, got {array.shape[2]}. Pass a .npy array.")
    if (preprocess.low, preprocess.high) == (0.0, 255.0):
        return array
    return (preprocess.low + array * ((preprocess.high - preprocess.low) / 255)).astype(np.float32)


def _flatten(picture: Any, path: Path) -> Any:
    """16-bit greys to 8 bits, and transparency onto black."""
    from PIL import Image

    if picture.mode in _SIXTEEN_BIT:
        return Image.fromarray((_check_greys(np.asarray(picture), 65535, path) >> 8).astype(np.uint8))
    if picture.mode == "F":
        return Image.fromarray(_check_greys(np.asarray(picture), 255, path).astype(np.uint8))
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        coloured = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, (0, 0, 0, 255)), coloured)
    return picture


def _check_greys(greys: NDArray[Any], top: int, path: Path) -> NDArray[Any]:
    right = (greys >= 0) & (greys <= top)
    if not right.all():
        raise DataError(
            f"{path} must have greys of 0 to {top}, got {greys[~right][0]}. Scale it, or pass a .npy array."
        )
    return greys
