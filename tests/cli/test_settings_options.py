"""Options made from settings: each says what `--set` says, and help shows what the settings state, in panels."""

import json
import re
from pathlib import Path

import pytest
import typer
from commands import walk_commands
from settings_table import CASES

from clearsight.cli.settings import PANELS, SETTINGS, PanelCommand, name_option, read_schema, takes_settings
from clearsight.config.build import build_config, known_keys
from clearsight.config.schema import RunConfig

MORE = {
    "model.hidden": [[7, 5], []], "model.activation": [["tanh", "relu"]], "preprocess.image_size": [[12, 16]],
    "train.class_weights": ["balanced", [1.0, 2.0]], "train.lr": ["auto"], "train.l2": ["auto"], "model.family": ["timm:resnet18"],
}  # fmt: skip


def ask(*words, **choices):
    """Settings that a command receives which takes them all."""
    received = {}

    @takes_settings(**choices)
    def command(*, settings):
        received.update(settings)

    alone = typer.Typer(rich_markup_mode=None)
    alone.command(cls=PanelCommand)(command)
    typer.main.get_command(alone)([str(word) for word in words], standalone_mode=False)
    return received


def write(key, value):
    if key == "preprocess.image_size" and isinstance(value, list):
        return "x".join(map(str, value))
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key in SETTINGS for value in (CASES[key][0], *MORE.get(key, []))]
)
def test_an_option_says_what_set_says(key, value):
    words = [name_option(key)] if value is True else [name_option(key), write(key, value)]
    by_option, by_set = ask(*words), ask("--set", f"{key}={json.dumps(value)}")
    section, _, name = key.partition(".")
    fill = {"fill": False}  # weights of a library need not be there
    found = getattr(getattr(build_config(by_option, **fill), section), name)
    assert found == getattr(getattr(build_config(by_set, **fill), section), name)
    assert found != getattr(getattr(RunConfig(), section), name) or value == []
    assert list(by_option) == [section]
    assert list(by_option[section]) == [name]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--hidden", "5,,6"), "model.hidden must be a valid integer, got '' in the settings."),
        (("--class-weights", ","), "train.class_weights must be 'none' or 'balanced' or a valid number, got ['', '']"),
        (
            ("--class-weights", "1,b"),
            "train.class_weights must be 'none' or 'balanced' or a valid number, got ['1', 'b']",
        ),
        (("--lr", "fast"), "train.lr must be a valid number or 'auto', got 'fast' in the settings."),
        (("--epochs", "1e3"), "train.epochs must be a valid integer, got '1e3' in the settings."),
        (("--momentum", "nan"), "train.momentum must be a finite number, got nan in the settings."),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_the_name_of_its_setting(words, text, call, capsys):
    assert call("train", "digits", *words) == 2
    assert text in capsys.readouterr().err


def test_later_layers_win_and_nothing_is_said_unasked(tmp_path):
    (tmp_path / "c.toml").write_text("[train]\nepochs = 2\nlr = 0.5\nl2 = 0.25\n")
    assert ask() == {}
    found = ask("--epochs", 3, "--lr", 0.125, "--config", tmp_path / "c.toml", "--set", "train.epochs=4")
    assert build_config(found).train.epochs == 4
    assert (build_config(found).train.lr, build_config(found).train.l2) == (0.125, 0.25)


@pytest.mark.parametrize("words", [("--tune", "last"), ("--finetune", "last"), ("--set", "model.tune=last")])
def test_an_earlier_name_of_a_setting_stays_in_use(words):
    assert ask(*words)["model"] == {"finetune": "last"}
    assert build_config(ask(*words)).model.finetune == "last"


def test_an_option_goes_over_a_file_that_has_the_earlier_name(tmp_path):
    (tmp_path / "c.toml").write_text('[model]\npretrained = true\ntune = "all"\n')
    assert build_config(ask("--config", tmp_path / "c.toml", "--finetune", "last")).model.finetune == "last"


def test_only_the_settings_that_a_command_names_are_its_options():
    assert ask("--epochs", 3, keys=("train.epochs",), target=False) == {"train": {"epochs": 3}}
    for words in (("--lr", 0.1), ("--target", "size")):
        with pytest.raises(Exception, match="No such option"):
            ask(*words, keys=("train.epochs",), target=False)


def test_the_schema_that_options_are_made_from_is_current():
    file = Path(__file__).parents[2] / "clearsight" / "config" / "schema.json"
    assert read_schema() == RunConfig.model_json_schema(), f"write it anew: clearsight config schema > {file}"
    assert set(SETTINGS) < set(known_keys())
    assert len(SETTINGS) == len(set(SETTINGS))


def test_help_shows_panels_values_and_defaults(call, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert call("train", "--help") == 0
    text = capsys.readouterr().out
    titles = re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE)
    assert titles == ["Arguments", *PANELS, "Other settings", "Output"]
    words = " ".join(text.split())
    for key in SETTINGS:
        assert f" {name_option(key)} " in words, key
    assert "[sgd, momentum, nesterov, rmsprop, adam, adamw, muon; default: adam]" in words
    assert "--epochs <int> Passes over the training rows. [default: 20]" in words
    assert "--finetune <str>" in words
    assert "--tune" not in words


def test_the_list_of_commands_says_what_each_is_for():
    root = dict(walk_commands())[()]
    for name, listed in root.commands.items():
        assert listed.help, name
        assert listed.help.endswith(".")
        assert len(listed.help) <= 60, name  # is not cut on a terminal of 80 columns
        assert root.get_command(None, name).name == name
