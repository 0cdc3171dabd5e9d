"""The learning-rate finder in detail: which batches it takes, when it stops, and where its marks lie on curves that are known."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from clearsight.config.build import build_config
from clearsight.data.read.load import load_data
from clearsight.errors import UsageError
from clearsight.pipeline.prepare import fit_prepared, prepare, search_rate
from clearsight.training import lr_finder
from clearsight.training.lr_finder import find_longest_fall, find_lr, read_losses, smooth
from clearsight.training.order import epoch_order

LRS = np.geomspace(1e-7, 10, 100)
MARKS = ("lowest", "suggestion", "steepest", "valley")


class Steep:
    """An engine whose losses are written down, and which counts what it is asked."""

    def __init__(self, losses):
        self.losses, self.calls, self.loaded = losses, [], []

    def state(self):
        return {"params": np.zeros(1)}

    def load_state(self, state):
        self.loaded.append(state)

    def train_steps(self, order, *, epoch, first_batch, first_step, lrs):
        self.calls.append((order, epoch, first_batch, first_step, lrs.tolist()))
        return self.losses[first_step : first_step + 1], 0


def search(losses, **options):
    engine = Steep(np.asarray(losses, float))
    found = find_lr(
        engine, **{"train_rows": np.arange(100), "batch_size": 30, "seed": 3, "steps": len(losses)} | options
    )
    assert len(engine.loaded) == 1
    return engine, found


def running_means(losses):
    means = [losses[0]]
    for loss in losses[1:]:
        means.append(0.7 * means[-1] + 0.3 * loss)
    return np.array(means)


@pytest.mark.parametrize("growth", [1.1, 1.5, 3.0])
def test_a_search_stops_once_the_running_loss_is_over_four_times_its_best(growth):
    losses = np.r_[np.linspace(2, 1, 30), growth ** np.arange(1, 40)]
    means = running_means(losses)
    stop = int(np.argmax(means > 4 * np.minimum.accumulate(means)))
    _, found = search(losses)
    assert 30 < stop < 68
    assert len(found.losses) == stop + 1


def test_a_search_does_not_stop_within_its_first_eight_batches_nor_at_four_times():
    _, found = search([1.0, *[100.0] * 12])
    assert len(found.losses) == 9
    _, found = search([1.0] * 20 + [4.0] * 30)  # the running mean comes near to four and never over it
    assert len(found.losses) == 50


def test_a_search_stops_at_a_loss_that_is_not_finite():
    _, found = search([2.0, 1.9, np.inf, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert len(found.losses) == 3


def test_a_search_takes_each_batch_of_each_epoch_in_turn_at_rising_rates():
    classes = np.r_[np.zeros(90), np.ones(10)].astype(int)
    for own in ({}, {"shuffle": False}, {"classes": classes}):
        engine, found = search(np.linspace(2, 1, 11), low=1e-3, high=1e-1, **own)
        assert [call[1:4] for call in engine.calls] == [(i // 4, i % 4, i) for i in range(11)]
        for order, epoch, _, _, _ in engine.calls:
            np.testing.assert_array_equal(order, epoch_order(np.arange(100), seed=3, epoch=epoch, **own))
        assert [call[-1] for call in engine.calls] == [[rate] for rate in found.lrs.tolist()]
        np.testing.assert_allclose(found.lrs, 1e-3 * 100 ** (np.arange(11) / 10))


@pytest.mark.parametrize("sampling", ["natural", "balanced"])
def test_a_search_sees_the_batches_of_the_training_that_follows(sampling, monkeypatch):
    dataset = load_data("digits")
    rows = np.r_[np.flatnonzero(dataset.labels == 0), np.flatnonzero(dataset.labels == 1)[:15]]
    train = {"engine": "reference", "epochs": 1, "batch_size": 20, "sampling": sampling}
    values = {"train": train, "data": {"valid_fraction": 0.1, "test_fraction": 0.0}}
    prepared, seen = prepare(build_config(values), load_data(dataset.images[rows], dataset.labels[rows])), []
    original = prepared.engine.train_steps
    monkeypatch.setattr(
        prepared.engine, "train_steps", lambda order, **options: (seen.append(order), original(order, **options))[1]
    )
    search_rate(prepared, steps=8, high=1e-3)
    searched = seen.copy()
    seen.clear()
    fit_prepared(prepared)
    np.testing.assert_array_equal(searched[0], seen[0])
    rare = (prepared.dataset.labels[searched[0]] == 1).mean()
    assert (rare > 0.45) == (sampling == "balanced")


def test_smoothing_is_a_median_of_five_under_a_bell_of_two_steps():
    losses = np.random.default_rng(0).normal(size=80).cumsum()
    peer = ndimage.gaussian_filter1d(ndimage.median_filter(losses, 5, mode="nearest"), 2.0, truncate=4.0)
    np.testing.assert_allclose(smooth(losses)[8:-8], peer[8:-8], rtol=1e-9)
    assert smooth(np.full(30, 7.0)) == pytest.approx(7.0)  # the ends too


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=9))
def test_the_longest_fall_is_the_longest_of_all_falling_subsequences(values):
    curve = np.array(values, float)
    longest = max(
        len(chosen)
        for size in range(1, len(values) + 1)
        for chosen in itertools.combinations(range(len(values)), size)
        if all(curve[a] > curve[b] for a, b in itertools.pairwise(chosen))
    )
    first, last = find_longest_fall(curve)
    between = [k for k in range(first + 1, last) if curve[first] > curve[k] > curve[last]]
    most = max(
        2 + len(chosen)
        for size in range(len(between) + 1)
        for chosen in itertools.combinations(between, size)
        if all(curve[a] > curve[b] for a, b in itertools.pairwise(chosen))
    )
    assert (1 if first == last else most if curve[first] > curve[last] else 0) == longest


def straight(first=2.0, low=1.0, start=40, end=70, total=100):
    """Nearly flat, then a straight fall (on the log scale of rates), then a rise."""
    return np.r_[
        np.linspace(first, first + 1e-6, start),
        np.linspace(first, low, end - start),
        np.linspace(low, 3 * first, total - end),
    ]


def test_the_marks_of_a_straight_fall_lie_where_they_are_defined():
    """Four fifths of the fall lie at place 40 + 0.8 * 30; the suggestion is half way from there to the lowest, in decades."""
    found = read_losses(LRS, straight())
    place = {name: np.interp(np.log(getattr(found, name)), np.log(LRS), np.arange(100)) for name in MARKS}
    assert place["lowest"] == pytest.approx(69, abs=1.5)
    assert place["suggestion"] == pytest.approx((63.7 + place["lowest"]) / 2, abs=1)
    assert 40 <= place["steepest"] <= 69
    down = read_losses(LRS, np.r_[np.linspace(3, 1, 70), np.linspace(1, 9, 30)])
    at = np.interp(np.log([down.valley, down.lowest]), np.log(LRS), np.arange(100))
    assert at[0] == pytest.approx(at[1] * 2 / 3, abs=0.6)


def test_steepest_is_where_the_loss_falls_fastest():
    bent = np.r_[np.linspace(3, 2.8, 50), np.linspace(2.8, 1.2, 10), np.linspace(1.2, 1.0, 30), np.linspace(1.0, 5, 10)]
    found = read_losses(LRS, bent)
    assert LRS[49] < found.steepest < LRS[60]
    assert found.lowest == pytest.approx(LRS[89], rel=0.5)


@pytest.mark.parametrize(("share", "told"), [(0.02, False), (0.045, True)])
def test_a_fall_of_less_than_three_hundredths_is_none(share, told):
    found = read_losses(LRS, straight(2.0, 2.0 * (1 - share)))
    assert (found.suggestion is not None) == told
    scaled = read_losses(LRS, 1000 * straight(2.0, 2.0 * (1 - share)))  # in other units it is the same
    assert (scaled.suggestion is not None) == told


@pytest.mark.parametrize(("times", "told"), [(4.5, False), (10.5, True), (14.0, True)])
def test_a_fall_must_be_seven_standard_errors_of_the_smoothed_loss(times, told):
    """The bell of two steps averages over some seven losses, so that their mean has 0.376 of a loss's deviation."""
    fall, said = 1.0, []
    for seed in range(10):
        noise = fall / times * np.sqrt(2 * np.sqrt(np.pi) * 2.0)
        losses = straight(5.0, 5.0 - fall, 45, 75) + noise * np.random.default_rng(seed).normal(size=100)
        said.append(read_losses(LRS, losses).suggestion is not None)
    assert np.mean(said) == pytest.approx(float(told), abs=0.35)


@pytest.mark.parametrize("count", [1, 7, 8])
def test_eight_finite_losses_are_needed(count):
    losses = np.r_[np.linspace(3, 1, count), np.nan]
    found = read_losses(LRS[: count + 1], losses)
    text = f"the loss is not finite after {count} batches at rates below {LRS[count]:.2g}; look at the scale"
    assert found.reason.startswith(text) == (count < 8)
    assert np.isfinite(found.smoothed[:count]).all()
    assert np.isnan(found.smoothed[count])


def test_reasons_name_the_range_and_all_numbers_are_written():
    found = read_losses(LRS, straight())
    plain = found.as_dict()
    assert plain["reason"] == ""
    assert {name: plain[name] for name in MARKS} == {name: getattr(found, name) for name in MARKS}
    for name in ("lrs", "losses", "smoothed"):
        assert plain[name] == getattr(found, name).tolist()
    rising = np.r_[np.full(60, 2.0), np.linspace(2, 9, 39), np.nan]
    assert read_losses(LRS, rising).reason == (
        f"the loss only rises over all rates tried, 1e-07 to {LRS[98]:.2g}; try other weights, another optimiser or more steps"
    )


@pytest.mark.long
@pytest.mark.parametrize(
    "rates",
    [(0.0, 1.0, 8), (-1.0, 1.0, 8), (1.0, 1.0, 8), (2.0, 1.0, 8), (0.1, np.inf, 8), (0.1, 1.0, 7), (0.1, 1.0, 10_001)],
)
def test_only_rising_rates_in_8_to_10000_steps_are_a_search(rates):
    low, high, steps = rates
    with pytest.raises(UsageError) as refused:
        search([1.0], low=low, high=high, steps=steps)
    assert str(refused.value) == (
        f"rates must rise from above 0 over 8 to 10,000 steps, got {low} to {high} in {steps}. Try 1e-07 to 10.0 in 100."
    )
    assert len(search([1.0] * 8, low=1e-300)[1].lrs) == 8
    assert len(search([1.0] * 10_000, low=1e-3)[1].lrs) == 10_000


def test_a_fall_begins_at_the_mean_of_the_first_third_before_the_lowest():
    """From 3 to 1 in 69 places, and flat for 20: four fifths of the fall from that mean to 1 are done where the line says."""
    found = read_losses(LRS, np.r_[np.linspace(3, 1, 70), np.full(20, 1.0), np.linspace(1.2, 9, 10)])
    place = {name: np.interp(np.log(getattr(found, name)), np.log(LRS), np.arange(100)) for name in MARKS}
    third = round(place["lowest"]) // 3
    mean = 3 - (third - 1) / 69
    done = (3 - (mean - 0.8 * (mean - 1))) / 2 * 69
    assert place["suggestion"] == pytest.approx((done + place["lowest"]) / 2, abs=0.8)


def test_a_fall_just_as_large_as_it_must_be_is_one(monkeypatch):
    losses = straight(2.0, 1.5)
    monkeypatch.setattr(lr_finder, "_scatter", lambda losses, curve: 0.0)
    curve = smooth(losses)
    first = float(curve[: int(curve.argmin()) // 3].mean())
    monkeypatch.setattr(lr_finder, "_LEAST_FALL", (first - float(curve.min())) / first)
    assert read_losses(LRS, losses).suggestion is not None
    monkeypatch.setattr(lr_finder, "_LEAST_FALL", 1.001 * (first - float(curve.min())) / first)
    assert read_losses(LRS, losses).suggestion is None
