"""The textbook engine by itself: kinks, huge logits, mixed pictures and single functions, beside closed forms and PyTorch."""

import numpy as np
import pytest
from scipy import special

from clearsight.engines.dense import reference
from clearsight.engines.objective import Recipe
from clearsight.models.initialize import initialize
from clearsight.models.mlp import ACTIVATIONS, BIASES, LEAK, MLP

NO_TARGETS = np.zeros((0, 4))


def build(sizes=(7, 9, 6, 4), activation="tanh", bias="unit"):
    net = MLP(sizes, (activation,) * (len(sizes) - 2), bias)
    return net, initialize(net, init="xavier", seed=3, dtype=np.float64, bias_init="normal")


@pytest.mark.parametrize(("name", "slope"), [("relu", 0.0), ("leaky_relu", LEAK)])
def test_at_a_kink_the_slope_is_that_from_the_left(name, slope):
    value, derivative = reference.ACTIVATE[name](np.array([0.0, -2.0, 2.0]))
    np.testing.assert_array_equal(value, [0, -2 * slope, 2])
    np.testing.assert_array_equal(derivative, [slope, slope, 1])


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_activations_keep_their_type_and_do_not_overflow(name, dtype):
    z = np.array([[-1e4, -1.5, 0, 1.5, 1e4]], dtype)
    value, slope = reference.ACTIVATE[name](z)
    assert value.dtype == slope.dtype == dtype
    assert np.isfinite(value).all()
    exact = {
        "relu": np.maximum(z, 0), "leaky_relu": np.where(z > 0, z, LEAK * z), "sigmoid": special.expit(z), "tanh": np.tanh(z),
        "gelu": z * special.ndtr(z), "identity": z,
    }  # fmt: skip
    np.testing.assert_allclose(value, exact[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_softmax_and_its_logarithm_are_those_of_scipy_even_for_huge_logits(size):
    z = np.random.default_rng(0).normal(size=(6, 4)) * size + np.array(
        [[0], [size], [-size], [9 * size], [-9 * size], [0]]
    )
    np.testing.assert_allclose(reference.log_softmax(z), special.log_softmax(z, axis=1), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(reference.softmax(z), special.softmax(z, axis=1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("sizes", [(7, 4), (7, 5, 4), (7, 9, 6, 4)])
def test_logits_are_those_of_the_forward_pass_without_dropout(sizes, bias):
    net, params = build(sizes, bias=bias)
    x = np.random.default_rng(1).normal(size=(5, 7))
    sums = list(reference.layer_sums(net, params, x))
    assert [z.shape for z in sums] == [(5, n) for n in sizes[1:]]
    expected = x
    for z, (w, b) in zip(sums, net.layers(params), strict=True):
        np.testing.assert_allclose(z, expected @ w + (b if bias != "none" else 0))
        expected = np.tanh(z)
    np.testing.assert_array_equal(reference.logits(net, params, x), sums[-1])
    outputs, slopes = reference.forward(net, params, x)
    np.testing.assert_allclose(outputs[-1], sums[-1])
    assert len(outputs) == len(slopes) + 2 == len(sizes)


def test_dropout_begins_with_seed_0_and_step_0_and_differs_by_layer_step_and_seed():
    net, params = build()
    x, labels = np.random.default_rng(1).normal(size=(5, 7)), np.array([0, 1, 2, 3, 0])
    usual = reference.forward(net, params, x, dropout=0.4)[0]
    for one, other in zip(usual, reference.forward(net, params, x, dropout=0.4, seed=0, step=0)[0], strict=True):
        np.testing.assert_array_equal(one, other)
    loss = reference.gradient(net, params, x, labels, NO_TARGETS, Recipe(dropout=0.4))[0]
    assert loss == reference.gradient(net, params, x, labels, NO_TARGETS, Recipe(dropout=0.4), seed=0, step=0)[0]
    first = {"seed": 0, "step": 0, "layer": 0, "dtype": np.dtype(float)}
    masks = [
        reference.dropout_mask((40, 50), 0.5, **first | own) for own in ({}, {"seed": 1}, {"step": 1}, {"layer": 1})
    ]
    for k, one in enumerate(masks):
        for other in masks[:k]:
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.1


@pytest.mark.parametrize(
    "weights", [(), (0.5, 3.0, 1.0, 0.2), (0.5, 0.0, 1.0, 0.2)], ids=["even", "weighted", "with a zero"]
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_mixed_rows_have_the_loss_and_gradient_of_both_their_classes(weights, smoothing, reduction):
    """Each of a row's two classes has its share and the weight of its class, as in PyTorch's loss of soft targets."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    z, labels, others = rng.normal(size=(9, 4)), rng.integers(0, 4, 9), rng.integers(0, 4, 9)
    shares = np.r_[1.0, 0.0, rng.random(7)]
    each = np.array(weights or (1.0,) * 4)
    first, second = shares * each[labels], (1 - shares) * each[others]
    logits = torch.tensor(z, requires_grad=True)
    logs = torch.log_softmax(logits, dim=1)
    rows = torch.arange(9)
    loss = 0.0
    for share, classes in ((first, labels), (second, others)):
        hit = (1 - smoothing) * logs[rows, torch.tensor(classes)] + smoothing / 4 * logs.sum(dim=1)
        loss = loss - (torch.tensor(share) * hit).sum()
    total = (first + second).sum()
    (loss / total if reduction == "mean" else loss).backward()
    recipe = Recipe(class_weights=weights, label_smoothing=smoothing, reduction=reduction)
    ours, delta = reference.loss_and_delta(z, labels, NO_TARGETS, recipe, (others, shares))
    assert ours == pytest.approx(loss.item() / total, rel=1e-9)
    np.testing.assert_allclose(delta, logits.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_training_takes_the_mixture_of_its_own_rows():
    net, params = build()
    rng = np.random.default_rng(2)
    images, labels, others, shares = rng.random((8, 7)), rng.integers(0, 4, 8), rng.integers(0, 4, 8), rng.random(8)
    order = np.array([6, 1, 4, 3])
    losses, _ = reference.train_steps(
        net, Recipe(), inputs=images, labels=labels, targets=NO_TARGETS, order=order, batch_size=2, scale=np.ones(7),
        offset=np.zeros(7), params=params.copy(), slots=np.zeros((0, params.size)), lrs=np.zeros(1), first_batch=1, first_step=0,
        seed=0, mixed=(others, shares),
    )  # fmt: skip
    rows = order[2:]
    z = reference.logits(net, params, images[rows])
    expected, _ = reference.loss_and_delta(z, labels[rows], NO_TARGETS, Recipe(), (others[rows], shares[rows]))
    assert losses.tolist() == pytest.approx([expected])


def test_a_batch_of_classes_without_weight_has_no_loss_and_no_gradient():
    z = np.random.default_rng(0).normal(size=(3, 4))
    loss, delta = reference.loss_and_delta(z, np.zeros(3, int), NO_TARGETS, Recipe(class_weights=(0.0, 1.0, 1.0, 1.0)))
    assert loss == 0
    np.testing.assert_array_equal(delta, np.zeros((3, 4)))
