"""Numbers that say how good a classifier or a regression is, each with its n. It must not know models or files."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.core.intervals import wilson_interval
from clearsight.core.notebook import render_facts
from clearsight.core.numerics import log_softmax
from clearsight.evaluation.calibration import Calibration


@dataclass(frozen=True, eq=False)
class ClassMetrics:
    """One class: rows of it (`support`), and how they and the answers relate. A ratio without rows is None.

    `accuracy` is one-against-rest, (TP + TN) / n, and high for a class that is never answered; it is kept for readers of the
    JSON alone and shown nowhere.
    """

    name: str
    support: int
    accuracy: float | None
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How a model did on one split.

    Args:
        split: which rows were judged: `train`, `valid`, `test` or `all`.
        n: rows. accuracy: share of right answers, with its 95 % Wilson interval `low, high`.
        loss: mean cross-entropy in nats. confusion: (K, K) counts, rows true, columns predicted.
        classes: one `ClassMetrics` a class.
        mae, r2: of a regression, whose accuracy, interval, confusion and classes are None or empty; `loss` is then the
            mean squared error in the targets' units.
        calibration: whether confidence is true, of the split that counts.
    """

    n: int
    loss: float
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    confusion: NDArray[np.int64] | None = None
    classes: tuple[ClassMetrics, ...] = ()
    mae: float | None = None
    r2: float | None = None
    split: str = ""
    calibration: Calibration | None = None

    def __repr__(self) -> str:
        if self.accuracy is None:
            parts = [f"mae {self.mae:.4g}", f"r2 {self.r2:.4f}"] if self.r2 is not None else [f"mae {self.mae:.4g}"]
        else:
            parts = [f"accuracy {self.accuracy:.4f} ({self.low:.4f} to {self.high:.4f})"]
        return f"Evaluation({self.split}: {', '.join([*parts, f'loss {self.loss:.4g}', f'n = {self.n:,}'])})"

    def facts(self) -> dict[str, object]:
        """What counts, by name, as people read it."""
        if self.accuracy is None:
            found: dict[str, object] = {"mean absolute error": f"{self.mae:.4g}"}
        else:
            found = {"accuracy": f"{self.accuracy:.2%} (95 % interval {self.low:.2%} to {self.high:.2%})"}
        return {**found, "loss": f"{self.loss:.4g}", "n": f"{self.n:,}"}

    def _repr_html_(self) -> str:
        return render_facts(f"Evaluation of {self.split or 'rows'}", self.facts())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what does not apply is left out."""
        found: dict[str, Any] = {"n": self.n, "loss": self.loss}
        if self.accuracy is not None and self.confusion is not None:
            found |= {"accuracy": self.accuracy, "interval": [self.low, self.high]}
            found |= {"confusion": self.confusion.tolist(), "classes": [asdict(c) for c in self.classes]}
        else:
            found |= {"mae": self.mae, "r2": self.r2}
        if self.calibration is not None:
            found["calibration"] = self.calibration.as_dict()
        return found


def confusion_matrix(labels: NDArray[np.int64], answers: NDArray[np.int64], *, num_classes: int) -> NDArray[np.int64]:
    """Counts (K, K): row = true class, column = answer."""
    return np.bincount(labels * num_classes + answers, minlength=num_classes**2).reshape(num_classes, num_classes)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def measure_classes(confusion: NDArray[np.int64], class_names: tuple[str, ...]) -> tuple[ClassMetrics, ...]:
    """Per-class metrics of a confusion matrix. Accuracy is one-against-rest: (TP + TN) / n."""
    total = int(confusion.sum())
    found = []
    for k, name in enumerate(class_names):
        hit, true, answered = int(confusion[k, k]), int(confusion[k].sum()), int(confusion[:, k].sum())
        found.append(
            ClassMetrics(
                name,
                support=true,
                accuracy=_ratio(total - true - answered + 2 * hit, total),
                precision=_ratio(hit, answered),
                recall=_ratio(hit, true),
                f1=_ratio(2 * hit, true + answered),
            )
        )
    return tuple(found)


def evaluate_logits(
    logits: NDArray[np.floating], labels: NDArray[np.int64], *, class_names: tuple[str, ...], temperature: float = 1.0
) -> Evaluation:
    """All classification metrics of logits (n, K) under class indices (n,), n >= 1."""
    answers = logits.argmax(axis=1)
    hits = int((answers == labels).sum())
    low, high = wilson_interval(hits, len(labels))
    losses = -log_softmax(logits.astype(np.float64) / temperature)[np.arange(len(labels)), labels]
    confusion = confusion_matrix(labels, answers, num_classes=len(class_names))
    return Evaluation(
        n=len(labels),
        loss=float(losses.mean()),
        accuracy=hits / len(labels),
        low=low,
        high=high,
        confusion=confusion,
        classes=measure_classes(confusion, class_names),
    )


def evaluate_numbers(answers: NDArray[np.floating], targets: NDArray[np.floating]) -> Evaluation:
    """Regression metrics of predicted numbers (n,) against targets (n,), n >= 1. R2 is None where targets are constant."""
    error = answers.astype(np.float64) - targets
    spread = float(((targets - targets.mean(dtype=np.float64)) ** 2).sum())
    return Evaluation(
        n=len(targets),
        loss=float((error**2).mean()),
        mae=float(np.abs(error).mean()),
        r2=1 - float((error**2).sum()) / spread if spread > 0 else None,
    )


def worst_mistakes(
    logits: NDArray[np.floating], labels: NDArray[np.int64], *, count: int
) -> list[tuple[int, int, float]]:
    """The wrong answers that cost most: up to `count` of (place among the rows, answer, loss in nats), worst first."""
    losses = -log_softmax(logits.astype(np.float64))[np.arange(len(labels)), labels]
    answers = logits.argmax(axis=1)
    wrong = np.flatnonzero(answers != labels)
    order = wrong[np.argsort(-losses[wrong], kind="stable")][:count]
    return [(int(i), int(answers[i]), float(losses[i])) for i in order]
