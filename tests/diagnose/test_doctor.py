"""The doctor's verdicts: planted faults by their right names, silence about health, and what the command says."""

import inspect
import json
import re
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

import clearsight
from benchmarks.doctor_cases import FAULTS, draw_healthy, load_rows, traps
from clearsight.config.build import build_config
from clearsight.diagnose.bank import Healthy, read_bank
from clearsight.diagnose.case import Case, Choices
from clearsight.diagnose.examine import LEVEL, examine
from clearsight.diagnose.finding import SEVERITIES, Evidence, Finding
from clearsight.diagnose.rules import NEVER_SEVERE, RULES
from clearsight.diagnose.statistics import STATISTICS
from clearsight.errors import DataError
from clearsight.pipeline.case import read_case
from clearsight.pipeline.train_in_memory import train_case
from clearsight.report.diagnosis import count_findings, render_diagnosis, render_patch, render_section

DOCS = Path(__file__).parents[2] / "docs"
RATE = {"data": {"source": "digits"}, "train": {"lr": 0.3, "epochs": 5}}


def train(settings, data):
    return train_case(build_config(settings), data, begun=True)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_first(name):
    rng = np.random.default_rng(7)
    settings, data = FAULTS[name].plant(draw_healthy("digits", rng), load_rows("digits"), 3, rng)
    found = examine(train(settings, data))
    assert found[0].code in FAULTS[name].causes, [(one.code, one.severity) for one in found]
    assert found[0].severity != "note"


@pytest.mark.parametrize("seed", range(100, 112))
def test_a_healthy_training_has_no_severe_finding(seed):
    found = examine(train(draw_healthy("digits", np.random.default_rng(seed)), load_rows("digits")))
    assert [one.code for one in found if one.severity == "severe"] == []


@pytest.mark.long
@pytest.mark.parametrize("name", traps())
def test_what_others_cry_wolf_at_has_no_severe_finding(name):
    found = examine(train(traps()[name], load_rows("digits")))
    assert [one.code for one in found if one.severity == "severe"] == []


@pytest.mark.parametrize("name", ["weights too small", "rate too high", "penalty too strong", "weights all 0"])
def test_a_prescription_cures_the_training_that_it_is_for(name):
    rng = np.random.default_rng(8)
    settings, data = FAULTS[name].plant(draw_healthy("digits", rng), load_rows("digits"), 3, rng)
    case = train(settings, data)
    first = examine(case)[0]
    cured = {
        section: {**settings.get(section, {}), **first.prescription.get(section, {})}
        for section in {*settings, *first.prescription}
    }
    again = train(cured, data)
    assert case.train.accuracy < 0.5
    while name == "rate too high" and again.train.accuracy < 0.5:  # a tenth at a time
        cured["train"]["lr"] /= 10
        again = train(cured, data)
    assert again.train.accuracy > 0.85


def test_rules_and_statistics_bear_an_empty_case():
    case = Case("finished", Choices(), ("a", "b"))
    assert examine(case) == []
    assert all(measure(case) is None for measure, _ in STATISTICS.values())


def test_a_finding_has_all_that_a_person_needs():
    for name, fault in FAULTS.items():
        rng = np.random.default_rng(3)
        settings, data = fault.plant(draw_healthy("digits", rng), load_rows("digits"), 3, rng)
        for one in examine(train(settings, data)):
            assert one.severity in SEVERITIES
            assert 0 < one.confidence <= 1
            assert one.code in {*RULES, "momentum-too-high", "batch-too-large"}
            assert all(text.endswith((".", ".'")) for text in (one.summary, one.cause)), (name, one)
            assert one.evidence
            assert one.severity != "severe" or one.code not in NEVER_SEVERE
            assert set(one.alternatives) <= {*RULES, "momentum-too-high", "batch-too-large"}
            build_config(one.prescription)


def make(code, severity, **changes):
    return Finding(code, severity, 0.9, f"{code} is seen.", "It has a cause.", **changes)


def test_symptoms_and_consequences_give_way_to_the_first_severe_cause(monkeypatch):
    rules = {
        "a": lambda case: make("a", "warning"), "b": lambda case: make("b", "severe"), "c": lambda case: make("c", "severe"),
        "stuck": lambda case: make("stuck", "severe"), "none": lambda case: None,
    }  # fmt: skip
    monkeypatch.setattr("clearsight.diagnose.examine.RULES", rules)
    found = examine(Case("finished", Choices(), ("a", "b")))
    assert [(one.code, one.severity) for one in found] == [
        ("b", "severe"),
        ("a", "warning"),
        ("c", "warning"),
        ("stuck", "note"),
    ]
    del rules["b"], rules["c"]
    found = examine(Case("finished", Choices(), ("a", "b")))
    assert [(one.code, one.severity) for one in found] == [("stuck", "severe"), ("a", "warning")]


@pytest.fixture(scope="module")
def ill(tmp_path_factory):
    return clearsight.train(config=RATE, out=tmp_path_factory.mktemp("runs") / "ill")


def test_the_command_says_what_is_wrong_and_ends_with_4(ill, call, capsys):
    assert call("doctor", ill.path) == 4
    out = capsys.readouterr().out
    assert out.startswith("severe    rate-too-high (")
    assert "cure      Take a lower rate, or look for one with lr-find. --set train.lr=0.03\n" in out
    assert "evidence  highest mean loss over the first one: " in out
    assert call("doctor", ill.path.name, "--root", ill.path.parent, "--json") == 4
    said = json.loads(capsys.readouterr().out)
    assert said["rules"] == len(RULES)
    first = said["findings"][0]
    assert set(first) == {one.name for one in fields(Finding)}
    assert (first["code"], first["severity"], first["prescription"]) == (
        "rate-too-high",
        "severe",
        {"train": {"lr": 0.03}},
    )
    assert {"what", "value", "limit", "where", "healthy", "p"} == set(first["evidence"][0])


def test_a_run_says_at_its_end_what_its_files_say_later(ill, call, capsys, tmp_path):
    assert ill.findings == tuple(examine(read_case(ill.path)))
    assert [one["code"] for one in ill.summary()["findings"]] == [one.code for one in ill.findings]
    assert call("train", "digits", "--lr", "0.3", "--epochs", "5", "--out", tmp_path / "run") == 0
    assert f"\ndoctor  severe: {ill.findings[0].summary} (rate-too-high)\n" in capsys.readouterr().out


def test_a_healthy_run_has_exit_code_0(call, capsys, tmp_path):
    run = clearsight.train("digits", epochs=15, out=tmp_path / "run")
    assert call("doctor", run.path) == 0
    assert (
        capsys.readouterr().out
        == f"No finding: none of {len(RULES)} rules speaks against 615 steps and 9 looks inside the network.\n"
    )


def test_a_run_that_has_not_ended_is_refused(ill, call, capsys, tmp_path):
    place = tmp_path / "run"
    clearsight.train("digits", epochs=1, out=place)
    record = json.loads((place / "run.json").read_text())
    (place / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    assert call("doctor", place) == 2
    assert capsys.readouterr().err == (
        f"error: RUN must have ended, got {place}, which is interrupted. Go on with `clearsight train --resume {place}`, or add "
        "--finish to make a model of what is there.\n"
    )


@pytest.mark.parametrize(
    "damage", [lambda f: f.unlink(), lambda f: f.write_text("{"), lambda f: f.write_text('{"train": {"n": 1}}')]
)
def test_a_damaged_run_is_an_error_and_no_traceback(call, capsys, tmp_path, damage):
    place = tmp_path / "run"
    clearsight.train("digits", epochs=1, out=place)
    damage(place / "metrics.json")
    assert call("doctor", place) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_run_of_an_earlier_version_without_looks_inside_is_examined(tmp_path):
    place = tmp_path / "run"
    clearsight.train(config=RATE, out=place)
    (place / "signals.json").unlink()
    (place / "events.jsonl").write_text("")
    assert examine(read_case(place))[0].code == "rate-too-high"


def test_text_of_findings():
    found = [
        make("a", "severe", evidence=(Evidence("size", 12.3456, 3.0, "layer 2"), Evidence("status", "diverged")), advice="Do it.",
             prescription={"model": {"hidden": [32, 8]}, "train": {"lr": 0.001, "shuffle": True}}, alternatives=("b", "c")),
        make("b", "note"), make("c", "note"),
    ]  # fmt: skip
    case = Case("finished", Choices(), ("a", "b"))
    assert render_diagnosis(found, case, rules=3, color=False) == (
        "severe    a (90% sure of the cause)\n"
        "          a is seen.\n"
        "why       It has a cause.\n"
        "evidence  size: 12.3 (limit 3), layer 2\n"
        "          status: diverged\n"
        "cure      Do it. --set model.hidden=[32,8] --set train.lr=0.001 --set train.shuffle=true\n"
        "or else   b, c\n\n"
        "note      b\n          b is seen.\n\n"
        "note      c\n          c is seen.\n\n"
        "1 severe finding, 2 notes"
    )
    assert render_diagnosis(found[:1], case, rules=3, color=True).startswith("\x1b[31;1msevere    a\x1b[0m (")
    assert count_findings([make("a", "severe")] * 2 + [make("b", "warning")]) == "2 severe findings, 1 warning"
    assert render_patch({}) == ""
    assert "Severe: a is seen. It has a cause. Do it." in render_section(found)
    assert render_section([make("b", "note")]) == ""


@pytest.mark.report
def test_the_report_says_what_the_doctor_says(tmp_path):
    run = clearsight.train(config=RATE, out=tmp_path / "run")
    text = (run.path / "report.html").read_text()
    assert "What the doctor says" in text
    assert run.findings[0].summary in text


def test_rules_say_nothing_of_a_regression(tmp_path, call, capsys):
    rng = np.random.default_rng(0)
    pixels = rng.random((80, 4, 4)).astype(np.float32)
    run = clearsight.train(pixels, pixels.mean((1, 2)), task="regression", epochs=2, out=tmp_path / "run")
    assert run.findings == ()
    assert call("doctor", run.path) == 0
    assert capsys.readouterr().out == "The rules are for classifiers; none was applied to this regression.\n"


def test_weights_beyond_all_numbers_are_an_exploding_signal(tmp_path):
    found = examine(
        train({**RATE, "model": {"init": "normal", "init_std": 1e37}, "train": {"epochs": 1}}, load_rows("digits"))
    )
    assert (found[0].code, found[0].severity) == ("exploding-signal", "severe")
    assert "not finite" in found[0].summary or "times that of a blind guess" in found[0].summary


def test_a_rate_of_0_is_named():
    found = examine(train({**RATE, "train": {"lr": 0.0, "epochs": 3}}, load_rows("digits")))
    assert (found[0].code, found[0].prescription) == ("rate-too-low", {"train": {"lr": 0.001}})


@pytest.mark.parametrize(
    "damage", [{"n": -1}, {"n": 10**400}, {"confusion": [[-1]]}, {"confusion": [[1, 2], [3]]}, {"loss": 10**400}]
)
def test_numbers_that_cannot_be_are_damage(ill, damage, tmp_path, call, capsys):
    place = shutil.copytree(ill.path, tmp_path / "run")
    metrics = json.loads((place / "metrics.json").read_text())
    metrics["train"] |= damage
    (place / "metrics.json").write_text(json.dumps(metrics))
    assert call("doctor", place) == 1
    assert "must be whole, got damage" in capsys.readouterr().err


def test_unsafe_variation_and_regression_are_told_apart():
    case = train({**RATE, "train": {"epochs": 3}}, load_rows("digits"))
    found = examine(replace(case, unsafe=("vflip",)))
    assert (found[0].code, found[0].prescription) == ("augmentation-unsafe", {"augment": {"vflip": 0.0}})
    assert (
        examine(replace(case, classes=(), judged={}, counts=(), losses=np.zeros(0), rows=(), probes=(), last=None))
        == []
    )


def test_the_page_lists_every_rule_as_its_docstring_has_it():
    rows = re.findall(r"^\| `([\w-]+)` \| (.+) \|$", (DOCS / "doctor.md").read_text(), re.MULTILINE)
    said = {code: inspect.getdoc(rule).split("\n\n")[0].replace("\n", " ") for code, rule in RULES.items()}
    assert dict(rows) == said


def test_a_p_value_counts_healthy_values_as_extreme():
    healthy = Healthy(99, low=tuple(range(25)), high=tuple(range(75, 100)), middle=(5, 50, 95))
    assert healthy.find_p(-1, "low") == pytest.approx(0.01)
    assert healthy.find_p(3, "low") == pytest.approx(0.05)
    assert healthy.find_p(100, "high") == pytest.approx(0.01)
    assert healthy.find_p(97.5, "high") == pytest.approx(0.03)
    assert healthy.find_p(50, "low") == healthy.find_p(50, "high") == healthy.find_p(50, "both") == 1.0
    assert healthy.find_p(100, "both") == healthy.find_p(-1, "both") == pytest.approx(0.02)
    assert healthy.find_p(float("nan"), "high") == pytest.approx(0.01)
    assert healthy.find_p(200, "high") == pytest.approx(25 / 99 * np.exp(-(200 - 75) / 12))  # beyond them all by far


def test_the_bank_knows_every_statistic_and_can_make_a_severe_finding():
    bank = read_bank()
    assert set(bank) == set(STATISTICS)
    for name, healthy in bank.items():
        assert list(healthy.low) == sorted(healthy.low)
        assert list(healthy.high) == sorted(healthy.high)
        assert healthy.low[0] <= healthy.middle[1] <= healthy.high[-1]
        side = STATISTICS[name][1]
        least = healthy.find_p(-1e9 if side == "low" else 1e9, side)
        if name != "evenness":  # few healthy trainings make enough mistakes, and no severe finding rests on it
            assert least < LEVEL / (len(RULES) - len(NEVER_SEVERE)), name


def test_a_severe_finding_with_numbers_of_healthy_trainings_is_a_warning(monkeypatch):
    def rule(value):
        evidence = (Evidence("first loss over the blind loss", value, 1.0, statistic="first loss"),)
        return {
            "a": lambda case: make("a", "severe", evidence=evidence),
            **dict.fromkeys(list(RULES)[1:], lambda case: None),
        }

    middle = read_bank()["first loss"].middle[1]
    for value, severity in ((middle, "warning"), (1e6, "severe"), (float("nan"), "severe")):
        monkeypatch.setattr("clearsight.diagnose.examine.RULES", rule(value))
        (found,) = examine(Case("finished", Choices(), ("a", "b")))
        assert found.severity == severity
        assert found.evidence[0].healthy[0] <= middle <= found.evidence[0].healthy[1]


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory):
    """Digits under labels that were shuffled, with two of them twice."""
    digits, place = load_rows("digits"), tmp_path_factory.mktemp("data") / "shuffled.npz"
    images, labels = digits.images[..., 0].copy(), np.random.default_rng(0).permutation(digits.labels)
    images[1], labels[1] = images[0], labels[0]
    np.savez(place, images=images, labels=labels)
    return place


def test_data_is_examined_before_any_training(shuffled, call, capsys):
    assert call("doctor", shuffled, "--quiet") == 4
    out = capsys.readouterr().out
    assert out.startswith("severe    labels-unrelated (")
    assert "\nwarning   copies\n" in out
    assert call("doctor", shuffled, "--json") == 4
    found = json.loads(capsys.readouterr().out)
    assert found["data"] == str(shuffled)
    assert [one["code"] for one in found["findings"]] == ["labels-unrelated", "copies"]


def test_sound_data_has_no_finding(call, capsys):
    assert call("doctor", "digits", "--quiet") == 0
    assert capsys.readouterr().out.startswith("No finding: none of ")


def test_data_that_cannot_be_trained_on_is_told_as_such(call, capsys, tmp_path, monkeypatch):
    def refuse(dataset):
        raise DataError("rows must be more, got none. Add some.")

    monkeypatch.setattr("clearsight.actions.doctor._probe", refuse)
    assert call("doctor", "digits") == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == (
        "No finding.\n",
        "note: no probe training was possible: rows must be more, got none. Add some.\n",
    )
    np.savez(tmp_path / "one.npz", images=np.arange(1280).reshape(20, 8, 8) % 255, labels=np.zeros(20, int))
    assert call("doctor", tmp_path / "one.npz") == 3
    assert "a classifier must have two or more classes" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["nothing", "", "x" * 5000, "a\0b"])
def test_what_is_neither_run_nor_data_is_refused(name, call, capsys):
    assert call("doctor", name) == 2
    assert "RUN must be a run directory, got" in capsys.readouterr().err
