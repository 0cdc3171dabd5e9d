"""Options of commands that are made from the settings: names, values, defaults and help stand in the schema of `RunConfig` alone.

`schema.json` beside `config/schema.py` is what `clearsight config schema` prints, so that help needs no pydantic. It must not
know what a setting means.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from clearsight.cli.options import OUTPUT, Config, Set, Target, parse_size
from clearsight.errors import UsageError

# Which settings have an option, most used first; the others are set by --set and by --config.
PANELS = {
    "Network": (
        "model.family", "model.pretrained", "model.finetune", "model.weights", "model.hidden", "model.activation", "model.bias",
        "model.init", "model.init_std",
    ),
    "Training": (
        "train.epochs", "train.batch_size", "train.optimizer", "train.lr", "train.schedule", "train.warmup_epochs",
        "train.momentum", "train.patience", "train.monitor", "train.loss", "train.class_weights", "train.sampling", "train.seed",
    ),
    "Regularisation": (
        "train.dropout", "train.weight_decay", "train.l2", "train.l1", "train.label_smoothing",
        "train.clip_norm", "train.ema", "train.lookahead", "train.layer_decay",
    ),
    "Pictures": (
        "augment.preset", "preprocess.image_size", "preprocess.resize", "preprocess.channels", "preprocess.background",
        "preprocess.scale",
    ),
    "Data": (
        "data.valid_fraction", "data.test_fraction", "data.group_by", "data.relabel", "data.label_column", "data.task",
        "data.skip_bad", "data.follow_links", "data.max_megapixels",
    ),
    "Machine": ("train.engine", "train.device", "train.precision", "train.compile", "train.accumulate"),
    "Checkpoints": ("train.checkpoint_steps", "train.keep_steps", "train.weight_history"),
}  # fmt: skip
SETTINGS = tuple(key for keys in PANELS.values() for key in keys)
MANY_RUNS = tuple(key for key in SETTINGS if key not in PANELS["Checkpoints"])
ONE_STEP = tuple(
    key for key in MANY_RUNS
    if key not in (
        "train.epochs", "train.lr", "train.schedule", "train.warmup_epochs", "train.patience", "train.monitor", "train.ema",
        "train.lookahead", "data.relabel",
    )
)  # fmt: skip
READING = ("preprocess.image_size", "preprocess.resize", "data.skip_bad", "data.follow_links", "data.max_megapixels")
_OLD = {"model.finetune": "--tune"}  # earlier names, which help leaves out
_NAMES = {"model.family": "model", "augment.preset": "augment"}  # of options that are not called like their setting
_WRITTEN = {
    "model.hidden": "For example 128,64; '' for none.",
    "model.activation": "For example tanh,relu for two layers.",
    "preprocess.image_size": "For example 64, or 48x64 (height x width).",
    "train.class_weights": "For example 1,2,1 for three classes.",
    "augment.preset": "May be followed by strengths, for example photo,hflip=0,rotate=20.",
}


class PanelCommand(TyperCommand):
    """A command whose help shows options in the panels that they name."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments, then each panel in the order in which its first option comes."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            if record := param.get_help_record(ctx):
                usual = "Arguments" if param.param_type_name == "argument" else "Options"
                usual = OUTPUT if param.name == "help" and OUTPUT in panels else usual
                names = re.sub(rf", ({'|'.join(_OLD.values())})\b", "", record[0])
                panels.setdefault(getattr(param, "rich_help_panel", None) or usual, []).append((names, record[1]))
        for title, records in panels.items():
            with formatter.section(title):
                formatter.write_dl(records)


def takes_settings(keys: Iterable[str] = SETTINGS, *, target: bool = True) -> Callable[[Callable[..., Any]], Any]:
    """Give a command the options of these settings, `--config` and `--set`; it receives all they say, nested, as `settings`.

    Args:
        keys: of settings, as `train.lr`; their options come in the order of `PANELS`.
        target: whether `--target` is one of them.
    """
    wanted = set(keys)
    options = [_make_parameter(key, panel) for panel, some in PANELS.items() for key in some if key in wanted]
    options += _make_shared(target=target)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())
        at = next(i for i, parameter in enumerate(own) if parameter.name == "settings")
        parameters = [one.replace(kind=one.KEYWORD_ONLY) for one in (*own[:at], *options, *own[at + 1 :])]

        def command(**values: Any) -> Any:
            given = {one.name: values.pop(one.name) for one in options}
            return function(**values, settings=_read(given))

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        return command

    return decorate


@cache
def read_schema() -> dict[str, Any]:
    """The JSON Schema of all settings."""
    found: dict[str, Any] = json.loads((Path(__file__).parents[1] / "config" / "schema.json").read_text("utf-8"))
    return found


def name_option(key: str) -> str:
    """`train.batch_size` as `--batch-size`."""
    return "--" + _NAMES.get(key, key.partition(".")[2]).replace("_", "-")


def _find_field(key: str) -> dict[str, Any]:
    section, _, name = key.partition(".")
    schema = read_schema()
    reference: str = schema["properties"][section]["$ref"]
    field: dict[str, Any] = schema["$defs"][reference.rpartition("/")[2]]["properties"][name]
    return field


def _make_parameter(key: str, panel: str) -> inspect.Parameter:
    """The option of a setting as a parameter, whose value is None where the option is not given."""
    field = _find_field(key)
    default, is_switch = field.get("default"), field.get("type") == "boolean"
    words = _list_words(field)
    facts = [", ".join(words)] if len(words) > 1 else []
    facts += [f"default: {default}"] if default is not None and not is_switch else []
    text = " ".join(part for part in (field["description"], _WRITTEN.get(key)) if part)
    inside = "; ".join(facts)
    names = (name_option(key), *([_OLD[key]] if key in _OLD else []))
    option = typer.Option(
        *names, help=f"{text} [{inside}]" if inside else text, show_default=False, rich_help_panel=panel,
        metavar=None if is_switch else _name_kind(key),
    )  # fmt: skip
    kind = bool if is_switch else str
    return inspect.Parameter(
        key.replace(".", "_"), inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _make_shared(*, target: bool) -> list[inspect.Parameter]:
    """--target, --config and --set, whose names no setting has."""
    kinds: dict[str, Any] = {"target": Target} if target else {}
    kinds |= {"config": Config, "set_": Set}
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in kinds.items()
    ]


def _list_words(field: dict[str, Any]) -> list[str]:
    """The words that a setting can be, if it must be one of some."""
    kinds = field.get("anyOf", [field])
    return [str(word) for kind in kinds for word in kind.get("enum", [kind["const"]] if "const" in kind else [])]


def _name_kind(key: str) -> str:
    if key == "preprocess.image_size":
        return "<size>"
    field = _find_field(key)
    kinds = {kind.get("type") for kind in field.get("anyOf", [field])}
    names = {"integer": "<int>", "number": "<float>", "array": "<list>"}
    return next((name for kind, name in names.items() if kind in kinds), "<str>")


def _read(given: dict[str, Any]) -> dict[str, Any]:
    """Nested settings of a file, options and `--set`, later ones over earlier ones.

    Raises:
        UsageError: `--target` beside options that it stands for.
    """
    from clearsight.config.files import merge, nest, parse_augment, parse_setting, read_config_file

    target, config, texts = given.pop("target", None), given.pop("config"), given.pop("set_")
    said = {key: given[key.replace(".", "_")] for key in SETTINGS if given.get(key.replace(".", "_")) is not None}
    if target and ("data.label_column" in said or "data.task" in said):
        raise UsageError("--target must stand alone, got --label-column or --task beside it. Leave those out.")
    if target:
        said |= {"data.task": "regression", "data.label_column": target}
    said |= parse_augment(said.pop("augment.preset", None))
    layers = [read_config_file(config)] if config else []
    layers += [nest(key, _parse(key, value)) for key, value in said.items()]
    return merge(*layers, *(parse_setting(text) for text in texts or ()))


def _parse(key: str, value: Any) -> Any:
    """A text as the number or list that its setting takes; what it must be otherwise is checked with all settings."""
    field = _find_field(key)
    kinds = [kind.get("type", "string") for kind in field.get("anyOf", [field])]
    if not isinstance(value, str):
        return value
    if key == "preprocess.image_size":
        return parse_size(value)
    if "array" in kinds and ("," in value or set(kinds) <= {"array", "null"}):
        return [word.strip() for word in value.split(",")] if value.strip() else []
    for kind, read in (("integer", int), ("number", float)):
        if kind in kinds:
            with suppress(ValueError):
                return read(value)
    return value
