"""Recipes are well formed; the published experiments come out as their files say (slow: all seeds)."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from clearsight.recipes import FOLDER, list_experiments, load_experiment
from clearsight.recipes.searches import load_search, run_search_recipe
from clearsight.recipes.table import RULE, TABLE_HEAD, find_verdict, parse_published, render_row
from clearsight.search.space import parse_space

pytestmark = pytest.mark.long
ALL = [
    "C1", "C2", "C3", "C4", "D1", "D2", "D3", "F1", "F2", "K1", "K2", "R1", "R2", "R3", "R4", "R5", "R6", "T5", "T6", "T7", "T8", "V1", "V2", "V3", "V5", "V6",
]  # fmt: skip
SEARCHES = ["F3"]
DOCS = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text()


@pytest.fixture
def run(call, capsys, tmp_path):
    """Runs a recipe and gives its variants."""

    def finish(name, *arguments):
        assert call("recipe", "run", name, "--json", "--quiet", "--root", tmp_path, *arguments) == 0
        return json.loads(capsys.readouterr().out)["variants"]

    return finish


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
        load_search("F3"), config=config, search={"train.lr": [0.0001, 0.01]}, options={"folds": 2}, means=(parse_published("0.2"), parse_published("0.9")), within=1.0,
        final={"train": {"epochs": 3}},
    )  # fmt: skip
    found = run_search_recipe(recipe, root=tmp_path, quiet=True, note=lambda text: None)
    assert found.same_winner
    assert found.run.config.train.epochs == 3
    assert found.run.train.n == 1438
    text = found.render()
    trial = found.tuned.trials[1]
    assert (
        f"| lr=0.01 | 0.9 | {trial.score:.4f} | {trial.low:.4f} to {trial.high:.4f} | {trial.score - 0.9:+.4f} | "
        in text
    )
    assert "the same winner: yes, lr=0.01" in text
    assert f"retrained: test accuracy {found.run.test.accuracy:.4f} (" in text
    assert text.endswith("n = 359), published 0.8766: not reproduced")
    assert found.describe()["means"] == [0.2, 0.9]


@pytest.mark.parametrize("name", ALL)
def test_recipe_is_sound_and_says_its_source_and_published_number(name):
    experiment = load_experiment(name)
    assert experiment.seeds >= (2 if name[0] in "CTV" else 5)  # fewer where a run takes minutes
    header = (FOLDER / f"{name}.toml").read_text().split("[recipe]")[0]
    assert experiment.source in header
    assert experiment.published in header
    for variant in experiment.variants:
        if variant.published:
            assert variant.published.text.split()[-1] in experiment.published
        assert 0 <= variant.expect[0] < variant.expect[1] <= (1 if experiment.metric == "accuracy" else 2)


@pytest.mark.parametrize(
    ("text", "low", "high", "verdict"),
    [
        ("0.98", 0.9796, 0.9816, "reproduced"),
        ("0.98", 0.9851, 0.9900, "better"),  # 0.985 still rounds to 0.98
        ("0.98", 0.9850, 0.9900, "reproduced"),
        ("0.98", 0.9700, 0.9749, "not reproduced"),
        ("0.9837", 0.9821, 0.9835, "not reproduced"),
        ("0.71", 0.3893, 0.4935, "not reproduced"),
        ("0.87 to 0.88", 0.8851, 0.89, "better"),
        ("0.87 to 0.88", 0.86, 0.865, "reproduced"),
        ("0.25", 0.221, 0.27, "reproduced"),
        ("0.25", 0.22, 0.271, "undecided"),  # wider than 0.05
        ("0.00 to 0.20", 0.0642, 0.1558, "reproduced"),  # wide, but all of it is what was published
        ("0.25", None, None, "undecided"),
    ],
)
def test_a_verdict_follows_from_the_published_number_and_our_interval(text, low, high, verdict):
    assert find_verdict(parse_published(text), low=low, high=high, metric="accuracy") == verdict


def test_of_an_error_less_is_better():
    found = [find_verdict(parse_published("8.27"), low=x, high=x + 0.9, metric="mae") for x in (0.5, 8.0, 9.0)]
    assert found == ["better", "reproduced", "not reproduced"]
    assert find_verdict(parse_published("8.27"), low=8.0, high=9.1, metric="mae") == "undecided"


def test_a_mark_is_exact():
    mark = parse_published("0.985", mark=True)
    found = [find_verdict(mark, low=x, high=x + 0.002, metric="accuracy") for x in (0.9851, 0.984, 0.9829)]
    assert found == ["beaten", "reached", "missed"]
    assert find_verdict(None, low=0.1, high=0.2, metric="accuracy") is None


def test_the_difference_is_to_the_nearer_end_of_a_range():
    found = [parse_published("0.87 to 0.88").difference(mean) for mean in (0.8607, 0.8707, 0.8907)]
    assert found == pytest.approx([-0.0093, 0.0, 0.0107])
    assert parse_published("0.9779").difference(0.9797) == pytest.approx(0.0018)


@pytest.mark.parametrize("text", ["about 0.98", "", "0.9 to", "0.9 to 0.8", "0.1 to 0.2 to 0.3"])
def test_a_published_number_in_words_is_refused(text):
    with pytest.raises(ValueError, match=r"published must be a number or a range such as .* Correct the recipe\."):
        parse_published(text)


def rows_of_the_docs():
    """Cells of the rows in docs/experiments.md under the head that `recipe run` prints."""
    found = []
    for part in DOCS.split(TABLE_HEAD + "\n")[1:]:
        lines = part.split("\n\n")[0].splitlines()
        found += [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return found


@pytest.mark.parametrize("cells", rows_of_the_docs(), ids=lambda cells: " ".join(cells[:2]))
def test_each_row_of_the_docs_is_what_the_command_prints_of_its_numbers(cells):
    experiment = load_experiment(cells[0])
    variant = next(one for one in experiment.variants if cells[1].split(" (")[0] == one.name)
    low, high = map(float, cells[5].split(" to "))
    diverged = int(cells[1].split(" (")[1].split()[0]) if "diverged" in cells[1] else 0
    row = render_row(
        cells[0], variant.name, variant.published, split=variant.split, metric=experiment.metric, mean=float(cells[4]), low=low,
        high=high, n=int(cells[6]), train=float(cells[9]), seconds=float(cells[10]), diverged=diverged,
    )  # fmt: skip
    assert row == f"| {' | '.join(cells)} |"


def test_the_docs_show_every_recipe_and_state_the_rule_of_verdicts():
    wanted = {(name, variant.name) for name in ALL for variant in load_experiment(name).variants}
    assert {(cells[0], cells[1].split(" (")[0]) for cells in rows_of_the_docs()} == wanted
    assert RULE in " ".join(DOCS.split())


def test_small_recipes_come_out_as_expected(run):
    for name in ("D1", "D2", "D3"):
        for variant in run(name):
            assert variant["as_expected"], (name, variant)
            assert variant["n"] == 5
            low, high = variant["interval"]
            assert low <= variant["mean"] <= high


def test_one_seed_has_no_interval_and_no_verdict(run):
    (found,) = run("D2", "--seeds", "1")
    assert found["interval"] == [None, None]
    assert (found["number"], found["verdict"]) == ("0.90", "undecided")


@pytest.mark.data
def test_mnist_and_fashion_mnist_reach_their_numbers_with_one_seed(run):
    for name in ("K2", "F1"):
        for variant in run(name, "--seeds", "1"):
            low, high = variant["expect"]
            assert low - 0.005 <= variant["mean"] <= high + 0.005, name


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ALL if name[0] != "D"])
def test_published_experiment(name, run):
    for variant in run(name):
        assert variant["as_expected"], variant


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_published_search(name, tmp_path):
    found = run_search_recipe(load_search(name), root=tmp_path, quiet=True, note=lambda text: None)
    assert found.same_winner
    low, high = found.recipe.test
    assert low <= found.run.test.accuracy <= high
