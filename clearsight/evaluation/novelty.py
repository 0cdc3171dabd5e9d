"""Whether a picture is far from those trained on: its distance, in a network's features, to near training pictures.

Source: Sun et al. 2022, "Out-of-distribution detection with deep nearest neighbors". It must not know models or files.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 5
LEVEL = 0.99  # share of pictures like the held-out ones that are not called far
LEAST_HELD_OUT = 9  # of fewer, the farthest says little about others
MOST_KNOWN = 500  # training pictures that are remembered
_BLOCK = 1024


@dataclass(frozen=True, eq=False)
class Known:
    """What a model remembers of its training pictures.

    Args:
        features: (m, F) float32, of some training pictures, each of length 1.
        distances: (n,) float32, sorted, of held-out pictures to these.
    """

    features: NDArray[np.float32]
    distances: NDArray[np.float32]

    @property
    def can_tell(self) -> bool:
        """Whether enough pictures were held out to call others far."""
        return len(self.distances) >= LEAST_HELD_OUT

    @property
    def level(self) -> float:
        """Share of new pictures like the held-out ones that are not called far: 0.99, or what fewer than 99 of them allow."""
        return min(LEVEL, len(self.distances) / (len(self.distances) + 1))

    @property
    def threshold(self) -> float:
        """The distance beyond which a picture is called far."""
        place = int(np.ceil(self.level * (len(self.distances) + 1) - 1e-9)) - 1
        return float(self.distances[place])

    def measure(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Distances (n,) of pictures by their features (n, F)."""
        return measure_distances(features, self.features)


def remember(training: NDArray[np.floating], held_out: NDArray[np.floating]) -> Known:
    """Keep features (m, F) of training pictures, and how far held-out ones (n, F), n >= 1, are from them."""
    known = normalise(training)
    return Known(known, np.sort(measure_distances(held_out, known)))


def normalise(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Features (n, F) brought to length 1, so that bright pictures are not far for that alone; zeros stay."""
    length = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, 1e-12), np.float32)


def find_neighbours(
    features: NDArray[np.floating], known: NDArray[np.float32], *, count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The nearest of known features (m, F), nearest first: places (n, count) and distances (n, count)."""
    count = min(count, len(known))
    places, distances = np.empty((len(features), count), np.int64), np.empty((len(features), count), np.float32)
    for start in range(0, len(features), _BLOCK):
        unit = normalise(features[start : start + _BLOCK])
        squares = np.maximum(2 - 2 * unit @ known.T, 0)  # of vectors of length 1
        nearest = np.argpartition(squares, count - 1, axis=1)[:, :count]
        values = np.take_along_axis(squares, nearest, axis=1)
        order = np.argsort(values, axis=1, kind="stable")
        places[start : start + len(unit)] = np.take_along_axis(nearest, order, axis=1)
        distances[start : start + len(unit)] = np.sqrt(np.take_along_axis(values, order, axis=1))
    return places, distances


def measure_distances(features: NDArray[np.floating], known: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distance (n,) of each to its fifth nearest known one, or to the farthest of fewer."""
    return find_neighbours(features, known, count=NEIGHBOURS)[1][:, -1]
