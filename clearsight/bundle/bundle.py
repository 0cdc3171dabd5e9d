"""The model file: weights as safetensors, everything else as JSON, and a self-test that is run at every load.

A bundle needs no code of its user's to load and can run none. It knows how to predict, not how it was trained.
"""

import hashlib
import json
import sys
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight import __version__
from clearsight.bundle.archive import (
    DESCRIPTION,
    TENSORS,
    pack_tensors,
    pack_zip,
)
from clearsight.core.files import write_durably
from clearsight.core.notebook import render_facts
from clearsight.core.numerics import softmax
from clearsight.data.dataset import check_images
from clearsight.data.preprocess import Preprocess
from clearsight.data.read.pictures import MAX_PIXELS, calm_decoder, check_file, decode_picture
from clearsight.engines.predictor import Predictor
from clearsight.errors import DataError, UsageError
from clearsight.evaluation.calibration import conformal_sets
from clearsight.evaluation.novelty import Known
from clearsight.models.convnet import ConvNet
from clearsight.models.mlp import MLP

FORMAT_VERSION = 4  # 2: resizing and background of files; 3: convolutional nets; 4: confidence and known pictures
SELF_TEST_ROWS = 3


@dataclass(frozen=True, eq=False)
class Bundle:
    """A trained model with all that it needs to predict from stored pixels.

    Args:
        net, params: architecture and its numbers, flat float32 (net.num_values,).
        class_names: in the order of the outputs; empty for regression.
        preprocess: as fitted on the training rows.
        temperature: logits are divided by it before the softmax (1 unless calibrated).
        scores: of held-out rows, sorted, for conformal sets; see `conformal_scores`. Empty without held-out rows.
        known: what is remembered of training pictures, to tell far ones; None without held-out rows.
        data: `name` and `fingerprint` of the data set trained on.
        training: engine, seed, epoch and status, for the record.
        notes: what the reader should know, for example that weights are NaN.
        path: the file or folder it was loaded from, None for one just trained.
    """

    net: MLP | ConvNet
    params: NDArray[np.float32]
    class_names: tuple[str, ...]
    preprocess: Preprocess
    temperature: float = 1.0
    data: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    path: Path | None = None
    scores: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    known: Known | None = None

    def __repr__(self) -> str:
        p, outputs = self.preprocess, f"{len(self.class_names)} classes" if self.class_names else "one number"
        size = f"{p.height}x{p.width}x{p.channels}" if p.height > 1 else f"{p.num_inputs} features"
        return f"Bundle({self.net.label}, {self.net.num_parameters:,} parameters: {size} to {outputs})"

    def _repr_html_(self) -> str:
        facts = {
            "network": self.net.label,
            "parameters": f"{self.net.num_parameters:,}",
            "classes": ", ".join(self.class_names),
        }
        trained = {"data": self.data.get("name"), "epoch": self.training.get("epoch"), "file": self.path}
        return render_facts(repr(self), facts | trained)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what decides an answer: architecture, numbers, classes and scaling. Equal exactly for equal models."""
        digest = hashlib.sha256(json.dumps([self.net.describe(), self.class_names], sort_keys=True).encode())
        for values in (self.params, self.preprocess.scale, self.preprocess.offset):
            digest.update(np.ascontiguousarray(values, np.float32).data)
        return digest.hexdigest()

    def logits(self, images: Any, *, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Network outputs (n, K) of pictures.

        Args:
            images: stored pictures (n, h, w), (n, h, w, c) or (n, features), or one of them, in the training's range and size; or
                a path, a Pillow picture or a list of these, which are brought to it.
            rows: which of them, in which order; None for all. The chosen ones are never copied together.

        Raises:
            DataError: the array is not sound, or not of the size trained on; a file that is no picture.
        """
        checked = self._read(images)
        self.preprocess.check_shape(checked)
        return self._predict(checked, rows)

    def _read(self, images: Any) -> NDArray[Any]:
        """Stored pixels of what `logits` takes."""
        if _are_pictures(images):
            return self.read_pictures([images] if _is_picture(images) else list(images))
        if isinstance(images, list | tuple) and any(map(_is_picture, images)):
            raise DataError("pictures must be files or arrays, got both in one list. Predict them apart.")
        return check_images(images[None] if self._is_one(images) else images)[0]

    def _is_one(self, images: Any) -> bool:
        """Whether this is a single picture, or row of features, of the shape trained on, and cannot be several."""
        p, shape = self.preprocess, getattr(images, "shape", ())
        if p.height == 1:
            return bool(shape == (p.num_inputs,))
        own = (p.height, p.width)
        return bool((shape == own and p.width != p.num_inputs) or (shape == (*own, p.channels) and shape[1:] != own))

    @cached_property
    def _predict(self) -> Predictor:
        params = self.params.astype(np.float64) if isinstance(self.net, MLP) else self.params
        return Predictor(self.net, params, self.preprocess)

    def _check_range(self, images: Any) -> NDArray[Any]:
        """The pictures as `logits` takes them, refused where they are plainly in other units than those trained on."""
        checked = self._read(images)
        if not _are_pictures(images):
            self.preprocess.check_range(checked)
        return checked

    def predict_proba(self, images: Any) -> NDArray[np.float32]:
        """Class probabilities (n, K), rows summing to 1.

        Raises:
            UsageError: the model predicts numbers, not classes. DataError: as `logits`, or pictures plainly in another
            range of values than those trained on.
        """
        if not self.class_names:
            raise UsageError("predict_proba must have a classifier, got a regression model. Use predict.")
        return self._finish(self.logits(self._check_range(images)))

    def _finish(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities (n, K), or numbers (n,), of outputs (n, K)."""
        if not self.class_names:
            return self.preprocess.restore_targets(logits[:, 0])
        return softmax(logits.astype(np.float64) / self.temperature).astype(np.float32)

    def find_sets(self, probabilities: NDArray[np.float32], *, level: float) -> list[list[str]]:
        """For each row of `predict_proba` the classes of a set that holds the true one with probability `level`.

        See `conformal_sets` for what that promises.

        Raises:
            UsageError: a level outside (0, 1), or too few held-out rows for it when the model was trained.
        """
        if not 0 < level < 1:
            raise UsageError(f"--sets must lie between 0 and 1, got {level}. For example 0.9.")
        inside = conformal_sets(probabilities, self.scores, level=level)
        if inside is None:
            raise UsageError(
                f"sets of level {level:g} must have {ceil(round(level / (1 - level), 9))} or more validation rows, got "
                f"{len(self.scores)} in training. Lower the level, or train with more validation rows."
            )
        return [[self.class_names[k] for k in np.flatnonzero(row)] for row in inside]

    def predict_and_compare(
        self, images: Any, *, known_units: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
        """Probabilities (n, K), or numbers (n,), and which pictures (n,) are far from those trained on.

        Far is what lies farther than `known.level` of the held-out pictures did; None for a model that remembers none or too few.
        `known_units` says that `read_pictures` gave these, so that dark ones are not taken for another range.

        Raises:
            DataError: as `predict_proba`.
        """
        logits, features = self._predict.outputs_and_features(
            self._read(images) if known_units else self._check_range(images)
        )
        known = self.known if self.known and self.known.can_tell else None
        far = None if known is None else known.measure(features) > known.threshold
        return self._finish(logits), far

    def features(self, images: Any, *, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """What enters the last layer, (n, F); for the arguments see `logits`."""
        checked = self._read(images)
        self.preprocess.check_shape(checked)
        return self._predict.outputs_and_features(checked, rows)[1]

    def predict(self, images: Any) -> NDArray[Any]:
        """Class names (n,), or numbers (n,) float32 for regression; of pictures as `logits` takes them.

        Raises: as `predict_proba`.
        """
        logits = self.logits(self._check_range(images))
        if not self.class_names:
            return self._finish(logits)
        return np.asarray(np.array(self.class_names)[logits.argmax(axis=1)])

    def read_pictures(self, pictures: list[Any], *, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
        """Picture files or Pillow pictures as the stored pixels that this model takes, (n, H, W, C), read as for training.

        uint8 where the model's range is 0..255, else float32 scaled to that range.

        Raises:
            DataError: a file is missing, damaged, too large or no picture; or the model takes rows of features.
        """
        found = [Path(one) if isinstance(one, str) else one for one in pictures]
        return np.stack([read_picture(one, self.preprocess, max_pixels=max_pixels) for one in found])

    def save(self, path: str | Path, *, examples: NDArray[Any]) -> None:
        """Write a `.clearsight` zip, whole or not at all; with a folder's path (no suffix), a folder of the two files.

        Args:
            path: where to.
            examples: pictures as `logits` takes them; the first three and their outputs become the self-test.

        Raises:
            OSError: the disk is full or the place not writable; what stood there before is intact.
        """
        path = Path(path)
        size = (-1, self.preprocess.height, self.preprocess.width, self.preprocess.channels)
        shown = self.preprocess.check_shape(check_images(examples[:SELF_TEST_ROWS])[0]).reshape(size)
        tensors: dict[str, NDArray[Any]] = {
            "preprocess.scale": self.preprocess.scale,
            "preprocess.offset": self.preprocess.offset,
            "selftest.inputs": shown,
            "selftest.outputs": self.logits(shown),
            **self.net.tensors(self.params),
        }
        if len(self.scores):
            tensors["calibration.scores"] = self.scores
        if self.known is not None:
            tensors |= {"known.features": self.known.features, "known.distances": self.known.distances}
        description = {
            "format": "clearsight-model",
            "version": FORMAT_VERSION,
            "clearsight": __version__,
            "architecture": self.net.describe(),
            "class_names": list(self.class_names),
            "preprocess": self.preprocess.settings(),
            "temperature": self.temperature,
            "data": self.data,
            "training": self.training,
        }
        members = {TENSORS: pack_tensors(tensors), DESCRIPTION: json.dumps(description, indent=1).encode()}
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, pack_zip(members))
            return
        path.mkdir(parents=True, exist_ok=True)
        for name, content in members.items():
            write_durably(path / name, content)


def _are_pictures(images: Any) -> bool:
    """Whether these are files or Pillow pictures, whose units are known."""
    return _is_picture(images) or (
        isinstance(images, list | tuple) and len(images) > 0 and all(map(_is_picture, images))
    )


def _is_picture(value: Any) -> bool:
    """Whether this is a path or a Pillow picture; nobody has one of those before Pillow is loaded."""
    pillow = sys.modules.get("PIL.Image")
    return isinstance(value, str | Path) or (pillow is not None and isinstance(value, pillow.Image))


def read_picture(picture: Any, preprocess: Preprocess, *, what: str = "", max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """A picture as (H, W, C) in a model's size and value range; see `Bundle.read_pictures`.

    Args:
        picture: a path, a file's bytes, or a Pillow picture. what: how errors call it; by default its path.
    """
    what = what or (str(picture) if isinstance(picture, Path) else "the picture")
    if preprocess.height == 1:
        raise DataError(f"{what} must be a row of numbers for this model, got a picture. Pass a .npy array.")
    if preprocess.channels not in (1, 3):
        raise DataError(f"{what} must give {preprocess.channels} channels, got a picture file. Pass a .npy array.")
    if isinstance(picture, Path):
        check_file(picture)
    with calm_decoder():
        pixels = decode_picture(picture, what, preprocess.picture_format, max_pixels=max_pixels)
    low, high = preprocess.low, preprocess.high
    return pixels if (low, high) == (0.0, 255.0) else (low + pixels * ((high - low) / 255)).astype(np.float32)
