"""The transforms: batches of stored pictures to batches of varied ones, on arrays or tensors, the same to the last bit.

All places and shares are worked out on the CPU in float64 from each row's own random numbers and rounded to fixed point;
what touches 8-bit pixels is integer arithmetic, so that NumPy, PyTorch and every device agree exactly. It must not know
labels, epochs of training or files.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.augment.arrays import arrays_of
from clearsight.augment.presets import Augmentation
from clearsight.augment.randomness import draw_keys, draw_uniforms

Floats = NDArray[np.float64]
_ONE = 65536  # fixed point of places
_SHARE = 256  # fixed point of shares and weights
_HASH_MASK = 0xFFFFFFFF
_BLOCK_VALUES = 2**18
_NOISE_MEAN, _NOISE_STD = 510, 147.8  # of the sum of four bytes
STREAMS = {
    "rotate": 5, "shear": 6, "zoom": 8, "color": 20, "contrast": 21, "brightness": 22, "noise": 23, "blur": 26,
}  # fmt: skip
"""Of a transform with one random strength, the stream of random numbers from which that comes."""
ONE_SIDED = (STREAMS["noise"], STREAMS["blur"])  # strengths from 0 up; others go either way
_BLUR_PASS_VARIANCE = 0.5  # of the filter 1-2-1


@dataclass(frozen=True, eq=False)
class Batch:
    """Varied pictures, (n, H, W, C) of the kind and type that came in.

    `partners` are the rows whose pictures were mixed in, and `shares` the share of the own label, float64 in [0, 1];
    both are None where nothing is mixed.
    """

    images: Any
    partners: NDArray[np.int64] | None = None
    shares: Floats | None = None


def augment_rows(
    images: Any,
    rows: NDArray[np.int64],
    *,
    augmentation: Augmentation,
    seed: int,
    epoch: int,
    pool: NDArray[np.int64],
    uses: NDArray[np.int64] | None = None,
    low: float = 0.0,
    high: float = 255.0,
) -> Batch:
    """Some rows of a data set, varied as they are in one epoch.

    Args:
        images: the data set, (N, H, W, C) uint8 or float32: a NumPy array, or a PyTorch tensor on any device.
        rows: (n,) which of them.
        augmentation: strengths.
        seed, epoch: with the row they decide everything.
        pool: rows from which partners for mixing are drawn: the training rows.
        uses: (n,) how often each row came before in this epoch, where rows can come twice.
        low, high: values of black and white.

    Returns:
        The pictures. On 8-bit pictures NumPy and PyTorch, CPU and GPU, give the same bits; on floats, to rounding.
    """
    keys = draw_keys(rows, seed=seed, epoch=epoch, uses=uses)
    varied = _vary(images, rows, keys, augmentation, low, high)
    if not augmentation.mixes:
        return Batch(varied)
    partners = pool[(draw_uniforms(keys, 40) * len(pool)).astype(np.int64)]
    others = _vary(images, partners, draw_keys(partners, seed=seed, epoch=epoch), augmentation, low, high)
    mixed, shares = _mix_pictures(varied, others, keys, augmentation)
    return Batch(mixed, partners, shares)


def _vary(
    images: Any, rows: NDArray[np.int64], keys: NDArray[np.uint64], augmentation: Augmentation, low: float, high: float
) -> Any:
    """Places first, then values, then the cut-out square; arrays in blocks that stay in the processor's cache."""
    block = max(1, _BLOCK_VALUES // int(np.prod(images.shape[1:]))) if isinstance(images, np.ndarray) else len(rows)
    if len(rows) > block:
        out = np.empty((len(rows), *images.shape[1:]), images.dtype)
        for start in range(0, len(rows), block):
            part = slice(start, start + block)
            out[part] = _vary(images, rows[part], keys[part], augmentation, low, high)
        return out
    places = build_places(keys, augmentation, images.shape[1], images.shape[2])
    if isinstance(images, np.ndarray):
        from clearsight.augment.kernel import move_rows

        moved = move_rows(images, rows, places, augmentation.fill == "reflect")
    else:
        moved = move_pixels(images[arrays_of(images).longs(rows)], places, augmentation.fill)
    if not any(getattr(augmentation, n) for n in ("brightness", "contrast", "color", "blur", "noise", "cutout")):
        return moved
    xp = arrays_of(images)
    values = xp.widen(moved)
    values = _change_values(values, keys, augmentation, low, high)
    return xp.narrow(values.clip(*_limits(values, low, high)), images)


def _limits(values: Any, low: float, high: float) -> tuple[float, float]:
    return (low, high) if arrays_of(values).is_float(values) else (round(low), round(high))


def _spread(keys: NDArray[np.uint64], stream: int, most: float) -> Floats:
    """A number in [-most, most) for each key."""
    return (2 * draw_uniforms(keys, stream) - 1) * most


def build_places(keys: NDArray[np.uint64], augmentation: Augmentation, height: int, width: int) -> NDArray[np.int64]:
    """Where each pixel of each picture comes from, as an affine map.

    Returns:
        (n, 6) whole numbers a, b, c, d, e, f in units of 1/65536 pixel: the pixel at column x, row y comes from column
        a x + b y + c and row d x + e y + f.
    """
    n, g = len(keys), augmentation
    # from the middle of the result back to the source, in pixels; the factors compose from right to left
    matrix = np.tile(np.eye(3), (n, 1, 1))
    if g.crop:
        reach = round(g.crop * width), round(g.crop * height)
        matrix = matrix @ _shift_by(*(np.rint(_spread(keys, 1 + k, r + 0.499)) for k, r in enumerate(reach)))
    if g.shift:
        matrix = matrix @ _shift_by(_spread(keys, 3, g.shift * width), _spread(keys, 4, g.shift * height))
    if g.rotate:
        angle = np.deg2rad(_spread(keys, STREAMS["rotate"], g.rotate))
        matrix = matrix @ _square(np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle))
    if g.shear:
        slant = np.tan(np.deg2rad(_spread(keys, STREAMS["shear"], g.shear)))
        across = draw_uniforms(keys, 7) < 0.5
        matrix = matrix @ _square(np.ones(n), np.where(across, slant, 0), np.where(across, 0, slant), np.ones(n))
    if g.zoom:
        grow = 1 / (1 + _spread(keys, STREAMS["zoom"], g.zoom))
        matrix = matrix @ _square(grow, np.zeros(n), np.zeros(n), grow)
    if g.rot90:
        turns = np.where(draw_uniforms(keys, 9) < g.rot90, 1 + (draw_uniforms(keys, 10) * 3).astype(int), 0)
        matrix = matrix @ _turn_by(turns, height, width)
    if g.hflip or g.vflip:
        across = np.where(draw_uniforms(keys, 11) < g.hflip, -1.0, 1.0)
        down = np.where(draw_uniforms(keys, 12) < g.vflip, -1.0, 1.0)
        matrix = matrix @ _square(across, np.zeros(n), np.zeros(n), down)
    return _fix_places(matrix, height, width)


def turn_rows(images: Any, rows: NDArray[np.int64], *, quarters: int) -> Any:
    """Some rows of a data set (N, H, W, C), all turned by so many quarters of a circle, as `rot90` turns them by chance."""
    height, width = images.shape[1:3]
    places = _fix_places(_turn_by(np.full(len(rows), quarters), height, width), height, width)
    return move_pixels(images[arrays_of(images).longs(rows)], places, "edge")


def _fix_places(matrix: Floats, height: int, width: int) -> NDArray[np.int64]:
    """Affine maps around the middle, (n, 3, 3), as whole numbers (n, 6); see `build_places`."""
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    linear = matrix[:, :2, :2]
    offset = matrix[:, :2, 2] + middle - linear @ middle
    places = np.concatenate([linear, offset[:, :, None]], axis=2).reshape(-1, 6)
    return np.asarray(np.rint(places * _ONE), np.int64)


def _square(a: Any, b: Any, c: Any, d: Any) -> Floats:
    found = np.tile(np.eye(3), (len(a), 1, 1))
    found[:, 0, 0], found[:, 0, 1], found[:, 1, 0], found[:, 1, 1] = a, b, c, d
    return found


def _turn_by(quarters: Any, height: int, width: int) -> Floats:
    cos, sin = np.array([1, 0, -1, 0])[quarters], np.array([0, 1, 0, -1])[quarters]
    return _square(cos, -sin * width / height, sin * height / width, cos)


def _shift_by(across: Floats, down: Floats) -> Floats:
    found = np.tile(np.eye(3), (len(across), 1, 1))
    found[:, 0, 2], found[:, 1, 2] = across, down
    return found


def move_pixels(images: Any, places: NDArray[np.int64], fill: str) -> Any:
    """Pictures (n, H, W, C) with every pixel fetched from its place, between four pixels by their distance.

    Args:
        places: (n, 6) from `build_places`. fill: `edge` or `reflect`.
    """
    n, height, width, channels = images.shape
    identity = np.array([_ONE, 0, 0, 0, _ONE, 0])
    if (places == identity).all():
        return images
    xp = arrays_of(images)
    a, b, c, d, e, f = (xp.longs(places[:, k])[:, None, None] for k in range(6))
    x, y = xp.longs(np.arange(width))[None, None, :], xp.longs(np.arange(height))[None, :, None]
    across, down = a * x + b * y + c, d * x + e * y + f
    left, top = across >> 16, down >> 16
    flat = images.reshape(n * height * width, channels)
    base = xp.longs(np.arange(n) * (height * width))[:, None, None]

    def fetch(column: Any, row: Any) -> Any:
        place = base + _inside(row, height, fill) * width + _inside(column, width, fill)
        return flat[place.reshape(-1)].reshape(n, height, width, channels)

    if not (places % _ONE).any():
        return fetch(left, top)
    right_share, low_share = ((across & 0xFFFF) + 128) >> 8, ((down & 0xFFFF) + 128) >> 8
    total: Any = 0
    for column, row, weight in (
        (left, top, (_SHARE - right_share) * (_SHARE - low_share)),
        (left + 1, top, right_share * (_SHARE - low_share)),
        (left, top + 1, (_SHARE - right_share) * low_share),
        (left + 1, top + 1, right_share * low_share),
    ):
        part = xp.widen(fetch(column, row)) * weight[..., None]
        total = total + part
    if xp.is_float(images):
        return xp.narrow(total / _ONE, images)
    return xp.narrow((total + _ONE // 2) >> 16, images)


def _inside(index: Any, size: int, fill: str) -> Any:
    """Indices brought into [0, size)."""
    if fill == "edge" or size == 1:
        return index.clip(0, size - 1)
    folded = index % (2 * size - 2)
    return (size - 1) - abs(folded - (size - 1))


def _change_values(values: Any, keys: NDArray[np.uint64], g: Augmentation, low: float, high: float) -> Any:
    """Brightness, contrast, colour, blur, noise and cut-out on int32 or float32 values (n, H, W, C)."""
    n, height, width, channels = values.shape
    if g.blur:
        values = _blur(values, keys, g.blur)
    if g.color and channels == 3:
        grey = _shrink(values[..., 0:1] * 77 + values[..., 1:2] * 150 + values[..., 2:3] * 29)
        values = grey + _shrink(
            (values - grey) * _per_picture(values, _SHARE * (1 + _spread(keys, STREAMS["color"], g.color)))
        )
    if g.contrast:
        mean = _mean(values)
        values = mean + _shrink(
            (values - mean) * _per_picture(values, _SHARE * (1 + _spread(keys, STREAMS["contrast"], g.contrast)))
        )
    if g.brightness:
        values = values + _shrink(
            _per_picture(values, _SHARE * _spread(keys, STREAMS["brightness"], g.brightness * (high - low)))
        )
    if g.noise:
        strength = draw_uniforms(keys, STREAMS["noise"]) * g.noise * (high - low) / _NOISE_STD * _SHARE
        values = values + _shrink(_draw_noise(values, keys) * _per_picture(values, strength))
    if g.cutout:
        side = [max(1, round(g.cutout * s)) for s in (height, width)]
        corner = [
            np.floor(draw_uniforms(keys, 24 + k) * (s + side[k])) - side[k] for k, s in enumerate((height, width))
        ]
        mask = _rectangle(values, corner[0], corner[1], np.full(n, side[0]), np.full(n, side[1]))
        values = arrays_of(values).where(mask, _mean(values), values)
    return values


def _per_picture(values: Any, numbers: Floats) -> Any:
    """One number a picture, shaped to go with `values`; rounded where these are whole."""
    xp = arrays_of(values)
    return (xp.floats(numbers) if xp.is_float(values) else xp.integers(np.rint(numbers)))[:, None, None, None]


def _shrink(values: Any) -> Any:
    """Values in units of 1/256, rounded, as whole ones; floats exactly."""
    return values / _SHARE if arrays_of(values).is_float(values) else (values + _SHARE // 2) >> 8


def _mean(values: Any) -> Any:
    """Mean of each picture, (n, 1, 1, 1)."""
    count = values[0].size if isinstance(values, np.ndarray) else values[0].numel()
    total = values.reshape(len(values), -1).sum(1)[:, None, None, None]
    return total / count if arrays_of(values).is_float(values) else arrays_of(values).widen(total // count)


def _blur(values: Any, keys: NDArray[np.uint64], strongest: float) -> Any:
    """Passes of the filter 1-2-1, of which each picture takes its own share."""
    xp = arrays_of(values)
    passes = max(1, math.ceil(strongest**2 / _BLUR_PASS_VARIANCE))
    whole = strongest**2 / (passes * _BLUR_PASS_VARIANCE)  # of a mixture the variances add by their shares
    height, width = values.shape[1:3]
    up, down = (
        xp.longs(np.clip(np.arange(height) - 1, 0, None)),
        xp.longs(np.clip(np.arange(height) + 1, None, height - 1)),
    )
    left, right = (
        xp.longs(np.clip(np.arange(width) - 1, 0, None)),
        xp.longs(np.clip(np.arange(width) + 1, None, width - 1)),
    )
    soft = values * _SHARE
    for _ in range(passes):
        soft = soft[:, up] + 2 * soft + soft[:, down]
        soft = soft / 4 if xp.is_float(soft) else (soft + 2) >> 2
        soft = soft[:, :, left] + 2 * soft + soft[:, :, right]
        soft = soft / 4 if xp.is_float(soft) else (soft + 2) >> 2
    share = _per_picture(values, _SHARE * whole * draw_uniforms(keys, STREAMS["blur"]))
    return values + _shrink((_shrink(soft) - values) * share)


def _draw_noise(values: Any, keys: NDArray[np.uint64]) -> Any:
    """Nearly normal whole numbers (n, H, W, C) of mean 0 and deviation 147.8: four bytes of a 32-bit hash of key and pixel."""
    xp = arrays_of(values)
    n, height, width, channels = values.shape
    pixel = xp.longs(np.arange(height * width * channels))[None, :]
    x = (xp.longs((keys & np.uint64(0x7FFFFFFF)).astype(np.int64))[:, None] ^ (pixel * 0x9E3779B1)) & _HASH_MASK
    for factor, turn in (
        (0x7FEB352D, 16),
        (0x68E31DA5, 15),
        (0x2C1B3C6D, 16),
    ):  # odd factors below 2^31: int64 holds all
        x = ((x ^ (x >> turn)) * factor) & _HASH_MASK
    x = x ^ (x >> 16)
    total = (x & 255) + ((x >> 8) & 255) + ((x >> 16) & 255) + ((x >> 24) & 255)
    return xp.widen(total - _NOISE_MEAN).reshape(n, height, width, channels)


def _rectangle(values: Any, top: Any, left: Any, tall: Any, wide: Any) -> Any:
    """(n, H, W, 1), True inside each picture's rectangle."""
    xp = arrays_of(values)
    height, width = values.shape[1:3]
    y, x = xp.integers(np.arange(height))[None, :, None, None], xp.integers(np.arange(width))[None, None, :, None]
    top, left, bottom, right = (
        xp.integers(edge)[:, None, None, None] for edge in (top, left, np.add(top, tall), np.add(left, wide))
    )
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)


def _mix_pictures(images: Any, others: Any, keys: NDArray[np.uint64], g: Augmentation) -> tuple[Any, Floats]:
    """Pictures with others blended or pasted in, and the share of each own one; of two kinds, each happens half the time."""
    from scipy.special import betaincinv

    xp = arrays_of(images)
    n, height, width, _ = images.shape
    pastes = np.full(n, g.mixup == 0) if 0 in (g.mixup, g.cutmix) else draw_uniforms(keys, 41) < 0.5
    alpha = np.where(pastes, g.cutmix or 1.0, g.mixup or 1.0)
    share = betaincinv(alpha, alpha, draw_uniforms(keys, 42))
    blend = np.where(pastes, _SHARE, np.rint(share * _SHARE))
    side = np.sqrt(1 - share)
    tall = np.where(pastes, np.rint(height * side), 0).astype(np.int64)
    wide = np.where(pastes, np.rint(width * side), 0).astype(np.int64)
    top = np.floor(draw_uniforms(keys, 43) * (height - tall + 1)).astype(np.int64)
    left = np.floor(draw_uniforms(keys, 44) * (width - wide + 1)).astype(np.int64)
    own, other = xp.widen(images), xp.widen(others)
    blended = other + _shrink((own - other) * _per_picture(own, blend))
    mixed = xp.where(_rectangle(images, top, left, tall, wide), other, blended)
    return xp.narrow(mixed, images), np.where(pastes, 1 - tall * wide / (height * width), blend / _SHARE)
