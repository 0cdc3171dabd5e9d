"""Labels that are shares of two classes: reference, kernel, finite differences and PyTorch hold each other."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import FLOATS, TOLERANCE
from hypothesis import given, settings
from hypothesis import strategies as st

from clearsight.augment.presets import Augmentation
from clearsight.augment.transforms import augment_rows
from clearsight.data.preprocess import fit_preprocess
from clearsight.data.read.load import load_data
from clearsight.engines.dense import kernel, reference
from clearsight.engines.dense_engine import ENGINES, DenseEngine
from clearsight.engines.objective import DENSE_OPTIMIZERS, REDUCTIONS, Objective
from clearsight.models.initialize import initialize
from clearsight.models.mlp import ACTIVATIONS, BIASES, MLP

ROWS, INPUTS, CLASSES = 22, 7, 4
OPTIONS = [
    {"l1": 0.01}, {"l2": 0.1}, {"weight_decay": 0.1}, {"dropout": 0.4}, {"label_smoothing": 0.2}, {"clip_norm": 0.05},
    {"class_weights": (1.0, 0.0, 3.0, 0.5)}, {"class_weights": (2.0, 1.0, 3.0, 0.5), "label_smoothing": 0.1}, {"reduction": "sum"},
    {"loss": "squared_error"},
    {"loss": "huber", "huber_delta": 0.3},
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("own_cache")


def build(activation="tanh", bias="unit", loss="cross_entropy", dtype=np.float64, seed=3):
    net = MLP((INPUTS, 9, 6, CLASSES), (activation,) * 2, bias, "softmax" if loss == "cross_entropy" else "identity")
    return net, initialize(net, init="xavier", seed=seed, dtype=dtype, bias_init="normal")


def batch(dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    images, labels, others = rng.integers(0, 256, (ROWS, INPUTS)), *rng.integers(0, CLASSES, (2, ROWS))
    shares = rng.beta(0.4, 0.4, ROWS)
    shares[:3], others[3] = (0.0, 1.0, 0.5), labels[3]  # all of the other, none of it, half, and twice the same class
    return images.astype(np.uint8), labels, rng.normal(size=(ROWS, CLASSES)).astype(dtype), others, shares


def run(engine, net, objective, params, dtype, *, mixed=True, lr=0.05, batch_size=8):
    images, labels, targets, others, shares = batch(dtype)
    params, slots = params.astype(dtype), np.zeros((objective.num_slots, params.size), dtype)
    losses, hits, steps = [], 0, -(-ROWS // batch_size)
    for epoch in range(2):
        found, right = engine.train_steps(
            net, objective, inputs=images, labels=labels, targets=targets,
            order=np.random.default_rng(epoch).permutation(ROWS), batch_size=batch_size,
            scale=np.full(INPUTS, 1 / 255, dtype), offset=np.full(INPUTS, -0.5, dtype), params=params, slots=slots,
            lrs=np.full(steps, lr), first_batch=0, first_step=epoch * steps, seed=11,
            mixed=(others, shares) if mixed is True else mixed,
        )  # fmt: skip
        losses += found.tolist()
        hits += right
    return params, slots, np.array(losses), hits


def assert_engines_agree(net, objective, params, dtype=np.float64, **options):
    expected, got = (run(engine, net, objective, params, dtype, **options) for engine in (reference, kernel))
    for one, other in zip(expected[:3], got[:3], strict=True):
        np.testing.assert_allclose(other, one, **TOLERANCE[np.dtype(dtype).name])
    if objective.loss == "cross_entropy":
        assert expected[3] == got[3]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("optimizer", DENSE_OPTIMIZERS)
def test_engines_agree_on_mixed_labels_under_every_optimizer(optimizer, dtype):
    net, params = build()
    assert_engines_agree(net, Objective(optimizer=optimizer), params, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_engines_agree_on_mixed_labels_under_every_option(option, dtype):
    net, params = build(loss=option.get("loss", "cross_entropy"))
    assert_engines_agree(net, Objective(optimizer="momentum", **option), params, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("batch_size", [1, 8, ROWS, 100])
def test_engines_agree_on_mixed_labels_at_any_batch_size(batch_size, dtype):
    net, params = build()
    assert_engines_agree(net, Objective(dropout=0.2), params, dtype, batch_size=batch_size)


objectives = st.builds(
    Objective,
    reduction=st.sampled_from(REDUCTIONS),
    label_smoothing=st.sampled_from([0.0, 0.1]),
    class_weights=st.sampled_from([(), (1.0, 2.0, 0.5, 0.0)]),
    dropout=st.sampled_from([0.0, 0.3]),
    l1=st.sampled_from([0.0, 0.01]),
    l2=st.sampled_from([0.0, 0.05]),
    optimizer=st.sampled_from(DENSE_OPTIMIZERS),
)


@pytest.mark.long
@settings(max_examples=40, deadline=None)
@given(objectives, st.sampled_from(ACTIVATIONS), st.sampled_from(BIASES), st.integers(0, 99))
def test_engines_agree_on_mixed_labels_in_any_combination(objective, activation, bias, seed):
    if objective.optimizer in ("rmsprop", "adam", "adamw"):
        objective = replace(
            objective, eps=0.1
        )  # a gradient that is 0 but for rounding must not become a step of size lr
    net, params = build(activation, bias, seed=seed)
    assert_engines_agree(net, objective, params, lr=0.01)


@pytest.mark.long
@settings(max_examples=25, deadline=None)
@given(objectives, st.sampled_from(["sigmoid", "tanh", "gelu", "identity"]))
def test_gradient_of_mixed_labels_equals_finite_differences(objective, activation):
    net, params = build(activation)
    images, labels, targets, others, shares = batch()
    by_class = np.array(objective.class_weights or np.ones(CLASSES))
    size = (shares * by_class[labels] + (1 - shares) * by_class[others]).sum() if objective.reduction == "sum" else 1.0

    def look(p):
        return reference.gradient(
            net, p, images / 255 - 0.5, labels, targets, objective, mixed=(others, shares), seed=5, step=2
        )

    def value(p):
        penalty = sum(objective.l1 * np.abs(w).sum() + objective.l2 / 2 * (w * w).sum() for w, _ in net.layers(p))
        return look(p)[0] * size + penalty

    grad, h = look(params)[1], 1e-5
    for i in np.random.default_rng(1).permutation(params.size)[:30]:
        ahead, behind = params.copy(), params.copy()
        ahead[i] += h
        behind[i] -= h
        assert grad[i] == pytest.approx((value(ahead) - value(behind)) / (2 * h), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("weights", [(), (1.0, 2.0, 0.5, 3.0), (1.0, 0.0, 0.0, 3.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_and_gradient_equal_pytorch_on_each_class_by_its_share(smoothing, weights):
    """The definition: share * C(label) + (1 - share) * C(other), each with its class's weight, over the sum of weights."""
    torch = pytest.importorskip("torch")
    cross_entropy = torch.nn.functional.cross_entropy
    _, labels, targets, others, shares = batch()
    z = np.random.default_rng(2).normal(size=(ROWS, CLASSES)) * 3
    by_class = torch.tensor(weights or np.ones(CLASSES), dtype=torch.float64)
    logits, a, b, share = (
        torch.tensor(z, requires_grad=True),
        torch.tensor(labels),
        torch.tensor(others),
        torch.tensor(shares),
    )
    parts = [
        by_class[k] * part * cross_entropy(logits, k, reduction="none", label_smoothing=smoothing)
        for k, part in ((a, share), (b, 1 - share))
    ]
    value = (parts[0] + parts[1]).sum() / (by_class[a] * share + by_class[b] * (1 - share)).sum()
    value.backward()
    objective = Objective(label_smoothing=smoothing, class_weights=weights)
    loss, delta = reference.loss_and_delta(z, labels, targets, objective, (others, shares))
    assert loss == pytest.approx(value.item(), rel=1e-12)
    np.testing.assert_allclose(delta, logits.grad.numpy(), atol=1e-14)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_equals_pytorchs_own_soft_targets(smoothing):
    torch = pytest.importorskip("torch")
    _, labels, targets, others, shares = batch()
    z, hot = np.random.default_rng(2).normal(size=(ROWS, CLASSES)), np.eye(CLASSES)
    soft = torch.tensor(shares[:, None] * hot[labels] + (1 - shares)[:, None] * hot[others])
    value = torch.nn.functional.cross_entropy(torch.tensor(z), soft, label_smoothing=smoothing)
    loss, _ = reference.loss_and_delta(z, labels, targets, Objective(label_smoothing=smoothing), (others, shares))
    assert loss == pytest.approx(value.item(), rel=1e-12)


@pytest.mark.parametrize("engine", [reference, kernel])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("option", [{}, *OPTIONS], ids=str)
def test_a_share_of_one_is_the_same_as_no_mixing(engine, dtype, option):
    net, params = build(loss=option.get("loss", "cross_entropy"))
    others = batch()[3]
    alone = run(engine, net, Objective(**option), params, dtype, mixed=None)
    whole = run(engine, net, Objective(**option), params, dtype, mixed=(others, np.ones(ROWS)))
    for one, other in zip(alone[:3], whole[:3], strict=True):
        np.testing.assert_allclose(other, one, **TOLERANCE[np.dtype(dtype).name])
    assert alone[3] == whole[3]


@pytest.mark.parametrize("engine", [reference, pytest.param(kernel, marks=pytest.mark.long)])
def test_the_two_classes_may_change_places(engine):
    net, params = build()
    images, labels, targets, others, shares = batch()
    found = []
    for first, second, share in ((labels, others, shares), (others, labels, 1 - shares)):
        p = params.copy()
        losses, _ = engine.train_steps(
            net, Objective(class_weights=(1.0, 2.0, 0.5, 3.0), label_smoothing=0.1), inputs=images, labels=first, targets=targets,
            order=np.arange(ROWS), batch_size=8, scale=np.full(INPUTS, 1 / 255), offset=np.zeros(INPUTS), params=p,
            slots=np.zeros((0, p.size)), lrs=np.full(3, 0.1), first_batch=0, first_step=0, seed=0, mixed=(second, share),
        )  # fmt: skip
        found.append(np.concatenate([losses, p]))
    np.testing.assert_allclose(*found, **TOLERANCE["float64"])


@pytest.mark.parametrize("engine", [reference, pytest.param(kernel, marks=pytest.mark.long)])
def test_rows_whose_classes_weigh_nothing_change_nothing(engine):
    net, params = build()
    images, labels, targets, others, shares = batch()
    p = params.copy()
    losses, _ = engine.train_steps(
        net, Objective(class_weights=(0.0, 0.0, 0.0, 1.0)), inputs=images, labels=labels % 3, targets=targets,
        order=np.arange(ROWS), batch_size=8, scale=np.full(INPUTS, 1 / 255), offset=np.zeros(INPUTS), params=p,
        slots=np.zeros((0, p.size)), lrs=np.full(3, 0.1), first_batch=0, first_step=0, seed=0, mixed=(others % 3, shares),
    )  # fmt: skip
    assert losses.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(p, params)


def engine_of(dataset, name, augmentation, rows, **objective):
    net = MLP((16, 3 if dataset.class_names else 1), (), "unit", "softmax" if dataset.class_names else "identity")
    return DenseEngine(
        net, Objective(loss="cross_entropy" if dataset.class_names else "squared_error", **objective), images=dataset.images,
        labels=dataset.labels, preprocess=fit_preprocess(dataset, rows, scaling="unit"),
        params=initialize(net, init="xavier", seed=0, dtype=np.float64), batch_size=len(rows), seed=7, name=name,
        augmentation=augmentation, pool=rows,
    )  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name == "dense" else []) for name in ENGINES]
)
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_an_engine_mixes_labels_and_targets_as_it_mixes_pictures(task, name):
    rng, rows = np.random.default_rng(0), np.arange(5, 35)
    labels = rng.integers(0, 3, 40) if task == "classification" else rng.normal(size=40) * 5 + 20
    dataset = load_data(rng.integers(0, 256, (40, 4, 4)).astype(np.uint8), labels, task=task)
    mix = Augmentation(mixup=1.0, cutmix=1.0)
    engine = engine_of(dataset, name, mix, rows)
    start, preprocess = engine.state()["params"], fit_preprocess(dataset, rows, scaling="unit")
    losses, _ = engine.train_steps(rows[::-1], epoch=3, first_batch=0, first_step=0, lrs=np.array([0.1]))
    drawn = augment_rows(dataset.images, rows[::-1], augmentation=mix, seed=7, epoch=3, pool=rows)
    z = (drawn.images.reshape(30, -1) / 255) @ start[: -1 if task == "regression" else -3].reshape(16, -1)
    z = z + start[-1:] if task == "regression" else z + start[-3:]
    share = drawn.shares
    if task == "regression":
        t = (dataset.labels - preprocess.target_mean) / preprocess.target_std
        expected = 0.5 * np.mean((z[:, 0] - share * t[rows[::-1]] - (1 - share) * t[drawn.partners]) ** 2)
    else:
        logs, at = reference.log_softmax(z), np.arange(30)
        one, other = dataset.labels[rows[::-1]], dataset.labels[drawn.partners]
        expected = -np.mean(share * logs[at, one] + (1 - share) * logs[at, other])
    assert losses[0] == pytest.approx(expected, rel=1e-6)
    assert ((share > 0.05) & (share < 0.95)).mean() > 0.5


@pytest.mark.parametrize("alpha", [1e-6, 0.001, 0.01, 100.0])
def test_extreme_alphas_give_finite_shares(alpha):
    images, rows = np.zeros((500, 2, 2, 1), np.uint8), np.arange(500)
    mix = Augmentation(mixup=alpha, cutmix=alpha)
    shares = augment_rows(images, rows, augmentation=mix, seed=3, epoch=2, pool=rows).shares
    assert np.isfinite(shares).all()
    assert ((shares >= 0) & (shares <= 1)).all()
    assert shares.mean() == pytest.approx(0.5, abs=0.1)
