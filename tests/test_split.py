"""Splits are disjoint, complete, stratified and seeded; given ones are honoured."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearsight.data.dataset import build_dataset
from clearsight.data.load import load_data
from clearsight.data.split import split_data
from clearsight.errors import DataError, UsageError


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


@pytest.mark.parametrize("bad", [{"valid_fraction": 1.0}, {"test_fraction": -0.1}, {"valid_per_class": 3}])
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
