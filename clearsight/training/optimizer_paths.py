"""Optimisers as paths on surfaces of two variables with a known minimum: the very updates that networks are trained with.

It must not know how paths are drawn.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clearsight.engines.dense import reference
from clearsight.engines.objective import DENSE_OPTIMIZERS, Objective
from clearsight.errors import UsageError
from clearsight.models.mlp import MLP

Floats = NDArray[np.float64]
_RATES = np.geomspace(1e-4, 3.0, 55)
_FAR = 1e6


@dataclass(frozen=True)
class Surface:
    """A function of two variables.

    Args:
        title: its name and formula. value: heights of x and y, of any shape. slope: (2,) gradient at a point (2,).
        start: where paths begin. minimum: where it is least, with height 0. window: x and y ranges to show.
    """

    title: str
    value: Callable[[Floats, Floats], Floats]
    slope: Callable[[Floats], Floats]
    start: tuple[float, float]
    minimum: tuple[float, float]
    window: tuple[float, float, float, float]


def _beale(x: Floats, y: Floats) -> Floats:
    return np.asarray((1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2)


def _beale_slope(p: Floats) -> Floats:
    x, y = p
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    across = 2 * (a * (y - 1) + b * (y**2 - 1) + c * (y**3 - 1))
    return np.array([across, 2 * (a * x + 2 * b * x * y + 3 * c * x * y**2)])


SURFACES = {
    "valley": Surface(
        "a long valley, (x² + 20 y²) / 2", lambda x, y: np.asarray(0.5 * (x**2 + 20 * y**2)),
        lambda p: np.array([p[0], 20 * p[1]]), (-2.0, 0.75), (0.0, 0.0), (-2.3, 0.7, -1.0, 1.0),
    ),
    "beale": Surface("Beale 1958", _beale, _beale_slope, (1.0, 1.5), (3.0, 0.5), (-0.2, 4.0, -1.9, 2.0)),
    "rosenbrock": Surface(
        "Rosenbrock 1960, (1 - x)² + 100 (y - x²)²", lambda x, y: np.asarray((1 - x) ** 2 + 100 * (y - x**2) ** 2),
        lambda p: np.array([-2 * (1 - p[0]) - 400 * p[0] * (p[1] - p[0] ** 2), 200 * (p[1] - p[0] ** 2)]),
        (-1.2, 1.0), (1.0, 1.0), (-1.7, 1.7, -0.7, 2.2),
    ),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Path:
    """Where an optimiser went: `points` (steps + 1, 2) and their `heights` (steps + 1,), at the rate `lr`.

    `diverged` says that it left for far away; it then stays where it was last.
    """

    optimizer: str
    lr: float
    points: Floats
    heights: Floats
    diverged: bool = False


def trace_path(optimizer: str, surface: Surface, *, lr: float, steps: int) -> Path:
    """Follow an optimiser from the surface's start, with its usual momentum; it stays put once it has flown far away.

    Raises:
        UsageError: an unknown name, or muon, which moves matrices.
    """
    if optimizer not in DENSE_OPTIMIZERS:
        raise UsageError(
            f"optimizers must be among {', '.join(DENSE_OPTIMIZERS)} (muon moves matrices, not points), got "
            f"{optimizer!r}. Leave it out."
        )
    objective, net = (
        Objective(optimizer=optimizer, weight_decay=0.0),
        MLP((1, 1), ()),
    )  # one weight and one bias: two variables
    point, diverged = np.array(surface.start), False
    slots, points = np.zeros((objective.num_slots, 2)), [point.copy()]
    for step in range(steps):
        before = point.copy()
        reference.update(net, point, surface.slope(point), slots, objective, lr=lr, step=step)
        if not (np.isfinite(point).all() and np.abs(point).max() < _FAR):
            points += [before] * (steps - step)
            diverged = True
            break
        points.append(point.copy())
    found = np.array(points)
    return Path(optimizer, lr, found, surface.value(found[:, 0], found[:, 1]), diverged)


def find_best_path(optimizer: str, surface: Surface, *, steps: int) -> Path:
    """The path at that rate, of 55 between 1e-4 and 3, which ends nearest to the minimum."""
    goal = np.array(surface.minimum)
    found = [trace_path(optimizer, surface, lr=float(lr), steps=steps) for lr in _RATES]
    return min(found, key=lambda path: (path.diverged, float(np.linalg.norm(path.points[-1] - goal))))
