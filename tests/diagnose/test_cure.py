"""A cure is proved beside the run as it was, a sham change and random search; what does not help is said not to."""

import contextlib
import json

import numpy as np
import pytest

import clearsight
from benchmarks.doctor_cases import FAULTS, draw_healthy, load_rows
from clearsight.actions import cure as module
from clearsight.actions.cure import cure
from clearsight.actions.doctor import diagnose
from clearsight.config.build import build_config
from clearsight.config.files import read_config_file
from clearsight.config.rules import check_used, drop_unused
from clearsight.diagnose.finding import Finding
from clearsight.errors import DivergedError, UsageError
from clearsight.report.diagnosis import render_cure

STEEP = {"model": {"hidden": (16,)}, "train": {"lr": 0.5, "epochs": 6}}


@pytest.fixture(scope="module")
def ill(tmp_path_factory):
    return clearsight.train("digits", config=STEEP, out=tmp_path_factory.mktemp("runs") / "ill")


@pytest.fixture(scope="module")
def cured(ill):
    return cure(diagnose(ill.path), seeds=3)


def test_the_cure_beats_the_run_as_it_was_and_the_sham(cured):
    assert list(cured.arms) == ["as it was", "cured", "sham", "random search"]
    assert cured.changes[0].code == "rate-too-high"
    assert cured.arms["cured"].mean > 0.85 > 0.5 > cured.arms["as it was"].mean
    assert cured.arms["cured"].low > max(cured.arms["sham"].gain, 0)
    assert cured.arms["as it was"].gain == 0
    assert all(len(arm.scores) == 3 for arm in cured.arms.values())
    assert cured.n == 144


def test_gains_and_bills_are_means_of_paired_differences(cured):
    for arm in cured.arms.values():
        differences = np.subtract(arm.scores, cured.arms["as it was"].scores)
        assert arm.gain == pytest.approx(differences.mean())
        half = 4.302652729911275 * differences.std(ddof=1) / np.sqrt(3)  # t of 2 degrees of freedom
        assert (arm.low, arm.high) == pytest.approx((max(arm.gain - half, -1), min(arm.gain + half, 1)))
    assert [bill.change for bill in cured.bills] == list(cured.changes)
    assert cured.bills[0].loss > 0.4  # without the lower rate, nothing helps
    assert cured.bills[0].low <= cured.bills[0].loss <= cured.bills[0].high


def test_the_cured_configuration_is_kept_and_trains_to_what_was_promised(cured, ill, tmp_path):
    assert cured.file == ill.path / "cured.toml"
    config = build_config(read_config_file(cured.file))
    assert config == cured.config
    assert config.train.lr < 0.5
    run = clearsight.train(config=cured.file, seed=1000, out=tmp_path / "run")
    assert run.valid.accuracy == cured.arms["cured"].scores[0]


def test_the_command_prints_the_proof(ill, cured, call, capsys):
    assert call("doctor", ill.path, "--cure", "--seeds", "3", "--quiet") == 0
    assert capsys.readouterr().out == render_cure(cured) + "\n"
    assert call("doctor", ill.path, "--cure", "--seeds", "3", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cure"] == json.loads(json.dumps(cured.summary()))
    assert found["findings"][0]["code"] == "rate-too-high"


def test_a_cure_needs_seeds_classes_and_validation_rows(ill, call, capsys, tmp_path):
    assert call("doctor", ill.path, "--cure", "--seeds", "1") == 2
    assert capsys.readouterr().err == "error: seeds must be 2 to 100, got 1. Use 5: a single pair shows nothing.\n"
    clearsight.train("digits", config={"data": {"valid_fraction": 0}, "train": {"epochs": 1}}, out=tmp_path / "run")
    with pytest.raises(
        UsageError,
        match=r"^--cure must have classes and validation rows, got no validation rows\. Train a classifier with",
    ):
        cure(diagnose(tmp_path / "run"))


def test_data_cannot_be_cured(call, capsys):
    assert call("doctor", "digits", "--cure", "--quiet") == 2
    assert (
        capsys.readouterr().err
        == "error: --cure must have a run, got the data digits. Train first, and name the run directory.\n"
    )


def test_a_healthy_run_is_left_as_it_is(tmp_path, call, capsys):
    clearsight.train("digits", epochs=15, out=tmp_path / "run")
    assert call("doctor", tmp_path / "run", "--cure", "--quiet") == 2
    told = f"error: --cure must have a finding with a prescription, got none of {tmp_path / 'run'}. Leave --cure out.\n"
    assert capsys.readouterr().err == told
    assert call("doctor", tmp_path / "run", "--seeds", "3") == 2
    assert capsys.readouterr().err == "error: --seeds must go with --cure, got 3 without. Add --cure.\n"


def test_data_that_has_changed_is_refused(tmp_path, call, capsys):
    digits, place = load_rows("digits"), tmp_path / "data.npz"
    np.savez(place, images=digits.images[..., 0], labels=digits.labels)
    clearsight.train(place, config=STEEP, out=tmp_path / "run")
    np.savez(place, images=digits.images[..., 0], labels=(digits.labels + 1) % 10)
    assert call("doctor", tmp_path / "run", "--cure", "--quiet") == 3
    assert capsys.readouterr().err == (
        f"error: --cure must find the same data as the run had, got other pictures or labels in {place}. Bring the old data back, "
        "or train again.\n"
    )


def test_what_does_not_help_is_said_not_to(ill, monkeypatch):
    monkeypatch.setattr(module._Ward, "try_out", lambda self, config, seed: (0.5, []))
    found = cure(diagnose(ill.path), seeds=2)
    assert (found.changes, found.bills, found.file) == ((), (), None)
    assert "Nothing helped: no prescription raised the accuracy beyond that of the controls." in render_cure(found)


class Ward:
    """Knows the score and the findings of a configuration by its rate and dropout."""

    def __init__(self, score, findings=lambda config: []):
        self.judge, self.findings, self.trained = score, findings, []

    def try_out(self, config, seed):
        self.trained.append(config)
        return self.judge(config), self.findings(config)

    def score(self, config, seeds):
        return tuple(self.judge(config) for _ in seeds)


def prescribe(code, **train):
    return Finding(code, "severe", 0.9, "Seen.", "Cause.", prescription={"train": train})


def test_prescriptions_are_taken_in_turn_until_none_helps():
    def findings(config):
        return [
            *([prescribe("rate", lr=config.lr / 10)] if config.lr > 0.005 else []),
            prescribe("harm", dropout=0.9), prescribe("same", epochs=5), Finding("mute", "severe", 0.9, "Seen.", "Cause."),
        ]  # fmt: skip

    config = build_config({"train": {"lr": 0.5, "epochs": 5}})
    ward = Ward(lambda c: (0.1 if c.lr > 0.02 else 0.9) - c.train.dropout / 2, findings)
    changes, tries = module._treat(ward, config, 0)
    assert [change.code for change in changes] == ["rate", "rate"]
    assert changes[-1].patch == {"train": {"lr": 0.005}}
    assert tries == 5  # as it was, two rates, one that harms, and never fewer than random search needs
    reduced, best = module._reduce(ward, config, changes, [0, 1])
    assert reduced == changes[1:]
    assert best.lr == 0.005


def test_changes_that_bring_nothing_are_taken_away():
    changes = (module.Change("a", {"train": {"lr": 0.01}}), module.Change("b", {"train": {"dropout": 0.2}}))
    config = build_config({"train": {"lr": 0.5}})
    reduced, best = module._reduce(Ward(lambda c: 0.9 if c.lr == 0.01 else 0.1), config, changes, [0])
    assert reduced == changes[:1]
    assert (best.lr, best.train.dropout) == (0.01, 0.0)


def test_a_sham_moves_numbers_a_little_and_leaves_words():
    config = build_config({"train": {"lr": 0.5, "dropout": 0.2}, "model": {"init": "normal"}})
    changes = (module.Change("a", {"train": {"lr": 0.01, "dropout": 0.0}, "model": {"init": "auto"}}),)
    sham = module._feign(config, changes)
    assert (sham.lr, sham.train.dropout, sham.model.init) == (pytest.approx(0.525), pytest.approx(0.21), "normal")


def test_settings_that_a_change_makes_useless_go_with_it():
    config = build_config(
        {"model": {"init": "normal", "init_std": 1.0}, "train": {"optimizer": "momentum", "momentum": 0.8}}
    )
    changed = module._apply(config, (module.Change("a", {"model": {"init": "auto"}, "train": {"optimizer": "adam"}}),))
    assert (changed.model.init_std, changed.train.momentum) == (0.1, 0.9)
    check_used(changed)
    assert drop_unused(config) == config


@pytest.mark.long
@pytest.mark.parametrize(
    "name", ["weights too small", "weights too large", "penalty too strong", "pixels scaled twice"]
)
def test_planted_faults_are_cured(name, tmp_path, monkeypatch):
    rng = np.random.default_rng(11)
    settings, data = FAULTS[name].plant(draw_healthy("digits", rng), load_rows("digits"), 3, rng)
    monkeypatch.setattr(module, "load_given", lambda *a, **k: data)
    with contextlib.suppress(DivergedError):  # its directory is whole all the same
        clearsight.train(data, config=settings, out=tmp_path / "run")
    found = cure(diagnose(tmp_path / "run"), seeds=3)
    assert found.arms["cured"].mean > 0.85
    assert found.arms["cured"].low > found.arms["sham"].gain
