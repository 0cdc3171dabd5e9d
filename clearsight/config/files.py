"""Settings in and out: TOML and JSON files, `--set`, layers over each other, differences. It must not know what they mean."""

import difflib
import json
import tomllib
from numbers import Integral
from pathlib import Path
from typing import Any, get_args

from clearsight.config.schema import Activation, RunConfig, build_config, known_keys
from clearsight.errors import UsageError


def merge(*layers: dict[str, Any]) -> dict[str, Any]:
    """Nested values, later layers over earlier ones."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = merge(merged[key], value) if both else value
    return merged


def nest(key: str, value: Any) -> dict[str, Any]:
    """`train.lr`, 0.1 as {"train": {"lr": 0.1}}."""
    value = str(value) if isinstance(value, Path) else value
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def resolve_config(
    config: RunConfig | str | Path | dict[str, Any] | None, settings: dict[str, Any], *, base: RunConfig | None = None
) -> RunConfig:
    """A RunConfig from a file, a RunConfig or nested values, and flat settings over it (`epochs=3` is `train.epochs`).

    Raises:
        UsageError: an unknown setting (with the nearest known one) or a bad value.
    """
    layers: list[dict[str, Any]] = [base.model_dump(exclude_unset=True)] if base else []
    where = "the settings"
    if isinstance(config, str | Path):
        where = f"{config} with the settings" if settings else str(config)
        layers.append(read_config_file(Path(config)))
    elif config is not None:
        if not isinstance(config, RunConfig | dict):
            got = type(config).__name__
            raise UsageError(f"config must be a RunConfig, a dict or a file, got {got}. Pass one of them.")
        layers.append(config.model_dump(exclude_unset=True) if isinstance(config, RunConfig) else config)
    layers += [expand_setting(name, value) for name, value in settings.items()]
    return build_config(merge(*layers), where=where)


def expand_setting(name: str, value: Any) -> dict[str, Any]:
    """A setting by its short name as nested values; `model="cnn"`, `augment="photo,hflip=0"` and `target="age"` as flags have it.

    Raises:
        UsageError: a text of `augment` that cannot be read.
    """
    if name == "model" and not isinstance(value, dict):
        return nest("model.family", value)
    if name == "augment" and isinstance(value, str):
        return merge(*(nest(key, one) for key, one in parse_augment(value).items()))
    if name == "target":
        return {"data": {"task": "regression", "label_column": value}}
    return nest(complete_key(name), value)


def parse_augment(text: str | None) -> dict[str, Any]:
    """`photo,hflip=0` as {"augment.preset": "photo", "augment.hflip": 0.0}."""
    found: dict[str, Any] = {}
    for word in text.split(",") if text else ():
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals:
            name, value = "preset", name
        if f"augment.{name}" in found:
            raise UsageError(f"--augment must name {name} once, got {text!r}. Remove one.")
        try:
            found[f"augment.{name}"] = value if name in ("preset", "fill", "unsafe") else float(value)
        except ValueError:
            raise UsageError(
                f"--augment must be a preset and NAME=NUMBER with commas between, got {word!r}. For example photo,hflip=0."
            ) from None
    return found


def complete_key(name: str) -> str:
    """`lr` as `train.lr`; what is no setting's short name as it is."""
    return next((key for key in known_keys() if key.split(".")[1] == name), name)


def parse_setting(text: str, *, short: bool = False) -> dict[str, Any]:
    """`train.lr=0.1` as nested values; the right side is read as TOML, or as a plain word. `short` allows `lr=0.1`.

    Raises:
        UsageError: no `=`, or an empty key.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set must be KEY=VALUE, got {text!r}. For example --set train.lr=0.1.")
    try:
        table = tomllib.loads(f"value = {value}")
        parsed = table["value"] if len(table) == 1 else value
    except (ValueError, RecursionError):
        parsed = value.strip()
    return expand_setting(key.strip(), parsed) if short else nest(key.strip(), parsed)


def read_config_file(path: Path) -> dict[str, Any]:
    """Nested values of a TOML or JSON file; the small JSON format with `layers` is translated.

    Raises:
        UsageError: missing, unreadable, or neither TOML nor JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"config must be a readable file, got {path}: {error.strerror}. Check the path.") from None
    except UnicodeDecodeError:
        raise UsageError(f"config must be UTF-8 text, got other bytes in {path}. Save it as UTF-8.") from None
    try:
        values = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"config must be TOML or JSON, got an error in {path}: {error}. Fix the file.") from None
    if not isinstance(values, dict):
        raise UsageError(f"config must be a table of sections, got a {type(values).__name__} in {path}. Fix the file.")
    return translate_small_format(values, path) if "layers" in values else values


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


def render_toml(config: RunConfig) -> str:
    """The configuration as TOML that reads back equal; unset values are left out."""
    lines = []
    for section, values in config.model_dump(mode="json", exclude_none=True).items():
        lines.append(f"[{section}]")
        lines += [
            f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
            for key, value in values.items()
        ]
        lines.append("")
    return "\n".join(lines)


def find_differences(old: RunConfig, new: RunConfig) -> list[str]:
    """Every key whose value differs, as `train.lr: 0.1 -> 0.2`."""
    before, after = old.model_dump(), new.model_dump()
    return [
        f"{section}.{key}: {before[section][key]} -> {value}"
        for section, values in after.items()
        for key, value in values.items()
        if before[section][key] != value
    ]


def check_count(name: str, value: object, *, least: int = 1) -> None:
    """Refuse what is no whole number, or too small a one.

    Raises:
        UsageError: so.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < least:
        raise UsageError(
            f"{name} must be a whole number of {least} or more, got {value!r}. Leave it out for the usual."
        )


def name_source(data: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Flat settings with the name or path that was given as data.

    Raises:
        UsageError: data given twice.
    """
    if data is not None and "source" in settings:
        raise UsageError(f"source must be left out beside data, got {settings['source']!r}. Give one of them.")
    return {"source": str(data), **settings} if isinstance(data, str | Path) else settings
