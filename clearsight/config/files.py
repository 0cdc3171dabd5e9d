"""Settings in and out: TOML and JSON files, `--set`, layers over each other, differences. It must not know what they mean."""

import json
import tomllib
from numbers import Integral
from pathlib import Path
from typing import Any

from clearsight.config.build import OLD_KEYS, known_keys, rename_old
from clearsight.config.schema import RunConfig
from clearsight.config.small_format import translate_small_format
from clearsight.errors import UsageError


def merge(*layers: dict[str, Any]) -> dict[str, Any]:
    """Nested values, later layers over earlier ones."""
    merged: dict[str, Any] = {}
    for layer in map(rename_old, layers):
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
    """`lr` as `train.lr`, `tune`, which is an earlier name, as `model.finetune`; what is no setting's short name as it is."""
    if name in OLD_KEYS:
        return OLD_KEYS[name]
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
