"""Folds on disk and what is made of them: one file a fold, a table, outputs by row, and a mean with its interval."""

import csv
import errno
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from clearsight.actions import cross_validate as cv
from clearsight.config.build import build_config
from clearsight.config.files import merge
from clearsight.core.intervals import mean_interval
from clearsight.data.read.load import load_data
from clearsight.errors import RunError
from clearsight.pipeline.data import build_split
from clearsight.search.jobs import Job, Outcome


@pytest.fixture
def data():
    return load_data(np.arange(12 * 16, dtype=np.uint16).reshape(12, 4, 4), np.repeat([0, 1], 6))


def job(fold, seed=0):
    settings = {"data": {"folds": 3, "test_fraction": 0.0, "fold": fold, "fold_seed": seed}}
    return Job(merge({}, settings), keep_outputs=True)


def outcome(data, fold, seed=0, **own):
    rows = build_split(build_config(job(fold, seed).settings), data).valid
    outputs = np.stack([rows, rows + 0.5], axis=1).astype(np.float32) + 100 * seed
    usual = {
        "status": "finished", "metrics": {"accuracy": (fold + 1 + seed) / 10, "loss": 0.5}, "n": len(rows),
        "num_train": 12 - len(rows), "epoch": 3, "seconds": 1.23456, "rows": rows, "outputs": outputs,
    }  # fmt: skip
    return Outcome(**usual | own)


def test_a_fold_is_read_back_as_it_was_written(tmp_path, data):
    one = outcome(data, 1)
    cv._write_fold(tmp_path, 1, one)
    again = cv._read_fold(tmp_path, 1, job(1), data)
    for name in ("status", "metrics", "n", "num_train", "epoch", "seconds"):
        assert getattr(again, name) == getattr(one, name)
    np.testing.assert_array_equal(again.rows, one.rows)
    np.testing.assert_array_equal(again.outputs, one.outputs)
    assert [path.name for path in (tmp_path / "folds").iterdir()] == ["0001.safetensors"]


def test_a_fold_that_is_missing_damaged_or_of_other_rows_is_none(tmp_path, data):
    assert cv._read_fold(tmp_path, 0, job(0), data) is None
    cv._write_fold(tmp_path, 0, outcome(data, 0))
    assert cv._read_fold(tmp_path, 0, job(0), data) is not None
    assert cv._read_fold(tmp_path, 0, job(1), data) is None
    assert cv._read_fold(tmp_path, 0, job(0, seed=1), data) is None
    short = outcome(data, 0)
    cv._write_fold(tmp_path, 0, outcome(data, 0, outputs=short.outputs[:-1]))
    assert cv._read_fold(tmp_path, 0, job(0), data) is None
    cv._write_fold(tmp_path, 0, outcome(data, 0, rows=None))
    assert cv._read_fold(tmp_path, 0, job(0), data) is None
    (tmp_path / "folds" / "0000.safetensors").write_bytes(b"damaged")
    assert cv._read_fold(tmp_path, 0, job(0), data) is None


def test_a_full_disk_says_how_to_go_on(tmp_path, data, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cv, "write_durably", full)
    file = tmp_path / "folds" / "0002.safetensors"
    with pytest.raises(RunError) as refused:
        cv._write_fold(tmp_path, 2, outcome(data, 2))
    assert str(refused.value) == (
        f"{file} must be writable, got: No space left on device. Free space, then use --resume {tmp_path}."
    )


def collected(tmp_path, data):
    every = [outcome(data, fold, seed) for seed in range(2) for fold in range(3)]
    return every, cv._collect(tmp_path, every, data.labels, cv._Plan(3, 2, "accuracy"))


def test_every_row_has_the_outputs_of_the_model_that_had_not_seen_it(tmp_path, data):
    _, found = collected(tmp_path, data)
    np.testing.assert_array_equal(found.rows, np.arange(12))
    np.testing.assert_array_equal(found.labels, data.labels)
    for repeat in range(2):
        np.testing.assert_array_equal(found.outputs[repeat, :, 0], np.arange(12) + 100 * repeat)
        np.testing.assert_array_equal(found.outputs[repeat, :, 1], np.arange(12) + 0.5 + 100 * repeat)


def test_the_mean_is_of_all_runs_with_the_interval_of_rows_that_folds_share(tmp_path, data):
    every, found = collected(tmp_path, data)
    values = (0.1, 0.2, 0.3, 0.2, 0.3, 0.4)
    assert found.mean == pytest.approx(np.mean(values))
    ratio = sum(one.n for one in every) / sum(one.num_train for one in every)
    assert (found.low, found.high) == pytest.approx(mean_interval(values, most=1.0, ratio=ratio))
    assert [(fold.repeat, fold.fold) for fold in found.folds] == [(r, f) for r in range(2) for f in range(3)]
    assert found.summary()["interval"] == [found.low, found.high]
    assert found.summary()["n"] == 12


def test_the_table_and_the_outputs_are_written(tmp_path, data):
    _, found = collected(tmp_path, data)
    (tmp_path / "cv.json").write_text('{"fingerprint": "f"}')
    cv._write(tmp_path, found)
    with (tmp_path / "folds.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["repeat", "fold", "status", "n", "num_train", "epoch", "seconds", "accuracy", "loss"]
    assert [(row["repeat"], row["fold"], row["accuracy"]) for row in rows][4] == ("1", "1", "0.3")
    assert {row["seconds"] for row in rows} == {"1.235"}
    kept = load_file(tmp_path / "out-of-fold.safetensors")
    np.testing.assert_array_equal(kept["outputs"], found.outputs)
    record = json.loads((tmp_path / "cv.json").read_text())
    assert record["fingerprint"] == "f"
    assert record["mean"] == found.mean


def test_a_place_is_left_free_only_where_no_fold_was_done(tmp_path):
    for done in (False, True):
        path = tmp_path / f"{done}"
        (path / "folds" if done else path).mkdir(parents=True)
        with pytest.raises(cv.UsageError), cv._leaving_nothing(path):
            raise cv.UsageError("no")
        assert path.exists() == done


def test_a_place_that_cannot_be_cleared_does_not_hide_why_nothing_began(tmp_path):
    with pytest.raises(cv.UsageError, match="no such scheduler"), cv._leaving_nothing(tmp_path / "gone"):
        raise cv.UsageError("no such scheduler")
