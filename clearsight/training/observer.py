"""How a training is watched: whoever wants to know of its steps and epochs is an observer. None changes a bit of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.engines.probe import Probe
from clearsight.training.history import EpochRow


class Observer:
    """Watches a training. What it does not care for does nothing; what it raises ends the training."""

    def on_start(self, *, epochs: int, steps: int, done: int) -> None:
        """A training of `steps` steps in all begins, or goes on after `done` of them."""

    def on_steps(self, done: int, *, epoch: int, losses: NDArray[Any], lrs: NDArray[np.float64]) -> None:
        """After `done` steps: some steps of epoch `epoch` (from 1), with the loss and the learning rate of each."""

    def on_epoch(self, row: EpochRow) -> None:
        """An epoch has ended; `row` is its line of the history."""

    def on_probe(self, done: int, probe: Probe) -> None:
        """What the network is like inside after so many steps."""

    def on_checkpoint(self, done: int) -> None:
        """A checkpoint was saved after so many steps."""

    def on_end(self, status: str) -> None:
        """It is over: `finished`, `stopped early`, `diverged`, `paused`, `interrupted` or `failed`."""


class Observers(Observer):
    """Several as one, told in their order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def on_start(self, *, epochs: int, steps: int, done: int) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.on_start(epochs=epochs, steps=steps, done=done)

    def on_steps(self, done: int, *, epoch: int, losses: NDArray[Any], lrs: NDArray[np.float64]) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.on_steps(done, epoch=epoch, losses=losses, lrs=lrs)

    def on_epoch(self, row: EpochRow) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.on_epoch(row)

    def on_probe(self, done: int, probe: Probe) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.on_probe(done, probe)

    def on_checkpoint(self, done: int) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.on_checkpoint(done)

    def on_end(self, status: str) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.on_end(status)
