"""The learning-rate finder: what it suggests, when it refuses to, and that it leaves no trace."""

import json

import numpy as np
import pytest

from clearsight.config.build import build_config
from clearsight.data.read.load import load_data
from clearsight.errors import UsageError
from clearsight.pipeline.prepare import fit_prepared, prepare, search_rate
from clearsight.pipeline.train_in_memory import train_dataset
from clearsight.training.lr_finder import find_longest_fall, read_losses, smooth

pytestmark = pytest.mark.usefixtures("own_cache")
LRS = np.geomspace(1e-7, 10, 100)


def ideal(noise=0.0, seed=0):
    """A loss that stays at 2.3, falls from 1e-4 on, is lowest at 0.1, and then explodes."""
    x = np.log10(LRS)
    fall = 1 / (1 + np.exp(-4 * (x + 2.5)))
    return 2.3 - 2.0 * fall + 10 * np.maximum(x + 1, 0) ** 2 + noise * np.random.default_rng(seed).normal(size=100)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("seed", range(5))
def test_the_suggestion_lies_where_the_loss_falls_before_its_lowest(noise, seed):
    found = read_losses(LRS, ideal(noise, seed))
    assert found.reason == ""
    assert 5e-3 < found.suggestion < 0.1
    assert 1e-3 < found.steepest < 2e-2
    assert found.suggestion < found.lowest < 0.4
    assert 1e-5 < found.valley < 0.2


@pytest.mark.parametrize("at", [0, 1, 2, 7, 20])
def test_early_spikes_do_not_mislead(at):
    losses = ideal(0.02)
    losses[at] += 50
    assert read_losses(LRS, losses).suggestion == pytest.approx(read_losses(LRS, ideal(0.02)).suggestion, rel=0.5)


def test_losses_that_end_in_nan_are_read_up_to_there():
    losses = ideal(0.02)[:91]
    losses[90] = np.nan
    found = read_losses(LRS[:91], losses)
    assert found.suggestion == pytest.approx(read_losses(LRS, ideal(0.02)).suggestion, rel=0.3)
    assert np.isnan(found.smoothed[90])


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        (np.full(100, 2.3), "the loss stays flat over all rates tried, 1e-07 to 10; try other weights"),
        (2.3 + 0.2 * np.random.default_rng(0).normal(size=100), "the loss stays flat over all rates tried"),
        (2.3 + np.exp(np.linspace(-8, 3, 100)), "the loss only rises over all rates tried"),
        (np.array([np.nan]), "the very first loss is not finite; look at the data and the weights"),
        (
            np.array([2.3, 2.3, np.inf]),
            "the loss is not finite after 2 batches at rates below 1.5e-07; look at the scale",
        ),
    ],
    ids=["flat", "noise", "rising", "nan", "soon"],
)
def test_no_suggestion_says_why(losses, reason):
    found = read_losses(LRS[: len(losses)], losses)
    assert found.suggestion is None
    assert found.reason.startswith(reason)
    json.dumps(found.as_dict())


@pytest.mark.parametrize("noise", [0.05, 0.3, 1.0])
def test_pure_noise_gets_a_suggestion_less_than_once_in_a_hundred(noise):
    draws = (np.random.default_rng(seed).normal(size=100) for seed in range(500))
    assert sum(read_losses(LRS, 2.3 + noise * draw).suggestion is not None for draw in draws) <= 5


def test_smoothing_keeps_a_line_and_drops_a_spike():
    line = np.linspace(5, 1, 60)
    np.testing.assert_allclose(smooth(line)[12:-12], line[12:-12], atol=1e-9)
    spiked = line.copy()
    spiked[30] = 99
    assert np.abs(smooth(spiked) - line)[12:-12].max() < 0.2


def test_the_longest_fall_is_found():
    assert find_longest_fall(np.array([3.0, 5.0, 4.0, 6.0, 2.0, 1.0, 7.0])) == (1, 5)
    assert find_longest_fall(np.array([1.0, 2.0, 3.0]))[0] == find_longest_fall(np.array([1.0, 2.0, 3.0]))[1]


def config(engine, **train):
    model = {"family": "cnn", "widths": (4, 6), "depths": (1, 1)} if engine == "torch" else {"hidden": (16,)}
    return build_config({
        "model": model, "augment": {"rotate": 10.0, "mixup": 0.3, "unsafe": "ignore"},
        "train": {"engine": engine, "epochs": 2, "batch_size": 40, "dropout": 0.2, **train},
    })  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [{"optimizer": "sgd"}, {"optimizer": "momentum"}, {"optimizer": "adam"}, {"sampling": "balanced"}],
    ids=str,
)
@pytest.mark.parametrize("engine", ["dense", "reference", "torch"])
def test_a_search_leaves_weights_optimiser_and_order_as_they_were(engine, options):
    dataset = load_data("digits")
    searched, untouched = (prepare(config(engine, **options), dataset) for _ in range(2))
    fit_prepared(untouched)
    before = {name: values.tobytes() for name, values in searched.engine.state().items()}
    found = search_rate(searched, steps=60)
    assert len(found.lrs) > 20
    assert {name: values.tobytes() for name, values in searched.engine.state().items()} == before
    fit_prepared(searched)
    after, expected = searched.engine.state(), untouched.engine.state()
    assert {name: values.tobytes() for name, values in after.items()} == {
        name: values.tobytes() for name, values in expected.items()
    }


def test_a_search_puts_things_back_even_when_it_is_stopped(monkeypatch):
    prepared = prepare(config("dense"), load_data("digits"))
    original, before = prepared.engine.train_steps, prepared.engine.params().tobytes()

    def stopped(order, **options):
        if options["first_step"] == 5:
            raise KeyboardInterrupt
        return original(order, **options)

    monkeypatch.setattr(prepared.engine, "train_steps", stopped)
    with pytest.raises(KeyboardInterrupt):
        search_rate(prepared)
    assert prepared.engine.params().tobytes() == before


def test_a_search_stops_where_the_loss_explodes():
    found = search_rate(prepare(config("dense", optimizer="sgd"), load_data("digits")), high=1e6, steps=200)
    assert len(found.lrs) < 200


@pytest.mark.parametrize("options", [{"low": 0.0}, {"low": 1.0, "high": 0.1}, {"high": float("inf")}, {"steps": 3}])
def test_rates_that_make_no_search_are_refused(options):
    with pytest.raises(
        UsageError, match=r"^rates must rise from above 0 over 8 to 10,000 steps, got .* Try 1e-07 to 10\.0 in 100\.$"
    ):
        search_rate(prepare(config("dense"), load_data("digits")), **options)


# Study D2, as its recipe: the best rate of a grid reaches 0.914 on average over five seeds (docs/log.md).
@pytest.mark.long
def test_lr_auto_trains_the_published_digits_net_within_a_point_of_the_best_rate():
    found = {}
    for lr in ("auto", 0.03):
        accuracies = []
        for seed in range(5):
            wanted = build_config({
                "data": {"train_per_class": 154, "valid_per_class": 20, "shuffle_split": False}, "preprocess": {"scale": "none"},
                "model": {"hidden": (32, 16), "init": "normal", "bias_init": "normal"},
                "train": {"epochs": 20, "batch_size": 25, "optimizer": "sgd", "lr": lr, "seed": seed},
            })  # fmt: skip
            accuracies.append(train_dataset(wanted, load_data("digits")).valid.accuracy)
        found[lr] = np.mean(accuracies)
    assert found["auto"] >= found[0.03] - 0.01


@pytest.mark.long
def test_lr_auto_is_written_to_the_configuration_and_told(tmp_path, call, capsys):
    assert call("train", "digits", "--hidden", "16", "--epochs", "2", "--lr", "auto", "--out", tmp_path / "r") == 0
    assert "found by a batch at each of" in capsys.readouterr().err
    import tomllib

    lr = tomllib.loads((tmp_path / "r" / "config.toml").read_text())["train"]["lr"]
    assert 1e-4 < lr < 1


def test_lr_auto_without_a_suggestion_says_why(call, capsys):
    assert call("train", "digits", "--hidden", "16", "--init", "zeros", "--lr", "auto", "--set", "model.bias=none") == 2
    err = capsys.readouterr().err
    assert "error: lr auto must find a rate, got none, because the loss stays flat" in err
    assert err.rstrip().endswith("Set train.lr.")


def test_the_command_draws_in_the_terminal_and_in_a_file(tmp_path, call, capsys):
    assert call("lr-find", "digits", "--hidden", "32", "--plot", tmp_path / "lr.svg") == 0
    out = capsys.readouterr().out
    assert "learning rate (log scale)" in out
    assert "suggestion 0." in out
    assert any("⠀" <= c <= "⣿" for c in out)
    svg = (tmp_path / "lr.svg").read_text()
    assert svg.startswith("<svg")
    assert "suggestion" in svg
    assert "mathdefault" not in svg
    assert call("lr-find", "digits", "--hidden", "32", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["lrs"][0] == pytest.approx(1e-7)
    assert found["suggestion"] == pytest.approx(float(out.split("suggestion ")[1].split()[0]), rel=0.01)
    assert call("lr-find", "digits", "--epochs", "3") != 0  # which change no rate that is looked for


def test_the_command_says_why_there_is_no_suggestion(call, capsys):
    flags = ("--hidden", "16", "--set", "model.init=zeros", "--set", "model.bias=none")
    assert call("lr-find", "digits", *flags) == 0
    assert "no suggestion, because the loss stays flat over all rates tried" in capsys.readouterr().out
    assert call("lr-find", "digits", "--quiet", *flags) == 0
    assert capsys.readouterr().out == "none\n"


@pytest.mark.parametrize("lr", ["fast", "", "1e-3x"])
def test_a_rate_that_is_no_number_is_refused(lr, call, capsys):
    assert call("train", "digits", "--lr", lr) == 2
    assert f"error: train.lr must be a valid number or 'auto', got {lr!r} in the settings." in capsys.readouterr().err
