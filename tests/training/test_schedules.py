"""Schedules of the learning rate: their shapes in closed form, their bounds, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearsight.errors import UsageError
from clearsight.training import schedules
from clearsight.training.schedules import SCHEDULES, learning_rates


@pytest.mark.parametrize("unit", ["step", "epoch"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@settings(max_examples=25, deadline=None)
@given(epochs=st.integers(1, 30), steps=st.integers(1, 20), warm=st.floats(0, 1))
def test_every_schedule_is_finite_and_within_the_given_rate(schedule, unit, epochs, steps, warm):
    rates = learning_rates(
        schedule, lr=0.5, epochs=epochs, steps_per_epoch=steps, unit=unit, warmup_epochs=warm * epochs
    )
    assert rates.shape == (epochs * steps,)
    assert np.isfinite(rates).all()
    assert (rates >= 0).all()
    assert (rates <= 0.5 * (1 + 1e-12)).all()
    if unit == "epoch":
        assert (rates.reshape(epochs, steps) == rates.reshape(epochs, steps)[:, :1]).all()


def test_schedules_have_their_shapes():
    rates = {s: learning_rates(s, lr=1.0, epochs=30, steps_per_epoch=10) for s in SCHEDULES}
    assert (rates["constant"] == 1).all()
    np.testing.assert_allclose(rates["step"][[0, 99, 100, 200]], [1, 1, 0.1, 0.01])
    assert rates["cosine"][0] == 1
    assert rates["cosine"][150] == pytest.approx(0.5, abs=1e-12)
    assert 0 < rates["cosine"][-1] < 1e-4
    assert rates["linear"][150] == pytest.approx(0.5, abs=0.01)
    assert 80 <= rates["one-cycle"].argmax() <= 95
    warm = learning_rates("constant", lr=1.0, epochs=3, steps_per_epoch=10, warmup_epochs=1)
    np.testing.assert_allclose(warm[:12], [*np.arange(1, 11) / 10, 1, 1])


@pytest.mark.long  # the first optimiser of PyTorch loads its compiler
def test_one_cycle_follows_pytorch():
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.zeros(1))
    stepper = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    peer = torch.optim.lr_scheduler.OneCycleLR(stepper, max_lr=0.7, total_steps=200)
    expected = []
    for _ in range(200):
        expected.append(stepper.param_groups[0]["lr"])
        stepper.step()
        peer.step()
    rates = learning_rates("one-cycle", lr=0.7, epochs=20, steps_per_epoch=10)
    np.testing.assert_allclose(rates, expected, atol=0.7 * 0.03)  # the peer's turning point is a step earlier


def test_schedule_refuses_what_it_cannot_do():
    with pytest.raises(
        UsageError, match="schedule must be one of constant, step, cosine, one-cycle, linear, got 'zigzag'"
    ):
        learning_rates("zigzag", lr=1.0, epochs=1, steps_per_epoch=1)
    with pytest.raises(UsageError, match=r"lr must be a number of 0 or more, got -1\.0"):
        learning_rates("constant", lr=-1.0, epochs=1, steps_per_epoch=1)


def test_steps_fall_by_their_factor_every_so_many_epochs():
    rates = learning_rates("step", lr=2.0, epochs=7, steps_per_epoch=3, step_epochs=3, step_gamma=0.5)
    np.testing.assert_array_equal(rates, np.repeat([2, 2, 2, 1, 1, 1, 0.5], 3))


def test_one_cycle_has_its_ends_its_peak_and_its_halves():
    rates = learning_rates("one-cycle", lr=3.0, epochs=1, steps_per_epoch=21)
    low, lowest = 3.0 / 25, 3.0 / 250_000
    expected = [low, (low + 3.0) / 2, 3.0, (3.0 + lowest) / 2, lowest]
    np.testing.assert_allclose(rates[[0, 3, 6, 13, 20]], expected, rtol=1e-9)
    assert learning_rates("one-cycle", lr=3.0, epochs=1, steps_per_epoch=1).tolist() == [low]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_by_epoch_a_rate_is_that_of_the_epochs_first_step(schedule):
    by_step = learning_rates(schedule, lr=1.0, epochs=5, steps_per_epoch=4).reshape(5, 4)
    by_epoch = learning_rates(schedule, lr=1.0, epochs=5, steps_per_epoch=4, unit="epoch").reshape(5, 4)
    np.testing.assert_array_equal(by_epoch, np.repeat(by_step[:, :1], 4, axis=1))
    warm = learning_rates("constant", lr=1.0, epochs=4, steps_per_epoch=2, unit="epoch", warmup_epochs=4)
    np.testing.assert_allclose(warm, np.repeat([0.25, 0.5, 0.75, 1.0], 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_epochs": 0}, "step_epochs must be 1 or more and step_gamma lie in (0, 1], got 0 and 0.1. Try 10 and 0.1."),
        ({"step_gamma": 0.0}, "step_epochs must be 1 or more and step_gamma lie in (0, 1], got 10 and 0.0. Try 10 and 0.1."),
        ({"step_gamma": 1.01}, "step_epochs must be 1 or more and step_gamma lie in (0, 1], got 10 and 1.01. Try 10 and 0.1."),
        ({"unit": "batch"}, "schedule_unit must be step or epoch, got 'batch'. Choose one of them."),
        ({"lr": float("nan")}, "lr must be a number of 0 or more, got nan. Try 0.001 with adam or 0.1 with sgd."),
        ({"lr": float("inf")}, "lr must be a number of 0 or more, got inf. Try 0.001 with adam or 0.1 with sgd."),
        ({"warmup_epochs": 3.1}, "warmup_epochs must lie in [0, epochs = 3], got 3.1. Choose fewer."),
        ({"warmup_epochs": -0.1}, "warmup_epochs must lie in [0, epochs = 3], got -0.1. Choose fewer."),
        ({"epochs": 10**9, "steps_per_epoch": 1000},
         "epochs must make at most 100,000,000 steps, got 1,000,000,000 epochs of 1,000. Train fewer."),
    ],
)  # fmt: skip
def test_numbers_outside_their_range_are_refused(options, message):
    with pytest.raises(UsageError) as refused:
        learning_rates("step", **{"lr": 1.0, "epochs": 3, "steps_per_epoch": 4} | options)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "options", [{"step_epochs": 1}, {"step_gamma": 1.0}, {"warmup_epochs": 3.0}, {"lr": 0.0}], ids=str
)
def test_numbers_at_the_edge_of_their_range_are_not(options, monkeypatch):
    monkeypatch.setattr(schedules, "MAX_STEPS", 12)
    assert len(learning_rates("step", **{"lr": 1.0, "epochs": 3, "steps_per_epoch": 4} | options)) == 12
    with pytest.raises(UsageError, match="epochs must make at most 12 steps, got 13 epochs of 1"):
        learning_rates("step", lr=1.0, epochs=13, steps_per_epoch=1)
