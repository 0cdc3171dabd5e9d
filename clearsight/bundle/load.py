"""Loading a model file: every part is checked before it is used, and the self-test is run at every load."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from clearsight.bundle.archive import DESCRIPTION, RUN_MODEL, TENSORS, parse_json, parse_tensors, read_members
from clearsight.bundle.bundle import FORMAT_VERSION, SELF_TEST_ROWS, Bundle
from clearsight.bundle.schema import Description
from clearsight.data.preprocess import Preprocess
from clearsight.errors import ModelFileError, UsageError
from clearsight.evaluation.novelty import Known
from clearsight.models.convnet import ConvNet
from clearsight.models.mlp import MLP, TRAINED

_SELF_TEST_TOLERANCE = 1e-4
_FARTHEST = 2.001  # apart are two vectors of length 1
_OPTIONAL = ("calibration.scores", "known.features", "known.distances")


def load(path: str | Path) -> Bundle:
    """Load a `.clearsight` file, a model folder, or the model of a run directory, and run its self-test.

    Raises:
        ModelFileError: missing, damaged, foreign, newer than this version, inconsistent, or failing its self-test.
    """
    place = Path(path)
    try:
        place = place.expanduser()
        if (place / RUN_MODEL).is_file():
            place = place / RUN_MODEL
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
    if not 1 <= len(inputs) <= SELF_TEST_ROWS:
        raise ModelFileError(
            f"{place} must hold 1 to {SELF_TEST_ROWS} examples for its self-test, got {len(inputs)}. Get the model again."
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
