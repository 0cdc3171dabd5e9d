"""What a probe measures is what the textbook says, in both engines, and it leaves a training as it is."""

import numpy as np
import pytest

from clearsight.config.build import build_config
from clearsight.data.read.load import load_data
from clearsight.engines.dense import reference
from clearsight.engines.objective import DENSE_OPTIMIZERS, Objective
from clearsight.engines.probe import effective_rank, noise_scale, probe_layer, split_rows
from clearsight.evaluation.losses import mean_loss
from clearsight.pipeline.prepare import fit_prepared, prepare, probe_prepared

ROWS = np.arange(32)


def build(engine="reference", **train):
    settings = {
        "model": {"hidden": (9, 5)},
        "train": {"engine": engine, "epochs": 2, "optimizer": "sgd", "lr": 0.1, **train},
    }
    return prepare(build_config(settings), load_data("digits"))


ENGINES = ["reference", pytest.param("torch", marks=pytest.mark.long)]
CNN = {"family": "cnn", "widths": (4, 6), "depths": (1, 1)}
LESS_PLAIN = {"class_weights": tuple(range(10)), "label_smoothing": 0.2, "dropout": 0.5}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("train", [{}, LESS_PLAIN], ids=["plain", "weighted, smoothed, dropped out"])
def test_a_probe_says_what_the_textbook_computes(engine, train):
    prepared = build(engine, **train)
    params = prepared.engine.params().astype(np.float64)
    x, labels = prepared.preprocess.apply(prepared.dataset.images[ROWS]), prepared.dataset.labels[ROWS]
    loss, grad, logits = reference.gradient(
        prepared.net, params, x.astype(np.float64), labels, np.zeros((0, 10)), Objective()
    )
    probe = prepared.engine.probe(ROWS, trial=(0, 0.1))
    assert probe.loss == pytest.approx(loss, rel=1e-5)
    assert probe.logit_std == pytest.approx(logits.std(), rel=1e-4)
    assert probe.accuracy == (logits.argmax(axis=1) == labels).mean()
    assert probe.answers == tuple(np.bincount(logits.argmax(axis=1), minlength=10))
    assert [layer.units for layer in probe.layers] == [9, 5, 10]
    outputs, _ = reference.forward(prepared.net, params, x.astype(np.float64))
    for layer, z, (w, _), (grad_w, _) in zip(
        probe.layers, reference.layer_sums(prepared.net, params, x), prepared.net.layers(params), prepared.net.layers(grad),
        strict=True,
    ):  # fmt: skip
        assert (layer.mean, layer.std) == pytest.approx((z.mean(), z.std()), rel=1e-4, abs=1e-6)
        assert layer.spread == pytest.approx(np.sqrt(z.var(axis=0).mean()), rel=1e-4)
        assert layer.gradient == pytest.approx(np.sqrt((grad_w**2).mean()), rel=1e-3)
        if not train:  # one step of SGD
            assert layer.update == pytest.approx(0.1 * layer.gradient / np.sqrt((w**2).mean()), rel=1e-3)
        assert sum(layer.counts) == z.size
    silent = [(a == 0).all(axis=0).mean() for a in outputs[:-1]]
    assert [layer.silent for layer in probe.layers] == pytest.approx(silent)


@pytest.mark.parametrize("optimizer", DENSE_OPTIMIZERS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_probe_with_a_trial_step_leaves_the_training_as_it_is(engine, optimizer):
    probed, left = (build(engine, optimizer=optimizer, lr=0.01, dropout=0.3, epochs=1) for _ in range(2))
    probe = probed.engine.probe(ROWS, trial=(0, 0.01))
    assert all(layer.update > 0 for layer in probe.layers)
    for prepared in (probed, left):
        fit_prepared(prepared)
    assert probed.engine.params().tobytes() == left.engine.params().tobytes()


def test_the_trial_tells_what_dropout_costs():
    trained, plain = build(dropout=0.8).engine.probe(ROWS, trial=(0, 0.1)).trial
    assert trained > plain + 0.01
    trained, plain = build().engine.probe(ROWS, trial=(0, 0.1)).trial
    assert trained == pytest.approx(plain, rel=1e-5)


def test_the_noise_scale_is_right_on_average():
    rng, n, size = np.random.default_rng(0), 32, 8
    signal, deviation = np.full(50, 0.3), 2.0  # |G|^2 = 4.5, tr(S) = 200
    above, below = [], []
    for _ in range(2000):
        grads = signal + deviation * rng.normal(size=(n, 50))
        parts = grads.reshape(4, size, 50).mean(axis=1)
        small, large = (parts**2).sum(axis=1).mean(), (grads.mean(axis=0) ** 2).sum()
        below.append((n * large - size * small) / (n - size))
        above.append(noise_scale(small, large, n=n, size=size) or np.nan)
        if not np.isnan(above[-1]):
            assert above[-1] * below[-1] == pytest.approx((small - large) / (1 / size - 1 / n))
    assert np.mean(below) == pytest.approx(4.5, rel=0.05)
    assert np.nanmean(np.multiply(above, below)) == pytest.approx(200, rel=0.05)


def test_the_noise_scale_is_unknown_where_parts_cannot_tell():
    assert noise_scale(1.0, 0.1, n=32, size=8) is None  # more noise than signal
    assert noise_scale(1.0, 1.0, n=8, size=8) is None  # one part


def test_effective_rank_counts_equal_directions():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(64, 5)))[0].T
    rows = np.concatenate([np.eye(5), -np.eye(5)]) @ basis
    assert effective_rank(rows) == pytest.approx(5)
    assert effective_rank(rows + 100) == pytest.approx(5)  # about their mean
    assert effective_rank(np.ones((8, 3))) == 0.0
    assert effective_rank(np.full((8, 3), np.nan)) == 0.0


def test_a_layer_of_a_single_value_has_a_histogram():
    layer = probe_layer("a", z=np.ones((4, 3)), x=np.zeros((4, 2)), silent=1.0, weight=0.0, gradient=0.0, step=1.0)
    assert (layer.mean, layer.std, layer.spread, layer.x_limit) == (1.0, 0.0, 0.0, 1.0)
    assert sum(layer.counts) == 12
    assert layer.update is None


def test_parts_are_equal_and_a_rest_is_left_out():
    assert split_rows(30) == [slice(0, 7), slice(7, 14), slice(14, 21), slice(21, 28)]
    assert split_rows(3) == [slice(0, 1), slice(1, 2), slice(2, 3)]


@pytest.mark.parametrize(
    ("settings", "n"),
    [
        ({}, 256),  # of a dense net
        ({"model": CNN}, 32),
        ({"model": CNN, "train": {"batch_size": 4, "accumulate": 2}}, 8),  # four parts of what goes through together
    ],
)
def test_a_probe_takes_no_more_pictures_than_it_can(settings, n):
    assert probe_prepared(prepare(build_config(settings), load_data("digits"))).n == n


def test_pictures_of_a_probe_are_a_mixed_few_of_the_training_rows(monkeypatch):
    prepared, seen, probe = build(), [], None
    probe = prepared.engine.probe
    monkeypatch.setattr(prepared.engine, "probe", lambda rows: seen.append(rows) or probe(rows))
    probe_prepared(prepared)
    assert set(seen[0]) <= set(prepared.split.train)
    assert len(np.unique(prepared.dataset.labels[seen[0][:32]])) > 5


@pytest.mark.parametrize("engine", ENGINES)
def test_a_trial_step_is_taken_back_where_it_is_broken_off(engine, monkeypatch):
    prepared = build(engine, optimizer="adam")
    before = prepared.engine.state()
    train = prepared.engine.train_steps

    def break_off(*rows, **options):
        train(*rows, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(prepared.engine, "train_steps", break_off)
    with pytest.raises(KeyboardInterrupt):
        prepared.engine.probe(ROWS, trial=(0, 0.1))
    after = prepared.engine.state()
    assert {name: values.tobytes() for name, values in after.items()} == {k: v.tobytes() for k, v in before.items()}


@pytest.mark.long
def test_a_probe_is_of_the_weights_that_answer():
    prepared = build("torch", ema=0.9)
    fit_prepared(prepared)
    before = prepared.engine.state()
    probe = prepared.engine.probe(ROWS)
    assert probe.loss == pytest.approx(mean_loss(prepared.engine.logits(ROWS), prepared.dataset.labels[ROWS]), rel=1e-5)
    assert not any(p.requires_grad for p in prepared.engine._ema_module.parameters())
    assert all(np.array_equal(values, before[name]) for name, values in prepared.engine.state().items())


@pytest.mark.long
def test_a_trial_step_compiles_nothing(monkeypatch):
    prepared = build("torch")
    monkeypatch.setattr(prepared.engine, "_forward", None)  # calling it fails
    assert prepared.engine.probe(ROWS, trial=(0, 0.1)).trial is not None
    assert prepared.engine._forward is None


@pytest.mark.long
def test_silence_is_that_of_every_place_of_a_map():
    images, labels = np.zeros((40, 24, 24), np.uint8), np.arange(40) % 2
    images[5, 3, 4] = 255  # the only pixel
    config = build_config({"model": CNN | {"norm": "none", "kernel": 3}, "data": {"check": False}})
    prepared = prepare(config, load_data(images, labels))
    params = prepared.engine.params()
    tensors = prepared.net.tensors(params)
    tensors["features.0.weight"][:] = 0
    tensors["features.0.weight"][0, 0, 1, 1] = 1  # wakes at one place of one picture
    tensors["features.0.bias"][:] = (0, -1, 0, 1)  # never, never, always
    prepared.engine.load_state(prepared.engine.state() | {"params": params})
    assert prepared.engine.probe(ROWS).layers[1].silent == 0.5


@pytest.mark.long
def test_units_come_last_where_a_dense_layer_takes_maps():
    torch = pytest.importorskip("torch")
    from clearsight.engines.torch_probe import measure_parts, measure_weights, probe_layers

    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Unflatten(1, (5, 4, 3)), torch.nn.Linear(3, 7), torch.nn.Flatten(), torch.nn.Linear(140, 2)
    )
    parts = [(torch.randn(8, 60), torch.ones(8, 1)) for _ in range(2)]
    found = measure_parts(module, parts, lambda logits, goals: (logits - goals).square().sum(1))
    weights = measure_weights(module, torch.cat([p.detach().reshape(-1) for p in module.parameters()]))
    first, last = probe_layers(found.seen, weights=weights, gradients=measure_weights(module, found.gradient), steps={})
    assert (first.name, first.units, sum(first.counts)) == ("1", 7, 16 * 16 * 7)  # pictures, places of 20, units
    assert (last.name, last.units, sum(last.counts)) == ("3", 2, 16 * 2)
    assert first.weight == pytest.approx(float(module[1].weight.detach().square().mean().sqrt()))
    loss = sum((module(x) - goal).square().sum(1).mean() for x, goal in parts) / 2
    (grad,) = torch.autograd.grad(loss, [module[1].weight])
    assert first.gradient == pytest.approx(float(grad.square().mean().sqrt()), rel=1e-4)
