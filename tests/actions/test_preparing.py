"""A run has its directory from the first second: it can be seen, resumed where it was killed so early, and leaves nothing if refused."""

import json

import numpy as np
import pytest

import clearsight
from clearsight.errors import DataError, UsageError
from clearsight.pipeline.data import load_given
from clearsight.runs import store
from clearsight.runs.directory import RunDirectory
from clearsight.training import fit

CHOICES = {"epochs": 2, "hidden": (5,), "seed": 3}


@pytest.fixture
def source(tmp_path, pictures):
    images, labels = pictures
    np.savez(tmp_path / "data.npz", x_train=images, y_train=labels)
    return tmp_path / "data.npz"


def seen_while_loading(monkeypatch, look):
    """Calls `look` when a run is about to read its data."""

    def load_and_look(*arguments, **options):
        look()
        return load_given(*arguments, **options)

    monkeypatch.setattr("clearsight.actions.train.load_given", load_and_look)


@pytest.fixture
def killed(monkeypatch, source, tmp_path):
    """A run whose process ended while its data was read."""

    def stop():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        seen_while_loading(patch, stop)
        patch.setattr(store, "clear_run", lambda path, *, keep: None)  # as a process that is killed clears nothing
        with pytest.raises(KeyboardInterrupt):
            clearsight.train(source, root=tmp_path / "runs", **CHOICES)
    (path,) = (tmp_path / "runs").iterdir()
    record = json.loads(RunDirectory(path).record.read_text())
    RunDirectory(path).record.write_text(json.dumps(record | {"pid": 2**22 + 1}))  # above the largest of Linux
    return path


def test_a_run_is_listed_while_it_is_prepared(monkeypatch, source, tmp_path, call, capsys):
    found = []
    seen_while_loading(monkeypatch, lambda: found.extend(store.list_runs(tmp_path / "runs")[0]))
    run = clearsight.train(source, root=tmp_path / "runs", **CHOICES)
    assert [(one.path, one.status, one.data) for one in found] == [(run.path, "preparing", "data")]
    assert store.read_run(run.path).status == "finished"
    assert store.read_run(run.path).created == found[0].created


@pytest.mark.long
@pytest.mark.report
def test_a_run_killed_so_early_resumes_to_the_same_bytes(killed, source, tmp_path, call, capsys):
    assert store.read_run(killed).status == "killed"
    assert call("report", killed) == 0
    assert "It had not begun to train." in RunDirectory(killed).report.read_text()
    RunDirectory(killed).report.unlink()
    assert call("runs", "watch", killed, "--json") == 0
    capsys.readouterr()
    run = clearsight.train(resume=killed)
    assert run.path == killed
    assert run.status == "finished"
    whole = clearsight.train(source, root=tmp_path / "others", **CHOICES)
    for name in ("model.clearsight", "steps.csv", "config.toml"):
        assert (killed / name).read_bytes() == (whole.path / name).read_bytes()


def test_a_run_killed_so_early_is_not_resumed_with_other_choices(killed):
    with pytest.raises(
        UsageError, match=r"--resume must go on with the configuration of .*, got train.epochs: 2 -> 5\."
    ):
        clearsight.train(resume=killed, epochs=5)


def test_a_refused_run_leaves_nothing(source, tmp_path):
    (tmp_path / "bad.csv").write_text("label,a\n0,1\n0,2\n")
    with pytest.raises(DataError):
        clearsight.train(tmp_path / "bad.csv", root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError):
        clearsight.train(tmp_path / "bad.csv", root=tmp_path / "mine", out=tmp_path / "mine" / "run")
    (tmp_path / "mine" / "run").mkdir()
    with pytest.raises(DataError):
        clearsight.train(tmp_path / "bad.csv", root=tmp_path / "mine", out=tmp_path / "mine" / "run")
    assert list((tmp_path / "mine" / "run").iterdir()) == []


@pytest.fixture
def stopped(source, tmp_path, monkeypatch):
    """A run of 60 epochs that was interrupted in its fourth, a step after a checkpoint."""
    save = fit.save_checkpoint

    def save_and_stop(folder, *, step, **parts):
        save(folder, step=step, **parts)
        if step == 7:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit, "save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            clearsight.train(source, root=tmp_path / "stopped", checkpoint_steps=1, **CHOICES | {"epochs": 60})
    (path,) = (tmp_path / "stopped").iterdir()
    return path


def test_a_stopped_run_is_finished_with_the_weights_of_its_last_whole_epoch(stopped, source, tmp_path, call, capsys):
    assert store.read_run(stopped).status == "interrupted"
    assert call("predict", stopped, tmp_path / "x.png") == 1
    advice = f"`clearsight train --resume {stopped} --finish` makes one of its newest checkpoint."
    assert (
        f"MODEL must be a run that has ended, got {stopped}, which has no model yet. {advice}"
        in capsys.readouterr().err
    )
    run = clearsight.train(resume=stopped, finish=True)
    assert (run.status, run.epoch, len(run.history.epochs)) == ("stopped early", 3, 3)
    assert store.read_run(stopped).status == "stopped early"
    whole = clearsight.train(source, root=tmp_path / "others", checkpoint_steps=1, **CHOICES | {"epochs": 3})
    assert clearsight.load(stopped).params.tobytes() == whole.bundle.params.tobytes()
    assert run.test.accuracy == whole.test.accuracy
    with pytest.raises(UsageError, match="--resume must name a run that has not ended"):
        clearsight.train(resume=stopped, finish=True)


def test_finishing_takes_the_best_epoch_that_patience_watched(source, tmp_path, monkeypatch):
    """A rate far too high, stopped where some epoch was worse than one before it."""
    choices = {
        "epochs": 60,
        "seed": 3,
        "hidden": (5,),
        "lr": 3.0,
        "optimizer": "sgd",
        "patience": 50,
        "checkpoint_steps": 1,
    }
    losses = [row["valid_loss"] for row in clearsight.train(source, root=tmp_path / "whole", **choices).history.epochs]
    last = next(k for k in range(2, len(losses)) if losses[k - 1] > min(losses[:k]))
    best = losses.index(min(losses[:last])) + 1
    save = fit.save_checkpoint

    def save_and_stop(folder, *, step, **parts):
        save(folder, step=step, **parts)
        if len(parts["meta"]["epochs"]) == last:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit, "save_checkpoint", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            clearsight.train(source, out=tmp_path / "run", root=tmp_path, **choices)
    assert clearsight.train(resume=tmp_path / "run", finish=True).epoch == best < last


def test_finishing_needs_a_run_and_a_checkpoint(killed, stopped, call, capsys):
    assert call("train", "digits", "--finish") == 2
    assert "--finish must go with --resume, which names the run, got none. Add --resume RUN." in capsys.readouterr().err
    assert call("train", "--resume", killed, "--finish") == 2
    told = f"--finish must be one process on a run with a checkpoint, got {killed}, which had not begun to train."
    assert told in capsys.readouterr().err
    for file in sorted(RunDirectory(stopped).checkpoints.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    assert call("train", "--resume", stopped, "--finish") == 1
    assert "run must have a checkpoint to be finished, got none in" in capsys.readouterr().err
    assert store.read_run(stopped).status == "failed"
    assert clearsight.train(resume=stopped).status == "finished"
