"""Contact sheets: many small pictures on one, in titled rows. It must not know files of data sets, findings or models."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.core.files import write_durably
from clearsight.errors import ClearsightError, UsageError

_PAPER, _INK, _FAINT, _FRAME = (255, 255, 255), (36, 41, 47), (110, 119, 129), (216, 222, 228)
_MARGIN, _GAP, _TITLE, _CAPTION = 16, 6, 15, 10
_MOST_PIXELS = 60_000_000
_MOST_COLUMNS = 20
_WIDEST = 1400  # to which a long title may widen a sheet
_SOFTWARE, _MARK = 0x0131, "clearsight sheet"  # an EXIF tag


@dataclass(frozen=True)
class Strip:
    """A titled group of pictures.

    Args:
        title: above the pictures. pictures: (H, W, C) each. captions: below each picture; may be empty.
        marks: for each picture a colour of its frame, or None.
    """

    title: str
    pictures: Sequence[NDArray[Any]]
    captions: Sequence[str] = ()
    marks: Sequence[tuple[int, int, int] | None] = ()


def _as_image(pixels: NDArray[Any], low: float, high: float, side: int) -> Any:
    """A stored picture, enlarged by a whole factor or shrunk so that its longer side is about `side`."""
    from PIL import Image

    values = pixels.astype(np.float64) if pixels.shape[2] == 3 else pixels.mean(axis=2, dtype=np.float64)
    shown = (255 * np.clip((values - low) / ((high - low) or 1.0), 0, 1)).round().astype(np.uint8)
    image = Image.fromarray(shown).convert("RGB")
    factor = side / max(image.size)
    if factor >= 1:
        whole = max(1, int(factor))
        return image.resize((image.width * whole, image.height * whole), Image.Resampling.NEAREST)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.BILINEAR)


def draw_sheet(
    strips: Sequence[Strip],
    *,
    low: float = 0.0,
    high: float = 255.0,
    side: int = 96,
    columns: int = 10,
    heading: str = "",
) -> Any:
    """A contact sheet as a Pillow picture.

    Args:
        strips: groups, from top to bottom.
        low, high: pixel values of black and white.
        side: of a picture on the sheet, in pixels.
        columns: pictures beside each other, at most 20.
        heading: above all.
    """
    from PIL import Image, ImageDraw, ImageFont

    title_font, caption_font = ImageFont.load_default(_TITLE), ImageFont.load_default(_CAPTION)
    columns = min(columns, _MOST_COLUMNS, max((len(strip.pictures) for strip in strips), default=1) or 1)
    shown = [[_as_image(p, low, high, side) for p in strip.pictures] for strip in strips]
    cell_w = max([image.width for row in shown for image in row], default=side)
    cell_h = max([image.height for row in shown for image in row], default=side)
    caption_h = _CAPTION + 6 if any(strip.captions for strip in strips) else 0
    step_h = cell_h + caption_h + _GAP
    heights = [_TITLE + 12 + -(-len(row) // columns) * step_h for row in shown]
    width = 2 * _MARGIN + columns * (cell_w + _GAP)
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    texts = [heading, *(strip.title for strip in strips)]
    longest = max(ruler.textlength(_drawable(text), font=title_font) for text in texts)
    width = max(width, min(_WIDEST, int(longest) + 2 * _MARGIN + 1))
    total = 2 * _MARGIN + sum(heights) + (_TITLE + 12 if heading else 0)
    if width * total > _MOST_PIXELS:
        raise UsageError(
            f"the sheet must have at most {_MOST_PIXELS:,} pixels, got {width}x{total}. Show fewer pictures."
        )
    sheet = Image.new("RGB", (width, total), _PAPER)
    pen = ImageDraw.Draw(sheet)
    y = _MARGIN
    if heading:
        pen.text((_MARGIN, y), _drawable(heading), fill=_INK, font=title_font)
        y += _TITLE + 12
    for strip, row, height in zip(strips, shown, heights, strict=True):
        pen.text(
            (_MARGIN, y), _fit(_drawable(strip.title), pen, title_font, width - 2 * _MARGIN), fill=_INK, font=title_font
        )
        for i, image in enumerate(row):
            left = _MARGIN + i % columns * (cell_w + _GAP)
            top = y + _TITLE + 8 + i // columns * step_h
            mark = strip.marks[i] if strip.marks else None
            thick = 2 if mark else 1
            frame = (left - thick, top - thick, left + image.width + thick - 1, top + image.height + thick - 1)
            pen.rectangle(frame, outline=mark or _FRAME, width=thick)
            sheet.paste(image, (left, top))
            if strip.captions:
                text = _fit(_drawable(strip.captions[i]), pen, caption_font, cell_w)
                pen.text((left, top + image.height + 2), text, fill=mark or _FAINT, font=caption_font)
        y += height
    return sheet


def _drawable(text: str) -> str:
    """Text without what the built-in font cannot draw."""
    return "".join(c if c.isprintable() and ord(c) < 0x250 else "?" for c in text)


def _fit(text: str, pen: Any, font: Any, room: float) -> str:
    """Text cut in its middle to `room` pixels: both ends of a file's name tell something."""
    if pen.textlength(text, font=font) <= room:
        return text
    for kept in range(len(text) - 1, 1, -1):
        cut = f"{text[: kept // 2]}..{text[len(text) - (kept - kept // 2) :]}"
        if pen.textlength(cut, font=font) <= room:
            return cut
    return text[:1]


def _is_sheet(path: Path) -> bool:
    """Whether a file is a sheet of before, which may be replaced."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.getexif().get(_SOFTWARE) == _MARK
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def save_sheet(sheet: Any, path: Path) -> None:
    """Write a sheet as the picture that its name says, whole or not at all.

    Raises:
        UsageError: a name that says no kind of picture, or that of a file which is no sheet. ClearsightError: a place that
            cannot be written.
    """
    from PIL import Image

    kinds = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
    if path.suffix.lower() not in kinds:
        raise UsageError(f"the sheet must be named .png, .jpg or .webp, got {path}. Rename it.")
    if path.exists() and not _is_sheet(path):
        raise UsageError(f"the sheet must not replace another file, got {path}, which exists. Choose another name.")
    assert isinstance(sheet, Image.Image)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[_SOFTWARE] = _MARK
    sheet.save(buffer, format=kinds[path.suffix.lower()], exif=exif)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, buffer.getvalue())
    except OSError as error:
        reason = error.strerror or error
        raise ClearsightError(f"{path} must be writable, got: {reason}. Free space, or choose another place.") from None
