"""The hash behind everything random that must be a function of its place: dropout masks and augmentation."""

from typing import Any

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(x: Any) -> Any:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): a good hash of uint64 to uint64."""
    with np.errstate(over="ignore"):
        x = x + GOLDEN
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
