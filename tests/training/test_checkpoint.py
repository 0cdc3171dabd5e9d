"""Checkpoints by themselves: what a save leaves behind after each fault, and which one a load takes."""

import errno
import json
import os

import numpy as np
import pytest

from clearsight.errors import RunError
from clearsight.training import checkpoint
from clearsight.training.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


def save(folder, step, value=None):
    value = step if value is None else value
    tensors = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T * value, "b": np.array([value])}
    return save_checkpoint(folder, step=step, tensors=tensors, meta={"value": value})


def load(folder):
    """The value saved last, and the notes."""
    tensors, meta, notes = load_checkpoint(folder)
    assert (tensors["a"] == np.arange(6, dtype=np.float32).reshape(2, 3).T * meta["value"]).all()
    assert tensors["b"].tolist() == [meta["value"]]
    return meta["value"], notes


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_what_was_saved_is_loaded_and_the_last_two_are_kept(tmp_path):
    folder = tmp_path / "deep" / "checkpoints"
    assert load_checkpoint(folder) is None
    for step in (5, 90, 1000):
        assert save(folder, step) == folder / f"step-{step:09d}"
        assert load(folder) == (step, [])
    assert names(folder) == ["LATEST", "step-000000090", "step-000001000"]
    assert (folder / "LATEST").read_text() == "step-000001000"
    assert names(folder / "step-000001000") == ["fit.json", "manifest.json", "state.safetensors"]


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert load_checkpoint(tmp_path) is None


def test_a_step_that_is_saved_again_takes_the_place_of_the_first(tmp_path):
    save(tmp_path, 3)
    save(tmp_path, 7, value=1)
    save(tmp_path, 7, value=2)
    assert load(tmp_path) == (2, [])
    assert names(tmp_path) == ["LATEST", "step-000000003", "step-000000007"]


def test_the_newest_is_the_last_saved_though_an_older_run_had_more_steps(tmp_path):
    save(tmp_path, 900)
    save(tmp_path, 20)
    assert load(tmp_path) == (20, [])
    save(tmp_path, 30)
    assert names(tmp_path) == ["LATEST", "step-000000030", "step-000000900"]
    assert load(tmp_path) == (30, [])


@pytest.mark.parametrize("part", ["state.safetensors", "fit.json", "manifest.json"])
@pytest.mark.parametrize(
    "harm", [flip, os.unlink, lambda path: path.write_bytes(b""), lambda path: path.write_text("[]")]
)
def test_a_damaged_checkpoint_is_told_and_passed_over(tmp_path, part, harm):
    save(tmp_path, 1)
    save(tmp_path, 2)
    harm(tmp_path / "step-000000002" / part)
    value, notes = load(tmp_path)
    assert value == 1
    assert len(notes) == 1
    assert notes[0].startswith("checkpoint step-000000002 is damaged (")
    assert notes[0].endswith("); went back to an earlier one")
    if harm is flip and part != "manifest.json":
        assert f"({part} differs from its hash)" in notes[0]


def test_tensors_that_are_none_with_a_hash_that_fits_are_damage_too(tmp_path):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    (newest / "state.safetensors").write_bytes(b"nonsense")
    hashes = json.loads((newest / "manifest.json").read_text())
    hashes["state.safetensors"] = checkpoint.hashlib.sha256(b"nonsense").hexdigest()
    (newest / "manifest.json").write_text(json.dumps(hashes))
    assert load(tmp_path)[0] == 1


def test_only_damaged_checkpoints_are_an_error(tmp_path):
    for step in (1, 2):
        flip(save(tmp_path, step) / "fit.json")
    with pytest.raises(RunError) as refused:
        load_checkpoint(tmp_path)
    assert str(refused.value) == f"{tmp_path} must hold a whole checkpoint, got 2 damaged ones. Train again."


def test_a_newest_one_that_is_gone_is_told(tmp_path):
    save(tmp_path, 1)
    gone = save(tmp_path, 2)
    for path in gone.iterdir():
        path.unlink()
    gone.rmdir()
    assert load(tmp_path) == (1, ["checkpoint step-000000002 is gone; went back to an earlier one"])


def test_without_a_pointer_the_highest_step_is_taken(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    (tmp_path / "LATEST").unlink()
    assert load(tmp_path) == (2, [])


def test_what_a_killed_save_left_is_swept_up_by_the_next(tmp_path):
    save(tmp_path, 1)
    for name in (".writing-000000002-1", ".old-000000001-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    for name in (f".writing-000000001-{os.getpid()}", f".old-000000001-{os.getpid()}"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    (tmp_path / "note.txt").write_text("not ours")
    save(tmp_path, 1)
    assert names(tmp_path) == ["LATEST", "note.txt", "step-000000001"]
    save(tmp_path, 2)
    assert names(tmp_path) == ["LATEST", "note.txt", "step-000000001", "step-000000002"]
    assert load(tmp_path) == (2, [])


def test_an_old_one_that_cannot_be_dropped_does_not_stop_the_training(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    save(tmp_path, 1)
    save(tmp_path, 2)
    monkeypatch.setattr(os, "rmdir", refuse)
    save(tmp_path, 3)
    assert load(tmp_path) == (3, [])


def test_a_pointer_of_other_bytes_points_nowhere(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    (tmp_path / "LATEST").write_bytes(b"\xff\xfe")
    value, notes = load(tmp_path)
    assert value == 2
    assert notes == ["checkpoint \ufffd\ufffd is gone; went back to an earlier one"]


@pytest.mark.parametrize("call", range(1, 7))
@pytest.mark.parametrize("function", ["write_durably", "sync_folder"])
def test_a_full_disk_is_an_error_and_the_earlier_checkpoint_is_whole(tmp_path, monkeypatch, function, call):
    save(tmp_path, 1)
    original, calls = getattr(checkpoint, function), 0

    def full(*arguments):
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*arguments)

    monkeypatch.setattr(checkpoint, function, full)
    if call > {"write_durably": 4, "sync_folder": 1}[function]:
        save(tmp_path, 2)
        assert calls == {"write_durably": 4, "sync_folder": 1}[function]
        return
    with pytest.raises(RunError) as refused:
        save(tmp_path, 2)
    assert str(refused.value) == (
        f"checkpoint must be written to {tmp_path / 'step-000000002'}, got: No space left on device. "
        "Free space or change its permissions, then use --resume."
    )
    assert not list(tmp_path.glob(".writing*"))
    value, notes = load(tmp_path)
    assert value == 1
    assert notes == []


def test_a_disk_that_gives_back_other_bytes_is_an_error_and_nothing_is_dropped(tmp_path, monkeypatch):
    save(tmp_path, 1)
    save(tmp_path, 2)
    original = checkpoint.write_durably

    def lossy(path, content):
        original(path, content[:-1] + b"?" if path.name == "fit.json" else content)

    monkeypatch.setattr(checkpoint, "write_durably", lossy)
    with pytest.raises(RunError, match=r"got: fit\.json differs from its hash\. Free space"):
        save(tmp_path, 3)
    assert {"step-000000001", "step-000000002"} <= set(names(tmp_path))
    assert load(tmp_path)[0] == 2


def test_each_step_of_a_save_comes_after_the_one_that_it_needs(tmp_path, monkeypatch):
    """Files are durable before the folder has its name, the name before the pointer, the pointer before old ones go."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    done = []
    for name in ("write_durably", "sync_folder", "_read", "_prune"):
        original = getattr(checkpoint, name)
        monkeypatch.setattr(
            checkpoint,
            name,
            lambda path, *rest, o=original, n=name: (done.append((n, path.name, names(tmp_path))), o(path, *rest))[1],
        )
    save(tmp_path, 3)
    assert [(name, path) for name, path, _ in done] == [
        ("write_durably", "state.safetensors"), ("write_durably", "fit.json"), ("write_durably", "manifest.json"),
        ("sync_folder", tmp_path.name), ("write_durably", "LATEST"), ("_read", "step-000000003"), ("_prune", tmp_path.name),
    ]  # fmt: skip
    for name, path, present in done:
        assert {"step-000000001", "step-000000002"} <= set(present)
        renamed = name in ("sync_folder", "_read", "_prune") or path == "LATEST"
        assert ("step-000000003" in present) == renamed
