"""Several processes that train one network: the same numbers as one, each row once, and nobody left hanging."""

import functools
import json
import os
import signal
import socket
import sys
from subprocess import PIPE

import forks
import numpy as np
import pytest
from processes import LIMIT_SECONDS, Processes, wait_until

import clearsight
from clearsight.engines.team import Team

pytestmark = pytest.mark.long
COMMAND = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
FLAGS = [
    "--model", "cnn", "--set", "model.norm=none", "--set", "model.widths=[8,16]", "--set", "model.depths=[1,1]", "--epochs", "4",
    "--batch-size", "31", "--dropout", "0.1", "--optimizer", "momentum", "--lr", "0.05", "--class-weights", "balanced",
    "--augment", "digits", "--set", "augment.unsafe=ignore", "--checkpoint-steps", "1", "--json",
]  # fmt: skip
SPLIT = ["--set", "data.test_fraction=0", "--valid-fraction", "0.25"]


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """404 digits, of which 101 are for validation."""
    digits = clearsight.load_data("digits")
    path = tmp_path_factory.mktemp("digits") / "data.npz"
    rows = np.arange(404)
    np.savez(path, train_images=(digits.images[rows, :, :, 0] * 15).astype(np.uint8), train_labels=digits.labels[rows])
    return path


def begin(processes, ranks, *arguments):
    return processes.start(
        [*COMMAND, str(ranks), "-m", "clearsight", "train", *arguments], stdout=PIPE, stderr=PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(process, *others):
    out, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 0, err
    for other in others:
        assert other.communicate(timeout=LIMIT_SECONDS) == ("", "")
        assert other.returncode == 0
    lines = [line for line in out.splitlines() if line.startswith("{")]
    assert len(lines) == 1  # only the first process speaks
    return json.loads(lines[0])


@pytest.fixture
def start(processes):
    """Starts so many ranks."""
    return functools.partial(begin, processes)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def begin_alone(processes, server, *arguments):
    """Two ranks without torchrun, which would be a third process: as a cluster starts them. Process 0 first."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1"}
    return [
        processes.fork(
            server, forks.command, "train", *arguments, env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank}
        )
        for rank in ("0", "1")
    ]  # fmt: skip


@pytest.fixture
def run(processes, fork_server):
    """Runs two ranks to their end."""
    return lambda *arguments: finish(*begin_alone(processes, fork_server, *arguments))


@pytest.fixture(scope="module")
def two(arrays, fork_server, tmp_path_factory):
    """A run of two processes, to its end: its directory and its answer."""
    place, started = tmp_path_factory.mktemp("runs") / "two", Processes()
    try:
        return place, finish(*begin_alone(started, fork_server, arrays, *FLAGS, *SPLIT, "--out", place))
    finally:
        started.end()


def wait_for_checkpoint(place, process):
    wait_until(lambda: list(place.glob("checkpoints/step-*")), process=process)


def test_two_processes_learn_as_one_and_validate_each_row_once(call, two, arrays, tmp_path, capsys):
    assert call("train", arrays, *FLAGS, *SPLIT, "--out", tmp_path / "one") == 0
    one = json.loads(capsys.readouterr().out)
    place, answer = two
    assert one["valid"]["n"] == answer["valid"]["n"] == 101
    assert one["valid"]["accuracy"] > 0.3
    places = (tmp_path / "one", place)
    params = [clearsight.load(path).params for path in places]
    np.testing.assert_allclose(params[0], params[1], rtol=1e-3, atol=1e-4)
    losses = [np.loadtxt(path / "steps.csv", delimiter=",", skiprows=1) for path in places]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    rows = [(path / "history.csv").read_text().splitlines()[-1].split(",") for path in places]
    assert rows[0][3] == rows[1][3]  # training accuracy: a count of rows
    assert rows[0][5] == rows[1][5]  # validation accuracy: of 101 rows
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    assert [path.name for path in place.parent.iterdir()] == ["two"]


def test_a_lost_process_ends_all_with_a_message_and_resume_gives_the_same_model(
    processes, fork_server, run, two, arrays, tmp_path
):
    whole, answer = two
    (tmp_path / "pids").mkdir()
    options = [arrays, *FLAGS, *SPLIT, "--out", tmp_path / "lost"]
    process = processes.fork(fork_server, forks.torchrun, tmp_path / "pids", 2, "train", *options)
    wait_for_checkpoint(tmp_path / "lost", process)
    os.kill(int((tmp_path / "pids" / "1").read_text()), signal.SIGKILL)
    _, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode != 0
    told = "error: all 2 processes must go on together, got another one lost" in err and "go on with --resume." in err
    assert told or "Signal 9 (SIGKILL) received by PID" in err, err  # torchrun may end the others before they can speak
    again = run("--resume", tmp_path / "lost", "--json")
    assert again["valid"] == answer["valid"]
    for name in ("model.clearsight", "steps.csv"):
        assert (tmp_path / "lost" / name).read_bytes() == (whole / name).read_bytes()


def test_a_signal_saves_and_stops_all(start, arrays, tmp_path):
    process = start(2, arrays, *FLAGS, *SPLIT, "--epochs", "100000", "--out", tmp_path / "stopped")
    wait_for_checkpoint(tmp_path / "stopped", process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode != 0
    assert "stopped on request after step" in err
    assert json.loads((tmp_path / "stopped" / "run.json").read_text())["status"] == "interrupted"


def test_the_dense_engine_is_refused_in_company(arrays, call, tmp_path, capsys, monkeypatch):
    two = Team()
    two.size = 2
    monkeypatch.setattr("clearsight.actions.train.started_by_torchrun", lambda: True)
    monkeypatch.setattr("clearsight.actions.train.join_team", lambda device: two)
    assert call("train", arrays, "--epochs", "1", "--out", tmp_path / "x") == 2
    assert (
        capsys.readouterr().err
        == "error: several processes must train with engine torch, got 2 of them. Set train.engine to torch.\n"
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(("count", "size"), [(101, 2), (0, 3), (1, 3), (7, 7), (10, 4)])
def test_shares_are_disjoint_and_complete(count, size):
    parts = []
    for rank in range(size):
        team = Team()
        team.rank, team.size = rank, size
        parts += list(range(count))[team.share(count)]
    assert parts == list(range(count))


def test_what_the_first_process_cannot_do_ends_all(processes, fork_server, arrays, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    ranks = begin_alone(processes, fork_server, arrays, *FLAGS, *SPLIT, "--out", tmp_path / "taken")
    said = [one.communicate(timeout=LIMIT_SECONDS)[1] for one in ranks]
    assert all(one.returncode != 0 for one in ranks)
    assert "error: --out must be a new or empty folder" in said[0]
    assert "error: the first process must be able to begin, got an error there. See what it says." in said[1]
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["file"]


def test_all_that_two_processes_can_do_together_ends_well(run, arrays, tmp_path):
    """Batch normalisation, an average of weights, parts, early stopping, a series, a rate looked for, and shares without rows."""
    flags = [
        "--model", "cnn", "--set", "model.widths=[8,16]", "--set", "model.depths=[1,1]", "--epochs", "4", "--batch-size", "43",
        "--lr", "auto", "--ema", "0.9", "--accumulate", "2", "--patience", "2", "--keep-steps", "5", "--json",
    ]  # fmt: skip
    found = run(arrays, *flags, *SPLIT, "--out", tmp_path / "all")  # 303 rows: the last batch of each epoch has two
    assert found["valid"]["n"] == 101
    assert len(list((tmp_path / "all" / "series").iterdir())) >= 2
    assert clearsight.evaluate(tmp_path / "all", split="valid").accuracy == pytest.approx(found["valid"]["accuracy"])
