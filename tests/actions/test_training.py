"""The fit loop, early stopping, the NaN guard, determinism, and what learning must and must not achieve."""

import io
import itertools
import re
import runpy
import signal
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console
from sklearn.datasets import load_digits

import clearsight
from clearsight.config.build import build_config
from clearsight.config.resolve import resolve_config
from clearsight.core.progress import render_rate
from clearsight.data.read.load import load_data
from clearsight.engines.dense import compiling, kernel, reference
from clearsight.engines.objective import Objective
from clearsight.errors import DivergedError, UsageError
from clearsight.pipeline.prepare import fit_prepared, prepare
from clearsight.pipeline.train_in_memory import train_dataset
from clearsight.training import fit as fit_module
from clearsight.training.progress import BarProgress, LineProgress


def config(**sections):
    return build_config({"data": {"test_fraction": 0.0}, **sections})


def trained(arrays, **sections):
    return train_dataset(config(**sections), load_data(*arrays))


def test_one_batch_overfits(pictures):
    run = trained(pictures, data={"valid_fraction": 0.0, "test_fraction": 0.0}, train={"epochs": 200, "batch_size": 60})
    assert run.train.accuracy == 1.0
    assert run.train.loss < 0.05


def test_shuffled_labels_give_chance_on_held_out_rows():
    digits = load_data("digits")
    labels = np.random.default_rng(0).permutation(digits.labels)
    run = train_dataset(build_config({"train": {"epochs": 10}}), load_data(digits.images, labels))
    assert run.test.accuracy < 0.16  # chance 0.1, n = 359: beyond +3.8 standard deviations


def test_untrained_net_has_loss_ln_k():
    run = trained(("digits",), model={"init": "zeros"}, train={"epochs": 1, "lr": 0.0})
    assert run.history.epochs[0]["valid_loss"] == pytest.approx(np.log(10), rel=1e-6)


@pytest.mark.parametrize(
    "settings", [{}, {"dropout": 0.3, "optimizer": "adamw"}, {"optimizer": "momentum", "shuffle": False}]
)
def test_equal_seeds_give_equal_bits_and_other_seeds_do_not(pictures, settings):
    runs = [trained(pictures, train={"epochs": 3, "seed": seed, **settings}) for seed in (1, 1, 2)]
    assert runs[0].bundle.params.tobytes() == runs[1].bundle.params.tobytes()
    assert runs[0].bundle.params.tobytes() != runs[2].bundle.params.tobytes()


@pytest.mark.parametrize("engine", ["dense", "reference"])
def test_how_an_epoch_is_cut_into_calls_does_not_matter(pictures, engine, monkeypatch):
    def weights(chunk_seconds):
        monkeypatch.setattr(fit_module, "_CHUNK_SECONDS", chunk_seconds)
        return trained(pictures, train={"epochs": 4, "engine": engine, "dropout": 0.2, "batch_size": 7}).bundle.params

    assert weights(0.0).tobytes() == weights(1e9).tobytes()


def test_reference_engine_trains_to_the_same_model(pictures):
    one, other = (trained(pictures, train={"epochs": 5, "engine": e}) for e in ("dense", "reference"))
    np.testing.assert_allclose(one.bundle.params, other.bundle.params, rtol=1e-3, atol=1e-4)
    assert one.history.step_losses == pytest.approx(other.history.step_losses, rel=1e-3)


def test_history_holds_every_batch_and_every_epoch(pictures):
    run = trained(pictures, train={"epochs": 3, "batch_size": 7, "schedule": "cosine", "weight_history": True})
    assert len(run.history.step_losses) == len(run.history.step_lrs) == 3 * 8  # 54 training rows
    assert [row["epoch"] for row in run.history.epochs] == [1, 2, 3]
    assert run.history.epochs[1]["train_loss"] == pytest.approx(run.history.step_losses[8:16].mean())
    assert len(run.history.weights) == 4
    assert run.history.weights[-1].tobytes() == run.bundle.params.tobytes()


def test_validation_metrics_are_those_of_the_epochs_weights(pictures):
    run = trained(pictures, train={"epochs": 6}, eval={"calibrate": False})
    assert run.valid.loss == pytest.approx(run.history.epochs[-1]["valid_loss"], rel=1e-5)
    assert run.valid.accuracy == run.history.epochs[-1]["valid_accuracy"]


@pytest.mark.parametrize("patience", [3, 1000])
def test_patience_always_ends_with_the_best_epoch(patience):
    sections = {
        "train": {"epochs": 60, "patience": patience, "lr": 0.01, "weight_history": True},
        "model": {"hidden": (64,)},
    }
    run = train_dataset(build_config(sections), load_data("digits"))
    losses = run.history.column("valid_loss")
    assert run.epoch == int(np.argmin(losses)) + 1
    assert run.bundle.params.tobytes() == run.history.weights[run.epoch].tobytes()
    if patience == 3:
        assert run.status == "stopped early"
        assert len(losses) == run.epoch + 3
    else:
        assert run.status == "finished"
        assert run.epoch < len(losses) == 60


def test_patience_without_validation_is_refused(pictures):
    with pytest.raises(
        UsageError, match=r"patience must have validation rows to watch valid_loss, got none\. Set data\.valid_fraction"
    ):
        trained(pictures, data={"valid_fraction": 0.0, "test_fraction": 0.0}, train={"patience": 2})


def test_divergence_keeps_the_last_good_weights():
    dataset = load_data("digits")
    sections = {"model": {"activation": "identity"}, "train": {"epochs": 5, "optimizer": "sgd", "lr": 1e4}}
    prepared = prepare(build_config(sections), dataset)
    first = prepared.engine.params()
    result = fit_prepared(prepared)
    assert result.status == "diverged"
    assert result.epoch == 0
    assert prepared.engine.params().tobytes() == first.tobytes()
    assert not np.isfinite(result.history.step_losses[-1])
    with pytest.raises(
        DivergedError, match=r"must stay finite, got .* at step \d+ \(epoch 1, lr 10000\)\. Kept the weights of epoch 0"
    ):
        train_dataset(build_config(sections), dataset)


def test_divergence_with_patience_keeps_the_best_epoch(pictures, monkeypatch):
    prepared = prepare(config(train={"epochs": 9, "patience": 9, "lr": 0.01}), load_data(*pictures))
    original, states = prepared.engine.train_steps, []

    def explode(order, **options):
        states.append(prepared.engine.params())
        if len(states) == 6:
            state = prepared.engine.state()
            prepared.engine.load_state(state | {"params": np.full_like(state["params"], np.nan)})
        return original(order, **options)

    monkeypatch.setattr(fit_module, "_CHUNK_SECONDS", 1e9)
    monkeypatch.setattr(prepared.engine, "train_steps", explode)
    result = fit_prepared(prepared)
    assert result.status == "diverged"
    assert result.epoch == int(np.argmin(result.history.column("valid_loss"))) + 1
    assert np.isfinite(prepared.engine.params()).all()


def test_in_memory_training_leaves_ctrl_c_to_python(pictures, monkeypatch):
    prepared = prepare(config(train={"epochs": 3}), load_data(*pictures))
    monkeypatch.setattr(prepared.engine, "train_steps", lambda order, **options: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        fit_prepared(prepared)


def test_regression_learns_numbers_in_their_own_units():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (400, 4, 4)).astype(np.uint8)
    targets = images.reshape(400, -1).mean(axis=1) * 3 + 100
    run = train_dataset(
        build_config(
            {
                "data": {"task": "regression"},
                "preprocess": {"scale": "standardize"},
                "model": {"hidden": ()},
                "train": {"epochs": 60, "lr": 0.01},
            }
        ),
        load_data(images, targets, task="regression"),
    )
    assert run.test.r2 > 0.99
    assert run.test.mae < 5
    assert run.bundle.predict(images[:3]) == pytest.approx(targets[:3], abs=20)


def test_balanced_class_weights_are_n_over_k_n_k(pictures):
    images, labels = pictures
    rows = np.r_[np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)[:5], np.flatnonzero(labels == 2)[:5]]
    dataset = load_data(images[rows], labels[rows])
    resolved = config(data={"valid_fraction": 0.0, "test_fraction": 0.0}, train={"class_weights": "balanced"})
    from clearsight.pipeline.build import build_objective

    assert build_objective(resolved, dataset, np.arange(30)).class_weights == pytest.approx((0.5, 2.0, 2.0))
    resolved = config(train={"class_weights": (1, 2)})
    with pytest.raises(UsageError, match=r"class_weights must be one a class \(3\), got 2\. Give as many\."):
        prepare(resolved, dataset)


def test_a_schedule_and_its_unit_reach_the_training(pictures):
    def rates(**train):
        run = trained(
            pictures, train={"epochs": 4, "lr": 0.5, "batch_size": 18, **train}
        )  # 54 rows: three steps an epoch
        return run.history.step_lrs.reshape(4, 3)

    epoch, step = np.arange(4)[:, None], np.arange(12).reshape(4, 3)
    np.testing.assert_allclose(rates(schedule="linear"), 0.5 * (1 - step / 12))
    np.testing.assert_allclose(
        rates(schedule="linear", schedule_unit="epoch"), np.repeat(0.5 * (1 - epoch / 4), 3, axis=1)
    )
    found = rates(schedule="step", step_epochs=2, step_gamma=0.3)
    np.testing.assert_allclose(found, np.repeat(0.5 * 0.3 ** (epoch // 2), 3, axis=1))


@pytest.mark.parametrize("engine", ["dense", "reference", "torch"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_beta1_and_beta2_are_those_of_the_paper(pictures, engine, optimizer):
    """Adam as in algorithm 1 of Kingma & Ba 2015, on gradients of the reference, with all rows in each batch."""
    beta1, beta2, decay = 0.6, 0.9, {"adam": 0.0, "adamw": 0.01}[optimizer]
    train = {"engine": engine, "optimizer": optimizer, "epochs": 5, "batch_size": 54, "lr": 0.01, "eps": 1e-4}
    own = {"beta1": beta1, "beta2": beta2, "shuffle": False, "weight_decay": decay or None}
    prepared = prepare(config(train=train | own, model={"hidden": (5,), "activation": "tanh"}), load_data(*pictures))
    net, rows, preprocess = prepared.net, prepared.split.train, prepared.preprocess
    labels = prepared.dataset.labels[rows]
    x = prepared.dataset.images[rows].reshape(len(rows), -1) * preprocess.scale + preprocess.offset
    params = prepared.engine.params().astype(np.float64)
    mean, square = np.zeros_like(params), np.zeros_like(params)
    for t in range(1, 6):
        _, grad, _ = reference.gradient(net, params, x.astype(np.float64), labels, np.zeros((0, 3)), Objective())
        mean = beta1 * mean + (1 - beta1) * grad
        square = beta2 * square + (1 - beta2) * grad**2
        for weights, _ in net.layers(params):
            weights *= 1 - 0.01 * decay
        params -= 0.01 * (mean / (1 - beta1**t)) / (np.sqrt(square / (1 - beta2**t)) + 1e-4)
    fit_prepared(prepared)
    np.testing.assert_allclose(prepared.engine.params(), params, rtol=1e-3, atol=1e-5)


def test_monitor_says_which_epoch_is_the_best(pictures):
    """On labels that are partly noise the loss is lowest long before the accuracy is highest and training loss lowest."""
    images, labels = pictures
    noisy = np.where(np.random.default_rng(1).random(60) < 0.3, (labels + 1) % 3, labels)
    best = {}
    for monitor, choose in (("valid_loss", np.argmin), ("valid_accuracy", np.argmax), ("train_loss", np.argmin)):
        train = {"epochs": 40, "lr": 0.01, "patience": 40, "monitor": monitor}
        run = trained((images, noisy), train=train, data={"valid_fraction": 0.3, "test_fraction": 0.0})
        best[monitor] = run.epoch
        assert run.epoch == choose(run.history.column(monitor)) + 1
    assert len(set(best.values())) == 3, best


EPOCH = r"loss \d+\.\d{4} \(valid \d+\.\d{4}\)  accuracy [01]\.\d{4} \(valid [01]\.\d{4}\)"


@pytest.mark.parametrize("progress", [BarProgress, LineProgress])
def test_progress_leaves_a_line_for_the_last_epoch_and_one_a_second(pictures, progress, capsys, monkeypatch):
    clock = itertools.count()
    for module in ("core", "training"):
        told = SimpleNamespace(monotonic=lambda: 0.3 * next(clock))
        monkeypatch.setattr(f"clearsight.{module}.progress.time", told)
    fit_prepared(prepare(config(train={"epochs": 12}), load_data(*pictures)), observers=[progress()])
    lines = [line for line in capsys.readouterr().err.splitlines() if re.search(EPOCH, line)]
    assert all(len(line) < 80 for line in lines)
    epochs = [int(re.search(r"epoch +(\d+)/12", line)[1]) for line in lines]
    assert 1 < len(epochs) < 12
    assert epochs[-1] == 12
    assert epochs == sorted(set(epochs))


def test_the_bar_fits_eighty_columns_and_keeps_the_time_left(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr("rich.console.Console", partial(Console, file=screen, force_terminal=True, width=80))
    bar = BarProgress()
    bar.on_start(epochs=10_000, steps=100_000_000, done=0)
    bar.on_steps(7_654_321, epoch=9_999, losses=np.array([123.45678] * 1_000_000), lrs=np.array([0.1]))
    bar._bar.refresh()
    bar.on_end("finished")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert re.search(r"epoch 9999/10000 .* 8%  loss 123\.4568  .*steps/s [0-9:-]+ left", shown), shown


@pytest.mark.parametrize(
    ("rate", "unit", "shown"),
    [
        (1234.4, "pictures", "1,234 pictures/s"), (2.54, "steps", "2.5 steps/s"), (0.4, "pictures", "2.5 s/picture"),
        (0.0004, "trials", "2,500.0 s/trial"), (0.0, "pictures", "0 pictures/s"), (2e5, "bytes", "0.2 MB/s"),
    ],
)  # fmt: skip
def test_slow_work_is_told_in_seconds_a_piece(rate, unit, shown):
    assert render_rate(rate, unit) == shown


def test_python_interface_names_an_unknown_setting():
    with pytest.raises(
        UsageError, match=r"the settings must hold known keys, got 'epoch'\. Did you mean train\.epochs\?"
    ):
        clearsight.train("digits", epoch=3)


@pytest.mark.long
def test_compiling_is_told_once_and_only_where_the_cache_has_nothing(monkeypatch, tmp_path):
    """However long the second one takes, which finds what the first one left in the cache."""
    module = tmp_path / "two.py"
    one = "@numba.njit(cache=True)\ndef {name}(x):\n    return x + 1\n"
    module.write_text("import numba\n" + one.format(name="first") + one.format(name="second"))

    def work(dtype):
        found = runpy.run_path(str(module))
        found["first"](1), found["second"](1)
        time.sleep(1.2)

    monkeypatch.setattr(kernel, "warm_up", work)
    for wanted in (["compiling the dense engine for this machine, once (10 seconds or more)"], []):
        told = []
        compiling.warm_up(np.dtype(np.uint8), told.append)
        assert told == wanted


@pytest.mark.long
def test_the_digits_are_scikit_learns_and_come_without_importing_it():
    dataset, theirs = clearsight.load_data("digits"), load_digits()
    assert np.array_equal(dataset.images[..., 0], theirs.images)
    assert np.array_equal(dataset.labels, theirs.target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clearsight.data.read.load.find_spec", lambda name: None)  # as if the file lay elsewhere
        assert clearsight.load_data("digits").fingerprint == dataset.fingerprint
    code = "import sys, clearsight; clearsight.load_data('digits'); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_what_python_shows_fits_a_line(tmp_path):
    run = clearsight.train("digits", epochs=1, hidden=(8,), out=tmp_path / "run")
    numbers = f"accuracy {run.test.accuracy:.4f} ({run.test.low:.4f} to {run.test.high:.4f}), loss {run.test.loss:.4g}, n = 359"
    assert repr(run.test) == f"Evaluation(test: {numbers})"
    assert repr(run) == f"Run({tmp_path / 'run'}: finished at epoch 1, Evaluation(test: {numbers}))"
    assert repr(run.bundle) == "Bundle(64-8-10, 610 parameters: 8x8x1 to 10 classes)"
    assert repr(load_data("digits")) == "Dataset(digits: 1,797 pictures of 8x8x1, 10 classes)"
    table = load_data(np.arange(60.0).reshape(20, 3), np.arange(20.0), task="regression")
    assert repr(table) == "Dataset(arrays: 20 rows of 3 numbers, numbers to predict)"
    sections = {
        "data": {"task": "regression"},
        "model": {"hidden": []},
        "train": {"engine": "reference"},
    }  # nothing to compile
    judged = train_dataset(config(**sections), table)
    assert repr(judged.bundle) == "Bundle(3-1, 4 parameters: 3 features to one number)"
    assert repr(judged.train).startswith(
        f"Evaluation(train: mae {judged.train.mae:.4g}, r2 {judged.train.r2:.4f}, loss "
    )


def test_names_are_those_of_the_command_line():
    settings = {"model": "cnn", "augment": "digits,hflip=0.5", "lr": 0.01}
    found = resolve_config(None, settings)
    assert (found.model.family, found.augment.preset, found.augment.hflip, found.train.lr) == (
        "cnn",
        "digits",
        0.5,
        0.01,
    )
    found = resolve_config(None, {"target": "age"})
    assert (found.data.task, found.data.label_column) == ("regression", "age")
    assert resolve_config(None, {"model": {"hidden": [7]}, "augment": {"hflip": 0.5}}).hidden == (7,)
    with pytest.raises(UsageError, match=r"model must be one of mlp, cnn, .*, got 'cnnn'\. Did you mean cnn\?"):
        clearsight.train("digits", model="cnnn")
