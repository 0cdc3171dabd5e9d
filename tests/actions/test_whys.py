"""What the report says beyond accuracy: signals, bias and variance, parity; series of models; learning curves."""

import json
from itertools import pairwise

import numpy as np
import pytest
from conftest import SMALL_CNN

import clearsight
from clearsight.actions.learning_curve import measure_curve
from clearsight.bundle.load import load
from clearsight.config.build import build_config
from clearsight.core.progress import SilentMeter
from clearsight.data.read.load import load_data
from clearsight.data.split import Split, thin_training
from clearsight.diagnose.floors import KNOWN_FLOORS, find_floor
from clearsight.errors import DataError, UsageError
from clearsight.pipeline.prepare import find_probe_rows, prepare, probe_prepared
from clearsight.report import words
from clearsight.report.diagnostics import render_activations, render_errors, render_parity

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("own_cache")]
CNN = {"family": "cnn", "widths": (4, 6), "depths": (1, 1)}


def numbers(path, count=120):
    rng = np.random.default_rng(0)
    targets = np.arange(count) % 6
    images = np.zeros((count, 12, 12), np.uint8)
    for image, number in zip(images, targets, strict=True):
        image.reshape(-1)[rng.permutation(144)[: 5 * number]] = 255
    np.savez(path, images=images, labels=targets.astype(np.float32))
    return path


def test_measuring_signals_changes_nothing():
    prepared = prepare(build_config({"model": CNN}), load_data("digits"))
    before = {name: values.tobytes() for name, values in prepared.engine.state().items()}
    signals = prepared.engine.probe(find_probe_rows(prepared), trial=(0, 0.1)).as_dict()
    assert {name: values.tobytes() for name, values in prepared.engine.state().items()} == before
    assert [layer["name"] for layer in signals["layers"]] == ["features.0", "features.4", "classifier.2"]
    assert signals["n"] == sum(signals["largest"]) == 32


# Study V1: weights from N(0, 1) grow the signal and make every answer sure; a hundredth of them lets it vanish at ln 10.
@pytest.mark.parametrize(
    ("model", "sure", "ratio"),
    [
        ({"init": "normal", "init_std": 1.0}, (0.9, 1.0), (100, 1e9)),
        ({"init": "normal", "init_std": 0.01}, (0.0, 0.0), (0, 0.05)),
        ({}, (0.0, 0.1), (0.1, 10)),
    ],
    ids=["N(0,1)", "N(0,0.01)", "He and Xavier"],
)
def test_first_weights_show_in_the_signals(model, sure, ratio):
    net = {"family": "vgg", "widths": (8, 16), "depths": (1, 1), "kernel": 5, "hidden": (64,), "norm": "none", **model}
    signals = probe_prepared(prepare(build_config({"model": net}), load_data("digits"))).as_dict()
    assert sure[0] <= signals["sure"] <= sure[1]
    layers = signals["layers"]
    assert ratio[0] <= layers[-1]["std"] / layers[0]["std"] <= ratio[1]
    if model.get("init_std") == 0.01:
        assert signals["loss"] == pytest.approx(np.log(10), abs=0.01)
    assert render_activations({"first": signals, "last": signals}).count("<svg") == 1


def test_signals_that_are_not_finite_are_told():
    prepared = prepare(build_config({"model": {"hidden": (4,)}}), load_data("digits"))
    prepared.engine.load_state({name: values * np.nan for name, values in prepared.engine.state().items()})
    found = probe_prepared(prepared).as_dict()
    assert found["layers"][0]["counts"] == ()
    assert found["sure"] is None
    text = words.describe_activations(found | {"loss": None}, when="at the end")
    assert text == "At the end: some layers give numbers that are not finite; the loss is not finite."
    assert "not finite" in render_activations({"first": found | {"loss": None}})


def test_a_dying_gradient_and_silent_units_are_told():
    layer = {"name": "a", "std": 1.0, "silent": 0.0, "gradient": 1.0, "weight": 2.0}
    told = {"loss": 2.3, "sure": 0.0, "layers": [layer | {"gradient": 1e-5}, layer | {"name": "b", "silent": 0.75}]}
    text = words.describe_activations(told, when="at the end")
    assert "As a share of the weights, the gradient shrinks from 0.5 in the last layer to 5e-06 in the first." in text
    assert text.endswith("75 % of the units before b are 0 for every picture looked at.")
    dead = told | {"layers": [layer | {"gradient": 0.0}, layer | {"gradient": 0.0}]}
    assert words.describe_activations(dead, when="at the end").endswith("No gradient reaches the weights.")
    smaller = layer | {"gradient": 1e-5, "weight": 2e-5}  # as large as in the last layer, for weights of this size
    assert "gradient" not in words.describe_activations(told | {"layers": [smaller, layer]}, when="at the end")
    unborn = layer | {"gradient": 0.0}  # behind weights that begin at 0
    assert "gradient" not in words.describe_activations(told | {"layers": [unborn, layer]}, when="before training")


def test_runs_whose_gradients_were_not_measured_are_described():
    told = {"loss": 2.3, "sure": None, "layers": [{"name": "a", "std": 1.0}, {"name": "b", "std": 2.0}]}
    assert "gradient" not in words.describe_activations(told, when="at the end")


def evaluations(train, test, n=1000):
    return {
        "train": {"accuracy": train, "n": n},
        "test": {"accuracy": test, "n": n, "interval": [test - 0.01, test + 0.01]},
    }


@pytest.mark.parametrize(
    ("train", "test", "floor", "says"),
    [
        (0.80, 0.79, 0.0, "Bias is the larger: a bigger network"),
        (1.00, 0.90, 0.0, "Variance is the larger: more data"),
        (0.995, 0.99, 0.0, "Neither is larger than the uncertainty of 1.00 points"),
        (0.80, 0.70, 0.195, "Variance is the larger"),
    ],
)
def test_bias_and_variance_are_named_and_advised(train, test, floor, says):
    assert says in words.describe_bias(evaluations(train, test), "test", floor=floor)
    html = render_errors(evaluations(train, test), "test", data="x", floor=floor, head=False)
    assert "Bias and variance" in html
    assert says in html


def test_the_floor_is_the_given_one_or_the_best_published():
    assert find_floor("mnist", None)[0] == KNOWN_FLOORS["mnist"][0]
    assert find_floor("mnist", 0.1) == (0.1, "as given (eval.floor)")
    assert find_floor("photos", None) == (None, "")
    assert "the best possible error is not known" in words.describe_bias(evaluations(0.9, 0.8), "test", floor=None)


@pytest.mark.report
def test_a_counting_net_is_judged_inside_and_outside_its_range(tmp_path, call, capsys):
    flags = [
        *SMALL_CNN,
        "--loss",
        "huber",
        "--epochs",
        "3",
        "--task",
        "regression",
    ]
    assert call("train", numbers(tmp_path / "d.npz"), *flags, "--out", tmp_path / "r") == 0
    assert "mean absolute error" in capsys.readouterr().out
    html = (tmp_path / "r" / "report.html").read_text()
    assert "Predicted over true numbers (test)" in html
    assert "Half of the 24 answers are off by less than" in html
    bundle = load(tmp_path / "r")
    assert (bundle.training["target_low"], bundle.training["target_high"]) == (0.0, 5.0)
    rng = np.random.default_rng(1)
    np.savez(
        tmp_path / "far.npz",
        images=rng.integers(0, 255, (4, 12, 12)).astype(np.uint8),
        labels=np.array([3, 9, 9, 9], np.float32),
    )
    assert call("evaluate", tmp_path / "r", tmp_path / "far.npz") == 0
    assert (
        "note: 3 of 4 numbers lie outside the range trained on, 0 to 5: there the mean absolute error is"
        in capsys.readouterr().err
    )


def test_parity_says_how_far_answers_are_off():
    parity = np.array([[0, 1, 2, 3, 4], [0.1, 1.0, 2.2, 3.0, 9.0]], np.float32)
    html = render_parity(parity, low=0.0, high=3.0, judged="test")
    assert "Half of the 5 answers are off by less than 0.1, one by 5." in html
    assert render_parity(None, low=None, high=None, judged="test") == ""


def test_a_series_of_models_can_be_used_and_trained_on(tmp_path, call, capsys):
    train = ["--hidden", "8", "--epochs", "2", "--batch-size", "100", "--quiet"]
    assert call("train", "digits", *train, "--keep-steps", "5", "--out", tmp_path / "r") == 0
    kept = sorted(path.name for path in (tmp_path / "r" / "series").iterdir())
    assert kept == [f"step-{step:09d}.clearsight" for step in range(5, 27, 5)]
    models = [load(tmp_path / "r" / "series" / name).params for name in kept]
    assert all((a != b).any() for a, b in pairwise(models))
    place = tmp_path / "r" / "series" / kept[2]
    assert call("evaluate", place, "--split", "valid", "--json") == 0  # it knows its run's data
    assert json.loads(capsys.readouterr().out)["n"] == 144
    assert (
        call(
            "train",
            "digits",
            *train,
            "--set",
            f"model.start_from={place}",
            "--set",
            "train.lr=0.0",
            "--out",
            tmp_path / "s",
        )
        == 0
    )
    assert load(tmp_path / "s").params.tobytes() == models[2].tobytes()
    capsys.readouterr()
    assert call("train", "digits", "--hidden", "8", "--init", "he", "--set", f"model.start_from={place}") == 2
    assert "error: init must go with no start_from, got he without." in capsys.readouterr().err
    images = np.random.default_rng(0).integers(0, 16, (40, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "letters.npz", images=images, labels=np.array(list("abcdefghij"))[np.arange(40) % 10])
    assert (
        call(
            "train",
            tmp_path / "letters.npz",
            "--hidden",
            "8",
            "--set",
            f"model.start_from={place}",
            "--set",
            "data.check=false",
        )
        == 2
    )
    assert (
        "start_from must be a model of the same classes in the same order (a, b, c, d, e, ...), got 0, 1, 2, 3, 4, ... in"
        in capsys.readouterr().err
    )
    assert call("train", "digits", "--hidden", "9", "--set", f"model.start_from={place}") == 2
    assert (
        "error: start_from must be a model of the same network (64-9-10, 685 weights), got 64-8-10 with 610 in"
        in capsys.readouterr().err
    )


def test_a_series_is_the_same_after_a_stop(tmp_path, monkeypatch):
    import signal

    from clearsight.actions import train as train_module
    from clearsight.errors import Interrupted

    settings = {
        "config": {"model": CNN, "train": {"epochs": 2, "batch_size": 100, "keep_steps": 4, "checkpoint_steps": 1}}
    }
    clearsight.train("digits", out=tmp_path / "whole", **settings)

    class Stopped(train_module._ModelKeeper):
        def on_steps(self, done, **facts):
            super().on_steps(done, **facts)
            if done == 8:
                signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "_ModelKeeper", Stopped)
        with pytest.raises(Interrupted):
            clearsight.train("digits", out=tmp_path / "stopped", **settings)
    clearsight.train(resume=tmp_path / "stopped")
    for path in (tmp_path / "whole" / "series").iterdir():
        assert (tmp_path / "stopped" / "series" / path.name).read_bytes() == path.read_bytes()
    assert json.loads((tmp_path / "stopped" / "signals.json").read_text()) == json.loads(
        (tmp_path / "whole" / "signals.json").read_text()
    )


def test_a_share_of_the_training_rows_keeps_classes_balanced():
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    whole = Split(np.arange(160), np.arange(0), np.arange(0), np.arange(0))
    thin = thin_training(whole, labels, share=0.3, seeds=(0,))
    assert np.bincount(labels[thin.train]).tolist() == [30, 15, 3]
    assert np.sort(np.concatenate([thin.train, thin.unused])).tolist() == list(range(160))
    assert thin_training(whole, labels, share=1.0, seeds=(0,)) is whole
    other = thin_training(whole, labels, share=0.3, seeds=(1,))
    assert thin.train.tolist() != other.train.tolist()
    with pytest.raises(
        DataError, match=r"^train_fraction must leave rows to train on, got 0\.001 of 160\. Raise it\.$"
    ):
        thin_training(whole, labels, share=0.001, seeds=(0,))


def test_validation_and_test_are_the_same_for_every_share():
    parts = [
        prepare(build_config({"data": {"train_fraction": share}}), load_data("digits")).split for share in (1.0, 0.2)
    ]
    assert parts[0].valid.tolist() == parts[1].valid.tolist()
    assert parts[0].test.tolist() == parts[1].test.tolist()
    assert np.isin(parts[1].train, parts[0].train).all()


def test_more_pictures_help_on_the_learning_curve(tmp_path, call, capsys):
    flags = ["--hidden", "32", "--epochs", "8", "--seeds", "2", "--shares", "0.1,1", "--plot", tmp_path / "c.svg"]
    assert call("learning-curve", "digits", *flags, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    small, large = found["rows"]
    assert (small["size"], large["size"]) == (129, 1294)
    assert small["errors"]["valid"]["mean"] > large["errors"]["valid"]["mean"] + 5
    assert large["errors"]["valid"]["low"] is not None
    assert "training pictures" in (tmp_path / "c.svg").read_text()
    assert call("learning-curve", "digits", *flags) == 0
    assert "95 % interval of the mean" in capsys.readouterr().out


@pytest.mark.parametrize("shares", ["", "1,0.5", "0,1", "0.5,1.5", "0.5,0.5"])
def test_shares_that_do_not_rise_are_refused(shares, call, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("learning-curve", "digits", "--shares", shares) == 2
    assert "error: --shares must rise, above 0 and up to 1, got [" in capsys.readouterr().err


def test_a_learning_curve_without_validation_is_refused():
    wanted = build_config({"data": {"valid_fraction": 0.0}})
    with pytest.raises(UsageError, match="a learning curve must have validation rows"):
        measure_curve(wanted, shares=[1.0], seeds=1, meter=SilentMeter)


def test_a_learning_curve_that_diverges_says_where(call, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [
        "--hidden",
        "16",
        "--epochs",
        "2",
        "--shares",
        "0.5,1",
        "--set",
        "train.lr=1e30",
        "--set",
        "train.optimizer=sgd",
    ]
    assert call("learning-curve", "digits", *flags, "--quiet") == 4
    assert "That was at a share of 0.5, seed 0." in capsys.readouterr().err
