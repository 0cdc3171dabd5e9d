"""How strongly each transform is applied: one plain value a transform, named presets, and what the data forbids.

It must not know pixels.
"""

from dataclasses import dataclass, fields
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from clearsight.config.schema import Fill
from clearsight.errors import UsageError

FILLS: tuple[str, ...] = get_args(Fill)
_PROBABILITIES = ("hflip", "vflip", "rot90")
_FRACTIONS = ("zoom", "shift", "crop", "brightness", "contrast", "color", "noise", "cutout")
_DEGREES = {"rotate": 180.0, "shear": 60.0}
MOVING = ("rotate", "shear", "zoom", "shift", "crop")
"""Transforms that bring in what lies beyond the edge."""
_CUTTING = ("zoom", "shift", "crop", "cutout", "mixup", "cutmix")


@dataclass(frozen=True)
class Augmentation:
    """Strengths of the transforms; 0 leaves one out. A random number is drawn anew for each picture and epoch.

    Args:
        hflip, vflip: probability of a mirror image, left-right or top-bottom.
        rot90: probability of a turn by 90, 180 or 270 degrees (equally likely); other than square pictures are squashed.
        rotate: largest angle in degrees, either way.
        shear: largest angle in degrees, either way, of one random axis.
        zoom: pictures grow or shrink by up to this share.
        shift: moved by up to this share of the side, either way, by fractions of a pixel.
        crop: padded by this share of the side and cropped at random again, in whole pixels (Krizhevsky 2009).
        brightness: up to this share of the range is added or taken.
        contrast: differences from the picture's mean grow or shrink by up to this share.
        color: the same for differences from grey; nothing on grey pictures.
        blur: standard deviation, in pixels, of the strongest blur.
        noise: standard deviation of the strongest noise as a share of the range.
        cutout: side of a square filled with the picture's mean, as a share of the side (DeVries & Taylor 2017).
        mixup: alpha of the Beta distribution by which two pictures and their labels are blended (Zhang et al. 2018).
        cutmix: alpha by which a rectangle of another picture is pasted in, labels by area (Yun et al. 2019).
        fill: what lies beyond the edge: `edge` repeats the outermost pixel, `reflect` mirrors.

    Raises:
        UsageError: a value outside its range.
    """

    hflip: float = 0.0
    vflip: float = 0.0
    rot90: float = 0.0
    rotate: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    crop: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    color: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    cutout: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    fill: str = "edge"

    def __post_init__(self) -> None:
        limits = dict.fromkeys(_PROBABILITIES, 1.0) | dict.fromkeys(_FRACTIONS, 0.9) | _DEGREES | {"blur": 10.0}
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise UsageError(
                    f"augment.{name} must lie in [0, {limit:g}], got {getattr(self, name)}. Use 0 for none."
                )
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) <= 100:
                raise UsageError(f"augment.{name} must lie in [0, 100], got {getattr(self, name)}. Use 0 for none.")
        if self.fill not in FILLS:
            raise UsageError(f"augment.fill must be one of {', '.join(FILLS)}, got {self.fill!r}. Choose one of them.")

    def active(self) -> dict[str, float]:
        """The transforms in use and their strengths."""
        return {name: getattr(self, name) for name in TRANSFORMS if getattr(self, name) > 0}

    @property
    def mixes(self) -> bool:
        """Whether pictures are mixed with others, so that labels are shares."""
        return self.mixup > 0 or self.cutmix > 0

    def alone(self, name: str) -> "Augmentation":
        """Only one of its transforms; one that happens with a probability then always happens."""
        strength = 1.0 if name in _PROBABILITIES else getattr(self, name)
        values: dict[str, Any] = {name: strength, "fill": self.fill}
        return Augmentation(**values)


TRANSFORMS: tuple[str, ...] = tuple(f.name for f in fields(Augmentation) if f.name != "fill")

PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "light": {"rotate": 5.0, "zoom": 0.05, "shift": 0.05, "brightness": 0.05, "contrast": 0.1},
    "photo": {
        "hflip": 0.5, "rotate": 10.0, "zoom": 0.15, "shift": 0.06, "shear": 5.0,
        "brightness": 0.15, "contrast": 0.25, "color": 0.25, "fill": "reflect",
    },
    "digits": {"rotate": 12.0, "zoom": 0.12, "shift": 0.08, "shear": 10.0},
    "counting": {"hflip": 0.5, "vflip": 0.5, "brightness": 0.05, "contrast": 0.1},
}  # fmt: skip


def are_digits(class_names: tuple[str, ...]) -> bool:
    """Whether the classes are the digits 0 to 9."""
    return sorted(class_names) == [str(k) for k in range(10)]


def are_counts(labels: NDArray[Any], class_names: tuple[str, ...]) -> bool:
    """Whether labels seem to be numbers of something: whole targets, or classes named by numbers that do not run 0, 1, 2...

    Classes 0 to K-1 are mere numbering, the ten digits among them.
    """
    if class_names:
        numbered = set(class_names) == {str(k) for k in range(len(class_names))}
        return all(name.isascii() and name.isdigit() for name in class_names) and not numbered
    return bool((labels == np.rint(labels)).all() and (labels >= 0).all())


def build_augmentation(
    preset: str, overrides: dict[str, Any], *, labels: NDArray[Any], class_names: tuple[str, ...]
) -> tuple[Augmentation, list[str]]:
    """A preset as far as the data allows it, with single strengths over it, and notes about what was left out.

    Args:
        preset: a name of `PRESETS`. overrides: strengths given by themselves, which are taken as they are.
        labels, class_names: of the data: classes or targets.

    Raises:
        UsageError: an unknown preset, or a strength outside its range.
    """
    if preset not in PRESETS:
        raise UsageError(f"augment.preset must be one of {', '.join(PRESETS)}, got {preset!r}. Choose one of them.")
    values = dict(PRESETS[preset])
    digits = are_digits(class_names)
    forbidden = {"hflip", "vflip", "rot90"} if digits else set(_CUTTING) if are_counts(labels, class_names) else set()
    why = "the classes are the digits 0 to 9" if digits else "the labels look like counts"
    dropped = [name for name in values if name in forbidden and name not in overrides]
    notes = [f"augment.preset {preset}: {', '.join(dropped)} left out, because {why}"] if dropped else []
    kept = {name: value for name, value in values.items() if name not in forbidden}
    return Augmentation(**kept | overrides), notes
