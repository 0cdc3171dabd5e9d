"""What a view says of pictures it has not seen: every limit from both sides, and where the limits come from."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from clearsight.augment.views import FOLDS, View, _Fold, build_view, find_nearest, majority_of


def told(answers, *, distances=0.0, margins=0.0):
    """A probe that says what it is told to, of every row alike or of each by itself."""
    answers = np.asarray(answers)
    n = answers.shape[1]
    asked = SimpleNamespace(places=[])

    def keep(name, values):
        def say(rows, classes):
            asked.places.append((name, rows, classes))
            return np.broadcast_to(values, n)

        return say

    return SimpleNamespace(
        answers=lambda rows: answers, distances=keep("distances", distances), margins=keep("margins", margins), asked=asked
    )  # fmt: skip


def view_of(*folds, kind="surface", limit=1.0, calm=(0.5, 0.5, 0.5), apart=10.0):
    n = sum(len(fold.places) for fold in folds)
    clean = np.zeros((2, n), np.int64)
    return View(kind, 1.0, folds, clean, limit, np.array(calm), np.full((3, 3), apart))


def one_fold(answers, *, known=((0.0,), (10.0,)), classes=(0, 1), **says):
    probe = told(answers, **says)
    return _Fold(probe, np.arange(np.shape(answers)[1]), np.array(known, np.float32), np.array(classes))


def look(view, features, classes, *, strict=False):
    e = view.answer(np.array(features, np.float32), np.array(classes), strict=strict)
    return e.sure.tolist(), e.turned.tolist(), e.still.tolist()


def test_all_members_must_name_one_and_the_same_other_class():
    answers = [[1, 1, 0, 2], [1, 2, 0, 2]]
    view = view_of(one_fold(answers, margins=1.0))
    sure, turned, still = look(view, [[0.0]] * 4, [0, 0, 0, 2])
    assert (sure, turned, still) == (
        [True, False, False, False],
        [True, False, False, False],
        [False, False, True, True],
    )


@pytest.mark.parametrize(("distance", "like"), [(0.9, True), (1.0, True), (1.1, False)])
def test_a_picture_is_like_a_class_up_to_the_limit(distance, like):
    view = view_of(one_fold([[1], [1]], distances=distance))
    assert look(view, [[0.0]], [0])[:2] == ([True], [like])
    assert look(view, [[0.0]], [0], strict=True)[:2] == ([True], [True])  # being sure is enough


@pytest.mark.parametrize(("margin", "still"), [(0.4, False), (0.5, True), (0.6, True)])
def test_a_picture_is_still_known_from_its_own_classs_calm_margin_on(margin, still):
    view = view_of(one_fold([[1], [1]], margins=margin), calm=(9.0, 0.5, 9.0))
    assert look(view, [[0.0]], [1])[2] == [still]
    other = view_of(one_fold([[2], [2]], margins=9.0))
    assert look(other, [[0.0]], [1])[2] == [False]


def test_probes_are_asked_for_the_class_they_answered_and_for_the_one_that_is_right():
    fold = one_fold([[2, 1], [1, 1]])
    look(view_of(fold), [[0.0], [5.0]], [1, 0])
    (first, _, answered), (second, _, right) = fold.probe.asked.places
    assert (first, answered.tolist(), second, right.tolist()) == ("distances", [2, 1], "margins", [1, 0])


@pytest.mark.parametrize("kind", ["figure", "shape and colour", "surface", "blobs"])
@pytest.mark.parametrize(
    ("at", "apart", "like"),
    [(14, 6.25, True), (14, 6.0, False), (14, 6.5, True), (10, 99, True), (9.9, 99, False), (10.1, 99, True)],
)
def test_much_nearer_is_like_enough_where_distances_mean_something(kind, at, apart, like):
    """Of classes at 0 and 19: from 14 it is 5, four fifths of 6.25; from 10 it is 9, nine tenths of the way to its own."""
    fold = one_fold([[1], [1]], known=[[0.0], [19.0]], distances=5.0)
    found = look(view_of(fold, kind=kind, apart=apart), [[at]], [0])[1]
    assert found == [like and kind in ("figure", "shape and colour")]


def test_the_way_is_that_from_the_own_class_to_the_one_answered():
    view = view_of(one_fold([[1], [1]], known=[[0.0], [19.0]], distances=5.0), kind="figure")
    view.apart[:], view.apart[0, 1] = 0, 99
    assert look(view, [[14.0]], [0])[1] == [True]


def test_evidence_lies_where_the_folds_say():
    first, second = one_fold([[1], [1]]), one_fold([[0, 2], [0, 2]], margins=1.0)
    folds = (
        _Fold(first.probe, np.array([1]), first.features, first.classes),
        _Fold(second.probe, np.array([2, 0]), second.features, second.classes),
    )
    view = view_of(*folds)
    e = view.answer(np.array([[7.0], [8.0], [9.0]], np.float32), np.array([2, 0, 0]), strict=False)
    np.testing.assert_array_equal(e.answers, [[2, 1, 0], [2, 1, 0]])
    assert (e.turned.tolist(), e.still.tolist()) == ([False, True, False], [True, False, True])
    assert first.probe.asked.places[0][1].tolist() == [[8.0]]
    assert second.probe.asked.places[0][1].tolist() == [[9.0], [7.0]]


def test_the_nearest_of_each_class_is_found_and_a_class_without_any_is_endlessly_far():
    rng = np.random.default_rng(0)
    rows, known, classes = rng.normal(size=(6, 3)), rng.normal(size=(20, 3)), rng.choice([0, 2], 20)
    found = find_nearest(rows, known, classes, 4)
    far = cdist(rows, known)
    for k in (0, 2):
        np.testing.assert_allclose(found[:, k], far[:, classes == k].min(axis=1), rtol=1e-4)
    assert np.isinf(found[:, [1, 3]]).all()
    same = find_nearest(known.astype(np.float32), known.astype(np.float32), classes, 4)  # rounding may go below zero
    assert np.isfinite(same[:, [0, 2]]).all()
    assert same[np.arange(20), classes].max() < 1e-2


def test_most_votes_win_and_the_first_of_equals():
    answers = np.array([[0, 1, 2, 1], [0, 1, 2, 0], [1, 2, 2, 2]])
    np.testing.assert_array_equal(majority_of(answers, 3), [0, 1, 2, 0])


def clouds(n=150, far=3.0):
    """Three classes in a row, some of whose rows lie among the next."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, n)
    features = rng.normal(size=(n, 4)).astype(np.float32)
    features[:, 0] += far * classes
    return features, classes, rng.permutation(n) % FOLDS, rng


@pytest.mark.parametrize("kind", ["figure", "surface"])
def test_a_views_limits_come_from_rows_its_probes_have_not_seen(kind):
    features, classes, fold, rng = clouds()
    judged = np.arange(0, 150, 2)
    view = build_view(kind, features, classes, fold, judged, 3, rng)
    answers, distances, margins = np.empty((7, 150), int), np.empty(150), np.empty(150)
    nearest = np.empty((150, 3))
    for k, own in enumerate(view.folds):
        held, rest = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        np.testing.assert_array_equal(judged[own.places], np.intersect1d(judged, held))
        np.testing.assert_array_equal(own.features, features[rest])
        np.testing.assert_array_equal(own.classes, classes[rest])
        np.testing.assert_allclose(own.probe.mean, features[rest].mean(axis=0), rtol=1e-5)
        answers[:, held] = own.probe.answers(features[held])
        distances[held] = own.probe.distances(features[held], classes[held])
        margins[held] = own.probe.margins(features[held], classes[held])
        far = cdist(features[held], features[rest])
        nearest[held] = np.stack([far[:, classes[rest] == j].min(axis=1) for j in range(3)], axis=1)
    clear = (answers == classes).all(axis=0)
    assert 0.3 < clear.mean() < 0.95  # so that the others would show
    np.testing.assert_array_equal(view.clean, answers[:, judged])
    votes = np.stack([np.bincount(column, minlength=3) for column in answers.T])
    assert view.accuracy == (votes.argmax(axis=1) == classes).mean()
    assert view.limit == pytest.approx(np.quantile(distances[clear], 0.99))
    for j in range(3):
        own = clear & (classes == j)
        assert view.calm[j] == pytest.approx(np.quantile(margins[own], 0.05), rel=1e-4)
        expected = np.median(nearest[own], axis=0) if kind == "figure" else np.zeros(3)
        np.testing.assert_allclose(view.apart[j], expected, rtol=1e-3)


def test_a_class_without_a_clear_picture_is_never_still_known():
    features, classes, fold, rng = clouds()
    view = build_view("figure", features, classes, fold, np.arange(150), 4, rng)
    assert np.isinf(view.calm[3])
    np.testing.assert_array_equal(view.apart[3], 0)


def test_where_nothing_is_clear_nothing_is_like_a_class():
    features, _, fold, _ = clouds()
    classes = np.arange(150) % 30  # five rows a class, at random places: no probe names any by all its members
    view = build_view("surface", features * 0, classes, fold, np.arange(150), 30, np.random.default_rng(0))
    clear = (view.clean == classes).all(axis=0)
    assert (view.limit == 0) == (not clear.any())
    assert not clear.any()


def test_a_single_picture_is_its_own_training():
    view = build_view("surface", np.ones((1, 2), np.float32), np.zeros(1, int), np.zeros(1, int), np.zeros(1, int), 1, np.random.default_rng(0))  # fmt: skip
    assert view.accuracy == 1
    assert [len(fold.features) for fold in view.folds] == [1, 1, 1]
    assert [fold.places.tolist() for fold in view.folds] == [[0], [], []]
