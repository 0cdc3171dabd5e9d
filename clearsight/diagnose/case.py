"""The recorded numbers of a training, whoever trained it: all that the doctor's rules may look at."""

from dataclasses import dataclass, field
from math import log

import numpy as np
from numpy.typing import NDArray

from clearsight.core.intervals import wilson_interval
from clearsight.engines.probe import LayerProbe, Probe
from clearsight.training.history import EpochRow

Curve = NDArray[np.float64]


@dataclass(frozen=True)
class Choices:
    """How a network was built and trained, as far as a rule asks for it.

    Args:
        dense: whether it has dense layers only. head: whether only the last layer of a pretrained network was trained.
        pretrained: whether first weights were. normalised: by batch normalisation.
        hidden, activations: units and activation of the hidden dense layers of a dense net.
        init: of the first weights. rate: the largest learning rate. momentum: 0 for optimisers without.
        decay: the sum of L1, L2 and decoupled decay, which all pull weights to 0.
        schedule: `constant`, or another, under which the rate ends low. patience: None without early stopping.
        shuffled: whether the order of rows changes from epoch to epoch.
        weighted: by class, or classes drawn equally often.
    """

    dense: bool = True
    head: bool = False
    pretrained: bool = False
    normalised: bool = False
    hidden: tuple[int, ...] = ()
    activations: tuple[str, ...] = ()
    init: str = "auto"
    optimizer: str = "adam"
    rate: float = 0.001
    momentum: float = 0.0
    batch_size: int = 32
    epochs: int = 20
    decay: float = 0.0
    dropout: float = 0.0
    schedule: str = "constant"
    patience: int | None = None
    shuffled: bool = True
    weighted: bool = False


@dataclass(frozen=True, eq=False)
class Judged:
    """How the model did on a split: right answers, mean loss (nats), and counts (K, K), rows true, columns answered."""

    n: int
    hits: int
    loss: float
    confusion: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.hits / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, Wilson."""
        return wilson_interval(self.hits, self.n)


@dataclass(frozen=True, eq=False)
class Case:
    """A training, as recorded.

    Args:
        status: `finished`, `stopped early` or `diverged`.
        classes: their names; empty for a regression, of which few rules speak.
        counts: training rows by class. adjacent: share of training rows, in their order, whose successor has the same class; None
            where the order is not known.
        losses: of every step. steps_per_epoch: batches. rows: a line an epoch.
        probes: (steps done, what was seen inside). last: the same of the weights in force.
        judged: by split, `train` always among them but for a regression.
        miscalibration: 95 % interval of the calibration error of the split that counts, None where unknown.
        unsafe: transforms that were found to change labels on this data.
    """

    status: str
    choices: Choices
    classes: tuple[str, ...]
    counts: tuple[int, ...] = ()
    adjacent: float | None = None
    losses: Curve = field(default_factory=lambda: np.zeros(0))
    steps_per_epoch: int = 1
    rows: tuple[EpochRow, ...] = ()
    probes: tuple[tuple[int, Probe], ...] = ()
    last: Probe | None = None
    judged: dict[str, Judged] = field(default_factory=dict)
    miscalibration: tuple[float, float] | None = None
    unsafe: tuple[str, ...] = ()

    @property
    def first(self) -> Probe | None:
        """What was seen before the first step."""
        return self.probes[0][1] if self.probes and self.probes[0][0] == 0 else None

    @property
    def train(self) -> Judged | None:
        """The training rows, judged plainly."""
        return self.judged.get("train")

    @property
    def held_out(self) -> tuple[str, Judged] | None:
        """Name and numbers of the split that counts, other than training."""
        return next(((name, self.judged[name]) for name in ("test", "valid") if name in self.judged), None)

    @property
    def majority(self) -> float:
        """Share of the largest class in the training rows: what naming it always gets."""
        return max(self.counts) / sum(self.counts) if sum(self.counts) else 1.0

    @property
    def blind_loss(self) -> float:
        """Loss (nats) of an answer that knows how frequent classes are and nothing of the picture; ln K for even ones."""
        total = sum(self.counts)
        return -sum(n / total * log(n / total) for n in self.counts if n) if total else 0.0

    @property
    def learnt(self) -> float:
        """How much of the way from a blind answer to a perfect one the training rows have gone, by loss or by accuracy, whichever
        says more; below 0 if they are worse than blind.
        """
        if self.train is None or not self.blind_loss or self.majority == 1:
            return 0.0
        by_loss = 1 - self.train.loss / self.blind_loss if np.isfinite(self.train.loss) else -1.0
        return max(by_loss, (self.train.accuracy - self.majority) / (1 - self.majority))

    @property
    def fits(self) -> bool:
        """Whether the training rows themselves are answered well: 19 in 20 or more."""
        return self.train is not None and self.train.accuracy >= 0.95

    def layers(self, probe: Probe) -> tuple[LayerProbe, ...]:
        """Layers whose weights are not all 0."""
        return tuple(layer for layer in probe.layers if layer.weight > 0)
