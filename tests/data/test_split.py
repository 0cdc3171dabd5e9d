"""Splits are disjoint, complete, stratified and seeded; given ones are honoured."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearsight.data.dataset import build_dataset
from clearsight.data.read.load import load_data
from clearsight.data.split import find_bound, find_groups, fold_training, split_data, thin_training
from clearsight.errors import DataError, UsageError


def digest(rows):
    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:16]


def dataset(labels, given=None):
    labels = np.asarray(labels)
    images = np.arange(len(labels), dtype=np.float32)[:, None]
    if given is None:
        return load_data(images, labels)
    parts = {s: (images[np.asarray(given) == s], labels[np.asarray(given) == s]) for s in dict.fromkeys(given)}
    return build_dataset(parts, name="given")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=4, max_size=200).filter(lambda x: len(set(x)) > 1),
    st.floats(0, 0.6), st.floats(0, 0.6), st.integers(0, 9), st.booleans(),
)  # fmt: skip
def test_splits_are_disjoint_complete_and_of_the_right_size(labels, valid, test, seed, shuffle):
    data = dataset(labels)
    try:
        split = split_data(data, valid_fraction=valid, test_fraction=test, seed=seed, shuffle=shuffle)
    except DataError as error:
        assert "training must keep at least one row" in str(error)
        return
    rows = np.concatenate([split.train, split.valid, split.test])
    assert sorted(rows) == list(range(len(labels)))
    assert len(split.unused) == 0
    assert abs(len(split.test) - len(labels) * test) <= 0.5 + 1e-6
    if shuffle:
        for k in set(data.labels.tolist()):
            share = (data.labels[split.test] == k).sum() - (data.labels == k).sum() * test
            assert abs(share) <= 1


def test_equal_seeds_give_equal_splits_and_other_seeds_do_not():
    digits = load_data("digits")
    one, same, other = (split_data(digits, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.test, same.test)
    assert set(one.test) != set(other.test)


def test_given_splits_are_honoured_and_only_the_missing_one_is_drawn():
    data = dataset([0, 1] * 50, given=["train"] * 80 + ["test"] * 20)
    split = split_data(data, valid_fraction=0.25, test_fraction=0.5)
    assert split.test.tolist() == list(range(80, 100))
    assert len(split.valid) == 20
    assert set(split.valid) < set(range(80))


def test_pooling_ignores_given_splits():
    data = dataset([0, 1] * 50, given=["train"] * 80 + ["test"] * 20)
    split = split_data(data, test_fraction=0.2, valid_fraction=0.2, pool=True)
    assert (len(split.train), len(split.valid), len(split.test)) == (64, 16, 20)
    assert set(split.test) != set(range(80, 100))


def test_the_split_of_study_d_takes_the_first_174_of_each_digit_in_file_order():
    digits = load_data("digits")
    split = split_data(digits, train_per_class=154, valid_per_class=20, shuffle=False)
    assert (len(split.train), len(split.valid), len(split.test), len(split.unused)) == (1540, 200, 0, 57)
    for k in range(10):
        rows = np.flatnonzero(digits.labels == k)
        np.testing.assert_array_equal(split.train[digits.labels[split.train] == k], rows[:154])
        np.testing.assert_array_equal(split.valid[digits.labels[split.valid] == k], rows[154:174])


def test_counts_beyond_a_class_are_refused():
    with pytest.raises(DataError, match=r"must fit in every class, got 3 but class 1 has 2 rows\. Ask for fewer\."):
        split_data(dataset([0, 0, 0, 0, 1, 1]), train_per_class=2, valid_per_class=1)


def test_counts_do_not_override_given_splits_silently():
    with pytest.raises(UsageError, match=r"train_per_class must go with pool=true"):
        split_data(dataset([0, 1] * 4, given=["train"] * 6 + ["test"] * 2), train_per_class=1)


@pytest.mark.parametrize(
    "bad",
    [
        {"valid_fraction": 1.0},
        {"test_fraction": -0.1},
        {"valid_per_class": 3},
        {"train_per_class": 2, "test_per_class": -1},
    ],
)
def test_impossible_fractions_and_counts_are_refused(bad):
    with pytest.raises(UsageError, match=r"must (lie in \[0, 1\)|be 1 or more)"):
        split_data(dataset([0, 1] * 4), **bad)


def test_without_shuffling_each_class_gives_its_last_rows():
    split = split_data(dataset(np.repeat([0, 1, 2], 10)), valid_fraction=0.25, test_fraction=0.2, shuffle=False)
    assert split.test.tolist() == [8, 9, 18, 19, 28, 29]
    assert split.valid.tolist() == [6, 7, 16, 17, 26, 27]


def test_no_class_gives_its_last_row_away_while_others_have_more():
    labels = np.repeat(np.arange(5), [10, 10, 1, 1, 1])
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 6, 6)).astype(np.uint8)
    for seed in range(20):
        split = split_data(build_dataset({"train": (images, labels)}, name="few"), seed=seed)
        assert set(labels[split.train]) == set(range(5))


PARTS = ("train", "valid", "test", "unused")


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, ["7c405610fed3422e", "fcfc5a345a6e0d2e", "c11868327b08ea85", "e3b0c44298fc1c14"]),
        ({"seed": 7}, ["624971e0ad34e24f", "a97e213086c43a6a", "19cde43e717700d4", "e3b0c44298fc1c14"]),
        (
            {"train_per_class": 50, "valid_per_class": 20, "test_per_class": 30},
            ["5023efe1ed0b1cde", "863f52eaa0a55263", "33dc5dd52fe2a07e", "cdaf90692a2cca4e"],
        ),
    ],
)
def test_a_seed_draws_the_rows_that_it_drew_for_models_of_earlier_versions(options, wanted):
    """A saved model was tested on these rows: `evaluate` must find them again, whatever the version."""
    split = split_data(load_data("digits"), **options)
    assert [digest(getattr(split, part)) for part in PARTS] == wanted


def test_a_share_of_training_rows_is_that_of_earlier_versions():
    digits = load_data("digits")
    thin = thin_training(split_data(digits), digits.labels, share=0.3, seeds=(0, 0))
    assert (digest(thin.train), digest(thin.unused)) == ("7e9de6dd97e606fd", "c8e8a8e5495bd3f6")


def largest_remainder(sizes, fraction):
    """Rows that each class gives: whole parts, then one each by falling remainder; last rows only where none else are left."""
    exact = [size * fraction for size in sizes]
    counts = [int(one) for one in exact]
    order = sorted(range(len(sizes)), key=lambda k: (counts[k] + 1 >= sizes[k], -(exact[k] - counts[k]), k))
    for k in order[: round(sum(exact)) - sum(counts)]:
        counts[k] += 1
    return counts


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=6), st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.7]), st.booleans())
def test_each_class_gives_its_share_by_the_largest_remainder(sizes, fraction, shuffle):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    if sum(largest_remainder(sizes, fraction)) == sum(sizes):
        return
    split = split_data(dataset(labels), valid_fraction=0, test_fraction=fraction, shuffle=shuffle)
    assert np.bincount(labels[split.test], minlength=len(sizes)).tolist() == largest_remainder(sizes, fraction)
    assert len(split.valid) == 0


def test_parts_are_those_that_hold_rows():
    split = split_data(dataset([0, 1] * 10), valid_fraction=0)
    assert list(split.parts()) == ["train", "test"]
    assert split.parts()["test"] is split.test


@pytest.mark.parametrize("shuffle", [True, False])
def test_counts_are_exact_in_every_class_and_the_rest_is_unused(shuffle):
    labels = np.repeat([0, 1, 2], [9, 6, 12])
    split = split_data(dataset(labels), train_per_class=3, valid_per_class=2, test_per_class=1, shuffle=shuffle)
    for part, count in zip(PARTS, (3, 2, 1), strict=False):
        assert np.bincount(labels[getattr(split, part)]).tolist() == [count] * 3
    assert np.bincount(labels[split.unused], minlength=3).tolist() == [3, 0, 6]
    rows = np.concatenate([getattr(split, part) for part in PARTS])
    assert sorted(rows) == list(range(27))
    if shuffle:
        assert (
            split.train.tolist()
            != split_data(
                dataset(labels), train_per_class=3, valid_per_class=2, test_per_class=1, shuffle=False
            ).train.tolist()
        )
    else:
        assert split.train.tolist() == [0, 1, 2, 9, 10, 11, 15, 16, 17]
        assert split.test.tolist() == [5, 14, 20]


@pytest.mark.parametrize("counts", [{"train_per_class": 4}, {"train_per_class": 2, "valid_per_class": 2}])
def test_counts_may_take_all_of_a_class(counts):
    split = split_data(dataset([0] * 4 + [1] * 4), **counts)
    assert len(split.unused) == 0
    assert len(split.train) + len(split.valid) == 8


def test_given_parts_are_kept_beside_counts_where_they_are_pooled():
    data = dataset([0, 1] * 4, given=["train"] * 6 + ["valid"] * 2)
    with pytest.raises(UsageError, match="train_per_class must go with pool=true"):
        split_data(data, train_per_class=1)
    assert len(split_data(data, train_per_class=1, pool=True).unused) == 6
    kept = split_data(data, valid_fraction=0.5, test_fraction=0)
    assert (kept.valid.tolist(), kept.train.tolist(), len(kept.test)) == ([6, 7], list(range(6)), 0)


def test_fractions_of_a_half_and_of_nothing_are_allowed_and_one_is_not():
    assert len(split_data(dataset([0, 1] * 4), valid_fraction=0, test_fraction=0).train) == 8
    for fraction in (1.0, -1e-9):
        with pytest.raises(UsageError, match=rf"test_fraction must lie in \[0, 1\), got {fraction}"):
            split_data(dataset([0, 1] * 4), test_fraction=fraction)
    with pytest.raises(
        DataError, match=r"training must keep at least one row, got 2 rows in all\. Lower the fractions"
    ):
        split_data(dataset([0, 1]), test_fraction=0.9, valid_fraction=0.9)


def test_numbers_are_split_without_regard_to_their_values():
    images, targets = np.arange(40.0)[:, None], np.repeat([1.0, 2.0], 20)
    data = load_data(images, targets, task="regression")
    split = split_data(data, valid_fraction=0, test_fraction=0.25, shuffle=False)
    assert split.test.tolist() == list(range(30, 40))  # the last of all rows, and not of each value


def named(names, labels, copies=()):
    """A data set of files of these names, some of which are copies of others."""
    images = np.random.default_rng(0).integers(0, 256, (len(names), 4, 4)).astype(np.uint8)
    for one, other in copies:
        images[other] = images[one]
    return replace(build_dataset({"train": (images, np.array(labels))}, name="named"), files=tuple(names))


def test_groups_are_named_by_the_first_group_of_the_expression_or_all_of_it():
    names = ["p1_a", "p2_a", "p1_b", "p3_b", "p2_c", "p4_c"]
    data = named(names, [0, 1] * 3)
    bound = lambda pattern: [rows.tolist() for rows in find_bound(data, group_by=pattern)]
    assert bound(r"p\d") == bound(r"(p\d)_") == [[0, 2], [1, 4]]
    assert bound(r"p\d_(.)") == [[0, 1], [2, 3], [4, 5]]
    assert find_groups(data, group_by=r"p\d").tolist() == [0, 1, 0, 3, 1, 5]
    assert bound(r"p\d(x)?") == [list(range(6))]  # a group that takes no part is one name for all
    assert find_groups(data).tolist() == list(range(6))
    many = named([f"{'abc'[k % 3]}{k}" for k in range(90)], np.arange(90) % 2)
    assert [rows.tolist() for rows in find_bound(many, group_by="^.")] == [list(range(k, 90, 3)) for k in range(3)]


def test_copies_join_the_groups_that_hold_them():
    data = named(["p1_a", "p2_a", "p1_b", "p3_b", "p2_c", "p4_c"], [0, 1, 0, 1, 1, 1], copies=[(2, 3)])
    assert [rows.tolist() for rows in find_bound(data)] == [[2, 3]]
    assert find_groups(data).tolist() == [0, 1, 2, 2, 4, 5]
    assert [rows.tolist() for rows in find_bound(data, group_by=r"p\d")] == [[0, 2, 3], [1, 4]]


@pytest.mark.parametrize("seed", range(5))
def test_bound_rows_go_where_the_first_of_them_goes(seed):
    """Their labels may differ; groups count as one row each, so that the parts are as large in groups as asked for."""
    names = [f"p{k // 3}_{k}" for k in range(60)]
    data = named(names, np.arange(60) // 3 % 2)
    split = split_data(data, valid_fraction=0.25, test_fraction=0.2, group_by=r"p\d+", seed=seed)
    groups = [set((getattr(split, part) // 3).tolist()) for part in PARTS[:3]]
    assert [len(one) for one in groups] == [12, 4, 4]
    assert [len(getattr(split, part)) for part in PARTS[:3]] == [36, 12, 12]
    for part in PARTS[:3]:
        assert (np.diff(getattr(split, part)) > 0).all()


def test_groups_parted_by_given_splits_are_named():
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4)).astype(np.uint8)
    parts = {"train": (images[:6], np.arange(6) % 2), "test": (images[6:], np.arange(2))}
    data = replace(build_dataset(parts, name="d"), files=("a1", "b1", "c1", "d1", "e1", "e2", "a2", "f1"))
    text = "group_by must not part the splits that came with the data, got .*a1.* and .*a2.* in two of them. Set data.pool=true"
    with pytest.raises(DataError, match=text):
        split_data(data, group_by="^.")
    pooled = split_data(data, group_by="^.", pool=True, valid_fraction=0, test_fraction=0.5)
    assert {0, 6} <= set(pooled.test) or {0, 6} <= set(pooled.train)
    assert {4, 5} <= set(pooled.test) or {4, 5} <= set(pooled.train)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_folds_part_training_and_validation_rows_alone(task):
    labels = np.arange(50) % 2
    data = load_data(
        np.random.default_rng(0).random((50, 4)), labels if task == "classification" else labels * 1.0, task=task
    )
    split = split_data(data, valid_fraction=0.25, test_fraction=0.2)
    rows = set(split.train) | set(split.valid)
    seen = []
    for fold in range(4):
        found = fold_training(split, data, folds=4, fold=fold)
        assert set(found.train) | set(found.valid) == rows
        assert not set(found.train) & set(found.valid)
        assert found.test is split.test
        assert (np.diff(found.train) > 0).all()
        assert (np.diff(found.valid) > 0).all()
        seen += found.valid.tolist()
    assert sorted(seen) == sorted(rows)
    one = fold_training(split, data, folds=4, fold=1)
    again, other = (fold_training(split, data, folds=4, fold=1, seeds=seeds) for seeds in ((0, 0), (0, 1)))
    assert one.valid.tolist() == again.valid.tolist() != other.valid.tolist()
    drawn = {tuple(fold_training(split, data, folds=4, fold=1, seeds=(k, 0)).valid) for k in range(8)}
    assert len(drawn) == 8
    plain = fold_training(split, data, folds=4, fold=0, shuffle=False)
    if task == "regression":
        assert plain.valid.tolist() == sorted(rows)[:10]


def test_folds_are_bounded_by_the_smallest_class_and_its_groups():
    data = load_data(np.random.default_rng(0).random((12, 3)), np.array([0] * 9 + [1] * 3))
    split = split_data(data, valid_fraction=0, test_fraction=0)
    assert len(fold_training(split, data, folds=3, fold=2).valid) == 4
    text = "folds must be at most the pictures or groups of a class, got 4 for 3 of class 1. Lower it."
    with pytest.raises(UsageError, match=text):
        fold_training(split, data, folds=4, fold=0)
    for fold in (-1, 3):
        with pytest.raises(UsageError, match=rf"fold must lie in 0 to 2, got {fold}\. Choose one of the 3"):
            fold_training(split, data, folds=3, fold=fold)
    numbers = load_data(np.random.default_rng(0).random((5, 3)), np.arange(5.0), task="regression")
    whole = split_data(numbers, valid_fraction=0, test_fraction=0)
    assert len(fold_training(whole, numbers, folds=5, fold=4).valid) == 1
    with pytest.raises(UsageError, match="got 6 for 5 of all rows"):
        fold_training(whole, numbers, folds=6, fold=0)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_folds_keep_bound_rows_together(task):
    names = [f"p{k // 2}_{k}" for k in range(48)]
    labels = np.arange(48) // 2 % 2
    data = named(names, labels)
    if task == "regression":
        data = replace(data, labels=labels.astype(np.float32), class_names=())
    assert data.is_regression == (task == "regression")
    split = split_data(data, valid_fraction=0, test_fraction=0.25, group_by=r"p\d+")
    for fold in range(3):
        found = fold_training(split, data, folds=3, fold=fold, group_by=r"p\d+")
        assert not set(found.valid // 2) & set(found.train // 2)
        assert len(found.valid) == 12
        if task == "classification":
            assert np.bincount(labels[found.valid]).tolist() == [6, 6]


def test_thinning_keeps_classes_in_proportion_and_counts_the_rest_as_unused():
    labels = np.repeat([0, 1, 2], [40, 20, 1])
    data = dataset(labels)
    split = split_data(data, train_per_class=None, valid_fraction=0, test_fraction=0)
    thin = thin_training(split, labels, share=0.25, seeds=(1,))
    assert thin_training(split, labels, share=1, seeds=(1,)) is split
    assert np.abs(np.bincount(labels[thin.train]) - [10, 5, 0.25]).max() <= 1
    assert len(thin.train) == round(61 * 0.25)
    assert sorted([*thin.train, *thin.unused]) == list(range(61))
    assert (np.diff(thin.unused) > 0).all()
    before = replace(split, train=split.train[1:], unused=split.train[:1])
    assert 0 in thin_training(before, labels, share=0.5, seeds=(1,)).unused
    one = split_data(dataset([0] * 5 + [1] * 5), valid_fraction=0, test_fraction=0)
    assert len(thin_training(one, np.zeros(10), share=0.1, seeds=(1,)).train) == 1
