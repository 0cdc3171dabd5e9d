"""Searches: the same with any number of workers, after a kill of worker or driver, with pruning; the best is judged once."""

import json
import signal
from functools import cache, partial
from itertools import count
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace

import forks
import numpy as np
import pytest
from processes import CLEARSIGHT, LIMIT_SECONDS, wait_until

import clearsight
from clearsight.actions.tune import tune
from clearsight.config.build import build_config
from clearsight.errors import RunError, UsageError
from clearsight.pipeline.data import build_split
from clearsight.runs.test_uses import count_models
from clearsight.search import executors, loop
from clearsight.search.jobs import Outcome
from clearsight.search.journal import read_trials
from clearsight.search.leaderboard import SilentBoard
from clearsight.search.loop import Plan, find_best, find_brackets, find_ladder, run_search
from clearsight.search.space import parse_space

pytestmark = pytest.mark.long


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    """Shares of the settings by few trees: how they are measured is no claim of these tests, and took half of their time."""
    from optuna import importance

    evaluator = partial(importance.FanovaImportanceEvaluator, n_trees=4)
    monkeypatch.setattr(importance, "FanovaImportanceEvaluator", evaluator)


SMALL = {"epochs": 3, "hidden": (12,), "batch_size": 64}


def key(trial):
    return {name: value for name, value in trial.as_dict().items() if name != "seconds"}


def run(tmp_path, name="t", **options):
    options = {"search": ["train.lr={log = [1e-4, 1]}", "train.l2=0,0.001"], "trials": 12, "retrain": False, **options}
    return tune("digits", out=tmp_path / name, root=tmp_path, **SMALL | options)


@pytest.mark.parametrize("strategy", ["random", "perturb", "tpe"])
@pytest.mark.parametrize("prune", ["none", "hyperband"])
def test_one_worker_and_four_try_the_same_and_find_the_same(tmp_path, strategy, prune):
    one = run(tmp_path, "one", strategy=strategy, prune=prune, round_size=6, workers=1)
    four = run(tmp_path, "four", strategy=strategy, prune=prune, round_size=6, workers=4)
    assert [key(trial) for trial in one.trials] == [key(trial) for trial in four.trials]
    assert one.best.number == four.best.number
    assert one.importance == four.importance


def test_a_trial_is_the_run_that_train_makes(tmp_path):
    found = run(tmp_path, search=["train.lr=0.001,0.01"], folds=3)
    for trial in found.trials:
        scores = [
            clearsight.train(
                "digits", **SMALL, lr=trial.params["train.lr"], folds=3, fold=f, root=tmp_path
            ).valid.accuracy
            for f in range(3)
        ]
        assert list(trial.scores) == scores
        assert trial.score == pytest.approx(np.mean(scores))


def test_pruned_trials_go_on_where_they_left_off(tmp_path):
    """What survives the rungs is, bit for bit, what a search without pruning finds for it."""
    options = {"search": ["train.lr=0.0003,0.001,0.003,0.01,0.03,0.1"], "folds": 2}
    full = tune("digits", epochs=9, hidden=(12,), out=tmp_path / "a", root=tmp_path, retrain=False, **options)
    pruned = tune(
        "digits", epochs=9, hidden=(12,), out=tmp_path / "b", root=tmp_path, retrain=False, prune="halving", **options
    )
    complete = [trial for trial in pruned.trials if trial.status == "complete"]
    assert 1 <= len(complete) < 6
    for trial in complete:
        assert trial.scores == full.trials[trial.number].scores
    assert sum(t.seconds for t in pruned.trials) < sum(t.seconds for t in full.trials)
    assert {trial.status for trial in pruned.trials} == {"complete", "pruned"}


def test_ladders_rise_to_the_end():
    assert find_ladder("halving", 27) == [1, 3, 9, None]
    assert find_ladder("halving", 1) == [None]
    assert find_ladder("none", 27) == [None]
    asked = {n: {} for n in range(5, 11)}
    assert find_brackets(Plan("random", 9, "accuracy", prune="halving"), 27, asked) == [([1, 3, 9, None], asked)]
    assert [(ladder, list(some)) for ladder, some in find_brackets(Plan("random", 9, "accuracy", prune="hyperband"), 27, asked)] == [
        ([1, 3, 9, None], [8]), ([3, 9, None], [5, 9]), ([9, None], [6, 10]), ([None], [7]),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="--prune must be one of none, halving, hyperband, got 'median'"):
        find_ladder("median", 9)


def test_the_best_is_trained_on_all_but_test_and_judged_once(tmp_path):
    found = run(tmp_path, search=["train.lr=0.001,0.01"], retrain=True)
    best = max(found.trials, key=lambda trial: trial.score)
    assert found.best == best
    assert found.run.config.train.lr == best.params["train.lr"]
    assert found.run.train.n == 1438
    assert found.run.valid is None
    data = clearsight.load_data("digits")
    rows = build_split(build_config({}), data).test
    assert count_models(found.path.parent, data, rows) == 1
    for name in ("leaderboard.csv", "best.toml", "search.json", "trials.jsonl", "parallel.svg"):
        assert (found.path / name).stat().st_size > 0


def test_patience_is_spent_before_the_last_training(tmp_path):
    found = run(tmp_path, search=["train.lr=0.01"], patience=2, epochs=30, retrain=True)
    assert found.run.config.train.patience is None
    assert found.run.config.train.epochs == found.best.epochs[0] < 30


WORKER = """
import os, signal, sys
from clearsight.search.journal import FileJournal
from clearsight.actions.tune import tune
added, add = [], FileJournal.add
def add_nine(self, trial):
    add(self, trial)
    added.append(trial)
    if len(added) == 9:
        os.kill(os.getpid(), signal.SIGKILL)
FileJournal.add = add_nine
tune("digits", search=["train.lr={log = [1e-4, 1]}"], strategy="tpe", trials=24, folds=2, prune="halving", epochs=40, hidden=(12,),
     out=sys.argv[1], root=sys.argv[2], retrain=False, workers=2)
"""


def test_a_search_that_was_killed_goes_on_to_the_same_end(tmp_path, processes, fork_server):
    whole = tune(
        "digits", search=["train.lr={log = [1e-4, 1]}"], strategy="tpe", trials=24, folds=2, prune="halving", epochs=40, hidden=(12,),
        out=tmp_path / "whole", root=tmp_path, retrain=False,
    )  # fmt: skip
    (tmp_path / "search.py").write_text(WORKER)
    process = processes.fork(fork_server, forks.script, tmp_path / "search.py", tmp_path / "killed", tmp_path)
    assert process.wait(LIMIT_SECONDS) == -signal.SIGKILL
    journal = tmp_path / "killed" / "trials.jsonl"
    before = read_trials(journal)
    assert len(before) == 9
    with journal.open("a") as file:
        file.write('{"number": 99, "par')  # a line cut off by a full disk or a kill
    found = tune(resume=tmp_path / "killed", root=tmp_path, retrain=False)
    assert [key(trial) for trial in found.trials] == [key(trial) for trial in whole.trials]
    assert all(
        found.trials[number].seconds == trial.seconds for number, trial in before.items()
    )  # kept, not computed again
    assert len(journal.read_text().splitlines()) == 24


def test_other_data_and_a_damaged_journal_are_refused_on_resume(tmp_path):
    found = run(tmp_path, search=["train.lr=0.001,0.01"])
    record = json.loads((found.path / "search.json").read_text())
    (found.path / "search.json").write_text(json.dumps(record | {"fingerprint": "other"}))
    with pytest.raises(clearsight.ClearsightError, match="--resume must find the same data as before"):
        tune(resume=found.path, root=tmp_path)
    (found.path / "search.json").write_text(json.dumps(record))
    lines = (found.path / "trials.jsonl").read_text().splitlines()
    (found.path / "trials.jsonl").write_text("\n".join(["nonsense", *lines]) + "\n")
    with pytest.raises(RunError, match="must hold a trial a line, got damage in line 1"):
        tune(resume=found.path, root=tmp_path)
    swapped = [json.dumps(json.loads(line) | {"params": {"train.lr": 0.5}}) for line in lines]
    (found.path / "trials.jsonl").write_text("\n".join(swapped) + "\n")
    with pytest.raises(
        RunError, match=r"the journal must be of this search, got trial 0 with lr=0\.5 where lr=0\.001 is asked for"
    ):
        tune(resume=found.path, root=tmp_path)
    with pytest.raises(UsageError, match=r"--resume must name a directory with a search\.json, got 'nowhere'"):
        tune(resume="nowhere", root=tmp_path)


@pytest.mark.parametrize("prune", ["none", "halving"])
def test_a_search_by_time_ends_early_and_can_go_on_to_the_same_end(tmp_path, prune, monkeypatch):
    clock = SimpleNamespace(
        monotonic=count().__next__
    )  # a second a look: 40 looks see more than a round and less than all
    notes, options = [], {"strategy": "random", "trials": 120, "round_size": 12, "prune": prune}
    options |= {"epochs": 6 if prune == "halving" else 2}  # each trial is run three times in all
    whole = run(tmp_path, "whole", **options)
    with monkeypatch.context() as patch:
        patch.setattr(executors, "_POLL_SECONDS", float(LIMIT_SECONDS))
        for module in (loop, executors):
            patch.setattr(module, "time", clock)
        found = run(tmp_path, "timed", **options, minutes=40 / 60, note=notes.append)
    assert 12 <= len(found.trials) < 120
    assert any(text.startswith(f"time ran out after {len(found.trials)} of 120 trials; go on with") for text in notes)
    assert json.loads((found.path / "search.json").read_text())["status"] == "out of time"
    after = tune(resume=found.path, root=tmp_path, retrain=False)
    assert [key(trial) for trial in after.trials] == [key(trial) for trial in whole.trials]


class Memory:
    """A journal in memory."""

    def __init__(self, known=()):
        self.trials = {trial.number: trial for trial in known}
        self.added = []

    def find(self, number):
        return self.trials.get(number)

    def add(self, trial):
        self.added.append(trial)


class Scripted:
    """A pool whose runs score their rate, and diverge at the second rung for the best one."""

    def run(self, jobs, *, deadline=None):
        for number, job in jobs.items():
            lr, epochs = job.settings["train"]["lr"], job.pause_epoch or 27
            status = "diverged" if lr == 0.9 and epochs > 1 else "finished" if job.pause_epoch is None else "paused"
            saved = ({}, {}) if status == "paused" else None
            yield number, Outcome(status, {"accuracy": lr + epochs / 1000}, 10, 90, epochs, 1.0, saved)


class Cut(Scripted):
    """The same, but time runs out after so many runs."""

    def __init__(self, left):
        self.left = left

    def run(self, jobs, *, deadline=None):
        for number, outcome in super().run(jobs):
            if deadline is not None and self.left == 0:
                return
            self.left -= 1
            yield number, outcome


@cache
def scripted_search(prune):
    """What is searched, and what comes out where it is not cut off."""
    space = parse_space({}, ["train.lr=0.1,0.2,0.9,0.8,0.3,0.7,0.4,0.6,0.5"])
    config, plan = build_config({"train": {"epochs": 27}}), Plan("grid", 9, "accuracy", prune=prune, minutes=60)
    whole = run_search(config, space, plan, pool=Scripted(), journal=Memory(), board=SilentBoard())
    return space, config, plan, whole


@pytest.mark.parametrize("prune", ["none", "halving", "hyperband"])
@pytest.mark.parametrize("left", range(0, 16))
def test_a_search_cut_off_at_any_run_ends_with_the_best_so_far_trained_to_its_end(prune, left):
    space, config, plan, whole = scripted_search(prune)
    journal, notes = Memory(), []
    trials, _ = run_search(config, space, plan, pool=Cut(left), journal=journal, board=SilentBoard(), note=notes.append)
    best = find_best(trials, "accuracy")
    assert best.status == "complete"
    assert best.epochs == (27,)
    late = [trial for trial in trials if trial not in journal.added]
    assert len(late) == len(notes) <= 2  # two where the best diverges at its end
    if prune == "halving" and 9 <= left < 12:  # all came to the first rung, none to the end
        assert (best.params["train.lr"], late[-1]) == (0.8, best)
        assert "the best so far, trial 3, now trains to the end" in notes[-1]
    if prune != "none" and left == 0:
        assert "the next, as none has begun, trial 0, now trains to the end" in notes[0]
    again = Memory(journal.added)
    assert run_search(config, space, plan, pool=Scripted(), journal=again, board=SilentBoard()) == whole


def test_a_diverged_trial_is_found_again_at_its_rung_on_resume():
    space = parse_space({}, ["train.lr=0.9,0.8,0.7,0.6,0.5,0.4,0.3,0.2,0.1"])
    config, plan = build_config({"train": {"epochs": 27}}), Plan("grid", 9, "accuracy", prune="halving")
    first = Memory()
    whole, _ = run_search(config, space, plan, pool=Scripted(), journal=first, board=SilentBoard())
    assert [trial.status for trial in whole] == ["diverged", "complete", *["pruned"] * 7]
    for kept in range(10):
        again = Memory(first.added[:kept])
        trials, _ = run_search(config, space, plan, pool=Scripted(), journal=again, board=SilentBoard())
        assert trials == whole
        assert len(again.added) == 9 - kept


def test_resume_takes_no_other_settings_and_knows_a_best_that_was_trained(tmp_path):
    found = run(tmp_path, search=["train.lr=0.001,0.01"], retrain=True)
    with pytest.raises(UsageError, match="--resume must stand alone but for --minutes and how to compute"):
        tune(resume=found.path, root=tmp_path, trials=3)
    record = json.loads((found.path / "search.json").read_text())
    (found.path / "search.json").write_text(
        json.dumps(record | {"status": "interrupted"})
    )  # killed before it was noted
    notes = []
    again = tune(resume=found.path, root=tmp_path, note=notes.append)
    assert again.run is None
    assert f"the best was trained before, in {found.path / 'best'}" in notes
    assert json.loads((found.path / "search.json").read_text())["status"] == "finished"


def test_no_time_left_keeps_what_was_done(tmp_path):
    found = run(tmp_path, strategy="random", trials=12, round_size=6)
    lines = (found.path / "trials.jsonl").read_text().splitlines()
    (found.path / "trials.jsonl").write_text("".join(line + "\n" for line in lines[:8]))
    again = tune(resume=found.path, root=tmp_path, retrain=False, minutes=1e-9)
    done = {json.loads(line)["number"] for line in lines[:8]}  # in the order in which workers ended
    assert [key(trial) for trial in again.trials] == [key(trial) for trial in found.trials if trial.number in done]
    assert json.loads((found.path / "search.json").read_text())["status"] == "out of time"


@pytest.mark.parametrize(("name", "value"), [("trials", "x"), ("strategy", None), ("trials", [1])])
def test_a_damaged_plan_is_refused(tmp_path, name, value):
    found = run(tmp_path, search=["train.lr=0.01"])
    record = json.loads((found.path / "search.json").read_text())
    record["plan"][name] = value
    (found.path / "search.json").write_text(json.dumps(record))
    with pytest.raises(RunError, match=r"search\.json must be as it was written, got damage"):
        tune(resume=found.path, root=tmp_path, retrain=False)


def test_a_damaged_score_is_refused(tmp_path):
    found = run(tmp_path, search=["train.lr=0.01"])
    line = json.loads((found.path / "trials.jsonl").read_text())
    (found.path / "trials.jsonl").write_text(json.dumps(line | {"score": "abc"}) + "\n")
    with pytest.raises(RunError, match="must hold a trial a line, got damage in line 1"):
        tune(resume=found.path, root=tmp_path, retrain=False)


def test_a_search_that_could_not_begin_leaves_its_place_free(tmp_path):
    with pytest.raises(UsageError, match="momentum must go with optimizer"):
        run(tmp_path, search=["train.momentum=0.5,0.9"])
    assert not (tmp_path / "t").exists()
    (tmp_path / "t").mkdir()  # a folder of the user's stays, empty
    with pytest.raises(UsageError, match="momentum must go with optimizer"):
        run(tmp_path, search=["train.momentum=0.5,0.9"])
    assert list((tmp_path / "t").iterdir()) == []


def test_resume_goes_on_with_its_own_data_alone(tmp_path):
    found = run(tmp_path, search=["train.lr=0.01"])
    with pytest.raises(UsageError, match="--resume must go on with digits, got mnist beside it"):
        tune("mnist", resume=found.path, root=tmp_path, retrain=False)


def test_a_search_with_folds_of_its_own_can_train_its_best(tmp_path):
    found = run(tmp_path, search=["train.lr=0.01"], retrain=True, **{"fold_seed": 3, "folds": 3})
    assert found.run.train.n == 1438
    assert found.run.config.data.folds is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"search": ["train.lr=-1,0.1"]}, r"train\.lr must be .*, got -1 in the search"),
        ({"search": ["train.optimizer=sgd,adams"]}, r"train\.optimizer must be .*, got 'adams' in the search"),
        (
            {"search": ["train.momentum=0.5,0.9"]},
            "a trial must be a run that can be, got: momentum must go with optimizer",
        ),
        ({"trials": 0}, "--trials must be a whole number of 1 or more, got 0"),
        ({"trials": 1.5}, r"--trials must be a whole number of 1 or more, got 1\.5"),
        ({"minutes": 0}, "--minutes must be a number above 0, got 0"),
        ({"minutes": "5"}, "--minutes must be a number above 0, got '5'"),
        ({"seed": -1}, "--seed must be a whole number of 0 or more, got -1"),
        ({"minutes": float("nan")}, "--minutes must be a number above 0, got nan"),
        ({"search": ["train.seed=1,2"]}, "a search must not choose among seeds"),
        ({"config": {"search": 3}}, r"\[search\] must be a table of settings, got 3"),
        ({"round_size": 0}, "--round-size must be a whole number of 1 or more, got 0"),
        ({"folds": 1}, "--folds must be a whole number of 2 or more, got 1"),
        ({"metric": "f1"}, "--metric must be one of accuracy, loss for this data, got 'f1'"),
        ({"metric": "mae"}, "--metric must be one of accuracy, loss for this data, got 'mae'"),
        (
            {"search": ["preprocess.image_size=16,32"]},
            "a search must leave the pictures and their splits as they are, got preprocess.image_size",
        ),
        (
            {"search": ["data.folds=2,3"]},
            r"a search must leave the pictures and their splits as they are, got data\.folds",
        ),
        (
            {"search": ["augment.vflip=0,0.5"]},
            "augment must keep labels, got transforms that change them on digits: vflip 0.5",
        ),
        (
            {"search": ["model.family=mlp,cnn"], "executor": "threads"},
            "--executor must be processes for engine torch, got threads",
        ),
        ({"workers": 0}, "--workers must be a whole number of 1 or more, got 0"),
        ({"executor": None}, "--executor must be auto, threads, processes or dask://HOST:PORT, got None"),
        ({"executor": "magic"}, "--executor must be auto, threads, processes or dask://HOST:PORT, got 'magic'"),
        ({"executor": "dask://127.0.0.1:9"}, "--executor must be a Dask scheduler that answers, got 127.0.0.1:9"),
        ({"valid_fraction": 0.0}, "runs must have valid rows to be judged on, got none"),
        ({"folds": 5, "valid_fraction": 0.2}, "valid_fraction must go with no folds"),
        ({"search": ["train.epochs=1,2"], "prune": "halving"}, "--prune must go with one number of epochs"),
        (
            {"search": ["train.lr=1e30"], "optimizer": "sgd"},
            "a search must have a trial that came to its end, got none",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused(tmp_path, options, text, monkeypatch):
    monkeypatch.setattr(executors, "_ANSWER_TIME", "0.5s")
    with pytest.raises(clearsight.ClearsightError, match=text):
        run(tmp_path, **{"search": ["train.lr=0.01"], **options})


def test_tune_on_the_command_line(tmp_path, call, capsys):
    config = tmp_path / "space.toml"
    config.write_text('[train]\nepochs = 2\n[search]\n"train.lr" = [0.001, 0.01]\n"model.hidden" = [[8], [16]]\n')
    assert call("tune", "digits", "--config", config, "--root", tmp_path, "--out", tmp_path / "s", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["strategy"] == "grid"
    assert len(found["trials"]) == 4
    assert found["best"] == found["trials"][0]
    assert found["run"]["test"]["n"] == 359
    assert call("tune", "--resume", tmp_path / "s", "--no-retrain") == 0
    text = capsys.readouterr().out
    assert "accuracy, on 144 validation rows (95 % interval)" in text
    assert "hidden=[16]" in text
    assert call("tune", "--resume", tmp_path / "s") == 2
    assert "--resume must name a search that has not ended" in capsys.readouterr().err
    assert call("tune", "digits", "--root", tmp_path) == 2
    assert "a search must have settings to vary, got none" in capsys.readouterr().err


def test_ctrl_c_ends_a_search_at_once_and_it_can_go_on(tmp_path, processes):
    command = [
        *CLEARSIGHT, "tune", "digits", "--search", "train.epochs=1,100000,100001", "--out", tmp_path / "s", "--root", tmp_path, "--no-retrain",
    ]  # fmt: skip
    process = processes.start(command, stderr=PIPE)
    journal = tmp_path / "s" / "trials.jsonl"
    wait_until(lambda: journal.exists() and journal.read_bytes().endswith(b"\n"), process=process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert len(read_trials(journal)) >= 1
    assert json.loads((tmp_path / "s" / "search.json").read_text())["status"] == "interrupted"
    assert "go on with `clearsight tune --resume" in err


def test_a_full_disk_stops_a_search_with_a_sentence(tmp_path, monkeypatch):
    real = Path.open

    def full(self, *arguments, **options):
        if self.name == "trials.jsonl" and "a" in arguments:
            raise OSError(28, "No space left on device")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(
        RunError, match=r"trials\.jsonl must be writable, got: No space left on device\. Free space, then use --resume"
    ):
        run(tmp_path, search=["train.lr=0.01"])
