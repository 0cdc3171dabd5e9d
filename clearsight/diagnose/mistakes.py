"""What is known of a wrong answer. It must not know how it was found or is drawn."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Neighbour:
    """A training picture that a network sees as like another one: its pixels (H, W, C), class, name, and distance."""

    pixels: NDArray[Any]
    label: str
    name: str
    distance: float


@dataclass(frozen=True, eq=False)
class Mistake:
    """A wrong answer.

    Args:
        row: of the data set. name: where it came from. true, answer: classes. loss: in nats. confidence: in the answer.
        saliency: (H, W) in 0..1, what the answer rests on; None where it was not asked for.
        neighbours: training pictures that are most like it, nearest first.
    """

    row: int
    name: str
    true: str
    answer: str
    loss: float
    confidence: float
    saliency: NDArray[np.float32] | None
    neighbours: tuple[Neighbour, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        near = [{"name": one.name, "class": one.label, "distance": one.distance} for one in self.neighbours]
        kept = ("row", "name", "true", "answer", "loss", "confidence")
        return {key: getattr(self, key) for key in kept} | {"neighbours": near}
