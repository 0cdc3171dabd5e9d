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
from pydantic import ValidationError

from clearsight import __version__
from clearsight.bundle.archive import (
    DESCRIPTION,
    TENSORS,
    pack_tensors,
    pack_zip,
    parse_json,
    parse_tensors,
    read_members,
)
from clearsight.bundle.schema import Description
from clearsight.core.files import write_durably
from clearsight.core.numerics import softmax
from clearsight.data.dataset import check_images
from clearsight.data.preprocess import Preprocess
from clearsight.data.read.pictures import MAX_PIXELS, calm_decoder, check_file, decode_picture
from clearsight.engines.predictor import Predictor
from clearsight.errors import DataError, ModelFileError, UsageError
from clearsight.evaluation.calibration import conformal_sets
from clearsight.evaluation.novelty import Known
from clearsight.models.convnet import ConvNet
from clearsight.models.mlp import MLP, TRAINED

FORMAT_VERSION = 4  # 2: resizing and background of files; 3: convolutional nets; 4: confidence and known pictures
_SELF_TEST_TOLERANCE = 1e-4
_SELF_TEST_ROWS = 3
_FARTHEST = 2.001  # apart are two vectors of length 1
_OPTIONAL = ("calibration.scores", "known.features", "known.distances")


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
            images: stored pictures (n, h, w), (n, h, w, c) or (n, features), in the training's range and size; or a path, a
                Pillow picture or a list of these, which are brought to it.
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
        return check_images(images)[0]

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

    def look(self, images: Any, *, known_units: bool = False) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
        """Probabilities (n, K), or numbers (n,), and which pictures (n,) are far from those trained on.

        Far is what lies farther than `known.level` of the held-out pictures did; None for a model that remembers none or too few.
        `known_units` says that `read_pictures` gave these, so that dark ones are not taken for another range.

        Raises:
            DataError: as `predict_proba`.
        """
        logits, features = self._predict.look(self._read(images) if known_units else self._check_range(images))
        known = self.known if self.known and self.known.can_tell else None
        far = None if known is None else known.measure(features) > known.threshold
        return self._finish(logits), far

    def features(self, images: Any, *, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """What enters the last layer, (n, F); for the arguments see `logits`."""
        checked = self._read(images)
        self.preprocess.check_shape(checked)
        return self._predict.look(checked, rows)[1]

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
        shown = self.preprocess.check_shape(check_images(examples[:_SELF_TEST_ROWS])[0]).reshape(size)
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


def load(path: str | Path) -> Bundle:
    """Load a `.clearsight` file, a model folder, or the model of a run directory, and run its self-test.

    Raises:
        ModelFileError: missing, damaged, foreign, newer than this version, inconsistent, or failing its self-test.
    """
    place = Path(path)
    try:
        place = place.expanduser()
        if (place / "model.clearsight").is_file():
            place = place / "model.clearsight"
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, with a null byte, or of a user unknown
        reason = getattr(error, "strerror", None) or error
        raise ModelFileError(
            f"MODEL must be a path that can be used, got {str(path)[:80]!r}: {reason}. Check it."
        ) from None
    members = read_members(place)
    raw = parse_json(members[DESCRIPTION], what=f"{DESCRIPTION} of {place}")
    version = raw.get("version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise ModelFileError(
            f"{place} must have format version {FORMAT_VERSION} or less, got {str(version)[:40]!r}. "
            "Update clearsight or get the model again."
        )
    try:
        description = Description.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if "[" not in str(part))  # without kinds of types
        got = str(first["input"])[:80]
        raise ModelFileError(
            f"{DESCRIPTION} of {place} must be valid at {where} ({first['msg']}), got {got}. Get the model again."
        ) from None
    return _assemble(description, parse_tensors(members[TENSORS], what=f"{TENSORS} of {place}"), place)


def _assemble(description: Description, tensors: dict[str, NDArray[Any]], place: Path) -> Bundle:
    again = "Get the model again."
    settings = description.preprocess
    try:
        net = description.architecture.build()
    except UsageError as error:
        raise ModelFileError(f"{place}: {error}") from None
    outputs = len(description.class_names) or 1
    if net.outputs != outputs or len(set(description.class_names)) != len(description.class_names):
        raise ModelFileError(
            f"class_names of {place} must be {net.outputs} different names, one an output, got {description.class_names[:12]}. "
            f"{again}"
        )
    if (net.output == "softmax") != bool(description.class_names) or settings.low > settings.high:
        raise ModelFileError(
            f"{DESCRIPTION} of {place} must fit together, got output {net.output} for {outputs} outputs and pixels of "
            f"{settings.low}..{settings.high}. {again}"
        )
    size = settings.height * settings.width * settings.channels
    stored = (settings.height, settings.width, settings.channels)
    if net.num_inputs != size or (isinstance(net, ConvNet) and net.input_shape != stored):
        raise ModelFileError(f"the first layer must take {size} pixels, got {net.num_inputs} in {place}. {again}")
    wanted: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
        name: (shape, ("float32",)) for name, (shape, _) in net.layout().items()
    }
    wanted["preprocess.scale"] = wanted["preprocess.offset"] = ((size,), ("float32",))
    rows = len(tensors["selftest.inputs"]) if tensors.get("selftest.inputs", np.zeros(())).ndim == 4 else 0
    picture = (rows, settings.height, settings.width, settings.channels)
    wanted["selftest.inputs"] = (picture, ("float32", "uint8"))
    wanted["selftest.outputs"] = ((rows, outputs), ("float32",))
    for name in _OPTIONAL:
        if name in tensors:
            wanted[name] = (tensors[name].shape, ("float32",))
    if set(tensors) != set(wanted):
        odd = sorted(set(tensors) ^ set(wanted))[:5]
        raise ModelFileError(
            f"{TENSORS} of {place} must hold exactly the tensors of its architecture, got a difference: {odd}. {again}"
        )
    for name, (shape, dtypes) in wanted.items():
        if tensors[name].shape != shape or tensors[name].dtype.name not in dtypes:
            raise ModelFileError(
                f"tensor {name} of {place} must be {' or '.join(dtypes)} {shape}, got "
                f"{tensors[name].dtype} {tensors[name].shape}. {again}"
            )
    scores, known = _read_extras(tensors, net, place)
    params = np.empty(net.num_values, np.float32)
    for name, values in net.tensors(params).items():
        values[:] = tensors[name]
    red, green, blue = settings.background
    preprocess = Preprocess(
        **settings.model_dump(exclude={"background"}), scale=tensors["preprocess.scale"], offset=tensors["preprocess.offset"],
        background=(red, green, blue),
    )  # fmt: skip
    finite = all(np.isfinite(values).all() for values in (params, preprocess.scale, preprocess.offset))
    notes = () if finite else (f"{place} has weights that are not finite; its predictions mean nothing",)
    bundle = Bundle(
        net, params, tuple(description.class_names), preprocess, description.temperature,
        description.data, description.training, notes, place, scores, known,
    )  # fmt: skip
    _check_self_test(bundle, tensors["selftest.inputs"], tensors["selftest.outputs"], place)
    return bundle


def _read_extras(
    tensors: dict[str, NDArray[Any]], net: MLP | ConvNet, place: Path
) -> tuple[NDArray[np.float32], Known | None]:
    """Scores and known pictures of a model, if it has them."""
    nothing = np.zeros(0, np.float32)
    scores, features, distances = (tensors.get(name, nothing) for name in _OPTIONAL)
    flat = all(
        values.ndim == 1 and bool((np.diff(values) >= 0).all() and ((values >= 0) & (values <= most)).all())
        for values, most in ((scores, 1.0), (distances, _FARTHEST))
    )
    width = (
        net.sizes[-2]
        if isinstance(net, MLP)
        else [s for s, kind in net.layout().values() if len(s) == 2 and kind == TRAINED][-1][1]
    )
    sound = features.ndim == 2 and features.shape[1] == width and len(features) > 0 and len(distances) > 0
    sound = sound and bool((np.abs(features) <= 1 + 1e-4).all())
    if not flat or not (sound or len(features) == len(distances) == 0):
        raise ModelFileError(
            f"{', '.join(_OPTIONAL)} of {place} must be sorted, of lengths in bounds and belong together, got something else. "
            "Get the model again."
        )
    return scores, Known(features, distances) if sound else None


def _check_self_test(bundle: Bundle, inputs: NDArray[Any], outputs: NDArray[np.float32], place: Path) -> None:
    """Refuse a file whose outputs on its own examples are not those that were written with it."""
    if not 1 <= len(inputs) <= _SELF_TEST_ROWS:
        raise ModelFileError(
            f"{place} must hold 1 to {_SELF_TEST_ROWS} examples for its self-test, got {len(inputs)}. Get the model again."
        )
    with np.errstate(all="ignore"):
        got = bundle.logits(inputs)
        size = float(np.nanmax(np.abs(outputs), initial=1.0))
        same = np.isclose(got, outputs, rtol=_SELF_TEST_TOLERANCE, atol=_SELF_TEST_TOLERANCE * size, equal_nan=True)
        worst = float(np.nanmax(np.abs(got - outputs), initial=0.0))
    if not same.all():
        by = f"by {worst:.3g}" if worst else "in being finite"
        raise ModelFileError(
            f"{place} must pass its self-test, got outputs that differ {by}. The file is damaged; get it again."
        )
