"""Crashes at every step and inside every save, faults of the disk, signals, locks, and resuming with something changed."""

import errno
import json
import os
import signal
import sys
from subprocess import PIPE

import crash_worker
import numpy as np
import pytest
from conftest import WRITE_REPORT
from processes import CLEARSIGHT, LIMIT_SECONDS, wait_until

import clearsight
from clearsight.core import files
from clearsight.errors import DataError, RunError, UsageError
from clearsight.runs import store
from clearsight.runs.directory import RunDirectory
from clearsight.runs.events import read_course
from clearsight.training import checkpoint

pytestmark = pytest.mark.long
SETTINGS = {"epochs": 4, "batch_size": 9, "hidden": (5,), "optimizer": "adam", "dropout": 0.2, "checkpoint_steps": 1}


@pytest.fixture
def kill(processes, fork_server):
    """Kills trainings at all points of a kind, and gives what came of them."""

    def finish(kind, folder):
        out, err = processes.fork(fork_server, crash_worker.main, kind, folder).communicate(timeout=LIMIT_SECONDS)
        assert out, err
        return json.loads(out)

    return finish


def test_killed_at_every_step_and_resumed_is_byte_identical(kill, tmp_path):
    results = kill("steps", tmp_path)
    assert results["steps"] == "step-000000020"
    assert len(results["results"]) == 21
    for point, result in results["results"].items():
        assert result == {"died": -9, "started": True, "resumed": 0, "same": True}, point


def test_killed_at_every_point_of_a_save_and_resumed_is_byte_identical(kill, tmp_path):
    found = kill("saves", tmp_path)
    results = {int(point): result for point, result in found["results"].items()}
    last = results.pop(found["calls"])  # after the very last rename: the run had ended
    assert last["resumed"] == 1
    assert all(result["died"] == -9 for result in results.values())
    for point, result in results.items():
        if result["started"]:
            assert (result["resumed"], result["same"]) == (0, True), point
        else:  # nothing was trained yet: refused in a sentence
            assert result["resumed"] == 1, point
    assert sum(result["started"] for result in results.values()) >= 40


@pytest.fixture
def unfinished(pictures, tmp_path, monkeypatch):
    """A run that stopped after 15 of its 20 steps because a checkpoint could not be written."""
    calls, original = 0, checkpoint.sync_folder

    def full(folder):
        nonlocal calls
        calls += folder.name == "checkpoints"
        if calls > 30:  # two a save: the rename and the pointer
            raise OSError(errno.ENOSPC, "No space left on device")
        original(folder)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "sync_folder", full)
        patch.setattr(files, "sync_folder", full)
        with pytest.raises(RunError) as caught:
            clearsight.train(*pictures, out=tmp_path / "run", **SETTINGS)
    assert str(caught.value).startswith("checkpoint must be written to ")
    assert "got: No space left on device. Free space or change its permissions, then use --resume." in str(caught.value)
    return tmp_path / "run"


def finish(pictures, path, **settings):
    return clearsight.train(*pictures, resume=path, **settings).bundle.params.tobytes()


def whole(pictures, tmp_path):
    return clearsight.train(*pictures, out=tmp_path / "whole", **SETTINGS).bundle.params.tobytes()


def test_full_disk_leaves_the_last_checkpoint_intact(unfinished, pictures, tmp_path):
    assert store.read_json(unfinished / "run.json")["status"] == "failed"
    assert finish(pictures, unfinished) == whole(pictures, tmp_path)


def test_a_run_begun_with_a_choice_that_is_refused_today_goes_on(unfinished, pictures, tmp_path):
    for name, step in (("config.toml", 'schedule_unit = "step"'), ("run.json", '"schedule_unit": "step"')):
        text = (unfinished / name).read_text()
        assert step in text
        (unfinished / name).write_text(text.replace(step, step.replace("step", "epoch")))
    assert finish(pictures, unfinished) == whole(pictures, tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_a_fault_at_any_write_of_a_save_keeps_the_older_checkpoint(number, pictures, tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    good = {"a": np.arange(3.0)}
    checkpoint.save_checkpoint(folder, step=1, tensors=good, meta={"n": 1})
    original = os.fsync
    for fail_at in range(1, 20):
        calls = 0

        def fault(handle, fail_at=fail_at):
            nonlocal calls
            calls += 1
            if calls == fail_at:
                raise OSError(number, os.strerror(number))
            original(handle)

        monkeypatch.setattr(os, "fsync", fault)
        try:
            checkpoint.save_checkpoint(folder, step=2, tensors={"a": np.arange(4.0)}, meta={"n": 2})
        except RunError as error:
            assert os.strerror(number) in str(error)
        else:
            break
        tensors, meta, _ = checkpoint.load_checkpoint(folder)
        assert meta["n"] in (1, 2)
        assert len(tensors["a"]) == 2 + meta["n"]
    assert 8 <= fail_at < 19  # every fsync of a save was tried


@pytest.mark.parametrize("damage", ["cut", "flip", "missing", "manifest"])
def test_damaged_newest_checkpoint_falls_back_and_says_so(unfinished, pictures, tmp_path, damage):
    newest = unfinished / "checkpoints" / (unfinished / "checkpoints" / "LATEST").read_text()
    state = newest / "state.safetensors"
    if damage == "cut":
        state.write_bytes(state.read_bytes()[:-7])
    elif damage == "flip":
        raw = bytearray(state.read_bytes())
        raw[-1] ^= 1
        state.write_bytes(raw)
    elif damage == "missing":
        state.unlink()
    else:
        (newest / "manifest.json").write_text("[" * 100_000)
    notes = []
    assert finish(pictures, unfinished, note=notes.append) == whole(pictures, tmp_path)
    assert any(f"checkpoint {newest.name} is damaged" in text for text in notes)


def test_probes_of_a_run_that_was_killed_are_those_of_one_that_was_not(unfinished, pictures, tmp_path):
    before = [done for done, _ in read_course(unfinished).probes]
    assert finish(pictures, unfinished) == whole(pictures, tmp_path)
    found, wanted = read_course(unfinished).probes, read_course(tmp_path / "whole").probes
    assert 0 < len(before) < len(found)
    assert repr(found) == repr(wanted)
    assert RunDirectory(unfinished).probes.read_bytes() == RunDirectory(tmp_path / "whole").probes.read_bytes()


def test_no_whole_checkpoint_is_an_error_not_a_new_start(unfinished, pictures):
    for path in (unfinished / "checkpoints").glob("step-*/state.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(RunError, match=r"must hold a whole checkpoint, got 3 damaged ones\. Train again\."):
        finish(pictures, unfinished)


def test_two_checkpoints_are_kept_and_no_leftovers(unfinished):
    names = {path.name.split("-")[0] for path in (unfinished / "checkpoints").iterdir() if path.is_dir()}
    assert names == {"step"}
    assert len(list((unfinished / "checkpoints").glob("step-*"))) >= 2


def test_resume_with_another_setting_is_refused_with_the_difference(unfinished, pictures):
    with pytest.raises(
        UsageError, match=r"must go on with the configuration of .*, got train\.epochs: 4 -> 9\. Start a new run"
    ):
        finish(pictures, unfinished, epochs=9)


def test_resume_with_other_data_is_refused(unfinished, pictures):
    images = pictures[0].copy()
    images[0, 0, 0] ^= 1
    with pytest.raises(
        DataError, match=r"--resume must find the same data as before, got another fingerprint: \w{12} became"
    ):
        clearsight.train(images, pictures[1], resume=unfinished)


def test_resume_with_other_classes_is_refused(unfinished, pictures):
    with pytest.raises(DataError, match=r"--resume must find the same data as before, got another"):
        clearsight.train(pictures[0], np.array(["b", "a", "c"])[pictures[1]], resume=unfinished)


def test_resuming_a_finished_run_says_so(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(WRITE_REPORT, lambda path: RunDirectory(path).report.touch())
    path = clearsight.train(*pictures, out=tmp_path / "run", **SETTINGS).path
    with pytest.raises(
        UsageError, match=r"--resume must name a run that has not ended, got .*, finished\. Start a new run\."
    ):
        finish(pictures, path)


def test_two_processes_on_one_run_and_a_stale_lock(unfinished, pictures, tmp_path, processes):
    code = """if True:
        import sys, time
        from pathlib import Path
        from clearsight.runs.store import lock_run
        with lock_run(Path(sys.argv[1])):
            print('held', flush=True)
            time.sleep(10**6)
        """
    holder = processes.start([sys.executable, "-c", code, unfinished], stdout=PIPE)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(RunError, match=r"run must be used by one process at a time, got .*, in use\."):
        finish(pictures, unfinished)
    with pytest.raises(RunError, match="one process at a time"):
        store.remove_run(unfinished)
    holder.kill()
    holder.wait()
    assert finish(pictures, unfinished) == whole(pictures, tmp_path)


SIGNALLED = """
import os, sys
from clearsight.cli.main import main
from clearsight.engines.dense_engine import DenseEngine
number, at, train_steps = int(sys.argv.pop(1)), int(sys.argv.pop(1)), DenseEngine.train_steps
def signalled(self, order, **options):
    if options["first_step"] <= at < options["first_step"] + len(options["lrs"]):
        os.kill(os.getpid(), number)
    return train_steps(self, order, **options)
DenseEngine.train_steps = signalled
sys.argv[0] = "clearsight"
main()
"""
FLAGS = ["--epochs", "4", "--hidden", "8", "--checkpoint-steps", "50"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_save_and_resume_to_the_same_bytes(call, tmp_path, processes, number, code):
    out, whole = tmp_path / "stopped", tmp_path / "whole"
    command = [sys.executable, "-c", SIGNALLED, str(int(number)), "75", "train", "digits", *FLAGS, "--out", out]
    process = processes.start(command, stderr=PIPE, stdout=PIPE)
    _, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == code, err
    assert f"Saved; go on with `clearsight train --resume {out}`." in err
    assert "Traceback" not in err
    assert store.read_json(out / "run.json")["status"] == "interrupted"
    assert call("train", "--resume", out, "--quiet") == 0
    assert store.read_json(out / "run.json")["status"] == "finished"
    assert call("train", "digits", *FLAGS, "--out", whole, "--quiet") == 0
    assert (out / "model.clearsight").read_bytes() == (whole / "model.clearsight").read_bytes()


def test_where_ctrl_c_was_ignored_at_the_start_it_is_ignored_and_sigterm_saves(tmp_path, processes):
    """As nohup and scripts that start jobs with & have it."""
    train = [*CLEARSIGHT, "train", "digits", "--epochs", "20000", "--checkpoint-steps", "50", "--out", tmp_path / "run"]
    process = processes.start(["sh", "-c", 'trap "" INT; exec "$@"', "sh", *train], stderr=PIPE, stdout=PIPE)

    def find_checkpoints():
        return {path.name for path in (tmp_path / "run").glob("checkpoints/step-*")}

    wait_until(find_checkpoints, process=process)
    process.send_signal(signal.SIGINT)
    before = find_checkpoints()
    wait_until(lambda: not before & find_checkpoints(), process=process)  # several more saves
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 143, err
    assert f"Saved; go on with `clearsight train --resume {tmp_path / 'run'}`." in err


def test_a_finished_run_without_a_report_says_how_to_draw_it(pictures, tmp_path, monkeypatch):
    def full(path):
        raise RunError(f"{RunDirectory(path).report} must be writable, got: No space left on device. Free space.")

    notes = []
    with monkeypatch.context() as patch:
        patch.setattr("clearsight.report.html.write_report", full)
        run = clearsight.train(*pictures, out=tmp_path / "run", note=notes.append, **SETTINGS)
    assert run.test.n > 0
    assert notes[-1].startswith("the run is finished and saved, but has no report: ")
    assert notes[-1].endswith(f"Draw it with `clearsight report {run.path}`")
    with pytest.raises(UsageError, match=r"got .*, finished\. Draw its report with `clearsight report "):
        finish(pictures, run.path)


def test_a_folder_is_free_again_where_no_record_could_be_written(pictures, tmp_path, monkeypatch):
    out, write = tmp_path / "run", store.write_json

    def full(path, value):
        if path.name == "run.json":
            raise RunError("the disk must have room, got none. Free space.")
        write(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_json", full)
        with pytest.raises(RunError, match="must have room"):
            clearsight.train(*pictures, out=out, **SETTINGS)
    assert not out.exists()
    out.mkdir()
    for name in (".lock", "config.toml"):  # what a process leaves that is killed before it writes its record
        (out / name).touch()
    assert clearsight.train(*pictures, out=out, **SETTINGS).path == out
    for name in (".lock", "run.json"):
        (out / name).unlink()
        with pytest.raises(UsageError, match=r"--out must be a new or empty folder"):
            clearsight.train(*pictures, out=out, **SETTINGS)


def test_a_record_without_a_fingerprint_is_damaged_and_not_other_data(unfinished, pictures):
    record = json.loads((unfinished / "run.json").read_text())
    del record["fingerprint"]
    (unfinished / "run.json").write_text(json.dumps(record))
    with pytest.raises(
        RunError, match=r"run\.json must hold the data's fingerprint, got none\. Restore the file or train again\."
    ):
        finish(pictures, unfinished)
