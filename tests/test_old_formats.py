"""Runs and models that earlier versions wrote, kept in `old/`: they load, answer as they did, are judged, and go on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

import clearsight
from clearsight.engines.dense_engine import DenseEngine
from clearsight.errors import RunError

OLD = Path(__file__).parent / "old"
ENDED = ("format-1", "format-2", "format-3", "format-4", "format-4-cnn")


@pytest.fixture(params=ENDED)
def run(request, tmp_path):
    """A copy that may be written to."""
    return Path(shutil.copytree(OLD / request.param, tmp_path / "run"))


def test_an_old_model_answers_as_it_did(run):
    """`expected.json` is what the version that wrote the model answered on the first five digits."""
    expected = np.array(json.loads((run / "expected.json").read_text()), np.float32)
    digits = load_digits().images[:5].astype(np.uint8)
    for place in (run, run / "model.clearsight"):
        np.testing.assert_allclose(clearsight.load(place).predict_proba(digits), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_an_old_run_is_judged_as_it_was(run):
    before = json.loads((run / "metrics.json").read_text())["test"]
    found = clearsight.evaluate(run)
    assert (found.n, found.accuracy) == (before["n"], before["accuracy"])
    np.testing.assert_allclose(found.loss, before["loss"], rtol=1e-3)


@pytest.mark.long
@pytest.mark.report
def test_an_old_run_is_listed_shown_and_drawn(run, call, capsys):
    record = json.loads((run / "run.json").read_text())
    assert call("runs", "list", "--root", run.parent, "--json") == 0
    (listed,) = json.loads(capsys.readouterr().out)["runs"]
    assert (listed["status"], listed["created"]) == ("finished", record["created"])
    assert call("runs", "show", run) == 0
    assert call("mistakes", run, "--count", "3") == 0
    assert call("report", run) == 0
    assert (run / "report.html").stat().st_size > 10_000


@pytest.mark.long
def test_an_old_run_that_was_interrupted_goes_on_as_if_nothing_had_happened(tmp_path, call, monkeypatch):
    run = shutil.copytree(OLD / "format-4-interrupted", tmp_path / "run")
    trained, train_steps = [], DenseEngine.train_steps

    def count(engine, order, **options):
        trained.append(options["first_step"])
        return train_steps(engine, order, **options)

    monkeypatch.setattr(DenseEngine, "train_steps", count)
    done = int((run / "checkpoints" / "LATEST").read_text().strip().rpartition("-")[2])
    assert call("train", "--resume", run, "--quiet") == 0
    assert min(trained) >= done > 0
    flags = ["--hidden", "8", "--epochs", "3", "--set", "train.checkpoint_steps=1", "--dropout", "0.1"]
    assert call("train", "digits", *flags, "--out", tmp_path / "whole", "--quiet") == 0
    resumed, whole = (clearsight.load(path) for path in (run, tmp_path / "whole"))
    np.testing.assert_allclose(
        resumed.params, whole.params, rtol=1e-3, atol=1e-4
    )  # its steps so far came from another machine


def test_a_record_without_its_configuration_is_refused_unless_it_is_of_the_first_format(tmp_path):
    run = Path(shutil.copytree(OLD / "format-4", tmp_path / "run"))
    record = json.loads((run / "run.json").read_text())
    del record["config"]
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(
        RunError, match=r"run\.json must hold the configuration, got none\. Restore the file or train again\."
    ):
        clearsight.evaluate(run)
