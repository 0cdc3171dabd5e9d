"""An engine whose losses and answers are written down beforehand, so that a test knows how a training must go."""

from dataclasses import fields

import numpy as np

from clearsight.engines.probe import Probe
from clearsight.training.fit import fit
from clearsight.training.observer import Observer
from clearsight.training.plan import FitPlan, TrainingRows

TRAIN, VALID = np.arange(10), np.arange(10, 14)
BATCH, STEPS = 3, 4  # the last batch of an epoch is short
LABELS = np.r_[np.arange(10) % 3, np.zeros(4, np.int64)]


class Clock:
    """Time that passes only when told."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    monotonic = perf_counter


class Scripted:
    """Counts its steps in its one parameter.

    Args:
        losses: of every step; the last one is repeated.
        answers: by epoch, how sure it is of the right class in each of the four validation rows (a logit, 0 for the other class).
        broken: after how many steps its weights are not finite. seconds: a step takes on `clock`.
    """

    name, device, partial, features = "scripted", "cpu", False, None

    def __init__(self, losses=(1.0,), answers=((0.0,) * 4,), broken=10**9, seconds=0.0, clock=None):
        self.losses, self.answers, self.broken = losses, answers, broken
        self.seconds, self.clock, self.taken, self.calls, self.looks, self.on_step = (
            seconds,
            clock,
            0,
            [],
            [],
            lambda step: None,
        )

    def train_steps(self, order, *, epoch, first_batch, first_step, lrs):
        self.calls.append((order, epoch, first_batch, first_step, lrs.copy()))
        losses, hits = [], 0
        for i in range(len(lrs)):
            self.on_step(first_step + i)
            losses.append(self.losses[min(first_step + i, len(self.losses) - 1)])
            if not np.isfinite(losses[-1]):
                break
            self.taken += 1
            hits += first_batch + i + 1
            if self.clock:
                self.clock.now += self.seconds
        return np.array(losses), hits

    def logits(self, rows):
        if self.clock:
            self.clock.now += 100.0
        assert rows.tolist() == VALID.tolist()
        sure = self.answers[min(-(-self.taken // STEPS), len(self.answers)) - 1]
        return np.stack([np.array(sure, np.float32), np.zeros(4, np.float32)], axis=1)

    def probe(self, rows, *, trial):
        self.looks.append((self.taken, rows.tolist(), trial))
        return Probe(len(rows), float(self.taken), 0.5, (1, 2), None, None, np.inf, None, ())

    def params(self):
        return np.array([self.taken], np.float32)

    def state(self):
        return {"params": self.params(), "slots": self.params() * 2}

    def load_state(self, state):
        assert state["slots"] == state["params"] * 2
        self.taken = int(state["params"][0])

    def is_finite(self):
        return self.taken < self.broken


class Listener(Observer):
    """Keeps what it is told."""

    def __init__(self):
        self.heard = []

    def on_start(self, **facts):
        self.heard.append(("start", facts))

    def on_steps(self, done, *, epoch, losses, lrs):
        assert len(losses) == len(lrs)
        self.heard.append(("steps", {"done": done, "epoch": epoch, "losses": losses.tolist(), "lrs": lrs.tolist()}))

    def on_epoch(self, row):
        self.heard.append(("epoch", row))

    def on_probe(self, done, probe):
        self.heard.append(("probe", {"done": done, "loss": probe.loss}))

    def on_checkpoint(self, done):
        self.heard.append(("checkpoint", {"done": done}))

    def on_end(self, status):
        self.heard.append(("end", {"status": status}))


def rates(epochs):
    return np.linspace(0.1, 0.01, epochs * STEPS)


def train(engine, epochs, **options):
    """`fit` on ten rows in batches of three, with four for validation."""
    usual = {
        "labels": LABELS, "train": TRAIN, "valid": VALID, "epochs": epochs, "batch_size": BATCH, "lrs": rates(epochs), "seed": 5,
    }  # fmt: skip
    options = usual | options
    rows, plan = (
        {field.name: options.pop(field.name) for field in fields(kind) if field.name in options}
        for kind in (TrainingRows, FitPlan)
    )
    return fit(engine, TrainingRows(**rows), FitPlan(**plan), **options)
