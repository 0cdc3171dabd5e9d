"""Quick probes: what a picture looks like in a few hundred numbers, and classifiers on them that train in a moment.

They answer one question: does a picture still look like its class? They are not meant to be good classifiers, and must not
know transforms.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clearsight.data.duplicates import average_rows

Floats = NDArray[np.float32]
MEMBERS = 7
_SHAPE_SIDE, _BLOB_SIDE = 32, 224
_CELLS, _DIRECTIONS = 5, 8
_REACH = 1.25  # of a cell's window, in cells: a small shift moves little from one cell to the next
_CHUNK_VALUES = 2**22
_FIGURE_SIDE, _FRAME_SIDE = 48, 12
_FAINT = 0.25  # of what stands out most
_RIM = 0.01
_SCALES, _TINY = 4, 1e-3
_SHRINKAGE = 0.05  # of the variance of a standardised number


def _shrink(images: NDArray[np.generic], side: int) -> Floats:
    """(n, h, w, C) float32, averaged down until the longer side is at most `side`."""
    _, height, width, _ = images.shape
    factor = min(1.0, side / max(height, width))
    if factor == 1:
        return images.astype(np.float32)
    down, across = (
        average_rows(height, max(1, round(height * factor))),
        average_rows(width, max(1, round(width * factor))),
    )
    moved = images.astype(np.float32).transpose(0, 3, 1, 2)
    return np.asarray((down @ moved @ across.T).transpose(0, 2, 3, 1))


def _windows(length: int) -> Floats:
    """(cells, length): triangles around the middles of the cells, overlapping."""
    middles = (np.arange(_CELLS) + 0.5) * length / _CELLS
    distance = np.abs(np.arange(length) + 0.5 - middles[:, None]) * _CELLS / length
    return np.asarray(np.clip(1 - distance / _REACH, 0, None), np.float32)


def _soften(grey: Floats) -> Floats:
    """A 1-2-1 filter both ways, so that noise makes no edges."""
    for axis in (1, 2):
        size = grey.shape[axis]
        before, after = np.clip(np.arange(size) - 1, 0, None), np.clip(np.arange(size) + 1, None, size - 1)
        grey = np.asarray((grey.take(before, axis) + 2 * grey + grey.take(after, axis)) / 4, np.float32)
    return grey


def describe_shape(images: NDArray[np.generic], low: float, high: float) -> Floats:
    """Histograms of edge directions in 5x5 overlapping cells (Dalal & Triggs 2005), and colour's spread: (n, 211 or so).

    Little changes with small shifts, brightness and contrast; much with mirroring and turning.
    """
    small = (_shrink(images, _SHAPE_SIDE) - low) / ((high - low) or 1.0)
    grey = _soften(small.mean(axis=3))
    down = np.gradient(grey, axis=1) if grey.shape[1] > 1 else np.zeros_like(grey)
    across = np.gradient(grey, axis=2) if grey.shape[2] > 1 else np.zeros_like(grey)
    strength = np.hypot(across, down)
    angle = np.arctan2(down, across) % np.pi * (_DIRECTIONS / np.pi)
    first = np.floor(angle).astype(np.int32)
    late = angle - first
    rows, columns = _windows(grey.shape[1]), _windows(grey.shape[2])
    cells = []
    for k in range(_DIRECTIONS):
        share = np.where(first % _DIRECTIONS == k, 1 - late, 0) + np.where((first + 1) % _DIRECTIONS == k, late, 0)
        cells.append(rows @ (strength * share).astype(np.float32) @ columns.T)
    edges = np.stack(cells, axis=-1).reshape(len(images), -1)
    edges /= np.sqrt((edges * edges).sum(axis=1, keepdims=True)) + 0.05
    flat = small.reshape(len(small), -1, small.shape[3])
    tones = [flat.mean(axis=1), flat.std(axis=1)]
    if flat.shape[2] == 3:
        colours = flat / (flat.sum(axis=2, keepdims=True) + 0.1)
        tones += [
            colours.mean(axis=1),
            colours.std(axis=1),
            (flat.max(axis=2) - flat.min(axis=2)).mean(axis=1)[:, None],
        ]
    return np.concatenate([np.sqrt(edges), *tones], axis=1).astype(np.float32)


def describe_blobs(images: NDArray[np.generic], low: float, high: float) -> Floats:
    """What is countable: connected pieces of foreground, of background, and the foreground's share; (n, 3), logarithms.

    Foreground is what lies on the rarer side of the middle between the darkest and the lightest value. Its share counts a
    pixel at its edge by how far it is from the background, so that smearing between pixels changes nothing.
    """
    from scipy.ndimage import binary_dilation, label

    channels = [images[..., c].astype(np.float32) for c in range(images.shape[3])]
    grey = _shrink((sum(channels[1:], channels[0]) / len(channels))[..., None], _BLOB_SIDE)[..., 0]
    found = np.zeros((len(grey), 3), np.float32)
    for i, picture in enumerate((grey - low) / ((high - low) or 1.0)):
        mask = picture > (picture.max() + picture.min()) / 2
        mask = ~mask if mask.mean() > 0.5 else mask
        found[i, :2] = label(mask)[1], label(~mask)[1]
        if mask.any():
            away = np.abs(picture - np.median(picture[~mask]))
            found[i, 2] = 100 * away[binary_dilation(mask, iterations=2)].sum() / np.median(away[mask]) / away.size
    return np.asarray(np.log1p(found), np.float32)


def describe_figure(images: NDArray[np.generic], low: float, high: float) -> Floats:
    """What stands out from the picture's rim, in a frame around it that is stretched to 12x12; (n, 144), each of length 1.

    Nothing changes with place, size and proportions, as little as people mind them in a letter or a sign.
    """
    grey = ((_shrink(images, _FIGURE_SIDE) - low) / ((high - low) or 1.0)).mean(axis=3)
    rim = np.concatenate([grey[:, 0], grey[:, -1], grey[:, :, 0], grey[:, :, -1]], axis=1)
    away = np.abs(grey - np.median(rim, axis=1)[:, None, None])
    away[away < _FAINT * away.max(axis=(1, 2), keepdims=True)] = 0
    found = np.zeros((len(grey), _FRAME_SIDE, _FRAME_SIDE), np.float32)
    for i, picture in enumerate(away):
        if picture.any():
            found[i] = _frame(picture.sum(axis=1)) @ picture @ _frame(picture.sum(axis=0)).T
    flat = found.reshape(len(found), -1)
    return np.asarray(flat / (np.sqrt((flat * flat).sum(axis=1, keepdims=True)) + 1e-6), np.float32)


def _frame(weights: Floats) -> Floats:
    """(12, length): triangles of weight 1 over the places between which all but a hundredth of the weights at each end lies."""
    total = np.concatenate([[0.0], np.cumsum(weights)]) / weights.sum()
    start, end = np.interp([_RIM, 1 - _RIM], total, np.arange(len(total)))
    cell = max((end - start) / _FRAME_SIDE, 1e-3)
    middles = start + (np.arange(_FRAME_SIDE) + 0.5) * cell
    distance = np.abs(np.arange(len(weights)) + 0.5 - middles[:, None])
    shares = np.clip(1 - distance / (1.5 * max(cell, 1.0)), 0, None)
    return np.asarray(shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-6), np.float32)


def describe_surface(images: NDArray[np.generic], low: float, high: float) -> Floats:
    """What a surface is like wherever one looks: its tones, how fine its grain is, and its colours; (n, 15 or 18)."""
    small = (_shrink(images, _BLOB_SIDE) - low) / ((high - low) or 1.0)
    grey = small.mean(axis=3)
    flat = grey.reshape(len(grey), -1)
    spread = flat.std(axis=1)
    tones = [flat.mean(axis=1), np.log(spread + _TINY), *np.quantile(flat, [0.02, 0.25, 0.5, 0.75, 0.98], axis=1)]
    grain = []
    for _ in range(_SCALES):
        soft = _soften(grey)
        fine = np.abs(grey - soft).mean(axis=(1, 2))
        grain += [np.log(fine + _TINY), np.log((fine + _TINY) / (spread + _TINY))]
        grey = _soften(soft)[:, ::2, ::2]
    if small.shape[3] == 3:
        vivid = small.max(axis=3) - small.min(axis=3)
        tones += [np.log(vivid.mean(axis=(1, 2)) + _TINY), np.log(vivid.max(axis=(1, 2)) + _TINY)]
    return np.stack([*tones, *grain], axis=1).astype(np.float32)


DESCRIPTIONS = {
    "blobs": describe_blobs, "shape and colour": describe_shape, "figure": describe_figure, "surface": describe_surface,
}  # fmt: skip


def describe(
    kind: str, images: NDArray[np.generic], *, low: float, high: float, rows: NDArray[np.int64] | None = None
) -> Floats:
    """The numbers of a kind of probe for some rows (None for all) of pictures (N, H, W, C), some megabytes at a time."""
    chosen = np.arange(len(images)) if rows is None else rows
    step = max(1, _CHUNK_VALUES // images[0].size)
    parts = [DESCRIPTIONS[kind](images[chosen[i : i + step]], low, high) for i in range(0, len(chosen), step)]
    return np.concatenate(parts)


@dataclass(frozen=True, eq=False)
class Probe:
    """Seven linear classifiers on resampled rows, and the classes' centres where directions are equally long.

    Args:
        mean, scale: (F,), to standardise. weights: (members, F + 1, K), the last of them offsets.
        whiten: (F, F): standardised numbers times this have unit covariance within classes. centres: (K, F), so.
    """

    mean: Floats
    scale: Floats
    weights: Floats
    whiten: Floats
    centres: Floats

    def answers(self, features: Floats) -> NDArray[np.int64]:
        """Each member's class for each row (n, F), as (members, n)."""
        return np.asarray(self._scores(features).argmax(axis=2))

    def margins(self, features: Floats, classes: NDArray[np.int64]) -> Floats:
        """By how much each row's score of a class exceeds that of any other, a mean over the members, (n,); 0 without others."""
        scores, rows = self._scores(features).mean(axis=0), np.arange(len(classes))
        if scores.shape[1] == 1:
            return np.zeros(len(classes), np.float32)
        own = scores[rows, classes]
        scores[rows, classes] = -np.inf
        return np.asarray(own - scores.max(axis=1))

    def _scores(self, features: Floats) -> Floats:
        x = (features - self.mean) * self.scale
        x = np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)
        return np.asarray(x @ self.weights)

    def distances(self, features: Floats, classes: NDArray[np.int64]) -> Floats:
        """How far each row is from the centre of a class (Mahalanobis 1936), (n,)."""
        away = (features - self.mean) * self.scale @ self.whiten - self.centres[classes]
        return np.asarray(np.sqrt((away * away).sum(axis=1)))


def fit_probe(features: Floats, classes: NDArray[np.int64], *, num_classes: int, rng: np.random.Generator) -> Probe:
    """Linear discriminant analysis (Fisher 1936; shrunk covariance) of each member's bootstrap sample (Breiman 1996).

    Args:
        features: (n, F). classes: (n,) in [0, num_classes).
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    scale = np.where(deviation > 1e-6, 1 / np.maximum(deviation, 1e-6), 0).astype(np.float32)
    x = ((features - mean) * scale).astype(np.float64)
    weights = []
    for _ in range(MEMBERS):
        rows = rng.integers(0, len(x), len(x))
        centres, covariance, counts = _find_centres(x[rows], classes[rows], num_classes)
        slopes = np.linalg.solve(covariance, centres.T)
        with np.errstate(divide="ignore"):
            offsets = np.log(counts / len(x)) - 0.5 * (centres.T * slopes).sum(axis=0)
        weights.append(np.concatenate([slopes, np.maximum(offsets, -1e9)[None]]))
    centres, covariance, _ = _find_centres(x, classes, num_classes)
    whiten = np.linalg.inv(np.linalg.cholesky(covariance)).T
    return Probe(
        mean.astype(np.float32), scale, np.array(weights, np.float32), whiten.astype(np.float32),
        (centres @ whiten).astype(np.float32),
    )  # fmt: skip


def _find_centres(
    x: NDArray[np.float64], classes: NDArray[np.int64], num_classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Class means (K, F), shrunk covariance within classes (F, F), and class counts (K,)."""
    member = np.eye(num_classes)[classes]
    counts = member.sum(axis=0)
    centres = member.T @ x / np.maximum(counts, 1)[:, None]
    within = x - centres[classes]
    return centres, within.T @ within / len(x) + _SHRINKAGE * np.eye(x.shape[1]), counts
