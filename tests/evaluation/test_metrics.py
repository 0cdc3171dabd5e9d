"""Metrics agree with scikit-learn and statsmodels, and intervals cover what they promise."""

from dataclasses import replace

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from clearsight.core.intervals import wilson_interval
from clearsight.evaluation.calibration import measure_calibration
from clearsight.evaluation.metrics import (
    confusion_matrix,
    evaluate_logits,
    evaluate_numbers,
    measure_classes,
    worst_mistakes,
)
from clearsight.recipes import mean_interval


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(1, 80), st.integers(0, 999))
def test_classification_metrics_equal_scikit_learns(classes, rows, seed):
    rng = np.random.default_rng(seed)
    labels, answers = rng.integers(0, classes, rows), rng.integers(0, classes, rows)
    confusion = confusion_matrix(labels, answers, num_classes=classes)
    names = range(classes)
    np.testing.assert_array_equal(confusion, sklearn.metrics.confusion_matrix(labels, answers, labels=names))
    theirs = sklearn.metrics.precision_recall_fscore_support(labels, answers, labels=names, zero_division=np.nan)
    for k, ours in enumerate(measure_classes(confusion, tuple(map(str, names)))):
        got = [np.nan if v is None else v for v in (ours.precision, ours.recall, ours.f1)]
        np.testing.assert_allclose(got, [theirs[i][k] for i in range(3)])
        assert ours.support == theirs[3][k]
        assert ours.accuracy == pytest.approx(((labels == k) == (answers == k)).mean())


def test_log_loss_equals_scikit_learns():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)) * 5, rng.integers(0, 4, 50)
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ours = evaluate_logits(logits, labels, class_names=tuple("abcd"))
    assert ours.loss == pytest.approx(sklearn.metrics.log_loss(labels, proba, labels=range(4)))
    assert ours.accuracy == sklearn.metrics.accuracy_score(labels, logits.argmax(axis=1))


def test_an_evaluation_holds_all_of_its_parts():
    """Under a temperature of 2, against scikit-learn; answers do not depend on it."""
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(60, 3)) * 4, rng.integers(0, 3, 60)
    found = evaluate_logits(logits, labels, class_names=("x", "y", "z"), temperature=2.0)
    proba = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True)
    assert found.loss == pytest.approx(sklearn.metrics.log_loss(labels, proba, labels=range(3)))
    hits = int((logits.argmax(axis=1) == labels).sum())
    assert (found.n, found.accuracy, (found.low, found.high)) == (60, hits / 60, wilson_interval(hits, 60))
    np.testing.assert_array_equal(found.confusion, sklearn.metrics.confusion_matrix(labels, logits.argmax(axis=1)))
    assert [one.name for one in found.classes] == ["x", "y", "z"]
    assert [one.support for one in found.classes] == np.bincount(labels).tolist()


def test_json_holds_what_applies_and_nothing_else():
    logits, labels = np.array([[2.0, 0], [0, 1], [3, 0]]), np.array([0, 1, 1])
    found = evaluate_logits(logits, labels, class_names=("a", "b"))
    plain = found.as_dict()
    assert set(plain) == {"n", "loss", "accuracy", "interval", "confusion", "classes"}
    assert (plain["n"], plain["loss"], plain["accuracy"]) == (3, found.loss, found.accuracy)
    assert plain["interval"] == [found.low, found.high]
    assert plain["confusion"] == [[1, 0], [1, 1]]
    assert [one["recall"] for one in plain["classes"]] == [1.0, 0.5]
    calibrated = replace(found, calibration=measure_calibration(logits, labels)).as_dict()
    assert calibrated["calibration"]["n"] == 3
    numbers = evaluate_numbers(np.array([1.0, 2.5]), np.array([1.0, 2.0]))
    assert numbers.as_dict() == {"n": 2, "loss": 0.125, "mae": 0.25, "r2": 0.5}
    assert set(replace(numbers, accuracy=0.5).as_dict()) == {"n", "loss", "mae", "r2"}  # no confusion, so no classifier


def test_wilson_interval_equals_statsmodels():
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    for hits, n in ((0, 1), (1, 1), (5, 10), (981, 1000), (9812, 10000)):
        theirs = proportion.proportion_confint(hits, n, method="wilson")
        assert wilson_interval(hits, n) == pytest.approx(theirs, abs=1e-12)


def test_wilson_interval_covers_95_percent():
    rng = np.random.default_rng(0)
    hits = rng.binomial(300, 0.93, 4000)
    intervals = {h: wilson_interval(int(h), 300) for h in set(hits.tolist())}
    covered = np.mean([intervals[h][0] <= 0.93 <= intervals[h][1] for h in hits.tolist()])
    assert 0.93 <= covered <= 0.97


def test_interval_of_a_mean_equals_scipys_and_needs_two_values():
    from scipy import stats

    values = (0.91, 0.93, 0.9, 0.94, 0.92)
    theirs = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx(theirs)
    assert mean_interval((0.9,)) == (None, None)


def test_regression_metrics_equal_scikit_learns():
    rng = np.random.default_rng(0)
    targets = rng.normal(size=40)
    answers = targets + rng.normal(size=40) * 0.1
    ours = evaluate_numbers(answers, targets)
    assert ours.mae == pytest.approx(sklearn.metrics.mean_absolute_error(targets, answers))
    assert ours.loss == pytest.approx(sklearn.metrics.mean_squared_error(targets, answers))
    assert ours.r2 == pytest.approx(sklearn.metrics.r2_score(targets, answers))
    assert evaluate_numbers(answers, np.ones(40)).r2 is None
    large = (2.0**24 + 2 * rng.integers(0, 3, 999)).astype(np.float32)  # float32 cannot hold their mean
    near = large + rng.normal(size=999)
    theirs = sklearn.metrics.r2_score(large.astype(np.float64), near)
    assert evaluate_numbers(near, large).r2 == pytest.approx(theirs, rel=1e-9)
    close = targets / 100  # their squares come to less than 1
    assert evaluate_numbers(close * 1.1, close).r2 == pytest.approx(sklearn.metrics.r2_score(close, close * 1.1))


def test_worst_mistakes_are_wrong_answers_by_falling_loss():
    logits = np.array([[5.0, 0], [0, 5.0], [0, 1.0], [9.0, 0]])
    assert [(i, a) for i, a, _ in worst_mistakes(logits, np.array([0, 0, 0, 1]), count=2)] == [(3, 0), (1, 1)]


def test_equal_mistakes_stand_in_the_order_of_their_rows():
    logits = np.tile([[1.0, 0.0], [0.0, 1.0], [0.0, 0.5]], (50, 1))
    found = worst_mistakes(logits, np.zeros(150, np.int64), count=200)
    assert [row for row, _, _ in found] == [*range(1, 150, 3), *range(2, 150, 3)]
    assert {answer for _, answer, _ in found} == {1}
    assert found[0][2] == pytest.approx(np.log(1 + np.e))


def test_huge_logits_have_a_finite_loss():
    found = evaluate_logits(np.array([[1e30, -1e30]], np.float32), np.array([0]), class_names=("a", "b"))
    assert found.loss == 0
