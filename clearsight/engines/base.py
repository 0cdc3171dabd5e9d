"""What the training loop asks of every engine."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clearsight.data.preprocess import Preprocess
from clearsight.engines.objective import Objective
from clearsight.engines.probe import Probe
from clearsight.errors import UsageError
from clearsight.models.convnet import ConvNet, Tail
from clearsight.models.mlp import MLP

Rows = NDArray[np.int64]
State = dict[str, NDArray[Any]]


class Engine(Protocol):
    """One network being trained on one data set."""

    name: str
    device: str
    partial: bool
    """Whether only the end of a network is trained, on features that are at hand, so that its own answers come quickly."""
    features: NDArray[np.float32] | None
    """What enters the last layer, (N, 1, 1, F), where it is at hand."""

    def train_steps(
        self, order: Rows, *, epoch: int, first_batch: int, first_step: int, lrs: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], int]:
        """Train `len(lrs)` batches of epoch `epoch` (from 0), whose rows are `order`, from batch `first_batch` on.

        Returns:
            Mean loss of each batch before its update, and how many rows were classified rightly. A loss that is not
            finite ends the array; the caller then goes back to a state that it kept.
        """

    def logits(self, rows: Rows) -> NDArray[np.float32]:
        """Outputs before the softmax for some rows, (n, K), without dropout."""

    def probe(self, rows: Rows, *, trial: tuple[int, float] | None = None) -> Probe:
        """Numbers of every layer and of the whole for some training rows, by the weights that `logits` goes by.

        Nothing that is trained is changed. Rows beyond equal parts are left out.

        Args:
            trial: (steps done, learning rate) of one step on the first rows, which is taken back; None for no step.
        """

    def params(self) -> NDArray[np.float32]:
        """A copy of the numbers that a model file should hold, (net.num_values,)."""

    def state(self) -> State:
        """A copy of all that training changes: `params`, and what the optimiser remembers."""

    def load_state(self, state: State) -> None:
        """Go back to such a copy."""

    def is_finite(self) -> bool:
        """Whether all parameters are finite numbers."""

    def describe(self) -> dict[str, Any]:
        """What the bits depend on beside the configuration, for the record."""


def check_ends(net: MLP | ConvNet | Tail, objective: Objective, labels: NDArray[Any], preprocess: Preprocess) -> None:
    """Refuse data that does not fit a network's ends.

    Raises:
        UsageError: inputs, classes or class weights are not as many as the network has.
    """
    if net.num_inputs != preprocess.num_inputs:
        raise UsageError(
            f"the first layer must have {preprocess.num_inputs} units, one a pixel value, got {net.num_inputs}. "
            "Correct the layers."
        )
    if not objective.is_regression and not 0 <= labels.min() <= labels.max() < net.outputs:
        raise UsageError(
            f"labels must lie in [0, {net.outputs}), a unit of the last layer each, got {labels.min()} to {labels.max()}. "
            "Correct the labels or the layers."
        )
    if objective.class_weights and len(objective.class_weights) != net.outputs:
        raise UsageError(
            f"class_weights must be one a class ({net.outputs}), got {len(objective.class_weights)}. Give as many."
        )
