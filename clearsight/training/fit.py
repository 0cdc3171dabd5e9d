"""The one training loop: epochs, schedule, validation, early stopping, checkpoints, the NaN guard, stopping on request.

It drives any `Engine` and must not know which. What a batch holds is a function of (seed, epoch) and the state saved is
all that training changes, so a run that was killed and resumed ends with the very same bits.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.engines.base import Engine, State
from clearsight.engines.probe import Probe
from clearsight.engines.team import Team
from clearsight.errors import Interrupted, RunError, UsageError
from clearsight.evaluation.losses import accuracy, mean_loss
from clearsight.training.checkpoint import Tensors, load_checkpoint, save_checkpoint
from clearsight.training.history import EpochRow, History, Monitor
from clearsight.training.observer import Observer, Observers
from clearsight.training.order import epoch_order
from clearsight.training.plan import FitPlan, TrainingRows
from clearsight.training.stop import StopRequest, listen_for_signals

Saved = tuple[Tensors, dict[str, Any]]
"""All that a run needs to go on: what a checkpoint holds."""

_CHUNK_SECONDS = 0.2
MONITORS = {"valid_loss": -1, "valid_accuracy": 1, "train_loss": -1}


@dataclass(eq=False)
class _Place:
    """Where a run is, and what it must not forget."""

    epoch: int = 0
    batch: int = 0
    hits: int = 0
    seconds: float = 0.0  # spent on the epoch under way, saves left out
    wait: int = 0
    best_epoch: int = 0
    best_value: float | None = None
    best: State | None = None
    good: State | None = None  # the last state known to be finite, at an epoch's end
    good_epoch: int = 0

    @property
    def kept(self) -> tuple[State | None, int]:
        """The weights to go back to and their epoch: the best that patience watched, else the last good ones."""
        return (self.good, self.good_epoch) if self.best is None else (self.best, self.best_epoch)


@dataclass(frozen=True, eq=False)
class FitResult:
    """How a run ended.

    Args:
        status: `finished`; `stopped early`, when patience ran out; `diverged`, when a loss or weight was not finite; `paused`,
            when it was to leave off.
        epoch: the one whose weights are in force, 0 for the first weights.
        problem: what diverged, as a sentence; empty otherwise.
        saved: where a paused run goes on from; None otherwise.
    """

    status: str
    epoch: int
    history: History
    problem: str = ""
    saved: "Saved | None" = None


def advise_diverged(*, step: int, finite_loss: bool) -> str:
    """What to do about a training whose numbers were no longer finite at a step."""
    if step == 0 and not finite_loss:  # no learning rate had been at work
        return "look at model.init_std and at the scale of the pixels"
    return "try a tenth of the learning rate"


def fit(
    engine: Engine,
    rows: TrainingRows,
    plan: FitPlan,
    *,
    observers: Sequence[Observer] = (),
    checkpoints: Path | None = None,
    resume: bool = False,
    restore: Path | None = None,
    note: Callable[[str], None] = lambda text: None,
    team: Team | None = None,
    start: Saved | None = None,
    pause_epoch: int | None = None,
    stop: StopRequest | None = None,
) -> FitResult:
    """Train `engine` by `plan` on `rows` and leave it with the weights in force.

    Args:
        observers: are told of steps, epochs and checkpoints.
        checkpoints: folder for checkpoints; None for none.
        resume: go on from the newest checkpoint, if there is one.
        restore: the same from a folder that is only read, for a process that is not the first of its team.
        note: told of damaged checkpoints and the like.
        team: the processes that train together, which must all come here; they then pause at the same steps.
        start: what a paused run saved, to go on from. pause_epoch: leave off after so many epochs; None for the end.
        stop: asked by another thread to stop; SIGINT and SIGTERM ask too. (Without checkpoints signals are left alone.)

    Raises:
        Interrupted: it was asked to stop; a checkpoint was saved where there are any.
        RunError: a checkpoint could not be written or read.
        UsageError: options that do not go together.
    """
    check_stopping(
        patience=plan.patience, monitor=plan.monitor, num_valid=len(rows.valid), regression=rows.is_regression
    )
    steps = -(-len(rows.train) // plan.batch_size)
    source = restore or (checkpoints if resume else None)
    if start is not None:
        place, history = _restore(engine, *start, steps)
    elif source and (found := _go_back(engine, source, steps, note)):
        place, history = found
    else:
        place, history = _Place(), History(steps)
        if resume:
            note("no checkpoint was found; starting from the first step")
    loop = _Loop(engine, rows, plan, place, history, checkpoints, team or Team(), Observers(observers), stop)
    status = loop.run(pause_epoch)
    if status == "diverged":
        return _diverge(engine, place, history)
    if status == "paused":
        return FitResult("paused", place.epoch, history, saved=_pack(engine, place, history))
    if plan.patience is not None and place.best is not None:
        engine.load_state(place.best)
        return FitResult(status, place.best_epoch, history)
    return FitResult(status, place.epoch, history)


def restore_best(
    engine: Engine, *, steps_per_epoch: int, checkpoints: Path, note: Callable[[str], None] = lambda text: None
) -> FitResult:
    """Leave `engine` with the best weights of a training that was stopped, as far as its newest checkpoint knows.

    These are the best of those that `patience` watched, else those of the last whole epoch, else those of the checkpoint.

    Args:
        note: told of damaged checkpoints.

    Raises:
        RunError: there is no checkpoint.
    """
    found = _go_back(engine, checkpoints, steps_per_epoch, note)
    if found is None:
        raise RunError(f"run must have a checkpoint to be finished, got none in {checkpoints}. Use --resume alone.")
    place, history = found
    state, epoch = place.kept
    if state is not None and epoch > 0:
        engine.load_state(state)
    return FitResult("stopped early", epoch, history)


class _Loop:
    """A training under way: epochs in turn, each in chunks of steps, between which it can save and be stopped."""

    def __init__(
        self, engine: Engine, rows: TrainingRows, plan: FitPlan, place: _Place, history: History, checkpoints: Path | None,
        team: Team, watchers: Observers, stop: StopRequest | None,
    ) -> None:  # fmt: skip
        self._engine, self._rows, self._plan = engine, rows, plan
        self._place, self._history, self._checkpoints = place, history, checkpoints
        self._team, self._watchers, self._stop = team, watchers, stop or StopRequest()
        self._classes = rows.labels[rows.train] if plan.balanced else None
        self._steps = history.steps_per_epoch
        self._chunk, self._saved_at = 1, time.monotonic()
        if not history.weights and plan.weight_history and place.epoch == place.batch == 0:
            history.weights.append(_weights_of(engine))
        if place.good is None:
            place.good = engine.state()

    def run(self, pause_epoch: int | None) -> str:
        """Train to the end, or so far, and say how it ended: see `FitResult`."""
        plan, place, steps, status = self._plan, self._place, self._steps, "failed"
        with listen_for_signals(self._stop, enabled=self._checkpoints is not None or self._team.size > 1):
            self._watchers.on_start(
                epochs=plan.epochs, steps=plan.epochs * steps, done=place.epoch * steps + place.batch
            )
            try:
                if not self._history.probes:  # at the start, or at a checkpoint of an earlier version
                    self._probe(place.epoch * steps + place.batch)
                status = self._run_epochs(min(plan.epochs, pause_epoch or plan.epochs))
            except (Interrupted, KeyboardInterrupt):
                status = "interrupted"
                raise
            finally:
                self._watchers.on_end(status)
        return status

    def _run_epochs(self, last: int) -> str:
        plan, place = self._plan, self._place
        while place.epoch < last and not _exhausted(place, plan.patience):
            if not self._train_epoch():
                return "diverged"
            row = _end_epoch(self._engine, place, self._history, self._rows)
            if plan.weight_history:
                self._history.weights.append(_weights_of(self._engine))
            _remember_state(self._engine, place, row, plan.patience, plan.monitor)
            self._watchers.on_epoch(row)
            self._probe(place.epoch * self._steps)
            self._pause(place.epoch * self._steps)
        if _exhausted(place, plan.patience):
            return "stopped early"
        return "finished" if place.epoch == plan.epochs else "paused"

    def _train_epoch(self) -> bool:
        """Train to the end of an epoch; False where numbers are no longer finite."""
        plan, place, steps, history = self._plan, self._place, self._steps, self._history
        order = epoch_order(
            self._rows.train, seed=plan.seed, epoch=place.epoch, shuffle=plan.shuffle, classes=self._classes
        )
        while place.batch < steps:
            size = min(self._chunk, steps - place.batch)
            at = place.epoch * steps + place.batch
            for every in (plan.checkpoint_steps, plan.keep_steps):
                size = min(size, every - at % every) if every else size
            size = min(size, next((step - at for step in plan.probe_steps if step > at), size))
            began, lrs = time.perf_counter(), plan.lrs[at : at + size]
            losses, hits = self._engine.train_steps(
                order, epoch=place.epoch, first_batch=place.batch, first_step=at, lrs=lrs
            )
            spent = time.perf_counter() - began
            self._chunk = max(1, min(steps, int(size * _CHUNK_SECONDS / max(spent, 1e-6))))
            history.losses.append(losses)
            history.lrs.append(lrs[: len(losses)])
            if not np.isfinite(losses[-1]):
                return False
            place.batch, place.hits, place.seconds = place.batch + size, place.hits + hits, place.seconds + spent
            self._watchers.on_steps(at + size, epoch=place.epoch + 1, losses=losses, lrs=lrs)
            if place.batch < steps:
                self._probe(at + size)
                self._pause(at + size)
        return self._engine.is_finite()

    def _probe(self, done: int) -> None:
        """Look inside after `done` steps, if that is planned; of several processes the first one does, without a trial step."""
        plan, team = self._plan, self._team
        if plan.probe_rows is None or done not in plan.probe_steps or team.rank > 0:
            return
        trial = None if team.size > 1 else (done, float(plan.lrs[min(done, len(plan.lrs) - 1)]))
        with np.errstate(all="ignore"):  # a training that is about to diverge is looked into as well
            probe = self._engine.probe(plan.probe_rows, trial=trial)
        self._history.probes.append((done, probe))
        self._watchers.on_probe(done, probe)

    def _pause(self, done: int) -> None:
        """After `done` steps: save if it is time, and stop if that was asked for."""
        plan = self._plan
        self._chunk, asked = self._team.sync((self._chunk, self._stop.received or 0))
        every, waited = plan.checkpoint_steps, time.monotonic() - self._saved_at
        if self._checkpoints and (asked or (done % every == 0 if every else waited > plan.checkpoint_seconds)):
            tensors, meta = _pack(self._engine, self._place, self._history)
            save_checkpoint(self._checkpoints, step=done, tensors=tensors, meta=meta)
            self._saved_at = time.monotonic()
            self._watchers.on_checkpoint(done)
        if asked:
            raise Interrupted(f"stopped on request after step {done}.", 128 + asked)  # as shells have it


def check_stopping(*, patience: int | None, monitor: str, num_valid: int, regression: bool) -> None:
    """Refuse a `patience` that has nothing to watch.

    Raises:
        UsageError: it is below 1, or `monitor` is unknown or does not exist for this data.
    """
    if monitor not in MONITORS:
        raise UsageError(f"monitor must be one of {', '.join(MONITORS)}, got {monitor!r}. Choose one of them.")
    if patience is None:
        return
    if patience < 1:
        raise UsageError(f"patience must be 1 or more, got {patience}. Leave it out to train to the end.")
    if monitor.startswith("valid") and num_valid == 0:
        raise UsageError(
            f"patience must have validation rows to watch {monitor}, got none. Set data.valid_fraction to 0.1."
        )
    if monitor == "valid_accuracy" and regression:
        raise UsageError(
            "monitor must be valid_loss or train_loss for regression, got valid_accuracy. Choose one of them."
        )


def _exhausted(place: _Place, patience: int | None) -> bool:
    return patience is not None and place.wait >= patience


def _weights_of(engine: Engine) -> NDArray[np.floating]:
    """All numbers of the network as they are now, also where only its end is trained."""
    weights: NDArray[np.floating] = engine.params() if engine.partial else engine.state()["params"]
    return weights


def _diverge(engine: Engine, place: _Place, history: History) -> FitResult:
    """Go back to the last good weights and say what happened."""
    state, epoch = place.kept
    assert state is not None
    engine.load_state(state)
    loss, lr, step = history.losses[-1][-1], history.lrs[-1][-1], len(history.step_losses) - 1
    what = f"loss must stay finite, got {loss}" if not np.isfinite(loss) else "weights must stay finite, got NaN or inf"
    advice = advise_diverged(step=step, finite_loss=bool(np.isfinite(loss)))
    problem = (
        f"{what} at step {step} (epoch {place.epoch + 1}, lr {lr:g}). Kept the weights of epoch {epoch}; {advice}."
    )
    return FitResult("diverged", epoch, history, problem)


def _end_epoch(engine: Engine, place: _Place, history: History, rows: TrainingRows) -> EpochRow:
    """Validate, add the epoch's row to the history, and move on to the next epoch."""
    began = time.perf_counter()
    losses = history.last_losses(history.steps_per_epoch)
    row: EpochRow = {
        "epoch": place.epoch + 1,
        "lr": float(history.lrs[-1][-1]),
        "train_loss": float(losses.mean()),
        "train_accuracy": None if rows.is_regression else place.hits / len(rows.train),
        "valid_loss": None,
        "valid_accuracy": None,
        "seconds": 0.0,
    }
    if len(rows.valid):
        logits, labels = engine.logits(rows.valid), rows.labels[rows.valid]
        row["valid_loss"] = mean_loss(logits, labels, mean=rows.target_mean, std=rows.target_std, huber=rows.huber)
        row["valid_accuracy"] = accuracy(logits, labels)
    row["seconds"] = place.seconds + time.perf_counter() - began
    history.epochs.append(row)
    place.epoch, place.batch, place.hits, place.seconds = place.epoch + 1, 0, 0, 0.0
    return row


def _remember_state(engine: Engine, place: _Place, row: EpochRow, patience: int | None, monitor: Monitor) -> None:
    """Remember the state as the last good one, and as the best one if it is."""
    place.good, place.good_epoch = engine.state(), place.epoch
    if patience is None:
        return
    value = row[monitor]
    if (
        value is not None
        and np.isfinite(value)
        and (place.best_value is None or MONITORS[monitor] * (value - place.best_value) > 0)
    ):
        place.best_value, place.best_epoch, place.best, place.wait = value, place.epoch, place.good, 0
    else:
        place.wait += 1


def _pack(engine: Engine, place: _Place, history: History) -> tuple[Tensors, dict[str, Any]]:
    tensors = {f"engine.{k}": v for k, v in engine.state().items()}
    tensors |= {f"good.{k}": v for k, v in (place.good or {}).items()}
    tensors |= {f"best.{k}": v for k, v in (place.best or {}).items()}
    tensors |= {"history.losses": history.step_losses, "history.lrs": history.step_lrs}
    if history.weights:
        tensors["history.weights"] = np.stack(history.weights)
    counts = ("epoch", "batch", "hits", "seconds", "wait", "best_epoch", "best_value", "good_epoch")
    probes = [{"done": done, **probe.as_dict()} for done, probe in history.probes]
    return tensors, {"place": {k: getattr(place, k) for k in counts}, "epochs": history.epochs, "probes": probes}


def _go_back(engine: Engine, source: Path, steps: int, note: Callable[[str], None]) -> tuple[_Place, History] | None:
    """To the newest whole checkpoint of a folder; None without any."""
    found = load_checkpoint(source)
    if found is None:
        return None
    tensors, meta, notes = found
    for text in notes:
        note(text)
    return _restore(engine, tensors, meta, steps)


def _restore(engine: Engine, tensors: Tensors, meta: dict[str, Any], steps: int) -> tuple[_Place, History]:
    def part(prefix: str) -> State:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    engine.load_state(part("engine."))
    place = _Place(**meta["place"], good=part("good.") or None, best=part("best.") or None)
    weights = list(tensors["history.weights"]) if "history.weights" in tensors else []
    probes = [(probe["done"], Probe.from_dict(probe)) for probe in meta.get("probes", ())]
    losses, lrs = [tensors["history.losses"]], [tensors["history.lrs"]]
    return place, History(steps, losses, lrs, list(meta["epochs"]), weights, probes)
