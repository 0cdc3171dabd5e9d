"""The page about `--json`: each command that it shows is run in one folder, in order, and prints what the page says of it.

A page of these sections, by their headings: a command line, an example of what it prints, and a table of its keys. In an example,
lists are shortened, and `{}` stands for an object that the table's row of that key links to.
"""

import json
import re
import shlex
from dataclasses import dataclass, field
from dataclasses import replace as change
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run
from file_server import BODY, Server, build_remote
from PIL import Image
from sklearn.datasets import load_digits

from clearsight.cli.main import COMMANDS, load_command
from clearsight.data.named import fetch
from clearsight.recipes import searches

pytest.importorskip("torch", reason="`models` counts by PyTorch")
pytest.importorskip("optuna", reason="`tune` searches by Optuna")

pytestmark = pytest.mark.long
DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "json.md").read_text()
EXIT = {"doctor": 4}  # others end with 0
WITHOUT_FLAG = {"config schema"}  # prints JSON and nothing else
ALL_OF = "..."  # a row for all keys of another section


@dataclass
class Section:
    """What stands under a heading: a command line, the object in its example, and the meaning of each key."""

    title: str
    level: int
    line: str = ""
    example: Any = None
    rows: dict[str, str] = field(default_factory=dict)

    @property
    def anchor(self) -> str:
        return re.sub(r"[^\w -]", "", self.title.lower()).replace(" ", "-")


def read_page() -> list[Section]:
    found = []
    for level, title, text in re.findall(r"^(##+) (.+)\n((?:(?!^##+ ).*\n)*)", PAGE, re.MULTILINE):
        section = Section(title.replace("`", ""), len(level))
        if line := re.search(r"```sh\n(.*)\n```", text):
            section.line = line[1]
            (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
            section.example = json.loads(example)
        for key, meaning in re.findall(r"^\| `(.+?)` \| (.+) \|$", text, re.MULTILINE):
            assert key not in section.rows, (title, key)
            section.rows[key] = meaning
        found.append(section)
    return found


SECTIONS = read_page()
BY_ANCHOR = {section.anchor: section for section in SECTIONS}
SHOWN = [section for section in SECTIONS if section.line]


def list_commands() -> list[str]:
    """All that print JSON, in the order of the help."""
    found = []
    for name in COMMANDS:
        command = load_command(name)
        for part, leaf in getattr(command, "commands", {"": command}).items():
            full = f"{name} {part}".strip()
            if full in WITHOUT_FLAG or any("--json" in param.opts for param in leaf.params):
                found.append(full)
    return found


# What is run


def fill(folder: Path) -> None:
    """The user's files that the page speaks of."""
    rng, digits = np.random.default_rng(0), load_digits().images
    for name, picture in (("seven.png", digits[7]), ("three.jpg", digits[3])):
        Image.fromarray((picture * 15).astype(np.uint8)).save(folder / name, format="PNG")
    for k, name in enumerate(("cat", "dog")):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(20):
            noise = rng.integers(0, 120, (24, 24, 3)).astype(np.uint8)
            noise[:, :, k] += 120
            Image.fromarray(noise).save(folder / "photos" / name / f"{i}.png")
    (folder / "photos" / "dog" / "copy.png").write_bytes((folder / "photos" / "dog" / "0.png").read_bytes())
    pixels = rng.integers(0, 256, (80, 16))
    names = ",".join([*(f"p{i}" for i in range(16)), "mean"])
    rows = np.column_stack([pixels, pixels.mean(axis=1)])
    np.savetxt(folder / "grey.csv", rows, fmt="%g", delimiter=",", header=names, comments="")


def load_small_search(name: str) -> Any:
    """The published search with the digits in the place of its pictures, an epoch a run."""
    recipe = load_search(name)
    config = {
        "data": {"source": "digits"},
        "model": {"hidden": [8]},
        "train": {"epochs": 1, "batch_size": 100, "optimizer": "sgd"},
    }
    return recipe and change(recipe, config=config, final={}, options=recipe.options | {"workers": 1})


load_search = searches.load_search


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What each command printed, by the heading of its section."""
    folder, server = tmp_path_factory.mktemp("page"), Server(BODY)
    fill(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEARSIGHT_CACHE", "cache")
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv(fetch.MIRROR_VARIABLE, server.url)
        patch.setitem(fetch.REMOTE, "mnist", build_remote(BODY))
        patch.setattr(searches, "load_search", load_small_search)
        run("train", "digits", "--lr", "0.3", "--epochs", "5", "--out", "runs/steep", cwd=folder)
        found = {section.title: run(*shlex.split(section.line)[1:], cwd=folder) for section in SHOWN}
    server.close()
    return found


# How it is compared


def find_kind(value: Any) -> Any:
    """What can be compared of a value: keys with their kinds, the kind of a list's items taken together, or a word."""
    if isinstance(value, dict):
        return {key: find_kind(one) for key, one in value.items()}
    if isinstance(value, list):
        kind = None
        for one in value:
            kind = merge(kind, find_kind(one))
        return [kind] if value else []
    if value is None:
        return None
    return {bool: "truth", str: "text"}.get(type(value), "number")


def merge(a: Any, b: Any) -> Any:
    """The kind of two items of one list; null goes with anything."""
    if a is None or b is None:
        return a if b is None else b
    if isinstance(a, dict) and isinstance(b, dict):
        return {key: merge(a.get(key), b.get(key)) for key in {**a, **b}}
    if isinstance(a, list) and isinstance(b, list):
        return [merge(a[0], b[0])] if a and b else a or b
    return " or ".join(sorted({*a.split(" or "), *b.split(" or ")}))


def find_differences(page: Any, real: Any, path: str, linked: set[str]) -> list[str]:
    """Where an example and what was printed are not built alike; null goes with anything.

    Args:
        linked: paths of objects that another section shows.
    """
    if page is None or real is None or (page == {} and isinstance(real, dict) and path in linked):
        return []
    if isinstance(page, dict) and isinstance(real, dict):
        differ = [f"{path or 'top'}: {key}" for key in page.keys() ^ real.keys()]
        inside = (
            find_differences(page[k], real[k], f"{path}.{k}".lstrip("."), linked) for k in page.keys() & real.keys()
        )
        return differ + [text for found in inside for text in found]
    if isinstance(page, list) and isinstance(real, list):
        if not page or not real:
            return [] if page == real else [f"{path}: one of them is empty"]
        return find_differences(page[0], real[0], f"{path}[]", linked)
    return [] if page == real else [f"{path}: {page} on the page, {real} printed"]


def walk(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Each key with its value, by its path from the top: `trials[].params.lr`."""
    found = []
    if isinstance(value, dict):
        for key, one in value.items():
            inside = f"{path}\0{key}".lstrip("\0")
            found += [(inside, one), *walk(one, inside)]
    elif isinstance(value, list):
        for one in value:
            found += walk(one, f"{path}[]")
    return found


@cache
def build_pattern(row: str) -> re.Pattern[str]:
    """A row's path; `<class>` in it stands for any key. Keys may hold full stops, so another sign parts them."""
    parts = [re.escape(part) for part in re.split(r"<\w+>|\.", row)]
    signs = re.findall(r"<\w+>|\.", row)
    return re.compile(
        "".join(a + ("\0" if b == "." else "[^\0]+?" if b else "") for a, b in zip(parts, [*signs, ""], strict=True))
    )


USED: set[tuple[str, str]] = set()  # rows that told of something printed


def find_meaning(section: Section, path: str) -> str | None:
    """The text about a key, in the section or one that it links to; None where there is none."""
    for row, meaning in section.rows.items():
        if build_pattern(row).fullmatch(path):
            USED.add((section.title, row))
            return meaning
    for row, meaning in sorted(section.rows.items(), key=lambda item: -len(item[0])):
        rest = path if row == ALL_OF else None
        if row != ALL_OF and (start := build_pattern(row).match(path)):
            rest = path[start.end() :]
            if not re.match(r"(\[\])*\0", rest):
                continue
            rest = rest.lstrip("[]\0")
        if rest is None:
            continue
        for target in re.findall(r"\]\(([^)]+)\)", meaning):
            if (found := find_elsewhere(target, rest, meaning)) is not None:
                USED.add((section.title, row))
                return found
    return None


def find_elsewhere(target: str, path: str, meaning: str) -> str | None:
    """The text about a key where a link leads: a section; or the link's own, for another page with that key and for a standard."""
    if target.startswith("https://"):
        return meaning
    if target.startswith("#"):
        return find_meaning(BY_ANCHOR[target[1:]], path)
    rows = re.findall(r"^\| `(\w+)` \|.*\|$", (DOCS / target).read_text(), re.MULTILINE)
    return meaning if path.split("\0")[-1] in rows else None


# The tests


def test_the_page_has_a_heading_for_each_command_in_the_order_of_the_help():
    commands = list_commands()
    assert [section.title for section in SECTIONS if section.level == 2] == [*commands, "Shared objects"]


def test_every_command_has_an_example_under_its_heading():
    command, shown = "", set()
    for section in SECTIONS:
        command = section.title if section.level == 2 else command
        if section.line:
            assert section.line.startswith(f"clearsight {command}"), section.title
            shown.add(command)
    assert shown == set(list_commands())


def test_links_lead_to_sections_and_pages():
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        page, _, anchor = target.partition("#")
        assert page.startswith("https://") or (DOCS / page).exists(), target
        assert not anchor or anchor in BY_ANCHOR, target


@pytest.mark.parametrize("section", SHOWN, ids=lambda section: section.title)
def test_a_command_prints_one_object_built_as_its_example(section, printed):
    done = printed[section.title]
    assert done.returncode == EXIT.get(section.title, 0), done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    linked = {row.replace("\0", ".") for row, meaning in section.rows.items() if "](" in meaning}
    assert find_differences(find_kind(section.example), find_kind(found), "", linked) == []


@pytest.mark.parametrize("section", SHOWN, ids=lambda section: section.title)
def test_every_key_that_is_printed_is_explained_and_null_where_it_may_be(section, printed):
    for path, value in walk(json.loads(printed[section.title].stdout)):
        meaning, name = find_meaning(section, path), path.replace("\0", ".")
        assert meaning, name
        assert value is not None or "null" in meaning, f"{name} is null"


def test_every_key_that_is_explained_is_printed_or_said_to_be_rare(printed):
    for section in SHOWN:
        for path, _ in walk(json.loads(printed[section.title].stdout)):
            find_meaning(section, path)
    for section in SECTIONS:
        for row, meaning in section.rows.items():
            assert (section.title, row) in USED or "Only " in meaning, f"{section.title}: {row}"
