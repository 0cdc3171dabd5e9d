"""The page of all settings, made from the fields that define them."""

from typing import Any

from clearsight.config.schema import RunConfig

_HEAD = """# Settings

This page lists every setting of a run, by section. `clearsight config reference` generates it from the definitions of the
settings. In a TOML file, a setting belongs under `[section]`. On the command line, use its flag or `--set section.name=value`. In
Python, pass it to `clearsight.train` as an argument of the same name, except `model.family`, which is the argument `model`.
`clearsight config show` prints the values in force.
"""


def render_reference(flags: dict[str, str]) -> str:
    """The page as Markdown.

    Args:
        flags: of the command `train`, by setting, such as `train.lr`.
    """
    schema = RunConfig.model_json_schema()
    lines = [_HEAD]
    for section, at in schema["properties"].items():
        part = schema["$defs"][at["$ref"].rpartition("/")[2]]
        lines += [
            f"## {section}",
            "",
            part["description"],
            "",
            "| setting | flag | values | default | description |",
            "|-|-|-|-|-|",
        ]
        for name, field in part["properties"].items():
            flag = f"`{flags[key]}`" if (key := f"{section}.{name}") in flags else ""
            usual = _show(field.get("default"))
            cells = [f"`{name}`", flag, _describe(field, schema), usual, field.get("description", "")]
            lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _show(value: Any) -> str:
    if value is None:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _describe(field: dict[str, Any], schema: dict[str, Any]) -> str:
    """The values that a field takes, in words."""
    if "$ref" in field:
        return _describe(schema["$defs"][field["$ref"].rpartition("/")[2]], schema)
    if kinds := field.get("anyOf"):
        return " or ".join(dict.fromkeys(text for kind in kinds if (text := _describe(kind, schema))))
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    kind = field.get("type", "")
    if kind == "array":
        inner = field.get("items") or (field.get("prefixItems") or [{}])[0]
        return f"list of {_describe(inner, schema) or 'values'}"
    words = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "`true`, `false`",
        "object": "table",
    }
    return words.get(kind, "") + _describe_bounds(field)


def _describe_bounds(field: dict[str, Any]) -> str:
    """The limits of a number, as `, 0 to 1` or `, more than 0`."""
    low, above = field.get("minimum"), field.get("exclusiveMinimum")
    high, below = field.get("maximum"), field.get("exclusiveMaximum")
    parts = [
        *([f"{_number(low)} or more"] if low is not None and high is None else []),
        *([f"more than {_number(above)}"] if above is not None else []),
        *([f"{_number(low)} to {_number(high)}"] if low is not None and high is not None else []),
        *([f"at most {_number(high)}"] if high is not None and low is None else []),
        *([f"below {_number(below)}"] if below is not None else []),
    ]
    return "".join(f", {part}" for part in parts)


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"
