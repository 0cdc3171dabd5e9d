"""The page of settings is made from their definitions, and is current."""

import re
from pathlib import Path

from clearsight.config.build import known_keys
from clearsight.config.reference import render_reference
from clearsight.config.schema import RunConfig

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "settings.md"


def test_the_page_in_the_documentation_is_current(call, capsys):
    assert call("config", "reference") == 0
    assert capsys.readouterr().out == PAGE.read_text(), (
        "write it anew: clearsight config reference > docs/reference/settings.md"
    )


def test_every_setting_is_there_once_with_what_it_is():
    text = PAGE.read_text()
    found = []
    for section in text.split("\n## ")[1:]:
        name = section.partition("\n")[0]
        for row in re.findall(r"^\| `.*\|$", section, re.MULTILINE):
            setting, _, _, _, text = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
            found.append(f"{name}.{setting.strip('`')}")
            assert text, row
    assert found == known_keys()


def test_flags_values_and_defaults_are_those_of_the_program():
    text = PAGE.read_text()
    for row in (
        "| `lr` | `--lr` | number, 0 or more or `auto` |",
        "| `family` | `--model` |",
        "| `l1` | `--l1` | number, 0 or more | `0.0` |",
        "| `preset` | `--augment` | `none`, `light`, `photo`, `digits`, `counting` | `none` |",
        f"| `epochs` | `--epochs` | whole number, 1 to 1,000,000,000 | `{RunConfig().train.epochs}` |",
        "| `resize` | `--resize` | `squash`, `crop`, `pad` | `squash` |",
    ):
        assert row in text, row
    assert "| `check` |  |" in render_reference({})
