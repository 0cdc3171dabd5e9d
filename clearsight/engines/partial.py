"""Training the end of a network alone: another engine trains it on features that the frozen rest gave, kept beforehand.

It must not know where features come from, nor files.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.engines.base import Engine, Rows, State
from clearsight.engines.probe import Probe
from clearsight.models.convnet import ConvNet

Tensors = dict[str, NDArray[np.float32]]


class PartialEngine:
    """An `Engine` for a whole network of which only the end is trained.

    Args:
        inner: trains the end, on features in place of pictures, row by row the same data set.
        net, params: the whole network and its numbers, (net.num_values,), those of the end as they were.
        to_tensors: the numbers of the inner engine as tensors of the whole network, by name.
        features: what enters the last layer of the whole network, (N, 1, 1, F), where that is not trained.
    """

    partial = True

    def __init__(
        self,
        inner: Engine,
        net: ConvNet,
        params: NDArray[np.float32],
        to_tensors: Callable[[NDArray[np.float32]], Tensors],
        *,
        features: NDArray[np.float32] | None = None,
    ) -> None:
        self.features = features
        self._inner, self._net, self._params, self._to_tensors = inner, net, params, to_tensors
        self.name, self.device = inner.name, inner.device

    def train_steps(
        self, order: Rows, *, epoch: int, first_batch: int, first_step: int, lrs: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], int]:
        """See `Engine`."""
        return self._inner.train_steps(order, epoch=epoch, first_batch=first_batch, first_step=first_step, lrs=lrs)

    def logits(self, rows: Rows) -> NDArray[np.float32]:
        """See `Engine`."""
        return self._inner.logits(rows)

    def probe(self, rows: Rows, *, trial: tuple[int, float] | None = None) -> Probe:
        """See `Engine`; of the trained layers alone."""
        return self._inner.probe(rows, trial=trial)

    def params(self) -> NDArray[np.float32]:
        """See `Engine`; of the whole network."""
        found = self._params.copy()
        tensors = self._net.tensors(found)
        for name, values in self._to_tensors(self._inner.params()).items():
            tensors[name][:] = values
        return found

    def state(self) -> State:
        """See `Engine`; what is frozen is not in it."""
        return self._inner.state()

    def load_state(self, state: State) -> None:
        """See `Engine`."""
        self._inner.load_state(state)

    def is_finite(self) -> bool:
        """See `Engine`."""
        return self._inner.is_finite()

    def describe(self) -> dict[str, Any]:
        """See `Engine`."""
        return self._inner.describe()
