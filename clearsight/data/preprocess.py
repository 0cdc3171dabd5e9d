"""The one way from stored pixels to a network's inputs: fitted on training rows, stored with the model, used everywhere.

Every scaling is affine, input = pixel * scale + offset with one pair a pixel, so training, evaluation and serving can
only agree. It must not know networks or files.
"""

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from clearsight.config.schema import Resize, Scaling
from clearsight.data.dataset import Dataset
from clearsight.data.read.pictures import PictureFormat
from clearsight.errors import DataError, UsageError

SCALINGS: tuple[str, ...] = get_args(Scaling)
_CHUNK = 4096
_IMAGENET_MEAN, _IMAGENET_STD = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # of its training pictures in 0..1, per channel


@dataclass(frozen=True, eq=False)
class Preprocess:
    """Pixels to inputs, and targets to and from what the network is trained on.

    Args:
        height, width, channels: of a picture as stored.
        scaling: its name, for the record.
        low, high: the pixel values that mean black and white; a picture file (0..255) is brought to this range.
        scale, offset: float32, (height * width * channels,).
        target_mean, target_std: of a regression's training targets; 0 and 1 for classes.
        resize, background: how a picture file is brought to this size (see `PictureFormat`).
    """

    height: int
    width: int
    channels: int
    scaling: str
    low: float
    high: float
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    target_mean: float = 0.0
    target_std: float = 1.0
    resize: Resize = "squash"
    background: tuple[int, int, int] = (255, 255, 255)

    @property
    def picture_format(self) -> PictureFormat:
        """What picture files are brought to for this model."""
        return PictureFormat(self.height, self.width, self.channels, self.resize, self.background)

    @property
    def num_inputs(self) -> int:
        """Length of one input row."""
        return self.height * self.width * self.channels

    def check_shape(self, images: NDArray[Any], *, what: str = "pictures") -> NDArray[Any]:
        """Pictures (N, H, W, C) or rows of features as (N, inputs), without a copy where possible.

        Raises:
            DataError: they are not of the size that the model was trained on.
        """
        shape = (self.height, self.width, self.channels)
        rows = 1 in (self.height, images.shape[1]) and images[0].size == self.num_inputs  # features on one side
        if images.shape[1:] == shape or rows:
            return images.reshape(len(images), self.num_inputs)
        raise DataError(
            f"{what} must be {shape[0]}x{shape[1]} with {shape[2]} channels, as in training, got "
            f"{'x'.join(map(str, images.shape[1:]))}. Resize them."
        )

    def check_range(self, images: NDArray[Any]) -> None:
        """Refuse pictures in plainly other units than those trained on: bytes for 0..1, or 0..1 for bytes.

        Raises:
            DataError: values beyond twice the range, or floats within 0..1 where the range is 16 or more.
        """
        if self.height == 1:  # rows of features have no common range
            return
        low, high = float(images.min()), float(images.max())
        span = self.high - self.low
        small = images.dtype.kind == "f" and self.low == 0 and self.high >= 16 and 0 < high <= 1
        if small or high > self.high + span or low < self.low - span:
            raise DataError(
                f"pictures must have values in {self.low:g}..{self.high:g}, as in training, got {low:g}..{high:g}. Rescale them."
            )

    def apply(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Network inputs, float32 (N, inputs), of stored pictures (N, H, W, C)."""
        return self.check_shape(images).astype(np.float32) * self.scale + self.offset

    def standardize_targets(self, targets: NDArray[Any]) -> NDArray[np.float64]:
        """What a regression is trained on: targets with mean 0 and standard deviation 1 over the training rows."""
        return (targets.astype(np.float64) - self.target_mean) / self.target_std

    def restore_targets(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Outputs of a regression in the units of its targets."""
        return outputs * self.target_std + self.target_mean

    def settings(self) -> dict[str, Any]:
        """Everything but the two arrays, as plain values."""
        return {
            "height": self.height, "width": self.width, "channels": self.channels, "scaling": self.scaling,
            "low": self.low, "high": self.high, "target_mean": self.target_mean, "target_std": self.target_std,
            "resize": self.resize, "background": list(self.background),
        }  # fmt: skip


def _moments(flat: NDArray[Any], rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and mean square of each input, in float64, a chunk of rows at a time."""
    total, square = np.zeros(flat.shape[1]), np.zeros(flat.shape[1])
    for start in range(0, len(rows), _CHUNK):
        block = flat[rows[start : start + _CHUNK]].astype(np.float64)
        total += block.sum(axis=0)
        square += (block * block).sum(axis=0)
    return total / len(rows), square / len(rows)


def fit_preprocess(
    dataset: Dataset,
    rows: NDArray[np.int64],
    *,
    scaling: str = "unit",
    resize: Resize = "squash",
    background: tuple[int, int, int] = (255, 255, 255),
) -> Preprocess:
    """Fit a scaling on training rows alone.

    Args:
        dataset: the pictures.
        rows: training rows.
        scaling: `unit` maps low..high to 0..1; `symmetric` to -1..1; `standardize` gives mean 0 and standard deviation 1
            over the training set, per channel (per feature for rows of features); `mean-image` subtracts the mean
            training picture from `unit`; `imagenet` takes ImageNet's mean and deviation a channel, for published weights;
            `none` feeds stored values.
        resize, background: how the pictures were brought to their size, to be kept with the model.

    Raises:
        UsageError: an unknown scaling. DataError: values so small or large that the scaling is not finite.
    """
    if scaling not in SCALINGS:
        raise UsageError(f"scale must be one of {', '.join(SCALINGS)}, got {scaling!r}. Choose one of them.")
    height, width, channels = dataset.picture_shape
    flat = dataset.images.reshape(len(dataset), -1)
    low, high = find_range(dataset, rows)
    span = (high - low) or 1.0
    size = flat.shape[1]
    if scaling == "none":
        scale, offset = np.ones(size), np.zeros(size)
    elif scaling == "unit":
        scale, offset = np.full(size, 1 / span), np.full(size, -low / span)
    elif scaling == "symmetric":
        scale, offset = np.full(size, 2 / span), np.full(size, -2 * low / span - 1)
    elif scaling == "imagenet":
        if channels != 3:
            raise UsageError(
                f"scale imagenet must have pictures in colour, got {channels} channels. Set preprocess.scale to "
                "symmetric, or give such pictures."
            )
        std = np.tile(np.array(_IMAGENET_STD), height * width)
        scale, offset = 1 / (span * std), (-low / span - np.tile(np.array(_IMAGENET_MEAN), height * width)) / std
    elif scaling == "mean-image":
        mean, _ = _moments(flat, rows)
        scale, offset = np.full(size, 1 / span), -mean / span
    else:
        mean, square = _moments(flat, rows)
        if height > 1:  # pictures: one mean and deviation a channel
            mean, square = (np.tile(m.reshape(-1, channels).mean(axis=0), height * width) for m in (mean, square))
        std = np.sqrt(np.maximum(square - mean * mean, 0))
        std[std <= 1e-7 * np.sqrt(square)] = 1  # an input that is constant, for its own size, becomes 0 and not NaN
        scale, offset = 1 / std, -mean / std
    with np.errstate(over="ignore"):  # which is refused in words
        gain, shift = scale.astype(np.float32), offset.astype(np.float32)
    if not (np.isfinite(gain).all() and np.isfinite(shift).all()):
        raise DataError(f"pixels must span a range that float32 can scale, got {low}..{high}. Rescale them first.")
    target_mean, target_std = 0.0, 1.0
    if dataset.is_regression:
        targets = dataset.labels[rows].astype(np.float64)
        target_mean, target_std = float(targets.mean()), float(targets.std()) or 1.0
    return Preprocess(
        height, width, channels, scaling, float(low), float(high),
        gain, shift, target_mean, target_std, resize, background,
    )  # fmt: skip


def find_range(dataset: Dataset, rows: NDArray[np.int64]) -> tuple[float, float]:
    """The pixel values that count as black and white: those of the type where it tells them, else those of some rows."""
    if dataset.value_range:
        return dataset.value_range
    flat = dataset.images.reshape(len(dataset), -1)
    lows, highs = [], []
    for start in range(0, len(rows), _CHUNK):
        block = flat[rows[start : start + _CHUNK]]
        lows.append(float(block.min()))
        highs.append(float(block.max()))
    return min(0.0, *lows), max(highs)
