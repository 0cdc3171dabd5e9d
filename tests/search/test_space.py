"""Search spaces from TOML and flags, and what is asked for in them."""

import tomllib

import numpy as np
import pytest

from clearsight.errors import UsageError
from clearsight.search.space import parse_space, render_params
from clearsight.search.strategies import STRATEGIES, Asker, choose_strategy

TABLE = """
"train.lr" = {log = [1e-4, 1]}
"train.l2" = [0, 0.001]
"train.batch_size" = {log_int = [8, 256]}
"train.dropout" = {range = [0.0, 0.5]}
"train.optimizer" = ["sgd", "momentum"]
"train.momentum" = {range = [0.5, 0.99], when = {"train.optimizer" = "momentum"}}
"model.hidden" = [[64], [128, 64]]
"""


def test_a_table_and_flags_make_one_space():
    space = parse_space(tomllib.loads(TABLE), ["train.l2=0,0.01,0.1", "train.epochs={int = [2, 9]}"])
    kinds = {choice.key: (choice.kind, choice.values) for choice in space.choices}
    assert kinds["train.lr"] == ("log", (1e-4, 1))
    assert kinds["train.l2"] == ("values", (0, 0.01, 0.1))
    assert kinds["train.epochs"] == ("int", (2, 9))
    assert kinds["model.hidden"] == ("values", ((64,), (128, 64)))
    assert parse_space(space.describe(), []) == space


def test_names_of_sections_may_be_nested():
    assert parse_space({"train": {"lr": [0.1, 0.2]}}, []) == parse_space({}, ["train.lr=0.1,0.2"])


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("train.lr", "--search must be KEY=V1,V2, got 'train.lr'"),
        ("train.rate=1,2", "search must vary known settings, got 'train.rate'"),
        ("train.lerning_rate=1", "Did you mean train.lr"),
        ("train.lr={log = [0, 1]}", r"search of train.lr must be two numbers above 0 that rise, got \[0, 1\]"),
        ("train.lr={range = [2, 1]}", r"must be two numbers that rise, got \[2, 1\]"),
        ("train.epochs={int = [1.5, 3]}", "must be two whole numbers that rise"),
        ("train.lr={log = [1, 2], int = [1, 2]}", "must be a list of values or one of values, range, log, int, log_int"),
        ("train.lr={step = [1, 2]}", "must be a list of values or one of values, range, log, int, log_int"),
        ("train.lr={log = [nan, 1]}", "must be two numbers above 0 that rise"),
        ("train.lr=[0.1, 0.1]", "must have values, each once"),
        ("train.lr=[]", "must have values, each once"),
        ("train.lr=[0.1, 1, 1.0]", "must have values, each once"),
        ("train.lr={log = [1", "--search must be a list or a table as in TOML"),
        ("train.lr={values = [1], when = {'train.l2' = 0}}", "when of train.lr must name settings that are searched, got train.l2"),
    ],
)  # fmt: skip
def test_what_is_no_space_is_refused(flag, text):
    with pytest.raises(UsageError, match=text):
        parse_space({}, [flag])


def test_dependences_that_go_round_and_empty_searches_are_refused():
    table = {
        "train.lr": {"values": [1], "when": {"train.l2": 0}},
        "train.l2": {"values": [0], "when": {"train.lr": 1}},
    }
    with pytest.raises(UsageError, match=r"when must not go round, got train\.lr, train\.l2"):
        parse_space(table, [])
    never = {"train.lr": {"values": [1], "when": {"train.optimizer": "nosuch"}}, "train.optimizer": ["sgd", "adam"]}
    with pytest.raises(
        UsageError, match=r"when of train\.lr must name values that train\.optimizer takes, got \['nosuch'\]"
    ):
        parse_space(never, [])
    with pytest.raises(UsageError, match="a search must have settings to vary, got none"):
        parse_space({}, [])


def test_a_grid_holds_each_combination_once():
    space = parse_space(
        {
            "train.optimizer": ["sgd", "momentum"],
            "train.momentum": {"values": [0.5, 0.9], "when": {"train.optimizer": "momentum"}},
        },
        ["train.l2=0,1"],
    )
    points = space.points()
    assert len(points) == 6
    assert {tuple(point) for point in points} == {
        ("train.optimizer", "train.l2"),
        ("train.optimizer", "train.momentum", "train.l2"),
    }
    with pytest.raises(UsageError, match=r"strategy grid must have lists of values, got a log for train\.lr"):
        parse_space({}, ["train.lr={log = [1, 2]}"]).points()


def test_the_usual_strategy_is_a_grid_where_it_is_small():
    assert choose_strategy(parse_space({}, ["train.lr=1,2"]), None) == "grid"
    assert choose_strategy(parse_space({}, ["train.lr={log = [1, 2]}"]), None) == "tpe"
    with pytest.raises(UsageError, match="--strategy must be one of grid, random, perturb, tpe, got 'best'"):
        choose_strategy(parse_space({}, ["train.lr=1,2"]), "best")


def search(strategy, seed, score, rounds=5, count=8):
    asker = Asker(parse_space(tomllib.loads(TABLE), []), strategy=strategy, seed=seed, base={}, maximize=True)
    found = []
    for turn in range(rounds):
        asked = asker.ask(turn, count)
        found += asked
        asker.tell([(params, score(params), []) for params in asked])
    return found, asker


def score(params):
    return -((np.log10(params["train.lr"]) + 2) ** 2)


@pytest.mark.long
@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "grid"])
def test_every_strategy_stays_in_the_space_and_repeats_itself(strategy):
    found, _ = search(strategy, 3, score)
    again, _ = search(strategy, 3, score)
    assert found == again
    assert found != search(strategy, 4, score)[0]
    for params in found:
        assert 1e-4 <= params["train.lr"] <= 1
        assert 8 <= params["train.batch_size"] <= 256
        assert isinstance(params["train.batch_size"], int)
        assert ("train.momentum" in params) == (params["train.optimizer"] == "momentum")
        assert params["model.hidden"] in ((64,), (128, 64))


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["perturb", "tpe"])
def test_what_learns_from_results_does_better_than_chance(strategy):
    last = [
        np.mean([score(params) for params in search(strategy, seed, score, rounds=8)[0][-16:]]) for seed in range(5)
    ]
    chance = [
        np.mean([score(params) for params in search("random", seed, score, rounds=8)[0][-16:]]) for seed in range(5)
    ]
    assert np.mean(last) > np.mean(chance) + 0.5


@pytest.mark.long
def test_importance_finds_the_setting_that_matters():
    _, asker = search("random", 0, score, rounds=6)
    found = asker.measure_importance()
    assert next(iter(found)) == "train.lr"
    assert found["train.lr"] > 0.7


def test_settings_are_said_in_short():
    assert render_params({"train.lr": 0.0123456, "model.hidden": (64, 32), "train.optimizer": "sgd"}) == (
        "lr=0.01235 hidden=[64,32] optimizer=sgd"
    )
