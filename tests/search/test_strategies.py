"""How settings to try are chosen: first values, small changes, seeds of rounds, and what becomes of results."""

import builtins

import numpy as np
import pytest

from clearsight.errors import UsageError
from clearsight.search.space import Choice, Space, parse_space
from clearsight.search.strategies import Asker, _first_value, _move, choose_strategy

LIST = Choice("train.l2", "values", (0, 0.001, 0.1, 1))
WORDS = Choice("train.optimizer", "values", ("sgd", "adam", "rmsprop"))
LOG = Choice("train.lr", "log", (1e-4, 1.0))
RANGE = Choice("train.dropout", "range", (0.1, 0.5))
INT = Choice("train.epochs", "int", (3, 12))
LOG_INT = Choice("train.batch_size", "log_int", (8, 512))


def draw(choice, value, count=4000):
    rng = np.random.default_rng(0)
    return np.array([_move(choice, value, rng) for _ in range(count)])


def ask(space, strategy, rounds=3, count=4, *, seed=0, base=None, score=None, maximize=True):
    asker, found = Asker(space, strategy=strategy, seed=seed, base=base or {}, maximize=maximize), []
    for turn in range(rounds):
        asked = asker.ask(turn, count)
        found.append(asked)
        asker.tell([(params, score(params) if score else 0.0, []) for params in asked])
    return found, asker


def test_a_search_begins_with_the_own_value_where_it_lies_in_the_space():
    for choice, own in ((LIST, 0.1), (WORDS, "adam"), (LOG, 1e-4), (LOG, 1.0), (LOG, 0.5), (INT, 3), (INT, 12)):
        assert _first_value(choice, own) == own


@pytest.mark.parametrize(
    ("choice", "middle"), [(LIST, 0), (WORDS, "sgd"), (LOG, 1e-2), (RANGE, 0.3), (INT, 8), (LOG_INT, 64)]
)
@pytest.mark.parametrize("own", [None, 5000.0, -1.0, "other"])
def test_it_begins_with_the_first_or_the_middle_elsewhere(choice, middle, own):
    found = _first_value(choice, own)
    assert found == pytest.approx(middle) if not isinstance(middle, str) else found == middle
    assert isinstance(found, int) == ("int" in choice.kind or choice is LIST)


def test_numbers_of_a_list_move_to_a_neighbour_and_both_alike():
    assert set(draw(LIST, 0)) == {0.001}
    assert set(draw(LIST, 1)) == {0.1}
    values, counts = np.unique(draw(LIST, 0.1), return_counts=True)
    assert values.tolist() == [0.001, 1.0]
    assert counts.min() > 1850  # of 4,000: five deviations


def test_words_move_to_any_other_alike_and_a_list_of_one_stays():
    values, counts = np.unique(draw(WORDS, "adam"), return_counts=True)
    assert values.tolist() == ["rmsprop", "sgd"]
    assert counts.min() > 1850
    assert _move(Choice("train.l1", "values", (7,)), 7, np.random.default_rng(0)) == 7


def test_a_range_moves_by_a_fifth_of_its_width_and_stays_within():
    moved = draw(RANGE, 0.3)
    assert moved.min() >= 0.1
    assert moved.max() <= 0.5
    assert np.mean(moved) == pytest.approx(0.3, abs=0.005)
    assert np.mean(np.abs(moved - 0.3) < 0.2 * 0.4) == pytest.approx(0.683, abs=0.03)
    assert np.mean(draw(RANGE, 0.1) == 0.1) == pytest.approx(0.5, abs=0.04)  # half would leave it


def test_a_logarithmic_range_moves_by_a_fifth_of_its_decades():
    decades = np.log10(draw(LOG, 1e-2)) + 2
    assert np.mean(decades) == pytest.approx(0, abs=0.05)
    assert np.mean(np.abs(decades) < 0.2 * 4) == pytest.approx(0.683, abs=0.03)
    assert draw(LOG, 1.0).max() == 1.0


def test_whole_numbers_stay_whole():
    for choice in (INT, LOG_INT):
        rng = np.random.default_rng(1)
        moved = [_move(choice, 9, rng) for _ in range(300)]
        assert {type(value) for value in moved} == {int}
        assert min(moved) >= choice.values[0]
        assert max(moved) <= choice.values[1]
        assert len(set(moved)) > 5


@pytest.mark.long
def test_perturb_begins_with_the_base_and_then_varies_the_best_so_far():
    space = Space((LIST, RANGE, LOG))
    base = {"train.l2": 0.1, "train.dropout": 0.2, "train.lr": 0.01}
    rounds, _ = ask(space, "perturb", rounds=4, count=6, base=base, score=lambda params: params["train.lr"])
    assert rounds[0][0] == base
    best = base
    for turn, asked in enumerate(rounds):
        for params in asked[turn == 0 :]:
            assert any(params[key] != best[key] for key in best) or best["train.lr"] in LOG.values
        best = max([best, *asked], key=lambda params: params["train.lr"])
    changed = [sum(p[k] != base[k] for k in base) for p in ask(space, "perturb", 1, 200, base=base)[0][0][1:]]
    assert min(changed) >= 1
    assert np.mean(changed) == pytest.approx(3 * (0.5 + 0.5 / 3), abs=0.25)  # half of all, and one for sure


@pytest.mark.parametrize("maximize", [True, False])
def test_perturb_varies_the_best_whichever_way_is_better(maximize):
    space = Space((LOG,))
    rounds, _ = ask(space, "perturb", 12, 6, base={"train.lr": 0.01}, score=lambda p: p["train.lr"], maximize=maximize)
    last = np.median([params["train.lr"] for params in rounds[-1]])
    assert (last > 0.3) if maximize else (last < 3e-4)


def test_a_grid_is_asked_in_its_order_and_ends():
    space = parse_space({"train.optimizer": ["sgd", "momentum"]}, ["train.l2=0,1,2"])
    rounds, _ = ask(space, "grid", rounds=3, count=4)
    assert [len(asked) for asked in rounds] == [4, 2, 0]
    assert [params for asked in rounds for params in asked] == space.points()


def test_rounds_differ_and_a_round_does_not_depend_on_how_an_earlier_one_was_told():
    space = Space((LOG, RANGE))
    first, _ = ask(space, "random", rounds=2)
    assert len({params["train.lr"] for asked in first for params in asked}) == 8
    other, _ = ask(space, "random", rounds=2, score=lambda params: params["train.lr"])
    assert first == other


def test_results_without_a_score_are_pruned_or_failed_and_never_the_best():
    space = Space((LOG,))
    asker = Asker(space, strategy="perturb", seed=0, base={"train.lr": 0.01}, maximize=True)
    asked = asker.ask(0, 3)
    asker.tell([(asked[0], 0.5, [0.4, 0.5]), (asked[1], None, [0.9]), (asked[2], None, [])])
    trials = asker._study.trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "FAIL"]
    assert trials[0].intermediate_values == {0: 0.4, 1: 0.5}
    assert asker._best == (0.5, asked[0])
    with pytest.raises(ValueError, match="zip"):
        asker.tell([])


@pytest.mark.parametrize("scores", [[1.0, 2.0, 3.0], [1.0] * 6, [None] * 6])
def test_importance_is_not_guessed_from_three_trials_or_from_equal_ones(scores):
    asker = Asker(Space((LOG, RANGE)), strategy="random", seed=0, base={}, maximize=True)
    asker.tell([(params, score, []) for params, score in zip(asker.ask(0, len(scores)), scores, strict=True)])
    assert asker.measure_importance() == {}


def test_importance_is_a_share_and_needs_four_trials():
    asker = Asker(Space((LOG, RANGE)), strategy="random", seed=0, base={}, maximize=True)
    asked = asker.ask(0, 4)
    asker.tell([(params, float(np.log(params["train.lr"])), []) for params in asked])
    found = asker.measure_importance()
    assert set(found) == {"train.lr", "train.dropout"}
    assert sum(found.values()) == pytest.approx(1)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_grid_of_up_to_64_points_is_the_usual_strategy():
    def space(count):
        return Space((Choice("train.l2", "values", tuple(range(count))),))

    assert [choose_strategy(space(count), None) for count in (64, 65)] == ["grid", "tpe"]
    assert choose_strategy(space(2), "random") == "random"


def test_a_missing_optuna_is_told_with_what_brings_it(monkeypatch):
    original = builtins.__import__

    def without(name, *rest, **options):
        if name == "optuna":
            raise ImportError(name)
        return original(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError) as refused:
        Asker(Space((LOG,)), strategy="tpe", seed=0, base={}, maximize=True)
    assert str(refused.value) == (
        "a search must have Optuna, got none installed. Install it with `pip install 'clearsight[tune]'`."
    )


@pytest.mark.parametrize("strategy", ["random", "tpe"])
def test_a_logarithmic_range_is_drawn_from_by_its_logarithm(strategy):
    """Half of 60 draws from 1e-4 to 1 lie below 1e-2; of a linear range one in a hundred would."""
    found, _ = ask(Space((LOG,)), strategy, rounds=15, score=lambda params: 0.5)
    below = sum(params["train.lr"] < 1e-2 for asked in found for params in asked)
    assert 15 <= below <= 45


def test_of_equal_scores_the_first_stays_the_best():
    for maximize in (True, False):
        asker = Asker(Space((LIST,)), strategy="perturb", seed=0, base={"train.l2": 0}, maximize=maximize)
        asked = asker.ask(0, 2)
        asker.tell([(params, 0.5, []) for params in asked])
        assert asker._best == (0.5, asked[0])


@pytest.mark.long
def test_importance_is_the_same_each_time_and_empty_where_nothing_can_be_said():
    _found, asker = ask(Space((LOG, RANGE)), "random", rounds=6, score=lambda params: params["train.lr"])
    shares = [asker.measure_importance() for _ in range(3)]
    assert shares[0] == shares[1] == shares[2]
    assert next(iter(shares[0])) == "train.lr"
    mixed = Space(
        (
            Choice("train.optimizer", "values", ("sgd", "adam")),
            Choice("train.momentum", "range", (0.0, 0.9), {"train.optimizer": ("sgd",)}),
        )
    )
    _, asker = ask(mixed, "random", rounds=1, count=3)
    assert asker.measure_importance() == {}


def test_a_list_of_numbers_and_words_moves_to_any_other():
    mixed = Choice("train.lr", "values", (0.1, "auto", 0.2))
    assert set(draw(mixed, 0.1)) == {"auto", "0.2"}


@pytest.mark.parametrize("maximize", [True, False])
def test_tpe_comes_to_ask_for_what_is_better_whichever_way(maximize):
    rounds, _ = ask(Space((LOG,)), "tpe", 6, 8, score=lambda params: params["train.lr"], maximize=maximize)
    last = np.median([params["train.lr"] for params in rounds[-1]])
    assert (last > 0.1) if maximize else (last < 1e-3)


def test_the_base_is_tried_once_however_large_later_rounds_are():
    asker = Asker(Space((LOG,)), strategy="perturb", seed=0, base={"train.lr": 0.01}, maximize=True)
    asked = asker.ask(0, 2)
    asker.tell([(params, 0.5, []) for params in asked])
    assert [params["train.lr"] == 0.01 for params in asked + asker.ask(1, 8)] == [True] + [False] * 9


def test_half_of_all_settings_and_one_for_sure_are_changed():
    base = {"train.l2": 0.1, "train.dropout": 0.2, "train.lr": 0.01}
    asker = Asker(Space((LIST, RANGE, LOG)), strategy="perturb", seed=0, base=base, maximize=True)
    rng = np.random.default_rng(0)
    found = [asker._perturb(rng) for _ in range(4000)]
    changed = [sum(params[key] != base[key] for key in base) for params in found]
    assert np.mean(changed) == pytest.approx(3 * (0.5 + 0.5 / 3), abs=0.05)  # four deviations


def test_importance_is_that_of_fanova_and_needs_two_different_scores():
    import optuna

    _, asker = ask(Space((LOG, RANGE)), "random", 1, 12, seed=5, score=lambda params: float(params["train.lr"] > 0.01))
    assert len({trial.value for trial in asker._study.trials}) == 2
    fanova = optuna.importance.FanovaImportanceEvaluator(seed=5)
    assert asker.measure_importance() == optuna.importance.get_param_importances(asker._study, evaluator=fanova)


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_importance_that_optuna_cannot_tell_is_empty(error, monkeypatch):
    def refuse(*arguments, **options):
        raise error("no setting was in all trials")

    _, asker = ask(Space((LOG, RANGE)), "random", 1, 6, score=lambda params: params["train.lr"])
    monkeypatch.setattr(asker._optuna.importance, "get_param_importances", refuse)
    assert asker.measure_importance() == {}


def test_optuna_says_nothing_of_its_own():
    import optuna

    optuna.logging.set_verbosity(optuna.logging.INFO)
    ask(Space((LOG,)), "random", rounds=1)
    assert optuna.logging.get_verbosity() == optuna.logging.ERROR


def test_a_list_of_two_numbers_is_no_range():
    found, _ = ask(Space((Choice("train.l2", "values", (0, 1)),)), "random", rounds=2, count=8)
    assert {params["train.l2"] for asked in found for params in asked} == {0, 1}


def test_the_step_of_a_logarithmic_range_is_a_fifth_of_its_own_decades():
    decades = np.log10(draw(Choice("train.lr", "log", (1e-5, 1e-2)), 10**-3.5)) + 3.5
    assert np.mean(np.abs(decades) < 0.2 * 3) == pytest.approx(0.683, abs=0.03)
