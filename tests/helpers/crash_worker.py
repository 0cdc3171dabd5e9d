"""Run in a forked process: forks a child for each training that is to be killed."""

import json
import os
import signal
import sys
from functools import partial

import forks
import numpy as np

import clearsight
from clearsight.engines.dense_engine import DenseEngine
from clearsight.errors import RunError, UsageError

SETTINGS = {
    "epochs": 4, "batch_size": 9, "hidden": (5,), "optimizer": "adam", "dropout": 0.25, "checkpoint_steps": 1,
    "test_fraction": 0.2, "valid_fraction": 0.1, "patience": 3, "weight_history": True, "schedule": "cosine",
}  # fmt: skip


def data():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (60, 4, 4)).astype(np.uint8), np.arange(60) % 3


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def finish(action):
    """0 where `action` was done, 1 where it was refused in a sentence, 2 after anything else."""
    try:
        action()
    except (RunError, UsageError):
        return 1
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        return 2
    return 0


def in_child(action):
    """Exit code of `action` in a forked child: as `finish` has it, or -9 if it was killed."""
    pid = os.fork()
    if pid == 0:
        os._exit(finish(action))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def train(out, **settings):
    clearsight.train(*data(), out=out, **SETTINGS | settings)


def resume(out):
    clearsight.train(*data(), resume=out)


def train_killed_at_step(out, step):
    """Killed once `step` steps are done and before they are saved (step 0: before the first)."""
    original, done = DenseEngine.train_steps, 0

    def counted(self, order, **options):
        nonlocal done
        if done == step:
            die()
        result = original(self, order, **options)
        done += len(options["lrs"])
        if done == step:
            die()
        return result

    DenseEngine.train_steps = counted
    train(out)


def train_killed_at_call(out, number, **settings):
    """Killed just before the `number`-th call that makes a file durable or gives it its name."""
    calls = 0

    def patched(original):
        def call(*arguments):
            nonlocal calls
            calls += 1
            if calls == number:
                die()
            return original(*arguments)

        return call

    os.fsync, os.replace = patched(os.fsync), patched(os.replace)
    train(out, **settings)
    (out / "calls").write_text(str(calls))


def final_state(out):
    """Everything that must be equal to the byte: model, weights, optimiser, losses, metrics without times."""
    last = sorted((out / "checkpoints").glob("step-*"))[-1]
    metrics = json.loads((out / "metrics.json").read_text())
    return [
        last.name,
        (last / "state.safetensors").read_bytes(),
        (out / "model.clearsight").read_bytes(),
        (out / "steps.csv").read_bytes(),
        [metrics[split] for split in ("train", "valid", "test", "status", "epoch")],
        [line.rsplit(",", 1)[0] for line in (out / "history.csv").read_text().splitlines()],
    ]


def main(kind, folder):
    """Kills trainings at all "steps", or at all points of some "saves", and prints what came of it as one JSON object."""
    forks.draw_no_report()
    train(folder / "first")  # here, so that no child imports what it needs by itself
    whole, settings = folder / "whole", {} if kind == "steps" else {"epochs": 2}
    assert in_child(lambda: train_killed_at_call(whole, 0, **settings)) == 0
    expected, results = final_state(whole), {}
    calls = int((whole / "calls").read_text())
    # Points inside saves: from the first file of the run to the end of the second save, then to the end of the run.
    points = range(21) if kind == "steps" else [*range(1, 30), *range(calls - 22, calls + 1)]
    for point in points:
        out = folder / f"{kind}-{point}"
        kill = train_killed_at_step if kind == "steps" else partial(train_killed_at_call, **settings)
        died = in_child(lambda kill=kill, out=out, point=point: kill(out, point))
        started = (out / "run.json").is_file()
        resumed = finish(lambda out=out: resume(out))
        same = resumed == 0 and final_state(out) == expected
        results[point] = {"died": died, "started": started, "resumed": resumed, "same": same}
    print(json.dumps({"results": results, "calls": calls, "steps": expected[0]}))
