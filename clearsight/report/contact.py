"""Contact sheets of a data set: its classes, and its pictures beside their varied versions. It must not know models."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.augment.presets import Augmentation
from clearsight.augment.transforms import augment_rows
from clearsight.data.dataset import Dataset
from clearsight.data.preprocess import find_range
from clearsight.report.sheet import Strip, draw_sheet

_VERSIONS = 8
_MOST_CLASSES = 60
_GROUPS = 5
_BLUE = (0, 114, 178)


def draw_classes(dataset: Dataset, rows: NDArray[np.int64], *, per_class: int, seed: int) -> Any:
    """Some of `rows` of every class (of a regression: of five ranges of its numbers), as the network will see them."""
    rng = np.random.default_rng(seed)
    strips = []
    for title, own in _groups(dataset, rows):
        chosen = np.sort(rng.permutation(own)[:per_class])
        captions = [dataset.files[row].rpartition("/")[2] for row in chosen] if dataset.files else ()
        strips.append(Strip(f"{title}: {len(own):,}", [dataset.images[row] for row in chosen], captions))
    low, high = find_range(dataset, rows)
    height, width, channels = dataset.picture_shape
    some = (
        f", the first {_MOST_CLASSES} of {len(dataset.class_names)} classes"
        if len(dataset.class_names) > _MOST_CLASSES
        else ""
    )
    heading = f"{dataset.name}: {len(rows):,} training pictures of {width}x{height}x{channels}{some}"
    return draw_sheet(strips, low=low, high=high, heading=heading, columns=max(per_class, 5), side=_side(dataset))


def draw_augmented(
    dataset: Dataset, rows: NDArray[np.int64], augmentation: Augmentation, *, per_class: int, seed: int
) -> Any:
    """Some of `rows` of every class, each (framed) beside versions of eight epochs, exactly as training will draw them."""
    rng = np.random.default_rng(seed)
    low, high = find_range(dataset, rows)
    strips = []
    for title, own in _groups(dataset, rows):
        for row in np.sort(rng.permutation(own)[:per_class]):
            one = np.array([row])
            settings: dict[str, Any] = {
                "augmentation": augmentation,
                "seed": seed,
                "pool": rows,
                "low": low,
                "high": high,
            }
            versions = [augment_rows(dataset.images, one, epoch=epoch, **settings) for epoch in range(_VERSIONS)]
            captions = [""] + [
                ""
                if v.shares is None or v.partners is None
                else f"{v.shares[0]:.0%} + {_label(dataset, int(v.partners[0]))}"
                for v in versions
            ]
            pictures = [dataset.images[row], *(np.asarray(v.images[0]) for v in versions)]
            strips.append(Strip(title, pictures, captions if augmentation.mixes else (), [_BLUE] + [None] * _VERSIONS))
    active = ", ".join(f"{name} {value:g}" for name, value in augmentation.active().items()) or "nothing"
    return draw_sheet(
        strips, low=low, high=high, heading=f"{dataset.name}: {active}", columns=1 + _VERSIONS, side=_side(dataset)
    )


def _label(dataset: Dataset, row: int) -> str:
    value = dataset.labels[row]
    return f"{value:g}" if dataset.is_regression else dataset.class_names[value]


def _side(dataset: Dataset) -> int:
    """Small pictures are enlarged three times at most."""
    return int(min(112, max(56, 3 * max(dataset.picture_shape[:2]))))


def _groups(dataset: Dataset, rows: NDArray[np.int64]) -> list[tuple[str, NDArray[np.int64]]]:
    """Titles and rows of the classes, or of a regression's ranges."""
    labels = dataset.labels[rows]
    if not dataset.is_regression:
        named = [(name, rows[labels == k]) for k, name in enumerate(dataset.class_names)]
        return [(name, own) for name, own in named if len(own)][:_MOST_CLASSES]
    parts = np.array_split(rows[np.argsort(labels, kind="stable")], _GROUPS)
    return [(f"{dataset.labels[own[0]]:g} to {dataset.labels[own[-1]]:g}", np.sort(own)) for own in parts if len(own)]
