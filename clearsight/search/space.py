"""The space that a search moves in: which settings may take which values, from TOML or flags. It must not know searching."""

import json
import tomllib
from dataclasses import dataclass, field
from itertools import product
from math import inf, isfinite, prod
from typing import Any

from clearsight.config.build import find_near, known_keys, rename_key
from clearsight.config.files import merge, nest
from clearsight.errors import UsageError

KINDS = ("values", "range", "log", "int", "log_int")
Params = dict[str, Any]
_MOST_POINTS = 100_000


@dataclass(frozen=True)
class Choice:
    """One setting and what it may be.

    Args:
        key: `section.name`.
        kind: `values` for one of a list; `range` and `log` for a number between two, evenly or evenly on a log scale; `int` and
            `log_int` for whole ones.
        values: the list, or the two ends.
        when: other settings of the space by the values that call for this one; it is left out otherwise.
    """

    key: str
    kind: str
    values: tuple[Any, ...]
    when: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def applies(self, params: Params) -> bool:
        """Whether the settings chosen so far call for this one."""
        return all(params.get(key) in wanted for key, wanted in self.when.items())


@dataclass(frozen=True)
class Space:
    """Choices in an order in which each comes after those that it depends on."""

    choices: tuple[Choice, ...]

    @property
    def is_finite(self) -> bool:
        """Whether it can be searched through to the end."""
        return all(choice.kind == "values" for choice in self.choices)

    def points(self) -> list[Params]:
        """Every combination, the last setting changing fastest.

        Raises:
            UsageError: a setting is a range, or there are more than 100,000.
        """
        for choice in self.choices:
            if choice.kind != "values":
                raise UsageError(
                    f"strategy grid must have lists of values, got a {choice.kind} for {choice.key}. List values, or use "
                    "--strategy random or tpe."
                )
        if (count := self.most_points) > _MOST_POINTS:
            raise UsageError(f"a grid must have at most {_MOST_POINTS:,} points, got {count:,}. Use --strategy random.")
        found: dict[Any, Params] = {}
        for values in product(*(choice.values for choice in self.choices)):
            point: Params = {}
            for choice, value in zip(self.choices, values, strict=True):
                if choice.applies(point):
                    point[choice.key] = value
            found[repr(point)] = point  # a setting that does not apply makes several combinations one
        return list(found.values())

    @property
    def most_points(self) -> float:
        """Combinations at most: infinity where a setting is a range."""
        return prod(len(choice.values) for choice in self.choices) if self.is_finite else inf

    def describe(self) -> dict[str, Any]:
        """Plain values that `parse_space` reads back."""
        found = {}
        for choice in self.choices:
            value: dict[str, Any] = {choice.kind: list(choice.values)}
            found[choice.key] = value | ({"when": {k: list(v) for k, v in choice.when.items()}} if choice.when else {})
        return found


def to_settings(params: Params) -> dict[str, Any]:
    """`{"train.lr": 0.1}` as `{"train": {"lr": 0.1}}`."""
    return merge(*(nest(key, value) for key, value in params.items()))


def render_params(params: Params) -> str:
    """`lr=0.1 l2=0.001`, short names where they are clear."""
    return " ".join(f"{key.split('.')[1]}={_render(value)}" for key, value in params.items())


def _render(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def parse_space(table: dict[str, Any], flags: list[str]) -> Space:
    """A space from the table `[search]` of a file and from `--search` flags, which go over it.

    A flag is `KEY=V1,V2,...`, or `KEY=` and a value as in TOML: a list, or a table such as `{log = [1e-4, 1]}`.

    Raises:
        UsageError: an unknown key, no values, ends that do not rise, a dependence that is not there or goes round.
    """
    raw: dict[str, Any] = {}
    _flatten(table, "", raw)
    for text in flags:
        key, equals, value = text.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise UsageError(f"--search must be KEY=V1,V2, got {text!r}. For example --search train.lr=0.01,0.1.")
        raw[key.strip()] = _parse_flag(value.strip(), text)
    if not raw:
        raise UsageError(
            "a search must have settings to vary, got none. Give --search train.lr=0.01,0.1, or a table [search] in --config."
        )
    choices = [_parse_choice(rename_key(key), value) for key, value in raw.items()]
    return Space(_sort(choices))


def _flatten(table: dict[str, Any], prefix: str, found: dict[str, Any]) -> None:
    for name, value in table.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and "." not in key:
            _flatten(value, f"{key}.", found)
        else:
            found[key] = value


def _parse_flag(value: str, text: str) -> Any:
    try:
        if value[0] in "[{":
            return tomllib.loads(f"value = {value}")["value"]
        return [_parse_word(word.strip()) for word in value.split(",")]
    except ValueError:
        raise UsageError(
            f"--search must be a list or a table as in TOML, got {text!r}. For example {_EXAMPLE}."
        ) from None


_EXAMPLE = "--search 'train.lr={log = [1e-4, 1]}'"


def _parse_word(word: str) -> Any:
    try:
        return tomllib.loads(f"value = {word}")["value"]
    except ValueError:
        return word


def _parse_choice(key: str, value: Any) -> Choice:
    if key not in known_keys():
        near = find_near(key.split(".")[-1])
        advice = f"Did you mean {near}?" if near else "See `clearsight config show`."
        raise UsageError(f"search must vary known settings, got {key!r}. {advice}")
    if isinstance(value, list):
        value = {"values": value}
    wrong = UsageError(
        f"search of {key} must be a list of values or one of {', '.join(KINDS)}, got {value!r}. For example {_EXAMPLE}."
    )
    if not isinstance(value, dict):
        raise wrong
    when = value.get("when", {})
    kinds = [kind for kind in value if kind != "when"]
    if len(kinds) != 1 or kinds[0] not in KINDS or not isinstance(value[kinds[0]], list) or not isinstance(when, dict):
        raise wrong
    kind, values = kinds[0], tuple(_freeze(item) for item in value[kinds[0]])
    if kind == "values":
        if not values or any(a == b and type(a) is not bool for k, a in enumerate(values) for b in values[:k]):
            raise UsageError(f"search of {key} must have values, each once, got {list(values)}. Correct them.")
    else:
        numbers = len(values) == 2 and all(
            isinstance(v, int | float) and not isinstance(v, bool) and isfinite(v) for v in values
        )
        whole = all(isinstance(v, int) for v in values)
        if not numbers or values[0] >= values[1] or ("log" in kind and values[0] <= 0) or ("int" in kind and not whole):
            rule = f"two {'whole ' if 'int' in kind else ''}numbers{' above 0' if 'log' in kind else ''} that rise"
            raise UsageError(f"search of {key} must be {rule}, got {list(values)}. For example {_EXAMPLE}.")
    return Choice(
        key, kind, values, {k: tuple(_freeze(i) for i in (v if isinstance(v, list) else [v])) for k, v in when.items()}
    )


def _freeze(value: Any) -> Any:
    """Lists as tuples, which may be compared and kept."""
    return tuple(_freeze(item) for item in value) if isinstance(value, list) else value


def _sort(choices: list[Choice]) -> tuple[Choice, ...]:
    """Each after those that it depends on, otherwise in the order given."""
    known, waiting = {choice.key: choice for choice in choices}, list(choices)
    placed: list[Choice] = []
    for choice in choices:
        if lost := [key for key in choice.when if key not in known]:
            raise UsageError(
                f"when of {choice.key} must name settings that are searched, got {lost[0]}. Add it to the search."
            )
    for choice in choices:
        for key, wanted in choice.when.items():
            parent = known[key]
            if parent.kind != "values" or not set(wanted) <= set(parent.values):
                raise UsageError(
                    f"when of {choice.key} must name values that {key} takes, got {list(wanted)} for {parent.kind} "
                    f"{list(parent.values)}. Correct it."
                )
    while waiting:
        done = {choice.key for choice in placed}
        ready = next((choice for choice in waiting if set(choice.when) <= done), None)
        if ready is None:
            raise UsageError(
                f"when must not go round, got {', '.join(choice.key for choice in waiting)}. Take one out."
            )
        placed.append(ready)
        waiting.remove(ready)
    return tuple(placed)
