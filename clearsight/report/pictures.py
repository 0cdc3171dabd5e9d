"""Small PNG pictures: what the network saw, and what its first layer looks for. It must not know runs, files or HTML."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.core.notebook import encode_png, scale_pixels
from clearsight.core.numerics import allow_infinities

_NEGATIVE, _POSITIVE = np.array([0x05, 0x5A, 0x96]), np.array([0xB8, 0x48, 0x00])
_MAX_SIDE = 160


def draw_picture(pixels: NDArray[Any], *, low: float, high: float) -> bytes:
    """A stored picture as PNG.

    Args:
        pixels: (H, W, C); three channels are drawn in colour, any other number as their mean in grey.
        low, high: values of black and white.
    """
    return encode_png(scale_pixels(pixels, low=low, high=high), most=_MAX_SIDE)


def draw_overlay(pixels: NDArray[Any], heat: NDArray[np.floating], *, low: float, high: float) -> bytes:
    """A stored picture (H, W, C) in pale grey as PNG, under a map (H, W) in 0..1 that colours it vermilion."""
    span = (high - low) or 1.0
    grey = np.clip(np.nan_to_num((pixels.mean(axis=2, dtype=np.float64) - low) / span), 0, 1)[..., None]
    base = 255 * (0.35 + 0.6 * grey)
    share = 0.75 * np.clip(heat, 0, 1)[..., None]
    return encode_png(
        np.broadcast_to(base + (_POSITIVE - base) * share, (*heat.shape, 3)).round().astype(np.uint8), most=_MAX_SIDE
    )


def first_layer_maps(weights: NDArray[Any], *, height: int, width: int, channels: int) -> NDArray[np.float64]:
    """Weights (inputs, units) of a first layer as pictures (units, H, W), averaged over channels."""
    pictures = weights.T.reshape(-1, height, width, channels)
    return np.asarray(pictures.mean(axis=3, dtype=np.float64))


def draw_weights(values: NDArray[np.float64], *, limit: float) -> bytes:
    """Weights (H, W) as PNG: blue below 0, white at 0, vermilion above, full at -limit and limit."""
    with allow_infinities():  # weights of a model that diverged
        share = np.clip(np.nan_to_num(values / (limit or 1.0)), -1, 1)[..., None]
    ends = np.where(share < 0, _NEGATIVE, _POSITIVE)
    return encode_png((255 + (ends - 255) * np.abs(share)).round().astype(np.uint8), most=_MAX_SIDE)
