"""What happened during training: the loss of every batch, the metrics of every epoch, and weights if asked for."""

import csv
import io
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from clearsight.engines.probe import Probe


class EpochRow(TypedDict):
    """One line of a history: an epoch (from 1), with the learning rate of its last step.

    The training loss (nats; for regression the squared error, in the targets' unit) and accuracy are means over the epoch's
    batches as they came, with dropout, label smoothing and class weights on, so not the same measure as the validation's,
    which are plain and taken afterwards. Those are None without a validation split, and accuracies are None for regression.
    `seconds` are of training and validation.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float | None
    valid_loss: float | None
    valid_accuracy: float | None
    seconds: float


Monitor = Literal["valid_loss", "valid_accuracy", "train_loss"]
"""What `patience` may watch."""
EPOCH_COLUMNS = tuple(EpochRow.__annotations__)


@dataclass(eq=False)
class History:
    """Grows while a network trains.

    Args:
        steps_per_epoch: batches in an epoch, so `losses` reshapes to (epochs, steps_per_epoch).
        losses: mean loss of each batch before its update, one array a training call.
        lrs: learning rate of each batch, likewise.
        epochs: one row an epoch.
        weights: the parameter vector after each epoch, the first one before training; empty unless asked for.
        probes: (steps done, what was seen inside); see `find_probe_steps`. Empty in a search.
    """

    steps_per_epoch: int
    losses: list[NDArray[np.float64]] = field(default_factory=list)
    lrs: list[NDArray[np.float64]] = field(default_factory=list)
    epochs: list[EpochRow] = field(default_factory=list)
    weights: list[NDArray[np.floating]] = field(default_factory=list)
    probes: list[tuple[int, Probe]] = field(default_factory=list)

    @property
    def step_losses(self) -> NDArray[np.float64]:
        """Loss of every batch so far, (steps,)."""
        return np.concatenate(self.losses) if self.losses else np.zeros(0)

    def last_losses(self, count: int) -> NDArray[np.float64]:
        """Losses of the last `count` batches, without touching the earlier ones."""
        tail: list[NDArray[np.float64]] = []
        while sum(map(len, tail)) < count:
            tail.insert(0, self.losses[-1 - len(tail)])
        return np.concatenate(tail)[-count:]

    @property
    def step_lrs(self) -> NDArray[np.float64]:
        """Learning rate of every batch so far, (steps,)."""
        return np.concatenate(self.lrs) if self.lrs else np.zeros(0)

    def column(self, name: str) -> list[float]:
        """One column of `epochs`, without the epochs where it is missing."""
        return [row[name] for row in cast(list[dict[str, Any]], self.epochs) if row[name] is not None]

    @property
    def seconds(self) -> float:
        """Time spent in all finished epochs."""
        return float(sum(self.column("seconds")))

    def render_epochs_csv(self) -> str:
        """One line an epoch; numbers as they read back exactly."""
        return _render(EPOCH_COLUMNS, map(itemgetter(*EPOCH_COLUMNS), self.epochs))

    def render_steps_csv(self) -> str:
        """One line a batch: step (from 0), learning rate, loss."""
        rows = zip(range(len(self.step_losses)), self.step_lrs.tolist(), self.step_losses.tolist(), strict=True)
        return _render(("step", "lr", "loss"), rows)


def _render(header: Any, rows: Any) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if v is None else v for v in row] for row in rows)
    return text.getvalue()


def read_history(epochs_csv: str, steps_csv: str, *, steps_per_epoch: int) -> History:
    """The history that two CSV texts hold, without weights."""
    epochs: list[EpochRow] = []
    for row in csv.DictReader(io.StringIO(epochs_csv)):
        values: dict[str, Any] = {c: float(row[c]) if row[c] else None for c in EPOCH_COLUMNS}
        values["epoch"] = int(row["epoch"])
        epochs.append(cast(EpochRow, values))
    steps = list(csv.DictReader(io.StringIO(steps_csv)))
    return History(
        steps_per_epoch,
        losses=[np.array([float(s["loss"]) for s in steps])],
        lrs=[np.array([float(s["lr"]) for s in steps])],
        epochs=epochs,
    )
