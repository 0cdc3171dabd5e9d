"""The textbook engine by itself: kinks, huge logits, mixed pictures and single functions, beside closed forms and PyTorch."""

import numpy as np
import pytest
from scipy import special

from clearsight.engines.dense import reference
from clearsight.engines.objective import DENSE_OPTIMIZERS, Objective
from clearsight.models.initialize import initialize
from clearsight.models.mlp import ACTIVATIONS, BIASES, LEAK, MLP

NO_TARGETS = np.zeros((0, 4))


def build(sizes=(7, 9, 6, 4), activation="tanh", bias="unit"):
    net = MLP(sizes, (activation,) * (len(sizes) - 2), bias)
    return net, initialize(net, init="xavier", seed=3, dtype=np.float64, bias_init="normal")


@pytest.mark.parametrize(("name", "slope"), [("relu", 0.0), ("leaky_relu", LEAK)])
def test_at_a_kink_the_slope_is_that_from_the_left(name, slope):
    value, derivative = reference.ACTIVATE[name](np.array([0.0, -2.0, 0.5, 2.0]))
    np.testing.assert_array_equal(value, [0, -2 * slope, 0.5, 2])
    np.testing.assert_array_equal(derivative, [slope, slope, 1, 1])


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
    loss = reference.gradient(net, params, x, labels, NO_TARGETS, Objective(dropout=0.4))[0]
    assert loss == reference.gradient(net, params, x, labels, NO_TARGETS, Objective(dropout=0.4), seed=0, step=0)[0]
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
    objective = Objective(class_weights=weights, label_smoothing=smoothing, reduction=reduction)
    ours, delta = reference.loss_and_delta(z, labels, NO_TARGETS, objective, (others, shares))
    assert ours == pytest.approx(loss.item() / total, rel=1e-9)
    np.testing.assert_allclose(delta, logits.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_training_takes_the_mixture_of_its_own_rows():
    net, params = build()
    rng = np.random.default_rng(2)
    images, labels, others, shares = rng.random((8, 7)), rng.integers(0, 4, 8), rng.integers(0, 4, 8), rng.random(8)
    order = np.array([6, 1, 4, 3])
    losses, _ = reference.train_steps(
        net, Objective(), inputs=images, labels=labels, targets=NO_TARGETS, order=order, batch_size=2, scale=np.ones(7),
        offset=np.zeros(7), params=params.copy(), slots=np.zeros((0, params.size)), lrs=np.zeros(1), first_batch=1, first_step=0,
        seed=0, mixed=(others, shares),
    )  # fmt: skip
    rows = order[2:]
    z = reference.logits(net, params, images[rows])
    expected, _ = reference.loss_and_delta(z, labels[rows], NO_TARGETS, Objective(), (others[rows], shares[rows]))
    assert losses.tolist() == pytest.approx([expected])


def test_a_batch_of_classes_without_weight_has_no_loss_and_no_gradient():
    z = np.random.default_rng(0).normal(size=(3, 4))
    loss, delta = reference.loss_and_delta(
        z, np.zeros(3, int), NO_TARGETS, Objective(class_weights=(0.0, 1.0, 1.0, 1.0))
    )
    assert loss == 0
    np.testing.assert_array_equal(delta, np.zeros((3, 4)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_slope_is_the_derivative_of_its_activation(name, dtype):
    z = np.array([[-3.0, -1.1, -0.2, 0.3, 1.2, 2.5]])
    step = 1e-5
    numeric = (reference.ACTIVATE[name](z + step)[0] - reference.ACTIVATE[name](z - step)[0]) / (2 * step)
    given = z.astype(dtype)
    _, slope = reference.ACTIVATE[name](given)
    np.testing.assert_allclose(slope, numeric, rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(given, z.astype(dtype))
    assert not np.shares_memory(reference.ACTIVATE["identity"](given)[0], given)


@pytest.mark.long  # the first optimiser of PyTorch loads its compiler
@pytest.mark.parametrize("optimizer", DENSE_OPTIMIZERS)
@pytest.mark.parametrize("decay", [0.0, 0.2, None])
def test_each_update_is_that_of_pytorch(optimizer, decay):
    """Four steps with other gradients and rates; the decay is of weights alone, before the step."""
    torch = pytest.importorskip("torch")
    objective = Objective(
        optimizer=optimizer, weight_decay=decay, momentum=0.8, rho=0.7, beta1=0.6, beta2=0.75, eps=0.01
    )
    net, params = build()
    rng, slots = np.random.default_rng(0), np.zeros((objective.num_slots, params.size))
    twin = torch.tensor(params.copy(), requires_grad=True)
    make = {
        "sgd": lambda: torch.optim.SGD([twin], lr=1.0),
        "momentum": lambda: torch.optim.SGD([twin], lr=1.0, momentum=0.8),
        "nesterov": lambda: torch.optim.SGD([twin], lr=1.0, momentum=0.8, nesterov=True),
        "rmsprop": lambda: torch.optim.RMSprop([twin], lr=1.0, alpha=0.7, eps=0.01),
        "adam": lambda: torch.optim.Adam([twin], lr=1.0, betas=(0.6, 0.75), eps=0.01),
    }
    stepper = make[optimizer.removesuffix("w")]()
    weights = np.zeros_like(params)
    for w, _ in net.layers(weights):
        w[:] = 1
    share = {None: 0.01 if optimizer == "adamw" else 0.0}.get(decay, decay)
    for step in range(4):
        grad, lr = rng.normal(size=params.size), 0.1 + 0.02 * step
        kept = grad.copy()
        reference.update(net, params, grad, slots, objective, lr=lr, step=step)
        np.testing.assert_array_equal(grad, kept)
        with torch.no_grad():
            twin *= torch.tensor(1 - lr * share * weights)
        twin.grad, stepper.param_groups[0]["lr"] = torch.tensor(grad), lr
        stepper.step()
        np.testing.assert_allclose(params, twin.detach().numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("p", "seed", "step", "layer"), [(0.3, 1, 2, 0), (0.05, 7, 0, 3)])
def test_a_mask_silences_its_share_and_scales_the_rest(p, seed, step, layer):
    mask = reference.dropout_mask((300, 400), p, seed=seed, step=step, layer=layer, dtype=np.dtype(np.float32))
    assert (mask.shape, mask.dtype) == ((300, 400), np.float32)
    np.testing.assert_allclose(np.unique(mask), [0, 1 / (1 - p)], rtol=1e-6)
    assert (mask == 0).mean() == pytest.approx(p, abs=0.004)
    for one, other in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):  # no place follows from the next
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.02


def test_no_layer_of_a_step_has_the_mask_of_another_step():
    given = {"seed": 3, "dtype": np.dtype(float)}
    masks = {
        (step, layer): reference.dropout_mask((20, 20), 0.5, step=step, layer=layer, **given).tobytes()
        for step in range(40)
        for layer in range(30)
    }
    assert len(set(masks.values())) == len(masks)


def test_masks_stay_what_they_were_in_earlier_versions():
    """A run that was interrupted goes on with the same masks: the first of SplitMix64 at three keys, by plain integers."""

    def mix(x):
        x = (x + 0x9E3779B97F4A7C15) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    for seed, step, layer in ((0, 0, 0), (5, 3, 2), (9, 100, 1)):
        key = mix(mix(seed) ^ (64 * step + layer))
        shares = np.array([(mix((key + k) % 2**64) >> 40) / 2**24 for k in range(12)])
        mask = reference.dropout_mask((3, 4), 0.4, seed=seed, step=step, layer=layer, dtype=np.dtype(float))
        np.testing.assert_array_equal(mask.ravel() == 0, shares < 0.4)


def test_dropout_multiplies_hidden_outputs_and_slopes_alike_and_leaves_the_logits():
    net, params = build()
    x, given = np.random.default_rng(1).normal(size=(5, 7)), {"dropout": 0.4, "seed": 8, "step": 6}
    outputs, slopes = reference.forward(net, params, x, **given)
    a = x
    for layer, (w, b) in enumerate(net.layers(params)[:-1]):
        mask = reference.dropout_mask((5, w.shape[1]), 0.4, seed=8, step=6, layer=layer, dtype=np.dtype(float))
        a = np.tanh(a @ w + b)
        np.testing.assert_allclose(slopes[layer], (1 - a * a) * mask)
        a = a * mask
        np.testing.assert_allclose(outputs[layer + 1], a)
    w, b = net.layers(params)[-1]
    np.testing.assert_allclose(outputs[-1], a @ w + b)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(("loss", "d"), [("squared_error", 1.0), ("huber", 0.5), ("huber", 2.0)])
def test_losses_of_numbers_are_those_of_pytorch(loss, d, reduction):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    z, targets = rng.normal(size=(6, 4)) * 2, rng.normal(size=(6, 4))
    twin = torch.tensor(z, requires_grad=True)
    if loss == "huber":
        value = torch.nn.functional.huber_loss(twin, torch.tensor(targets), reduction="sum", delta=d)
    else:
        value = 0.5 * ((twin - torch.tensor(targets)) ** 2).sum()
    (value / 6 if reduction == "mean" else value).backward()
    objective = Objective(loss=loss, huber_delta=d, reduction=reduction)
    ours, delta = reference.loss_and_delta(z, np.zeros(6, int), targets, objective)
    assert ours == pytest.approx(value.item() / 6)
    np.testing.assert_allclose(delta, twin.grad.numpy())
    assert reference.loss_and_delta(z.astype(np.float32), np.zeros(6, int), targets, objective)[1].dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_loss_and_slope_of_classes_keep_the_type_of_the_logits(dtype):
    z, labels = np.random.default_rng(0).normal(size=(5, 4)).astype(dtype), np.array([0, 1, 2, 3, 0])
    pair = (labels[::-1], np.linspace(0, 1, 5))
    for mixed in (None, pair):
        _, delta = reference.loss_and_delta(z, labels, NO_TARGETS, Objective(class_weights=(1.0, 2.0, 3.0, 4.0)), mixed)
        assert delta.dtype == dtype


def numeric_gradient(net, params, objective, h=1e-6):
    found = np.empty_like(params)
    for i in range(params.size):
        ahead, behind = params.copy(), params.copy()
        ahead[i] += h
        behind[i] -= h
        found[i] = (objective(ahead) - objective(behind)) / (2 * h)
    return found


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("activation", ["tanh", "gelu", "sigmoid", "identity"])
def test_the_gradient_is_that_of_the_loss_with_penalties_on_weights_alone(activation, bias):
    net, params = build((3, 4, 3, 4), activation, bias)
    rng = np.random.default_rng(0)
    x, labels, objective = rng.normal(size=(5, 3)), rng.integers(0, 4, 5), Objective(l1=0.02, l2=0.3, dropout=0.3)
    given = {"seed": 5, "step": 2}

    def value(p):
        loss = reference.gradient(net, p, x, labels, NO_TARGETS, objective, **given)[0]
        return loss + sum(0.02 * np.abs(w).sum() + 0.15 * (w * w).sum() for w, _ in net.layers(p))

    loss, grad, z = reference.gradient(net, params, x, labels, NO_TARGETS, objective, **given)
    np.testing.assert_allclose(grad, numeric_gradient(net, params, value), rtol=1e-5, atol=1e-8)
    outputs, _ = reference.forward(net, params, x, dropout=0.3, **given)
    np.testing.assert_array_equal(z, outputs[-1])
    assert loss == reference.loss_and_delta(z, labels, NO_TARGETS, objective)[0]


@pytest.mark.parametrize("limit", [0.01, 0.5, 1e6])
def test_a_gradient_longer_than_the_limit_is_shortened_to_it(limit):
    net, params = build()
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(5, 7)), rng.integers(0, 4, 5)
    plain = reference.gradient(net, params, x, labels, NO_TARGETS, Objective(l2=0.3))[1]
    norm = np.linalg.norm(plain)
    clipped = reference.gradient(net, params, x, labels, NO_TARGETS, Objective(l2=0.3, clip_norm=limit))[1]
    np.testing.assert_allclose(clipped, plain * min(1, limit / norm))
    assert 0.5 < norm < 1e6


def train(
    net, objective, params, *, order, batch_size, lrs, first_batch=0, first_step=0, seed=0, dtype=np.float64, **given
):
    rng = np.random.default_rng(2)
    data = {
        "inputs": rng.integers(0, 256, (9, 7)).astype(np.uint8),
        "labels": rng.integers(0, 4, 9),
        "targets": NO_TARGETS,
    }
    data |= given
    params, slots = params.astype(dtype), np.zeros((objective.num_slots, params.size), dtype)
    found = reference.train_steps(
        net, objective, **data, order=np.asarray(order), batch_size=batch_size, scale=np.linspace(0.001, 0.004, 7).astype(dtype),
        offset=np.linspace(-1, 0.5, 7).astype(dtype), params=params, slots=slots, lrs=np.asarray(lrs), first_batch=first_batch,
        first_step=first_step, seed=seed,
    )  # fmt: skip
    return params, slots, *found, data


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
def test_training_is_one_update_for_each_batch_of_its_order(loss):
    net, params = build()
    targets = np.random.default_rng(5).normal(size=(9, 4)) if loss == "squared_error" else NO_TARGETS
    objective = Objective(loss=loss, optimizer="adam", dropout=0.2)
    order, lrs = np.array([8, 2, 5, 0, 7, 1, 3]), [0.1, 0.05]
    got, slots, losses, hits, data = train(
        net, objective, params, order=order, batch_size=3, lrs=lrs, first_batch=1, first_step=4, seed=6, targets=targets
    )
    expected, memory, right = params.copy(), np.zeros((2, params.size)), 0
    for i, rows in enumerate((order[3:6], order[6:])):  # the last batch is short
        x = data["inputs"][rows] * np.linspace(0.001, 0.004, 7) + np.linspace(-1, 0.5, 7)
        own = targets[rows] if len(targets) else targets
        value, grad, z = reference.gradient(net, expected, x, data["labels"][rows], own, objective, seed=6, step=4 + i)
        assert losses[i] == pytest.approx(value)
        right += (z.argmax(axis=1) == data["labels"][rows]).sum()
        reference.update(net, expected, grad, memory, objective, lr=lrs[i], step=4 + i)
    np.testing.assert_allclose(got, expected)
    np.testing.assert_allclose(slots, memory)
    assert (hits, type(hits), len(losses)) == (right, int, 2)


def test_training_counts_the_rows_it_classified_rightly_before_each_update():
    """Weights of zero name class 0 for every row; the rates are zero, so they go on to."""
    net, params = build()
    labels = np.array([0, 1, 0, 2, 0, 3, 1, 0, 2])
    *_, hits, _ = train(net, Objective(), 0 * params, order=np.arange(9), batch_size=4, lrs=[0.0] * 3, labels=labels)
    assert hits == 4


def test_a_loss_that_is_not_finite_ends_training_with_it_and_without_its_update():
    net, params = build()
    inputs = np.random.default_rng(0).normal(size=(9, 7))
    inputs[4] = np.inf
    given = {"order": np.arange(9), "batch_size": 2, "inputs": inputs}
    with np.errstate(invalid="ignore"):
        got, _, losses, hits, _ = train(net, Objective(), params, lrs=[0.1] * 4, **given)
    kept, _, first, before, _ = train(net, Objective(), params, lrs=[0.1] * 2, **given)
    np.testing.assert_array_equal(got, kept)
    assert len(losses) == 3
    np.testing.assert_array_equal(losses[:2], first)
    assert not np.isfinite(losses[2])
    assert hits == before


def test_training_in_single_precision_stays_in_it():
    net, params = build()
    got, slots, losses, *_ = train(
        net, Objective(optimizer="momentum"), params, order=np.arange(9), batch_size=3, lrs=[0.1] * 3, dtype=np.float32
    )
    assert got.dtype == slots.dtype == np.float32
    double = train(net, Objective(optimizer="momentum"), params, order=np.arange(9), batch_size=3, lrs=[0.1] * 3)
    np.testing.assert_allclose(got, double[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(losses, double[2], rtol=1e-4)


def test_sums_that_overflow_are_infinite_and_warn_nobody_but_those_who_take_them():
    net, params = build((7, 5, 4), "relu")
    found = []
    for z in reference.layer_sums(net, np.abs(params) * 1e200, np.full((1, 7), 1e200)):
        found.append(z)
        with pytest.warns(RuntimeWarning, match="overflow"):
            np.full(1, 1e200) ** 2
    assert np.isinf(found[0]).all()
    assert not np.isfinite(found[1]).any()
