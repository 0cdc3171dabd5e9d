"""Arithmetic with numbers that may grow beyond bounds. It must not know what they mean."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


@contextmanager
def allow_infinities() -> Iterator[None]:
    """No warnings of NumPy inside: what overflows becomes infinite or NaN, which a loss or a note tells. A decorator too."""
    with np.errstate(over="ignore", invalid="ignore"):
        yield
