"""A checked RunConfig from nested plain values, with the defaults for pretrained nets; every error names its setting.

It must not know where the values were written (`files` does).
"""

import difflib
import re
from typing import Any

from pydantic import BaseModel, ValidationError

from clearsight.config.families import shorten
from clearsight.config.schema import PRETRAINED_DEFAULTS, RunConfig
from clearsight.core.timm_library import describe_pictures
from clearsight.errors import UsageError

_PRETRAINED_PICTURES = {"image_size": 224, "channels": "rgb"}


OLD_KEYS = {"tune": "model.finetune"}  # short names that settings once had


def rename_key(key: str) -> str:
    """`model.tune`, an earlier name, as `model.finetune`; any other key as it is."""
    section, _, name = key.partition(".")
    new = OLD_KEYS.get(name, "")
    return new if new.startswith(f"{section}.") else key


def rename_old(values: dict[str, Any]) -> dict[str, Any]:
    """Nested values with today's names of settings in the place of earlier ones, which stay in use."""
    renamed = dict(values)
    for old, key in OLD_KEYS.items():
        section, _, name = key.partition(".")
        given = renamed.get(section)
        if isinstance(given, dict) and old in given:
            renamed[section] = {name if one == old else one: value for one, value in given.items()}
    return renamed


def known_keys() -> list[str]:
    """Every key as `section.name`."""
    return [
        f"{section}.{key}"
        for section, info in RunConfig.model_fields.items()
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
        for key in info.annotation.model_fields
    ]


def build_config(values: dict[str, Any], *, where: str = "the configuration", fill: bool = True) -> RunConfig:
    """A checked RunConfig from nested plain values; `fill` puts in the defaults for pretrained nets where nothing is said.

    Raises:
        UsageError: an unknown key, with the nearest known one, or a value outside its type or range.
    """
    try:
        config = RunConfig.model_validate(rename_old(values))
        return _fill_pretrained(config) if fill else config
    except ValidationError as error:
        first, *others = error.errors()
        if isinstance(said := first.get("ctx", {}).get("error"), UsageError):
            raise said from None
        location = [str(part) for part in first["loc"]]
        key = ".".join(location[:2])
        if first["type"] == "extra_forbidden":
            near = find_near(location[-1])
            advice = f"Did you mean {near}?" if near else "See `clearsight config show`."
            raise UsageError(f"{where} must hold known keys, got {shorten(repr(key))}. {advice}") from None
        same = [one for one in others if one["loc"][:2] == first["loc"][:2]]  # of a setting that can be several things
        rule = " or ".join(dict.fromkeys(_name_rule(one["msg"]) for one in (first, *same))).replace(" or be ", " or ")
        raise UsageError(
            f"{key} must {rule}, got {shorten(repr(first['input']))} in {where}. `clearsight config schema` says what each "
            "setting takes."
        ) from None


def _name_rule(message: str) -> str:
    """What pydantic says of a value, as what it must be."""
    rule = re.sub(r"^\w+ should |, unable to parse string as an? \w+$", "", message)
    return rule if rule != message else f"be valid ({rule[0].lower() + rule[1:]})"


def _fill_pretrained(config: RunConfig) -> RunConfig:
    """The defaults for pretrained weights, where they are and nothing else is said; they still count as not said."""
    if not config.model.pretrained:
        return config
    chosen = PRETRAINED_DEFAULTS[config.depth]
    wanted = chosen | {"preprocess": _describe_pictures(config) | chosen.get("preprocess", {})}
    judged_apart = config.data.valid_fraction > 0 and config.data.folds is None  # a fold must not choose what it judges
    if config.depth == "all" and judged_apart:  # the best epoch is kept
        said = "epochs" in config.train.model_fields_set
        wanted["train"] = wanted["train"] | {"patience": config.train.epochs if said else wanted["train"]["epochs"]}
    sections = {}
    for section, values in wanted.items():
        part: BaseModel = getattr(config, section)
        unsaid = {key: value for key, value in values.items() if key not in part.model_fields_set}
        sections[section] = type(part).model_construct(part.model_fields_set, **dict(part) | unsaid)
    return RunConfig.model_construct(config.model_fields_set, **dict(config) | sections)


def _describe_pictures(config: RunConfig) -> dict[str, Any]:
    """Pictures as the weights were learnt on."""
    family = config.network
    if family.library is None:
        return _PRETRAINED_PICTURES | {"scale": family.scale}
    facts = describe_pictures(family.name)
    if "scale" not in facts and "scale" not in config.preprocess.model_fields_set:
        raise UsageError(
            f"preprocess.scale must be chosen for {family.name}, got none: its weights want pictures scaled in a way of their "
            "own. Set the nearest, as --set preprocess.scale=imagenet."
        )
    return _PRETRAINED_PICTURES | facts


_OTHER_NAMES = {
    "learning_rate": "train.lr", "layers": "model.hidden", "units": "model.hidden", "wd": "train.weight_decay",
}  # fmt: skip


def find_near(name: str) -> str:
    """The key or section whose name is most like `name`; empty if none is."""
    names = {key.split(".")[1]: key for key in known_keys()} | {s: s for s in RunConfig.model_fields} | _OTHER_NAMES
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return names[near[0]] if near else ""
