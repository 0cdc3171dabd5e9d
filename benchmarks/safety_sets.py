"""Small data sets made by code for which it is known what each transform does to the labels.

Each names the transforms that are harmful (they turn a class, or a good part of one, into another) and those that are harmless
(no picture changes its class as a person would name it). What is neither is left out, and said to be so. It must not know
how safety is measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]
Draw = Callable[
    [np.random.Generator, int, int], NDArray[Any]
]  # (rng, class, side) to a picture of 0..1, (side, side[, 3])
_FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "STIXGeneral", "STIXGeneralBol", "cmr10", "cmb10", "cmss10", "cmtt10",
)  # fmt: skip
_SCALE = 4  # pictures are drawn so many times larger and shrunk
_STILL = {"brightness": 0.1, "contrast": 0.2, "noise": 0.03}
_MOVED = {"shift": 0.06, "rotate": 8.0, "shear": 5.0, "zoom": 0.1}
_SOFT = {"blur": 0.5}
_TURNED = {"hflip": 1.0, "vflip": 1.0, "rot90": 1.0}


@dataclass(frozen=True)
class Case:
    """A data set and the truth about it.

    Args:
        name: of it. half: `tune`, on which thresholds may be chosen, or `report`, which is only looked at.
        classes: their names. draw: makes one picture of a class. harmful, harmless: strengths of transforms.
        left_out: transforms about which people may disagree, and why. side: of the pictures. per_class: pictures.
    """

    name: str
    half: str
    classes: tuple[str, ...]
    draw: Draw | None
    harmful: dict[str, float]
    harmless: dict[str, float]
    left_out: str = ""
    side: int = 32
    per_class: int = 100

    def make(self, seed: int) -> tuple[Pictures, NDArray[np.int64]]:
        """Pictures (n, side, side, C) and labels (n,)."""
        if self.draw is None:
            from clearsight.data.read.load import load_data

            digits = load_data("digits")
            rows = np.sort(np.random.default_rng(seed).permutation(len(digits))[:1500])
            return digits.images[rows], digits.labels[rows]
        rng = np.random.default_rng([seed, *self.name.encode()])
        labels = np.arange(len(self.classes) * self.per_class) % len(self.classes)
        drawn = np.stack([self.draw(rng, int(label), self.side) for label in labels])
        drawn = drawn if drawn.ndim == 4 else drawn[..., None]
        return (255 * drawn.clip(0, 1)).round().astype(np.uint8), labels


def _canvas(side: int) -> tuple[Any, Any]:
    from PIL import Image, ImageDraw

    picture = Image.new("L", (side * _SCALE, side * _SCALE))
    return picture, ImageDraw.Draw(picture)


def _ink(picture: Any, rng: np.random.Generator, side: int) -> NDArray[Any]:
    """A mask as light ink on dark paper or dark ink on light paper, never of the same two tones, under a little noise."""
    from PIL import Image

    mask = np.asarray(picture.resize((side, side), Image.Resampling.BOX), np.float64) / 255
    paper, ink = rng.uniform(0.02, 0.2), rng.uniform(0.75, 0.98)
    return paper + (ink - paper) * mask + rng.normal(0, 0.015, mask.shape)


def _draw_letter(rng: np.random.Generator, k: int, side: int, *, letters: str) -> NDArray[Any]:
    """A letter of one of 14 fonts, of some size, somewhere near the middle."""
    import matplotlib
    from PIL import ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    font = ImageFont.truetype(str(folder / f"{rng.choice(_FONTS)}.ttf"), int(side * _SCALE * rng.uniform(0.62, 0.78)))
    picture, pen = _canvas(side)
    middle = side * _SCALE / 2 + rng.uniform(-1.5, 1.5, 2) * _SCALE
    pen.text(tuple(middle), letters[k], fill=255, font=font, anchor="mm")
    box = picture.getbbox()  # to the middle, as capitals and small letters stand differently
    from PIL import ImageChops

    picture = ImageChops.offset(
        picture, round(middle[0] - (box[0] + box[2]) / 2), round(middle[1] - (box[1] + box[3]) / 2)
    )
    return _ink(picture, rng, side)


def _place(points: Sequence[tuple[float, float]], *, angle: float, size: float, middle: NDArray[Any]) -> list[Any]:
    """Points turned by an angle in degrees, made larger and moved, in pixels of the canvas."""
    turn = np.deg2rad(angle)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return [tuple(p) for p in (np.array(points) @ matrix.T * size + middle) * _SCALE]


def _near_middle(rng: np.random.Generator, side: int, reach: float = 0.06) -> NDArray[Any]:
    return np.asarray(side / 2 + rng.uniform(-reach, reach, 2) * side)


def _draw_arrow(rng: np.random.Generator, k: int, side: int) -> NDArray[Any]:
    """An arrow with a shaft: right, down, left, up."""
    wide, head = rng.uniform(0.1, 0.2), rng.uniform(0.35, 0.6)
    points = [(-1, -wide), (0.1, -wide), (0.1, -head), (1, 0), (0.1, head), (0.1, wide), (-1, wide)]
    picture, pen = _canvas(side)
    angle = 90 * k + rng.uniform(-8, 8)
    pen.polygon(
        _place(points, angle=angle, size=side * rng.uniform(0.28, 0.38), middle=_near_middle(rng, side)), fill=255
    )
    return _ink(picture, rng, side)


def _draw_chevron(rng: np.random.Generator, k: int, side: int) -> NDArray[Any]:
    """An open angle that points right or left."""
    tall = rng.uniform(0.7, 1.1)
    points = [(-0.5, -tall), (0.5, 0), (-0.5, tall)]
    picture, pen = _canvas(side)
    placed = _place(points, angle=180 * k, size=side * rng.uniform(0.25, 0.35), middle=_near_middle(rng, side))
    pen.line(placed, fill=255, width=int(_SCALE * rng.uniform(2, 4)), joint="curve")
    return _ink(picture, rng, side)


def _draw_stripes(rng: np.random.Generator, k: int, side: int, *, angles: tuple[float, float]) -> NDArray[Any]:
    """A grating of some width and phase across the whole picture."""
    y, x = np.mgrid[:side, :side] / side
    turn = np.deg2rad(angles[k] + rng.uniform(-8, 8))
    wave = np.sin(2 * np.pi * (rng.uniform(3, 6) * (x * np.cos(turn) + y * np.sin(turn)) + rng.uniform()))
    return 0.5 + rng.uniform(0.25, 0.45) * wave + rng.normal(0, 0.02, wave.shape)


def _draw_line(rng: np.random.Generator, k: int, side: int) -> NDArray[Any]:
    """One bar that leans to the right or to the left."""
    picture, pen = _canvas(side)
    angle = (-1, 1)[k] * rng.uniform(50, 70)
    placed = _place([(-1, 0), (1, 0)], angle=angle, size=side * rng.uniform(0.3, 0.4), middle=_near_middle(rng, side))
    pen.line(placed, fill=255, width=int(_SCALE * rng.uniform(2, 5)))
    return _ink(picture, rng, side)


def _draw_disc(rng: np.random.Generator, k: int, side: int, *, radii: Sequence[tuple[float, float]]) -> NDArray[Any]:
    """A disc whose radius, as a share of the side, tells the class."""
    picture, pen = _canvas(side)
    radius, middle = rng.uniform(*radii[k]) * side, _near_middle(rng, side, 0.1)
    pen.ellipse([tuple((middle - radius) * _SCALE), tuple((middle + radius) * _SCALE)], fill=255)
    return _ink(picture, rng, side)


def _draw_square(rng: np.random.Generator, k: int, side: int, *, halves: Sequence[tuple[float, float]]) -> NDArray[Any]:
    """The outline of a square, a little turned, whose size tells the class."""
    picture, pen = _canvas(side)
    size = rng.uniform(*halves[k]) * side
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1), (1, -1)]
    placed = _place(corners, angle=rng.uniform(0, 90), size=size, middle=_near_middle(rng, side, 0.08))
    pen.line(placed, fill=255, width=2 * _SCALE, joint="curve")
    return _ink(picture, rng, side)


def _smooth(noise: NDArray[Any], sigma: float) -> NDArray[Any]:
    from scipy.ndimage import gaussian_filter

    soft = gaussian_filter(noise, sigma, mode="wrap")
    return np.asarray((soft - soft.mean()) / soft.std())


def _draw_grain(rng: np.random.Generator, k: int, side: int) -> NDArray[Any]:
    """Cloudy noise, sharp or blurred by about a pixel, which takes contrast as well."""
    from scipy.ndimage import gaussian_filter

    cloud = _smooth(rng.normal(size=(side, side)), 0.6)
    cloud = cloud if k == 0 else gaussian_filter(cloud, rng.uniform(0.8, 1.2), mode="wrap")
    return 0.5 + rng.uniform(0.1, 0.2) * cloud


def _draw_patches(rng: np.random.Generator, k: int, side: int) -> NDArray[Any]:
    """Overlapping rectangles of grey tones, in focus or out of it."""
    from scipy.ndimage import gaussian_filter

    picture = np.full((side, side), rng.uniform(0.2, 0.8))
    for _ in range(18):
        (y, x), (h, w) = rng.integers(-4, side, 2), rng.integers(5, side // 2, 2)
        picture[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)] = rng.uniform(0.05, 0.95)
    return picture if k == 0 else gaussian_filter(picture, rng.uniform(1.2, 1.8), mode="nearest")


def _draw_tone(rng: np.random.Generator, k: int, side: int) -> NDArray[Any]:
    """A soft cloud, dark or light."""
    level = (0.25, 0.6)[k] + rng.uniform(-0.07, 0.07)
    return level + rng.uniform(0.04, 0.07) * _smooth(rng.normal(size=(side, side)), 2)


def _draw_lamp(rng: np.random.Generator, k: int, side: int) -> NDArray[Any]:
    """Any of three shapes on a wall; the room is in the dark or lit."""
    picture, pen = _canvas(side)
    middle, size = _near_middle(rng, side, 0.12), side * rng.uniform(0.18, 0.26)
    corners = int(rng.integers(3, 6))
    points = [
        (np.cos(a), np.sin(a)) for a in np.linspace(0, 2 * np.pi, corners, endpoint=False) + rng.uniform(0, 2 * np.pi)
    ]
    pen.polygon(_place(points, angle=0, size=size, middle=middle), fill=255)
    mask = np.asarray(picture.resize((side, side)), np.float64) / 255
    level = (0.2, 0.55)[k] + rng.uniform(-0.05, 0.05)
    return level + rng.uniform(0.1, 0.18) * mask + rng.normal(0, 0.015, mask.shape)


def _draw_range(rng: np.random.Generator, k: int, side: int) -> NDArray[Any]:
    """The same kind of cloud with little or with much contrast."""
    depth = rng.uniform(*((0.06, 0.09), (0.115, 0.15))[k])
    return rng.uniform(0.42, 0.58) + depth * _smooth(rng.normal(size=(side, side)), 1.5)


def _draw_noisy(rng: np.random.Generator, k: int, side: int) -> NDArray[Any]:
    """Soft clouds, clean or with noise of 5 to 10 %."""
    cloud = 0.5 + rng.uniform(0.1, 0.18) * _smooth(rng.normal(size=(side, side)), 2.5)
    return cloud + rng.normal(size=cloud.shape) * (rng.uniform(0.0, 0.01), rng.uniform(0.05, 0.1))[k]


def _draw_spot(rng: np.random.Generator, k: int, side: int, *, axis: int) -> NDArray[Any]:
    """A disc in one half of the picture or the other."""
    picture, pen = _canvas(side)
    middle = np.full(2, side / 2) + rng.uniform(-0.25, 0.25, 2) * side
    middle[axis] = side * ((0.26, 0.74)[k] + rng.uniform(-0.06, 0.06))
    radius = side * rng.uniform(0.1, 0.18)
    pen.ellipse([tuple((middle - radius) * _SCALE), tuple((middle + radius) * _SCALE)], fill=255)
    return _ink(picture, rng, side)


def _draw_spiral(rng: np.random.Generator, k: int, side: int) -> NDArray[Any]:
    """An arm that winds outwards clockwise or the other way, from any angle."""
    t = np.linspace(0.25, 1, 60)
    turn = 2 * np.pi * (1.4 * t * (1, -1)[k] + rng.uniform())
    points = list(zip(t * np.cos(turn), t * np.sin(turn), strict=True))
    picture, pen = _canvas(side)
    placed = _place(points, angle=0, size=side * rng.uniform(0.36, 0.44), middle=_near_middle(rng, side, 0.04))
    pen.line(placed, fill=255, width=int(_SCALE * rng.uniform(2, 3)), joint="curve")
    return _ink(picture, rng, side)


def _draw_pinwheel(rng: np.random.Generator, k: int, side: int) -> NDArray[Any]:
    """Four sails that lean one way round or the other."""
    picture, pen = _canvas(side)
    middle, size, start = _near_middle(rng, side, 0.05), side * rng.uniform(0.34, 0.42), rng.uniform(-12, 12)
    sign = (1, -1)[k]
    for quarter in range(4):
        sail = [(0, 0), (1, 0), (0.75, 0.6 * sign)]
        pen.polygon(_place(sail, angle=start + 90 * quarter, size=size, middle=middle), fill=255)
    return _ink(picture, rng, side)


def _draw_colour(
    rng: np.random.Generator, k: int, side: int, *, hues: Sequence[float], vivid: Sequence[tuple[float, float]]
) -> NDArray[Any]:
    """A coloured shape on grey: classes by hue, or by how vivid the colour is."""
    from colorsys import hsv_to_rgb

    grey = _draw_disc(rng, 0, side, radii=[(0.2, 0.34)])[..., None]
    hue = hues[k % len(hues)] + rng.uniform(-0.03, 0.03) if len(hues) > 1 else rng.uniform()
    colour = np.array(hsv_to_rgb(hue % 1, rng.uniform(*vivid[k % len(vivid)]), rng.uniform(0.7, 0.9)))
    mask = (grey - grey.min()) / (grey.max() - grey.min())
    paper = rng.uniform(0.35, 0.5)
    return paper + (colour - paper) * mask + rng.normal(0, 0.015, (side, side, 3))


def _draw_count(rng: np.random.Generator, k: int, side: int) -> NDArray[Any]:
    """One to three small squares that do not touch."""
    picture, pen = _canvas(side)
    cells = rng.permutation(4)[: k + 1]
    for cell in cells:
        middle = side * (0.32 + 0.36 * np.array([cell % 2, cell // 2])) + rng.uniform(-1, 1, 2)
        half = side * rng.uniform(0.06, 0.12)
        pen.rectangle([tuple((middle - half) * _SCALE), tuple((middle + half) * _SCALE)], fill=255)
    return _ink(picture, rng, side)


def _letters(letters: str) -> Draw:
    return partial(_draw_letter, letters=letters)


_WRITTEN = _STILL | _MOVED | _SOFT
_MIRRORED = "mirror images of such letters are no letters"
CASES: tuple[Case, ...] = (
    Case("letters M W", "tune", ("M", "W"), _letters("MW"), {"vflip": 1.0, "rot90": 1.0}, _WRITTEN | {"hflip": 1.0}),
    Case("letters N Z", "tune", ("N", "Z"), _letters("NZ"), {"rot90": 1.0}, _WRITTEN, f"flips: {_MIRRORED}"),
    Case("letters b d p q", "tune", ("b", "d", "p", "q"), _letters("bdpq"), dict(_TURNED), _WRITTEN, per_class=60),
    Case("arrows", "tune", ("right", "down", "left", "up"), _draw_arrow, dict(_TURNED), _WRITTEN, per_class=60),
    Case(
        "lines / and \\", "tune", ("slash", "backslash"), _draw_line, dict(_TURNED), _WRITTEN | {"brightness": 0.2}
    ),
    Case(
        "small and large discs", "tune", ("small", "large"), partial(_draw_disc, radii=[(0.12, 0.15), (0.19, 0.22)]),
        {"zoom": 0.5}, _STILL | _TURNED | _SOFT | {"rotate": 15.0, "shift": 0.06},
        "zoom from 0.1 to 0.3 and shear: some discs reach the gap between the sizes",
    ),
    Case(
        "sharp and blurred clouds", "tune", ("sharp", "blurred"), _draw_grain, {"blur": 2.0},
        _TURNED | {"brightness": 0.1, "contrast": 0.2},
        "noise sharpens, and what moves pixels between places softens a little",
    ),
    Case(
        "dark and light clouds", "tune", ("dark", "light"), _draw_tone, {"brightness": 0.4},
        _TURNED | _MOVED | _SOFT | {"contrast": 0.4, "noise": 0.05, "brightness": 0.03},
    ),
    Case(
        "left and right", "tune", ("left", "right"), partial(_draw_spot, axis=0), {"hflip": 1.0, "rot90": 1.0},
        _STILL | _SOFT | {"vflip": 1.0, "shift": 0.03, "zoom": 0.1, "rotate": 8.0},
    ),
    Case(
        "digits of 8x8", "tune", tuple("0123456789"), None, {"rot90": 1.0},
        {"rotate": 8.0, "shift": 0.05, "zoom": 0.1, "shear": 5.0, "brightness": 0.1, "contrast": 0.2, "noise": 0.03},
        "flips: some digits become others, some are odd", side=8,
    ),
    Case(
        "pale and vivid", "tune", ("pale", "vivid"), partial(_draw_colour, hues=[0.0], vivid=[(0.3, 0.4), (0.55, 0.7)]),
        {"color": 0.9}, _TURNED | _MOVED | _SOFT | {"noise": 0.03}, "brightness and contrast act on colours as well",
    ),
    Case(
        "spirals", "tune", ("clockwise", "anticlockwise"), _draw_spiral, {"hflip": 1.0, "vflip": 1.0},
        _WRITTEN | {"rot90": 1.0, "rotate": 45.0}, per_class=250,
    ),
    Case(
        "letters u n", "report", ("u", "n"), _letters("un"), {"vflip": 1.0, "rot90": 1.0}, _WRITTEN,
        f"hflip: {_MIRRORED}",
    ),
    Case("digits 6 9 of fonts", "report", ("6", "9"), _letters("69"), {"rot90": 1.0}, _WRITTEN, f"flips: {_MIRRORED}"),
    Case("letters E F C G", "report", tuple("EFCG"), _letters("EFCG"), {}, _WRITTEN, f"flips: {_MIRRORED}", per_class=60),
    Case(
        "chevrons", "report", ("right", "left"), _draw_chevron, {"hflip": 1.0, "rot90": 1.0}, _WRITTEN | {"vflip": 1.0}
    ),
    Case(
        "stripes", "report", ("upright", "level"), partial(_draw_stripes, angles=(0.0, 90.0)), {"rot90": 1.0},
        _STILL | _MOVED | _SOFT | {"hflip": 1.0, "vflip": 1.0, "shift": 0.2},
    ),
    Case(
        "small and large squares", "report", ("small", "large"), partial(_draw_square, halves=[(0.13, 0.16), (0.21, 0.25)]),
        {"zoom": 0.5}, _STILL | _TURNED | _SOFT | {"rotate": 15.0, "shift": 0.06},
        "zoom from 0.1 to 0.3: some squares reach the gap between the sizes", side=64, per_class=80,
    ),
    Case(
        "in and out of focus", "report", ("sharp", "blurred"), _draw_patches, {"blur": 2.0},
        _TURNED | {"brightness": 0.1, "contrast": 0.2},
        "noise sharpens, and what moves pixels between places softens a little", side=40,
    ),
    Case(
        "rooms dark and lit", "report", ("dark", "lit"), _draw_lamp, {"brightness": 0.4},
        _TURNED | _MOVED | _SOFT | {"noise": 0.03, "contrast": 0.2, "brightness": 0.03},
    ),
    Case(
        "top and bottom", "report", ("top", "bottom"), partial(_draw_spot, axis=1), {"vflip": 1.0, "rot90": 1.0},
        _STILL | _SOFT | {"hflip": 1.0, "shift": 0.03, "zoom": 0.1, "rotate": 8.0},
    ),
    Case(
        "pinwheels", "report", ("clockwise", "anticlockwise"), _draw_pinwheel, {"hflip": 1.0, "vflip": 1.0},
        _WRITTEN | {"rot90": 1.0},
    ),
    Case(
        "clean and noisy", "report", ("clean", "noisy"), _draw_noisy, {"noise": 0.2},
        _TURNED | {"brightness": 0.1, "contrast": 0.2}, "blur cleans, as what moves pixels between places does a little",
    ),
    Case(
        "low and high contrast", "report", ("low", "high"), _draw_range, {"contrast": 0.8},
        _TURNED | {"brightness": 0.1, "shift": 0.06, "rotate": 8.0}, "blur and noise change contrast as well",
    ),
    Case(
        "red, green and blue", "report", ("red", "green", "blue"),
        partial(_draw_colour, hues=[0.0, 0.33, 0.66], vivid=[(0.6, 0.9)]),
        {}, _STILL | _TURNED | _MOVED | _SOFT, per_class=60,
    ),
    Case(
        "one to three squares", "report", ("one", "two", "three"), _draw_count, {}, _STILL | _TURNED | _SOFT | {"shift": 0.03},
        "crop, zoom and cutout can hide a square", per_class=60,
    ),
)  # fmt: skip
