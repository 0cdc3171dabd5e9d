"""A run can be followed while it goes on, and read after it was killed: its events, and whether its process lives."""

import json
import os
import platform
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from processes import CLEARSIGHT, LIMIT_SECONDS, wait_until
from scripted import Listener, Scripted, train

import clearsight
from clearsight.report.text import render_course
from clearsight.report.unfinished import describe_place
from clearsight.runs import store
from clearsight.runs.directory import RunDirectory
from clearsight.runs.events import Course, EventLog, EventReader, follow, parse_events, read_course
from clearsight.runs.liveness import describe_process, is_alive

LONG = ["train", "digits", "--epochs", "100000", "--hidden", "8", "--checkpoint-steps", "200", "--quiet"]


def test_events_hold_every_step_epoch_checkpoint_and_the_end(tmp_path):
    log, heard = EventLog(RunDirectory(tmp_path).events), Listener()
    result = train(
        Scripted(np.linspace(2, 1, 12)), 3, observers=[log, heard], checkpoints=tmp_path / "c", checkpoint_steps=5
    )
    events = parse_events(RunDirectory(tmp_path).events.read_text().splitlines())
    assert [event["event"] for event in events] == [
        "start", "steps", "steps", "epoch", "steps", "checkpoint", "steps", "epoch", "steps", "checkpoint", "steps", "epoch", "end"
    ]  # fmt: skip
    assert events[-1]["status"] == "finished"
    steps = [event for event in events if event["event"] == "steps"]
    assert sum(event["count"] for event in steps) == 12
    assert steps[-1]["done"] == 12
    assert sum(event["count"] * event["loss"] for event in steps) == pytest.approx(result.history.step_losses.sum())
    course = read_course(tmp_path)
    assert course.rows == result.history.epochs
    assert (course.epochs, course.steps, course.done) == (3, 12, 12)


def test_what_came_after_the_step_that_a_run_went_on_from_is_dropped(tmp_path):
    class Killed(BaseException):
        pass

    def die(at):
        if at == 11:
            raise Killed

    options = {"checkpoints": tmp_path / "c", "checkpoint_steps": 6}
    killed = Scripted(np.linspace(2, 1, 20))
    killed.on_step = die
    with pytest.raises(Killed):
        train(killed, 4, observers=[EventLog(RunDirectory(tmp_path).events)], **options)
    assert [row["epoch"] for row in read_course(tmp_path).rows] == [1, 2]  # the second ended at step 8
    resumed = Scripted(np.linspace(2, 1, 20))
    result = train(resumed, 4, observers=[EventLog(RunDirectory(tmp_path).events)], resume=True, **options)
    course = read_course(tmp_path)
    assert course.rows == result.history.epochs
    done = [point[0] for point in course.curve]
    assert done == sorted(set(done))
    assert done[-1] == 16


def test_a_damaged_line_is_left_out_and_half_a_line_waits_for_its_rest(tmp_path):
    start = '{"event": "start", "time": 1.0, "epochs": 2, "steps": 8, "done": 0}'
    file = tmp_path / "e.jsonl"
    file.write_text(
        f'{start}\n{{"event": "steps", "done"\n[1]\n{{"event": "other"}}\n{{"event": ["start"]}}\n' + start[:20]
    )
    reader = EventReader(file)
    assert [event["event"] for event in reader.read()] == ["start"]
    assert reader.read() == []
    with file.open("a") as more:
        more.write(start[20:] + "\n")
    assert [event["event"] for event in reader.read()] == ["start"]
    assert EventReader(tmp_path / "nothing").read() == []
    assert read_course(tmp_path / "nothing").steps == 0


@pytest.mark.parametrize(
    "line",
    [
        {"event": "start", "epochs": 1, "steps": "2", "done": 0},
        {"event": "start", "epochs": 1, "steps": 2, "done": True},
        {"event": "steps", "done": "x", "epoch": 1, "lr": 0.1, "count": 1, "loss": 1.0},
        {"event": "steps", "done": 1, "epoch": 1, "lr": "a", "count": 1, "loss": 1.0},
        {"event": "steps", "done": 1, "epoch": 1, "lr": 0.1, "count": -3, "loss": 1.0},
        {"event": "steps", "done": 1, "epoch": 1, "lr": 0.1, "count": 10**12, "loss": 1.0},
        {"event": "steps", "done": 1, "epoch": 1, "lr": None, "count": 1, "loss": 1.0},
        {"event": "epoch", "epoch": "a", "lr": 0.1, "train_loss": 1.0},
        {"event": "epoch", "epoch": 1, "lr": 0.1, "train_loss": "x", "train_accuracy": None, "valid_loss": None,
         "valid_accuracy": None, "seconds": 0.1},
    ],
)  # fmt: skip
def test_lines_with_values_of_another_kind_are_left_out(line):
    assert parse_events([json.dumps({"time": 1.0} | line)]) == []


def test_a_log_that_cannot_be_written_is_told_once_and_training_goes_on(tmp_path):
    notes = []
    engine = Scripted(np.linspace(2, 1, 12))
    result = train(engine, 3, observers=[EventLog(tmp_path / "no" / "where", note=notes.append)])
    assert result.status == "finished"
    assert notes == [
        f"{tmp_path}/no/where cannot be written (No such file or directory), so this run cannot be followed"
    ]


def test_infinite_losses_are_written_as_json_knows_them(tmp_path):
    log = EventLog(RunDirectory(tmp_path).events)
    log.on_start(epochs=1, steps=4, done=0)
    log.on_steps(1, epoch=1, losses=np.array([np.inf]), lrs=np.array([0.1]))
    for line in RunDirectory(tmp_path).events.read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(name))
    assert np.isnan(read_course(tmp_path).curve[0][1])


def test_a_start_without_epochs_or_steps_is_a_run_that_had_not_begun(tmp_path):
    for epochs, steps in ((0, 5), (0, 0), (3, 0)):
        course = Course()
        course.take({"event": "start", "time": 1.0, "epochs": epochs, "steps": steps, "done": 0})
        course.take({"event": "steps", "time": 2.0, "done": 1, "epoch": 1, "lr": 0.1, "count": 1, "loss": 1.0})
        assert describe_place(course) == "It had not begun to train."


def test_time_left_goes_by_the_rate_since_it_began():
    course = Course()
    course.take({"event": "start", "time": 100.0, "epochs": 10, "steps": 1000, "done": 400})
    assert course.seconds_left is None
    course.take({"event": "steps", "time": 110.0, "done": 500, "epoch": 5, "lr": 0.1, "count": 100, "loss": 1.0})
    assert course.seconds_left == 50.0


def test_a_run_that_ends_is_followed_to_its_end(tmp_path):
    run = clearsight.train("digits", epochs=3, hidden=(8,), out=tmp_path / "run")
    heard = Listener()
    assert follow(tmp_path / "run", heard) == "finished"
    assert heard.heard[0][0] == "start"
    assert heard.heard[-1] == ("end", {"status": "finished"})
    rows = [facts for kind, facts in heard.heard if kind == "epoch"]
    assert rows == run.history.epochs


def test_a_run_is_followed_while_it_goes_on(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    record = {"status": "running", **describe_process()}
    RunDirectory(path).record.write_text(json.dumps(record))
    log, looks = EventLog(RunDirectory(path).events), []

    def go_on():
        looks.append(len(looks))
        if len(looks) == 1:
            log.on_start(epochs=2, steps=8, done=0)
        elif len(looks) == 2:
            log.on_steps(4, epoch=1, losses=np.full(4, 2.0), lrs=np.full(4, 0.1))
        elif len(looks) == 3:
            RunDirectory(path).record.write_text(json.dumps(record | {"status": "interrupted"}))

    heard = Listener()
    assert follow(path, heard, wait=go_on) == "interrupted"
    assert [kind for kind, _ in heard.heard] == ["start", "steps", "end"]
    assert heard.heard[1][1] == {"done": 4, "epoch": 1, "losses": [2.0] * 4, "lrs": [0.1] * 4}


def test_the_curve_falls_from_the_upper_left_to_the_lower_right():
    course = Course(steps=100, curve=[(10 * k, 10.0 - k) for k in range(10)])
    lines = render_course(course).splitlines()
    assert len(lines) == 10
    dotted = [[cell != "\u2800" for cell in line[11:75]] for line in lines[:8]]
    assert dotted[0][0]
    assert dotted[7][63]
    assert not dotted[0][63]
    assert not dotted[7][0]
    assert "90 of 100" in lines[8]
    assert render_course(Course(steps=100, curve=[(10, 1.0)])) == ""
    assert render_course(Course()) == ""


def test_a_process_lives_or_not_and_its_number_may_be_used_again():
    mine = describe_process()
    assert is_alive(mine, sign=None) is True
    assert is_alive({}, sign=None) is None
    assert is_alive(mine | {"pid": "x"}, sign=None) is None
    if mine["pid_began"] is not None:
        assert is_alive(mine | {"pid_began": mine["pid_began"] - 1}, sign=None) is False
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        theirs = {"host": platform.node(), "pid": child.pid}
        assert is_alive(theirs, sign=None) is True
    finally:
        child.communicate(b"\n")
    assert is_alive(theirs, sign=None) is False
    assert is_alive(mine | {"pid": 2**80}, sign=None) is False


def test_a_process_on_another_machine_lives_while_its_events_are_young(tmp_path):
    sign = RunDirectory(tmp_path).events
    away = describe_process() | {"host": "another"}
    assert is_alive(away, sign=sign) is False
    sign.touch()
    assert is_alive(away, sign=sign) is True
    os.utime(sign, (time.time() - 600,) * 2)
    assert is_alive(away, sign=sign) is False


@pytest.mark.long
def test_a_thousand_listings_beside_a_thousand_starts_refuse_none(tmp_path):
    """Whoever lists runs takes no lock, so that no start finds its run in use."""
    done, seen = threading.Event(), []

    def look():
        while not done.is_set():
            seen.append(len(store.list_runs(tmp_path)[0]))

    path = tmp_path / "run"
    path.mkdir()
    RunDirectory(path).record.write_text(json.dumps({"status": "running", **describe_process()}))
    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(1000):
            with store.lock_run(path):
                pass
    finally:
        done.set()
        watcher.join()
    assert set(seen) <= {1}


@pytest.mark.long
def test_a_live_run_is_watched_from_another_process_and_a_killed_one_shows_its_curve(tmp_path, processes):
    run = tmp_path / "run"
    training = processes.start([*CLEARSIGHT, *LONG, "--out", run], stderr=subprocess.PIPE)
    wait_until(lambda: read_course(run).rows, process=training)
    watching = processes.start([*CLEARSIGHT, "runs", "watch", run], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert watching.stdout.readline() == f"{run}: running\n"
    state = subprocess.run(
        [*CLEARSIGHT, "runs", "watch", run, "--json"], capture_output=True, text=True, check=True, timeout=LIMIT_SECONDS
    )
    found = json.loads(state.stdout)
    assert (found["status"], found["epochs"]) == ("running", 100000)
    assert 0 < found["done"] < found["steps"]
    assert found["seconds_left"] > 0
    assert found["last"]["epoch"] >= 1
    assert store.read_run(run).status == "running"
    training.kill()
    training.wait()
    out, err = watching.communicate(timeout=LIMIT_SECONDS)
    assert watching.returncode == 0, err
    assert out.endswith(f"{run}: killed\n")
    assert "epoch" in err
    assert store.read_run(run).status == "killed"
