"""What a treatment brought, beside its controls."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clearsight.config.schema import RunConfig


@dataclass(frozen=True)
class Change:
    """A prescription that was taken: of which finding, and its settings, nested."""

    code: str
    patch: dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """One way to train, over the seeds.

    Args:
        name: `as it was`, `cured`, `sham` or `random search`. scores: accuracy on validation rows, one a seed.
        gain: mean difference to the run as it was, on equal seeds; low, high: its 95 % interval (Student's t), None for one seed.
    """

    name: str
    scores: tuple[float, ...]
    gain: float
    low: float | None
    high: float | None

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(np.mean(self.scores))


@dataclass(frozen=True)
class Bill:
    """What a finding costs: the accuracy that the cured run loses without this change alone; see `Arm` for the interval."""

    change: Change
    loss: float
    low: float | None
    high: float | None


@dataclass(frozen=True, eq=False)
class Cure:
    """What treating a run brought.

    Args:
        arms: by name. n: validation rows. changes: the smallest set that suffices, in the order taken; empty if nothing helped.
        bills: one a change. tries: trainings of the treatment, and of the random search. config: of the cured run. file: where it
            was written, None if nothing helped. left: codes of findings that stand after the cure.
    """

    arms: dict[str, Arm]
    n: int
    changes: tuple[Change, ...]
    bills: tuple[Bill, ...]
    tries: int
    config: RunConfig
    file: Path | None
    left: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Plain values for JSON."""
        arms = [
            {"name": a.name, "mean": a.mean, "scores": a.scores, "gain": a.gain, "interval": [a.low, a.high]}
            for a in self.arms.values()
        ]
        bills = [
            {"code": b.change.code, "settings": b.change.patch, "loss": b.loss, "interval": [b.low, b.high]}
            for b in self.bills
        ]
        return {
            "n": self.n, "arms": arms, "changes": bills, "tries": self.tries, "file": str(self.file) if self.file else None,
            "left": list(self.left),
        }  # fmt: skip
