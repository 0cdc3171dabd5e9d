"""Arithmetic with numbers that may grow beyond bounds. It must not know what they mean."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


@contextmanager
def allow_infinities() -> Iterator[None]:
    """No warnings of NumPy inside: what overflows becomes infinite or NaN, which a loss or a note tells. A decorator too."""
    with np.errstate(over="ignore", invalid="ignore"):
        yield


@allow_infinities()
def softmax(z: Array) -> Array:
    """Class probabilities of logits of shape (B, K): positive, each row sums to 1, no overflow for any finite logits."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    shares: Array = e / e.sum(axis=1, keepdims=True)
    return shares


@allow_infinities()
def log_softmax(z: Array) -> Array:
    """Logarithm of `softmax`, (B, K), without the underflow of taking it afterwards."""
    z = z - z.max(axis=1, keepdims=True)
    logs: Array = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return logs
