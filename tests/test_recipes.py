"""Recipes are well formed; the published experiments come out as their files say (slow: all seeds)."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from clearsight.recipes import FOLDER, list_experiments, load_experiment
from clearsight.recipes.searches import load_search, run_search_recipe
from clearsight.tuning.space import parse_space

ALL = [
    "C1", "C2", "C3", "C4", "D1", "D2", "D3", "F1", "F2", "K1", "K2", "R1", "R2", "R3", "R4", "R5", "R6", "T5", "T6", "T7", "T8", "V1", "V2", "V3", "V5", "V6",
]  # fmt: skip
SEARCHES = ["F3"]


def run(name, *arguments, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "clearsight", "recipe", "run", name, "--json", "--quiet", *arguments],
        cwd=cwd, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["variants"]


def test_all_experiments_have_a_recipe():
    assert list_experiments() == sorted([*ALL, *SEARCHES])


@pytest.mark.parametrize("name", SEARCHES)
def test_a_published_search_has_a_mean_for_each_point_of_its_grid(name):
    recipe = load_search(name)
    header = (FOLDER / f"{name}.toml").read_text().split("[recipe]")[0]
    assert recipe.source in header
    assert recipe.published in header
    assert len(recipe.means) == len(parse_space(recipe.search, []).points())


def test_an_experiment_is_no_search():
    assert load_search("D1") is None


def test_a_search_recipe_prints_its_trials_beside_what_was_published(tmp_path):
    config = {"data": {"source": "digits"}, "model": {"hidden": [8]}, "train": {"epochs": 2}}
    recipe = replace(
        load_search("F3"), config=config, search={"train.lr": [0.0001, 0.01]}, options={"folds": 2}, means=(0.2, 0.9), within=1.0,
        final={"train": {"epochs": 3}},
    )  # fmt: skip
    found = run_search_recipe(recipe, root=tmp_path, quiet=True, note=lambda text: None)
    assert found.same_winner
    assert found.run.config.train.epochs == 3
    assert found.run.train.n == 1438
    text = found.render()
    assert "| lr=0.01 |" in text
    assert "the same winner: yes, lr=0.01" in text
    assert f"retrained: test accuracy {found.run.test.accuracy:.4f}, expected 0.870 to 0.885: NO" in text


@pytest.mark.parametrize("name", ALL)
def test_recipe_is_sound_and_says_its_source_and_published_number(name):
    experiment = load_experiment(name)
    assert experiment.seeds >= (2 if name[0] in "CTV" else 5)  # fewer where a run takes minutes
    header = (FOLDER / f"{name}.toml").read_text().split("[recipe]")[0]
    assert experiment.source in header
    assert experiment.published in header
    for variant in experiment.variants:
        assert 0 <= variant.expect[0] < variant.expect[1] <= (1 if experiment.metric == "accuracy" else 2)


def test_small_recipes_come_out_as_expected(tmp_path):
    for name in ("D1", "D2", "D3"):
        for variant in run(name, cwd=tmp_path):
            assert variant["as_expected"], (name, variant)
            assert variant["n"] == 5
            low, high = variant["interval"]
            assert low <= variant["mean"] <= high


def test_one_seed_has_no_interval(tmp_path):
    assert run("D2", "--seeds", "1", cwd=tmp_path)[0]["interval"] == [None, None]


@pytest.mark.data
def test_mnist_and_fashion_mnist_reach_their_numbers_with_one_seed(tmp_path):
    for name in ("K2", "F1"):
        for variant in run(name, "--seeds", "1", cwd=tmp_path):
            low, high = variant["expect"]
            assert low - 0.005 <= variant["mean"] <= high + 0.005, name


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if name[0] != "D"])
def test_published_experiment(name, tmp_path):
    for variant in run(name, cwd=tmp_path):
        assert variant["as_expected"], variant


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_published_search(name, tmp_path):
    found = run_search_recipe(load_search(name), root=tmp_path, quiet=True, note=lambda text: None)
    assert found.same_winner
    low, high = found.recipe.test
    assert low <= found.run.test.accuracy <= high
