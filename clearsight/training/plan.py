"""What a training needs to know before its first step: which rows it takes, and how it goes about them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.data.split import Rows
from clearsight.training.history import Monitor


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """What is learned from.

    Args:
        labels: (N,) of the whole data set; rows index it.
        train, valid: row numbers; validation may be empty.
        target_mean, target_std: of regression targets, in whose units the loss is. huber: see `mean_loss`.
    """

    labels: NDArray[Any]
    train: Rows
    valid: Rows
    target_mean: float = 0.0
    target_std: float = 1.0
    huber: float | None = None

    @property
    def is_regression(self) -> bool:
        """Whether labels are numbers."""
        return bool(self.labels.dtype.kind == "f")


@dataclass(frozen=True, eq=False)
class FitPlan:
    """How a training goes.

    Args:
        epochs, batch_size: how many, of so many rows. lrs: (epochs * steps,), from `learning_rates`.
        seed: of the order of rows. shuffle: whether that changes from epoch to epoch.
        balanced: every class equally often in an epoch.
        patience: stop after this many epochs without a better `monitor`; the best epoch's weights are then in force at
            the end, whether or not it stopped early. None trains to the end and keeps the last.
        monitor: `valid_loss`, `valid_accuracy` or `train_loss`.
        checkpoint_steps: save after so many steps; 0 to go by `checkpoint_seconds`.
        keep_steps: observers are told after every so many steps, for a series of models; 0 for whenever it suits.
        weight_history: keep the parameters of every epoch.
        probe_rows: are looked at after so many `probe_steps`, rising; none for no probes. See `Engine.probe`.
    """

    epochs: int
    batch_size: int
    lrs: NDArray[np.float64]
    seed: int
    shuffle: bool = True
    balanced: bool = False
    patience: int | None = None
    monitor: Monitor = "valid_loss"
    checkpoint_steps: int = 0
    checkpoint_seconds: float = 30.0
    keep_steps: int = 0
    weight_history: bool = False
    probe_rows: Rows | None = None
    probe_steps: tuple[int, ...] = ()
