"""What one training step minimises and how it moves the weights: the options that all engines share.

It must not know data sets, epochs or files.
"""

from dataclasses import dataclass, field
from typing import get_args

from clearsight.config.schema import Optimizer, Reduction
from clearsight.errors import UsageError

OPTIMIZERS: tuple[str, ...] = get_args(Optimizer)
DENSE_OPTIMIZERS = tuple(name for name in OPTIMIZERS if name != "muon")  # of the dense engine; muon is PyTorch's
LOSSES = ("cross_entropy", "squared_error", "huber")
REDUCTIONS: tuple[str, ...] = get_args(Reduction)

_DEFAULT_DECAY = {"adamw": 0.01}
NUM_SLOTS = {"sgd": 0, "momentum": 1, "nesterov": 1, "rmsprop": 1, "adam": 2, "adamw": 2}


@dataclass(frozen=True, slots=True)
class Objective:
    """Loss, penalties and optimiser of one step. Numbers are plain; the learning rate comes with each step.

    Args:
        loss: `cross_entropy` of the softmax; `squared_error`, 1/2 sum_k (a_k - t_k)^2 a row; or `huber`, the same up to
            an error of `huber_delta` = d and d (|a_k - t_k| - d / 2) beyond (Huber 1964).
        huber_delta: of huber.
        reduction: `mean` divides the batch's loss by its rows (by the sum of their weights), `sum` does not, so that
            a rate of 0.01 at batch 32 is 0.32 on the mean.
        label_smoothing: the target is (1 - e) one-hot + e / K (Szegedy et al. 2016).
        class_weights: one weight a class, multiplied into each row's loss; empty for none.
        dropout: share of hidden units silenced at each step, the others scaled by 1 / (1 - p) (Srivastava et al. 2014).
        l1, l2: penalties l1 |w| and l2 / 2 w^2, on weights and not on biases, added to the gradient.
        clip_norm: largest Euclidean norm of the whole gradient, penalties included; 0 for no limit.
        optimizer: `sgd`; `momentum` (Polyak; v = mu v + g); `nesterov`; `rmsprop` (Tieleman & Hinton 2012);
            `adam` (Kingma & Ba 2015); `adamw` (Loshchilov & Hutter 2019): adam with weight decay 0.01 unless given; `muon`
            (Jordan 2024), of the torch engine alone.
        momentum: mu of momentum, nesterov and muon.
        rho: decay of rmsprop's mean square.
        beta1, beta2, eps: of adam and adamw; eps of rmsprop too.
        weight_decay: decoupled, w -= lr * decay * w before the step, under any optimiser; None for its default.

    Raises:
        UsageError: an unknown name or a number outside its range.
    """

    loss: str = "cross_entropy"
    reduction: str = "mean"
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = field(default=())
    dropout: float = 0.0
    l1: float = 0.0
    l2: float = 0.0
    clip_norm: float = 0.0
    optimizer: str = "sgd"
    momentum: float = 0.9
    rho: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float | None = None
    huber_delta: float = 1.0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("loss", self.loss, LOSSES),
            ("reduction", self.reduction, REDUCTIONS),
            ("optimizer", self.optimizer, OPTIMIZERS),
        ):
            if value not in known:
                raise UsageError(f"{name} must be one of {', '.join(known)}, got {value!r}. Choose one of them.")
        for name in ("label_smoothing", "dropout", "momentum", "rho", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} must lie in [0, 1), got {getattr(self, name)}. Choose a smaller number.")
        for name in ("l1", "l2", "clip_norm", "eps", "decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"{name} must be a number of 0 or more, got {getattr(self, name)}. Use 0 for none.")
        if not 0 < self.huber_delta < float("inf"):
            raise UsageError(f"huber_delta must be a number above 0, got {self.huber_delta}. Use 1.")
        if any(not 0 <= w < float("inf") for w in self.class_weights) or (
            self.class_weights and sum(self.class_weights) == 0
        ):
            raise UsageError(
                f"class_weights must be numbers of 0 or more, not all 0, got {list(self.class_weights)}. Use [] for none."
            )

    @property
    def decay(self) -> float:
        """The decoupled weight decay in force: the given one, or the optimiser's default."""
        return _DEFAULT_DECAY.get(self.optimizer, 0.0) if self.weight_decay is None else self.weight_decay

    @property
    def is_regression(self) -> bool:
        """Whether numbers are learnt, not classes."""
        return self.loss != "cross_entropy"

    @property
    def huber(self) -> float | None:
        """The error beyond which the loss grows linearly; None where it does not."""
        return self.huber_delta if self.loss == "huber" else None

    @property
    def num_slots(self) -> int:
        """How many numbers the optimiser remembers for each parameter."""
        return NUM_SLOTS[self.optimizer]
