"""Numbers below a float's normal form never slow a training down, and nobody else's arithmetic changes."""

import threading

import numpy as np
import pytest

from clearsight.core.denormals import can_flush, flush_denormals
from clearsight.data.dataset import build_dataset
from clearsight.data.preprocess import fit_preprocess
from clearsight.engines.dense_engine import DenseEngine
from clearsight.engines.objective import Objective
from clearsight.models.initialize import initialize
from clearsight.models.mlp import MLP

SMALLEST_NORMAL = np.float32(2.0**-126)
needs_switch = pytest.mark.skipif(not can_flush(), reason="this processor's switch is not known, or not needed")


def shrink():
    """The largest denormal that a thousandth of the smallest normal number can be; 0 where denormals are flushed."""
    return float((np.full(8, SMALLEST_NORMAL) * np.float32(1e-3)).max())


def is_denormal(values):
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32) & 0x7FFFFFFF
    return (bits > 0) & (bits < 0x00800000)


def build(name, objective, seed=0, batch_size=4, **rest):
    """An engine on pictures whose last two columns show something in the first picture alone."""
    images = np.random.default_rng(0).integers(0, 256, (32, 4, 4, 1)).astype(np.uint8)
    images[1:, :, 2:] = 0
    data = build_dataset({"train": (images, np.arange(32) % 3)}, name="columns")
    net = MLP((16, 8, 3), ("relu",))
    parts = {"images": data.images, "labels": data.labels, "preprocess": fit_preprocess(data, np.arange(32))}
    parts |= {"params": initialize(net, init="he", seed=seed), "batch_size": batch_size, "seed": 0, **rest}
    if name == "torch":
        from clearsight.engines.torch_engine import TorchEngine

        return TorchEngine(net, objective, **parts)
    return DenseEngine(net, objective, name=name, **parts)


def train(engine, *, first_picture_steps, later_steps, first_step=0):
    """Some steps with the picture that shows something in the last columns, then many without it."""
    for start, steps, order in (
        (0, first_picture_steps, np.arange(4)),
        (first_picture_steps, later_steps, np.arange(4, 8)),
    ):
        for step in range(start, start + steps):
            engine.train_steps(order, epoch=step, first_batch=0, first_step=first_step + step, lrs=np.array([0.01]))


@pytest.mark.long
@pytest.mark.parametrize("name", ["dense", "reference", "torch"])
@pytest.mark.parametrize("optimizer", ["momentum", "nesterov", "rmsprop", "adam", "adamw"])
def test_slots_of_weights_without_gradient_become_zero_and_never_denormal(name, optimizer):
    if name == "torch":
        pytest.importorskip("torch")
    elif not can_flush():
        pytest.skip("this processor's switch is not known, or not needed")
    engine = build(name, Objective(optimizer=optimizer, beta2=0.9))
    train(engine, first_picture_steps=3, later_steps=1021)  # 1,024 steps in all, a multiple of torch's sweep
    slots = {key: value for key, value in engine.state().items() if key.startswith("slots")}
    assert slots
    assert not any(is_denormal(value).any() for value in slots.values() if value.ndim)


@needs_switch
@pytest.mark.parametrize("name", ["dense", "reference"])
def test_signals_that_vanish_never_become_denormal(name):
    """Seventeen layers of weights near 1e-3 shrink a gradient below 1e-38 on its way back."""
    from clearsight.engines.dense import kernel, reference

    net = MLP((16,) + (10,) * 16 + (3,), ("identity",) * 16)
    params = initialize(net, init="normal", init_std=1e-3, seed=0)
    slots = np.zeros((1, params.size), np.float32)
    module = {"dense": kernel, "reference": reference}[name]
    module.train_steps(
        net, Objective(optimizer="momentum"), inputs=np.full((4, 16), 200, np.uint8), labels=np.arange(4) % 3,
        targets=np.zeros((0, 3), np.float32), order=np.arange(4), batch_size=4, scale=np.full(16, 1 / 255, np.float32),
        offset=np.zeros(16, np.float32), params=params, slots=slots, lrs=np.full(1, 0.1), first_batch=0, first_step=0, seed=0,
    )  # fmt: skip
    assert not is_denormal(slots).any()
    assert (slots != 0).any()
    assert (slots[0, : 16 * 10] == 0).all(), "the first layer's gradient is below the smallest float"


@needs_switch
def test_the_switch_is_set_inside_and_as_before_afterwards():
    assert shrink() > 0
    with flush_denormals():
        assert shrink() == 0
        with flush_denormals():
            assert shrink() == 0
        assert shrink() == 0, "the inner one restored what it found"
    assert shrink() > 0


@needs_switch
def test_the_switch_is_restored_after_an_error():
    with pytest.raises(ValueError, match="inside"), flush_denormals():
        raise ValueError("inside")
    assert shrink() > 0


@needs_switch
def test_other_threads_keep_their_denormals():
    found, inside, seen = [], threading.Event(), threading.Event()

    def other():
        inside.wait(60)
        found.append(shrink())
        seen.set()

    thread = threading.Thread(target=other)
    thread.start()
    try:
        with flush_denormals():
            inside.set()
            assert seen.wait(60)
    finally:
        inside.set()
        thread.join()
    assert found[0] > 0


@pytest.mark.parametrize("name", ["dense", "reference"])
def test_training_leaves_the_callers_arithmetic_alone(name):
    before = shrink()
    train(build(name, Objective()), first_picture_steps=1, later_steps=0)
    assert shrink() == before


@needs_switch
@pytest.mark.parametrize("name", ["dense", "reference"])
def test_a_state_with_denormal_slots_goes_on_as_if_they_were_zero(name):
    """Checkpoints of earlier versions hold them."""
    ends = []
    for value in (0.0, 1e-40):
        engine = build(name, Objective(optimizer="momentum"))
        state = engine.state()
        state["slots"][:] = value
        engine.load_state(state)
        train(engine, first_picture_steps=2, later_steps=2)
        ends.append(engine.state())
    for key in ("params", "slots"):
        assert np.array_equal(ends[0][key], ends[1][key])


@pytest.mark.long
def test_torch_drops_slots_at_the_same_steps_after_a_resume():
    """The sweep counts steps of the run and not of the process."""
    pytest.importorskip("torch")
    objective = Objective(optimizer="momentum", momentum=0.5)
    whole = build("torch", objective)
    train(whole, first_picture_steps=3, later_steps=137)
    first, second = build("torch", objective), build("torch", objective)
    train(first, first_picture_steps=3, later_steps=100)
    second.load_state(first.state())
    train(second, first_picture_steps=0, later_steps=37, first_step=103)
    for key, value in whole.state().items():
        assert np.array_equal(value, second.state()[key]), key
