"""Reference, kernel, finite differences and PyTorch hold each other: every option alone, and in random combinations."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from conftest import FLOATS, TOLERANCE
from hypothesis import given, settings
from hypothesis import strategies as st

from clearsight.engines.dense import kernel, reference
from clearsight.engines.objective import DENSE_OPTIMIZERS, LOSSES, REDUCTIONS, Objective
from clearsight.models.initialize import INITIALIZERS, initialize
from clearsight.models.mlp import ACTIVATIONS, BIASES, MLP

ROWS, INPUTS, CLASSES = 22, 7, 4


def build(
    sizes=(INPUTS, 9, 6, CLASSES), activation="tanh", bias="unit", loss="cross_entropy", dtype=np.float64, seed=3
):
    output = "softmax" if loss == "cross_entropy" else "identity"
    net = MLP(sizes, (activation,) * (len(sizes) - 2), bias, output)
    return net, initialize(net, init="xavier", seed=seed, dtype=dtype, bias_init="normal")


def batch(dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (ROWS, INPUTS)).astype(np.uint8)
    return images, rng.integers(0, CLASSES, ROWS), rng.normal(size=(ROWS, CLASSES)).astype(dtype)


def run(engine, net, objective, params, dtype, *, lr=0.05, batch_size=8, seed=11, epochs=2):
    images, labels, targets = batch(dtype)
    params, slots = params.copy(), np.zeros((objective.num_slots, params.size), dtype)
    losses, hits, steps = [], 0, -(-ROWS // batch_size)
    for epoch in range(epochs):
        found, right = engine.train_steps(
            net, objective, inputs=images, labels=labels, targets=targets,
            order=np.random.default_rng(epoch).permutation(ROWS), batch_size=batch_size,
            scale=np.full(INPUTS, 1 / 255, dtype), offset=np.full(INPUTS, -0.5, dtype), params=params, slots=slots,
            lrs=np.full(steps, lr), first_batch=0, first_step=epoch * steps, seed=seed,
        )  # fmt: skip
        losses += found.tolist()
        hits += right
    return params, slots, np.array(losses), hits


def assert_engines_agree(net, objective, params, dtype=np.float64, **options):
    params = params.astype(dtype)
    expected, got = (run(engine, net, objective, params, dtype, **options) for engine in (reference, kernel))
    for one, other in zip(expected[:3], got[:3], strict=True):
        np.testing.assert_allclose(other, one, **TOLERANCE[np.dtype(dtype).name])
    if objective.loss == "cross_entropy":
        assert expected[3] == got[3]


def penalty(net, params, objective):
    """l1 |w| + l2 / 2 w^2 over all weights; biases are free."""
    return sum(objective.l1 * np.abs(w).sum() + objective.l2 / 2 * (w * w).sum() for w, _ in net.layers(params))


def assert_gradient_is_exact(net, objective, params):
    """Central differences in float64 of loss + penalties against the reference's gradient; `sum` has B times the loss."""
    images, labels, targets = batch()
    x = images / 255 - 0.5
    scale = 1.0
    if objective.reduction == "sum":
        weights = np.array(objective.class_weights or np.ones(CLASSES))
        scale = weights[labels].sum() if objective.loss == "cross_entropy" else ROWS

    def value(p):
        loss, _, _ = reference.gradient(net, p, x, labels, targets, objective, seed=5, step=2)
        return loss * scale + penalty(net, p, objective)

    _, grad, _ = reference.gradient(net, params, x, labels, targets, objective, seed=5, step=2)
    h = 1e-5
    for i in np.random.default_rng(1).permutation(params.size)[:40]:
        ahead, behind = params.copy(), params.copy()
        ahead[i] += h
        behind[i] -= h
        numeric = (value(ahead) - value(behind)) / (2 * h)
        assert grad[i] == pytest.approx(numeric, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("optimizer", DENSE_OPTIMIZERS)
def test_engines_agree_on_every_optimizer(optimizer, dtype):
    net, params = build()
    assert_engines_agree(net, Objective(optimizer=optimizer), params, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_engines_agree_on_every_activation(activation, dtype):
    net, params = build(activation=activation)
    assert_engines_agree(net, Objective(), params, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("bias", BIASES)
def test_engines_agree_on_every_bias_and_loss(bias, loss, dtype):
    net, params = build(bias=bias, loss=loss)
    assert_engines_agree(net, Objective(loss=loss), params, dtype)


OPTIONS = [
    {"l1": 0.01}, {"l2": 0.1}, {"weight_decay": 0.1}, {"dropout": 0.4}, {"label_smoothing": 0.2},
    {"class_weights": (1.0, 0.0, 3.0, 0.5)}, {"clip_norm": 0.05}, {"reduction": "sum"},
]  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_engines_agree_on_every_regulariser(option, dtype):
    net, params = build()
    assert_engines_agree(net, Objective(optimizer="momentum", **option), params, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sizes", [(INPUTS, CLASSES), (INPUTS, 1, CLASSES), (INPUTS, 5, 5, 5, 5, 5, CLASSES)])
def test_engines_agree_on_any_number_of_layers(sizes, dtype):
    net, params = build(sizes=sizes)
    assert_engines_agree(net, Objective(), params, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("batch_size", [1, 8, ROWS, 100])
def test_engines_agree_on_any_batch_size_and_keep_the_last_batch(batch_size, dtype):
    net, params = build()
    assert_engines_agree(net, Objective(dropout=0.2), params, dtype, batch_size=batch_size)


@pytest.mark.long
def test_engines_agree_on_a_wide_deep_net():
    """Whole tiles, tails, and more inputs than one block of the product holds."""
    net = MLP((1100, 70, 130, 5), ("sigmoid", "tanh"))
    params = initialize(net, init="xavier", seed=0, dtype=np.float64)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 1100)).astype(np.uint8), rng.integers(0, 5, 40)
    found = []
    for engine in (reference, kernel):
        p, slots = params.copy(), np.zeros((2, params.size))
        engine.train_steps(
            net, Objective(optimizer="adam"), inputs=images, labels=labels, targets=np.zeros((0, 5)), order=np.arange(40),
            batch_size=13, scale=np.full(1100, 1 / 255), offset=np.full(1100, -0.5), params=p, slots=slots,
            lrs=np.full(4, 0.01), first_batch=0, first_step=0, seed=0,
        )  # fmt: skip
        found.append(p)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-7, atol=1e-9)


@pytest.mark.long
def test_tanh_keeps_its_precision_near_zero():
    z = np.array([[1e-7, 1e-6, -1e-5, 1e-3, 0.0199, 0.0201, 1.0, -9.0]], np.float32)
    got = z.copy()
    kernel._activate(got, np.zeros(0, np.float32), kernel.NONE, kernel.TANH, np.zeros_like(z), 0.0, 0, 0, 0)
    np.testing.assert_allclose(got, np.tanh(z.astype(np.float64)), rtol=3e-6)


objectives = st.builds(
    Objective,
    loss=st.sampled_from(LOSSES),
    reduction=st.sampled_from(REDUCTIONS),
    label_smoothing=st.sampled_from([0.0, 0.1]),
    class_weights=st.sampled_from([(), (1.0, 2.0, 0.5, 1.0)]),
    dropout=st.sampled_from([0.0, 0.3]),
    l1=st.sampled_from([0.0, 0.01]),
    l2=st.sampled_from([0.0, 0.05]),
    clip_norm=st.sampled_from([0.0, 0.5]),
    optimizer=st.sampled_from(DENSE_OPTIMIZERS),
    weight_decay=st.sampled_from([None, 0.02]),
)


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(
    objectives,
    st.lists(st.integers(1, 9), max_size=3),
    st.sampled_from(ACTIVATIONS),
    st.sampled_from(BIASES),
    st.integers(0, 99),
)
def test_engines_agree_on_any_combination(objective, hidden, activation, bias, seed):
    if objective.optimizer in ("rmsprop", "adam", "adamw"):
        objective = replace(
            objective, eps=0.1
        )  # a gradient that is 0 but for rounding must not become a step of size lr
    net, params = build((INPUTS, *hidden, CLASSES), activation, bias, objective.loss, seed=seed)
    assert_engines_agree(net, objective, params, lr=0.01)


@pytest.mark.long
@settings(max_examples=40, deadline=None)
@given(
    objectives.filter(lambda r: r.clip_norm == 0),
    st.sampled_from(["sigmoid", "tanh", "gelu", "identity"]),
    st.sampled_from(BIASES),
)
def test_gradient_equals_finite_differences_on_any_combination(objective, activation, bias):
    net, params = build(activation=activation, bias=bias, loss=objective.loss)
    assert_gradient_is_exact(net, objective, params)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_gradient_equals_finite_differences_away_from_kinks(activation):
    net, params = build(activation=activation)
    assert_gradient_is_exact(net, Objective(l2=0.01), params)


def torch_twin(net, params, objective, dtype):
    """The same network, and what makes its steps, written with PyTorch's own parts."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    kinds = {
        "relu": nn.ReLU,
        "leaky_relu": nn.LeakyReLU,
        "sigmoid": nn.Sigmoid,
        "tanh": nn.Tanh,
        "gelu": nn.GELU,
        "identity": nn.Identity,
    }
    layers = []
    for i, (w, b) in enumerate(net.layers(params.astype(dtype))):
        linear = nn.Linear(*w.shape, dtype=torch.float64 if dtype == np.float64 else torch.float32)
        with torch.no_grad():
            linear.weight[:] = torch.tensor(w.T)
            linear.bias[:] = torch.tensor(b)
        layers += [linear, kinds[net.activations[i]]()] if i < net.num_layers - 1 else [linear]
    model = nn.Sequential(*layers)
    groups = [
        {"params": [m.weight for m in layers if isinstance(m, nn.Linear)], "weight_decay": objective.decay},
        {"params": [m.bias for m in layers if isinstance(m, nn.Linear)], "weight_decay": 0.0},
    ]
    make = {
        "sgd": lambda: torch.optim.SGD(groups, lr=0.05),
        "momentum": lambda: torch.optim.SGD(groups, lr=0.05, momentum=objective.momentum),
        "nesterov": lambda: torch.optim.SGD(groups, lr=0.05, momentum=objective.momentum, nesterov=True),
        "rmsprop": lambda: torch.optim.RMSprop(groups, lr=0.05, alpha=objective.rho, eps=objective.eps),
        "adam": lambda: torch.optim.Adam(groups, lr=0.05, eps=objective.eps),
        "adamw": lambda: torch.optim.AdamW(groups, lr=0.05, eps=objective.eps),
    }
    return torch, model, make[objective.optimizer]


def torch_params(net, model):
    linears = [m for m in model if hasattr(m, "weight")]
    return np.concatenate(
        [np.concatenate([m.weight.detach().numpy().T.ravel(), m.bias.detach().numpy()]) for m in linears]
    )


@pytest.mark.long
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("optimizer", DENSE_OPTIMIZERS)
def test_training_equals_pytorch(optimizer, activation):
    objective = Objective(optimizer=optimizer, l1=0.001, l2=0.01, clip_norm=0.5, label_smoothing=0.1)
    net, params = build(activation=activation)
    torch, model, make = torch_twin(net, params, objective, np.float64)
    stepper = make()
    images, labels, _ = batch()
    x = torch.tensor(images / 255 - 0.5)
    for epoch in range(2):
        order = np.random.default_rng(epoch).permutation(ROWS)
        for start in range(0, ROWS, 8):
            rows = order[start : start + 8]
            stepper.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x[rows]), torch.tensor(labels[rows]), label_smoothing=0.1)
            weights = [m.weight for m in model if hasattr(m, "weight")]
            loss = loss + sum(objective.l1 * w.abs().sum() + objective.l2 / 2 * (w * w).sum() for w in weights)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            stepper.step()
    got = run(kernel, net, objective, params, np.float64)[0]
    np.testing.assert_allclose(
        got, torch_params(net, model), rtol=1e-5, atol=1e-6
    )  # PyTorch adds 1e-6 to the norm it clips by


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_equals_autograd_in_float32(loss, reduction):
    objective = Objective(
        loss=loss,
        reduction=reduction,
        class_weights=(1.0, 2.0, 0.5, 1.0) if loss == "cross_entropy" else (),
        huber_delta=0.4,
    )
    net, params = build(activation="gelu", loss=loss, dtype=np.float32)
    torch, model, _ = torch_twin(net, params, objective, np.float32)
    images, labels, targets = batch(np.float32)
    x = (images / 255 - 0.5).astype(np.float32)
    z = model(torch.tensor(x))
    if loss == "cross_entropy":
        value = torch.nn.functional.cross_entropy(z, torch.tensor(labels), weight=torch.tensor(objective.class_weights))
        size = sum(objective.class_weights[k] for k in labels)
    elif loss == "huber":
        rows = torch.nn.functional.huber_loss(z, torch.tensor(targets), reduction="none", delta=objective.huber_delta)
        value, size = rows.sum(dim=1).mean(), ROWS
    else:
        value = 0.5 * ((z - torch.tensor(targets)) ** 2).sum(dim=1).mean()
        size = ROWS
    (value * size if reduction == "sum" else value).backward()
    ours, grad, _ = reference.gradient(net, params, x, labels, targets, objective)
    theirs = [
        np.concatenate([m.weight.grad.numpy().T.ravel(), m.bias.grad.numpy()]) for m in model if hasattr(m, "weight")
    ]
    assert ours == pytest.approx(value.item(), rel=1e-5)
    np.testing.assert_allclose(grad, np.concatenate(theirs), **TOLERANCE["float32"])


def test_delta_of_softmax_and_cross_entropy_is_a_minus_y():
    z = np.random.default_rng(0).normal(size=(5, CLASSES))
    labels = np.array([0, 1, 2, 3, 0])
    _, delta = reference.loss_and_delta(z, labels, np.zeros((0, CLASSES)), Objective(reduction="sum"))
    np.testing.assert_allclose(delta, reference.softmax(z) - np.eye(CLASSES)[labels], atol=1e-15)


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_softmax_survives_huge_logits(size):
    for dtype in (np.float32, np.float64):
        z = np.array([[size, -size, 0.0], [-size, -size, -size]], dtype)
        assert np.isfinite(reference.softmax(z)).all()
        np.testing.assert_allclose(reference.softmax(z).sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("engine", [reference, pytest.param(kernel, marks=pytest.mark.long)])
def test_untrained_zero_net_has_loss_ln_k(engine):
    net, params = build()
    losses = run(engine, net, Objective(), params * 0, np.float64, lr=0.0)[2]
    np.testing.assert_allclose(losses, np.log(CLASSES), rtol=1e-12)


@pytest.mark.parametrize("engine", [reference, pytest.param(kernel, marks=pytest.mark.long)])
def test_a_loss_that_is_not_finite_ends_training_without_its_update(engine):
    net, params = build()
    params[0] = np.nan
    images, labels, targets = batch()
    before = params.copy()
    losses, hits = engine.train_steps(
        net, Objective(), inputs=images, labels=labels, targets=targets, order=np.arange(ROWS), batch_size=8,
        scale=np.ones(INPUTS), offset=np.zeros(INPUTS), params=params, slots=np.zeros((0, params.size)),
        lrs=np.full(3, 0.1), first_batch=0, first_step=0, seed=0,
    )  # fmt: skip
    assert len(losses) == 1
    assert np.isnan(losses[0])
    assert hits == 0
    np.testing.assert_array_equal(params, before)


def test_dropout_silences_the_stated_share_and_keeps_the_mean():
    mask = reference.dropout_mask((400, 500), 0.3, seed=1, step=2, layer=0, dtype=np.dtype(np.float64))
    assert (mask == 0).mean() == pytest.approx(0.3, abs=0.005)
    assert mask.mean() == pytest.approx(1.0, abs=0.01)
    other = reference.dropout_mask((400, 500), 0.3, seed=1, step=3, layer=0, dtype=np.dtype(np.float64))
    assert (mask != other).mean() > 0.3


@pytest.mark.long
def test_kernel_reads_float_pictures_as_it_reads_bytes():
    net, params = build()
    images, labels, targets = batch()
    found = []
    for inputs in (images, images.astype(np.float32)):
        p = params.astype(np.float32)
        kernel.train_steps(
            net, Objective(), inputs=inputs, labels=labels, targets=targets.astype(np.float32), order=np.arange(ROWS),
            batch_size=8, scale=np.full(INPUTS, 1 / 255, np.float32), offset=np.zeros(INPUTS, np.float32), params=p,
            slots=np.zeros((0, p.size), np.float32),
            lrs=np.full(3, 0.1), first_batch=0, first_step=0, seed=0,
        )  # fmt: skip
        found.append(p)
    np.testing.assert_array_equal(*found)


@pytest.mark.long
@pytest.mark.parametrize("optimizer", DENSE_OPTIMIZERS)
def test_every_optimizer_solves_a_quadratic(optimizer):
    net = MLP((1, 1), (), "none", "identity")  # minimise (w - 3)^2 / 2
    objective = Objective(loss="squared_error", optimizer=optimizer, weight_decay=0.0)
    params, slots = np.array([0.0]), np.zeros((objective.num_slots, 1))
    rates = np.linspace(0.1, 0.0, 400)
    kernel.train_steps(
        net, objective, inputs=np.ones((1, 1), np.uint8), labels=np.zeros(1, np.int64), targets=np.full((1, 1), 3.0),
        order=np.zeros(400, np.int64), batch_size=1, scale=np.ones(1), offset=np.zeros(1), params=params, slots=slots,
        lrs=rates, first_batch=0, first_step=0, seed=0,
    )  # fmt: skip
    assert params[0] == pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize("init", INITIALIZERS)
def test_initializers_have_the_spread_they_promise(init):
    net = MLP((300, 200), ())
    w = net.layers(initialize(net, init=init, seed=0, init_std=0.05, dtype=np.float64))[0][0]
    expected = {
        "normal": 0.05,
        "uniform": 0.05,
        "xavier": np.sqrt(2 / 500),
        "he": np.sqrt(2 / 300),
        "orthogonal": np.sqrt(1 / 300),
        "zeros": 0.0,
    }
    assert w.std() == pytest.approx(expected[init], rel=0.02)
    if init == "orthogonal":
        np.testing.assert_allclose(w.T @ w, np.eye(200), atol=1e-12)


def test_shared_bias_is_one_number_a_layer_and_none_is_none():
    sizes = (5, 4, 3)
    counts = {bias: MLP(sizes, ("relu",), bias).num_parameters for bias in BIASES}
    assert counts == {"unit": 20 + 4 + 12 + 3, "shared": 20 + 1 + 12 + 1, "none": 32}


@pytest.mark.long
def test_code_just_compiled_and_code_from_the_cache_give_the_same_bits(tmp_path):
    """Numba links them differently: what LLVM may reorder or fuse then comes out differently."""
    code = (
        "import hashlib; from clearsight.config.build import build_config; from clearsight.data.read.load import load_data;"
        "from clearsight.pipeline.train_in_memory import train_dataset;"
        "model = {'hidden': (8, 7), 'activation': ('tanh', 'gelu')};"
        "train = {'epochs': 2, 'dropout': 0.1, 'l1': 1e-4, 'l2': 1e-3, 'clip_norm': 1.0, 'label_smoothing': 0.1};"
        "run = train_dataset(build_config({'model': model, 'train': train}), load_data('digits'));"
        "print(hashlib.sha256(run.bundle.params.tobytes()).hexdigest())"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", code]
    outputs = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(2)]
    assert list((tmp_path / "cache").rglob("*.nbc"))
    assert outputs[0].stdout == outputs[1].stdout != ""
