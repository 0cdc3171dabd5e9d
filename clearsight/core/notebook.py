"""How objects look in a notebook: a name, a table of facts and, where there are some, small pictures.

It must not know what it shows. The elements are built as a tree, so that any text is escaped.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

import numpy as np
from numpy.typing import NDArray

_MOST_CLASSES = 24
_SIDE = 64  # of a picture, at most as many pixels of the screen


def render_facts(
    title: str, facts: Mapping[str, object], pictures: Sequence[tuple[str, NDArray[np.uint8]]] = ()
) -> str:
    """One `<div>` of HTML.

    Args:
        facts: by name, a line each; None is left out.
        pictures: (H, W) or (H, W, 3), each with its caption.
    """
    box = Element("div")
    SubElement(box, "b").text = title
    table = SubElement(box, "table")
    for name, value in facts.items():
        if value is not None:
            row = SubElement(table, "tr")
            SubElement(row, "th", {"style": "text-align:left"}).text = name
            SubElement(row, "td", {"style": "text-align:left"}).text = str(value)
    shown = SubElement(box, "div", {"style": "display:flex;flex-wrap:wrap;gap:6px"}) if pictures else box
    for caption, pixels in pictures:
        figure = SubElement(
            shown, "figure", {"style": f"margin:0;width:{_SIDE}px;font-size:11px;overflow-wrap:anywhere"}
        )
        data = base64.b64encode(encode_png(pixels, most=2 * _SIDE)).decode()
        style = f"width:{_SIDE}px;image-rendering:pixelated"
        SubElement(figure, "img", {"src": f"data:image/png;base64,{data}", "alt": caption, "style": style})
        SubElement(figure, "figcaption").text = caption
    return tostring(box, encoding="unicode", method="html")


def show_classes(
    images: NDArray[Any], labels: NDArray[np.int64], names: Sequence[str], value_range: tuple[float, float] | None
) -> list[tuple[str, NDArray[np.uint8]]]:
    """The first picture of each class, as far as there is room, captioned by its name and how many there are.

    Args:
        images: (N, H, W, C). labels: (N,). names: (K,). value_range: of black and white; None for those of the pictures shown.
    """
    counts = np.bincount(labels, minlength=len(names))
    rows = [int(np.argmax(labels == k)) for k in np.flatnonzero(counts)[:_MOST_CLASSES]]
    low, high = value_range or (float(images[rows].min()), float(images[rows].max()))
    captions = [f"{names[labels[row]]} ({counts[labels[row]]:,})" for row in rows]
    return [(text, scale_pixels(images[row], low=low, high=high)) for text, row in zip(captions, rows, strict=True)]


def scale_pixels(pixels: NDArray[Any], *, low: float, high: float) -> NDArray[np.uint8]:
    """Stored pixels (H, W, C) as a picture: three channels in colour, any other number as their mean in grey."""
    values = pixels.astype(np.float64) if pixels.shape[2] == 3 else pixels.mean(axis=2, dtype=np.float64)
    span = (high - low) or 1.0
    return (255 * np.clip(np.nan_to_num((values - low) / span), 0, 1)).round().astype(np.uint8)


def encode_png(pixels: NDArray[np.uint8], *, most: int) -> bytes:
    """A picture (H, W) or (H, W, 3) as PNG, made smaller where a side is longer than `most`."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((most, most))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
