"""The small JSON format of a published study, translated to settings."""

import difflib
from pathlib import Path
from typing import Any, get_args

from clearsight.config.schema import Activation
from clearsight.errors import UsageError

_SMALL_KEYS = ("layers", "learning_rate", "epochs", "momentum", "batch_size")
_LAYER_KEYS = ("nodes", "activation")  # the last layer has no next one, so no activation
_SMALL_ACTIVATIONS = {a.replace("_", ""): a for a in get_args(Activation)} | {"linear": "identity"}


def translate_small_format(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The format `{"layers": [{"nodes": 784, "activation": "Sigmoid"}, ...], "learning_rate": 0.01, ...}`.

    An activation belongs to the step to the next layer; the gradient is summed over a batch (so the rate is that of the
    sum), weights move with momentum, all training rows are used. Source: the study "Machine Learning Part 7".

    Raises:
        UsageError: an unknown key or activation, or layers that are not a list of nodes.
    """
    layers = values["layers"]
    if (
        not isinstance(layers, list)
        or len(layers) < 2
        or not all(
            isinstance(layer, dict) and type(layer.get("nodes")) is int and layer["nodes"] > 0 for layer in layers
        )
    ):
        raise UsageError(
            f'layers must be a list of two or more {{"nodes": N, "activation": NAME}}, got another form in {path}. Fix it.'
        )
    given = [(key, _SMALL_KEYS) for key in values] + [(key, _LAYER_KEYS) for layer in layers[:-1] for key in layer]
    for key, known in [*given, *((key, _LAYER_KEYS[:1]) for key in layers[-1])]:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise UsageError(
                f"{path} must hold known keys, got {key!r}. {f'Did you mean {near[0]}?' if near else 'Remove it.'}"
            )
    names = [str(layer.get("activation", "")).lower().replace("_", "") for layer in layers[:-1]]
    if names[-1] not in ("softmax", ""):
        raise UsageError(
            f"the last activation must be Softmax, got {layers[-2]['activation']!r} in {path}. Correct it."
        )
    for name, layer in zip(names[:-1], layers, strict=False):
        if name not in _SMALL_ACTIVATIONS:
            raise UsageError(
                f"activation must be one of {', '.join(get_args(Activation))}, got {layer.get('activation')!r} in {path}. "
                "Correct it."
            )
    train = {"reduction": "sum", "optimizer": "momentum" if values.get("momentum") else "sgd"}
    for key, name in (
        ("learning_rate", "lr"),
        ("epochs", "epochs"),
        ("momentum", "momentum"),
        ("batch_size", "batch_size"),
    ):
        if key in values and not (key == "momentum" and not values[key]):
            train[name] = values[key]
    return {
        "data": {"valid_fraction": 0.0},
        "model": {
            "inputs": layers[0]["nodes"],
            "outputs": layers[-1]["nodes"],
            "hidden": [layer["nodes"] for layer in layers[1:-1]],
            "activation": [_SMALL_ACTIVATIONS[name] for name in names[:-1]],
        },
        "train": train,
    }
