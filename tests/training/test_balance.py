"""Rare classes: every class equally often in an epoch, or equally heavy in the loss; and what that does for recall."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from clearsight.augment.presets import Augmentation
from clearsight.augment.randomness import count_uses, draw_keys, draw_uniforms
from clearsight.augment.transforms import augment_rows
from clearsight.config.build import build_config
from clearsight.data.dataset import build_dataset
from clearsight.data.read.load import load_data
from clearsight.engines.dense_engine import DenseEngine
from clearsight.errors import UsageError
from clearsight.pipeline.prepare import prepare
from clearsight.pipeline.train_in_memory import train_dataset
from clearsight.training.order import epoch_order

pytestmark = pytest.mark.usefixtures("own_cache")


class_counts = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def uneven(counts, seed=0):
    """Some of many rows, ascending, and their classes; class numbers have gaps."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.repeat(2 * np.arange(len(counts)), counts))
    return np.sort(rng.permutation(3 * len(classes))[: len(classes)]), classes


@settings(max_examples=100, deadline=None)
@given(class_counts, st.integers(0, 2**63 - 1), st.integers(0, 1000))
def test_every_class_comes_equally_often_and_every_row_of_a_class_too(counts, seed, epoch):
    rows, classes = uneven(counts)
    order = epoch_order(rows, seed=seed, epoch=epoch, classes=classes)
    assert len(order) == len(rows)
    assert np.isin(order, rows).all()
    times = np.array([(order == row).sum() for row in rows])
    drawn = [times[classes == k].sum() for k in np.unique(classes)]
    assert np.ptp(drawn) <= 1
    for k in np.unique(classes):
        assert np.ptp(times[classes == k]) <= 1


def test_an_order_is_a_function_of_seed_and_epoch():
    rows, classes = uneven([30, 3, 9])
    usual = epoch_order(rows, seed=4, epoch=2, classes=classes)
    np.testing.assert_array_equal(epoch_order(rows, seed=4, epoch=2, classes=classes), usual)
    for other in ({"seed": 4, "epoch": 3}, {"seed": 5, "epoch": 2}):
        assert (epoch_order(rows, classes=classes, **other) != usual).any()


def test_the_rest_falls_to_every_class_alike_and_no_row_is_left_out_for_good():
    rows, classes = uneven([50, 5, 6])  # 61 rows: 20 each and one more
    orders = [epoch_order(rows, seed=0, epoch=epoch, classes=classes) for epoch in range(300)]
    place = dict(zip(rows.tolist(), (classes // 2).tolist(), strict=True))
    more = np.array([np.bincount([place[row] for row in order]).argmax() for order in orders])
    assert stats.chisquare(np.bincount(more)).pvalue > 0.001
    large = np.bincount(np.concatenate(orders), minlength=rows.max() + 1)[rows[classes == 0]]
    assert stats.chisquare(large).pvalue > 0.001


def test_classes_are_mixed_over_the_epoch():
    rows, classes = uneven([400, 20])
    order = epoch_order(rows, seed=0, epoch=0, classes=classes)
    rare = np.isin(order, rows[classes == 2])
    assert np.abs(np.array([part.mean() for part in np.array_split(rare, 6)]) - 0.5).max() < 0.25


def test_the_natural_order_is_a_permutation_or_the_order_given():
    rows, _ = uneven([20, 4])
    np.testing.assert_array_equal(epoch_order(rows, seed=1, epoch=2, shuffle=False), rows)
    shuffled = epoch_order(rows, seed=1, epoch=2)
    np.testing.assert_array_equal(np.sort(shuffled), rows)
    expected = np.random.default_rng([1, 2, 0x0DE5]).permutation(rows)
    np.testing.assert_array_equal(shuffled, expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=30))
def test_uses_count_how_often_a_row_came_before(order):
    uses = count_uses(np.array(order, np.int64))
    assert uses.tolist() == [order[:k].count(row) for k, row in enumerate(order)]


def test_random_numbers_are_uniform_and_uncorrelated():
    keys = draw_keys(np.arange(20_000), seed=1, epoch=0)
    draws = np.stack([draw_uniforms(keys, k) for k in range(45)])
    assert min(stats.kstest(d, "uniform").pvalue for d in draws) > 0.001 / 45
    across = np.corrcoef(np.concatenate([draws, draws[:1, ::-1], draw_uniforms(keys - np.uint64(1), 0)[None]]))
    assert np.abs(across - np.eye(len(across))).max() < 5 / np.sqrt(20_000)
    later = draw_uniforms(draw_keys(np.arange(20_000), seed=1, epoch=1), 0)
    assert abs(np.corrcoef(later, draws[0])[0, 1]) < 5 / np.sqrt(20_000)


def faint(seed, rare=15, common=300):
    """Noise; the rare class has a brighter square. Training is uneven, the test is not."""
    rng = np.random.default_rng(seed)

    def draw(counts):
        labels = np.repeat(["common", "rare"], counts)
        images = rng.normal(110, 40, (len(labels), 8, 8))
        images[labels == "rare", 2:6, 2:6] += 50
        return np.clip(images, 0, 255).astype(np.uint8), labels

    return build_dataset({"train": draw([common, rare]), "test": draw([500, 500])}, name="faint")


def recall_of_rare(seed, **train):
    values = {
        "data": {"valid_fraction": 0.0},
        "model": {"hidden": ()},
        "train": {"epochs": 30, "lr": 0.01, "seed": seed, **train},
    }
    run = train_dataset(build_config(values), faint(seed))
    confusion = np.array(run.test.confusion)
    return confusion[1, 1] / confusion[1].sum(), confusion.trace() / confusion.sum()


@pytest.mark.long
@pytest.mark.parametrize("remedy", [{"sampling": "balanced"}, {"class_weights": "balanced"}], ids=str)
def test_balancing_raises_recall_of_a_class_that_is_twenty_times_rarer(remedy):
    """On each of six seeds by thirty points or more, and accuracy on an even test of 1,000 rises by twenty."""
    plain, mended = (np.array([recall_of_rare(seed, **how) for seed in range(6)]) for how in ({}, remedy))
    assert (plain[:, 0] < 0.3).all()
    assert ((mended - plain)[:, 0] > 0.3).all(), (plain, mended)
    assert ((mended - plain)[:, 1] > 0.2).all(), (plain, mended)


def test_balanced_training_sees_every_class_equally_often(monkeypatch):
    seen, original = [], DenseEngine.train_steps

    def watched(self, order, **options):
        seen.append(order)
        return original(self, order, **options)

    monkeypatch.setattr(DenseEngine, "train_steps", watched)
    dataset = faint(0)
    values = {"data": {"valid_fraction": 0.2}, "train": {"epochs": 2, "sampling": "balanced"}}
    config = build_config(values)
    train_dataset(config, dataset)
    rows = prepare(config, dataset).split.train
    for order in seen:
        assert np.isin(order, rows).all()
        assert len(order) == len(rows)
        assert abs(2 * dataset.labels[order].sum() - len(order)) <= 1


def test_rows_that_come_again_in_an_epoch_are_varied_anew():
    images = np.random.default_rng(0).integers(0, 256, (5, 9, 9, 1)).astype(np.uint8)
    order = np.repeat(np.arange(5), 6)
    turn = Augmentation(rotate=40.0)
    options = {"augmentation": turn, "seed": 0, "epoch": 0, "pool": np.arange(5)}
    got = augment_rows(images, order, uses=count_uses(order), **options).images
    assert len({picture.tobytes() for picture in got}) == 30
    np.testing.assert_array_equal(got[::6], augment_rows(images, np.arange(5), **options).images)


def test_an_engine_varies_repeated_rows_anew(monkeypatch):
    given = []
    monkeypatch.setattr(
        "clearsight.engines.dense_engine.augment_rows",
        lambda *args, **options: given.append(options["uses"]) or augment_rows(*args, **options),
    )
    values = {
        "data": {"valid_fraction": 0.0}, "augment": {"rotate": 5.0},
        "train": {"epochs": 2, "sampling": "balanced", "batch_size": 10},
    }  # fmt: skip
    train_dataset(build_config(values), faint(0))
    uses = np.concatenate(given)
    assert len(uses) == 2 * 315
    assert 2 * (157 + 15) <= np.bincount(uses)[0] <= 2 * (158 + 15)  # new each time: the common ones, and 15 rare
    assert uses.max() == 10  # 15 rows drawn 157 or 158 times: the eleventh time for some


@pytest.mark.parametrize("train", [{"sampling": "balanced"}, {"class_weights": "balanced"}], ids=str)
def test_numbers_cannot_be_balanced(train):
    dataset = load_data(np.zeros((30, 4, 4), np.uint8), np.arange(30) / 7, task="regression")
    with pytest.raises(
        UsageError,
        match=r"^class_weights, label_smoothing and sampling must go with classes, got numbers to predict\. Leave them out\.$",
    ):
        prepare(build_config({"train": train}), dataset)


def test_balanced_sampling_without_shuffling_is_refused(pictures):
    values = {"train": {"sampling": "balanced", "shuffle": False}}
    with pytest.raises(
        UsageError, match=r"^shuffle must go with sampling natural, got False without\. Leave it out or add that\.$"
    ):
        prepare(build_config(values), load_data(*pictures))


def test_the_flag_balances_and_a_wrong_word_is_refused(tmp_path, capsys, call):
    dataset = faint(0)
    np.savez(tmp_path / "d.npz", images=dataset.images[..., 0], labels=dataset.labels)
    common = ["train", tmp_path / "d.npz", "--epochs", 1, "--hidden", "", "--root", tmp_path, "--json", "--quiet"]
    assert call(*common, "--sampling", "balanced") == 0
    run = Path(json.loads(capsys.readouterr().out)["run"])
    assert 'sampling = "balanced"' in (run / "config.toml").read_text()
    assert call(*common, "--sampling", "even") == 2
    assert "train.sampling must be 'natural' or 'balanced', got 'even'" in capsys.readouterr().err
