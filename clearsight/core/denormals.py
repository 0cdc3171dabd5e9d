"""Numbers too small for a float's normal form count as zero while networks are trained. It must not know what is computed.

A float32 below 1.18e-38 is stored as a denormal, and many processors take a hundred cycles more for each operation on one.
Trainings make them without end: what Adam or momentum remembers of a weight without gradient shrinks by a factor each step,
and so does a signal from layer to layer. Why this is done by the processor's own switch: docs/decisions/0016-denormals.md.
"""

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_MXCSR = 7  # its place among the 32-bit words of fenv_t, in glibc and in musl on x86-64
_FLUSH = 0x8040  # flush results to zero (bit 15) and take denormal operands as zero (bit 6); Intel SDM volume 1, 10.2.3
_Environment = ctypes.c_uint32 * 16  # fenv_t has 8 of them


@cache
def can_flush() -> bool:
    """Whether the switch lies where we know it, on Linux on x86-64; other processors that we know are not slowed down."""
    return sys.platform == "linux" and platform.machine() == "x86_64"


@cache
def _open_library() -> ctypes.CDLL:
    """The C library of this process, opened once: that takes longer than a small net's epoch."""
    return ctypes.CDLL(None)


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Inside, this thread computes with zeros in place of denormals; afterwards as before. A decorator too."""
    if not can_flush():
        yield
        return
    library, environment = _open_library(), _Environment()
    library.fegetenv(environment)
    before = environment[_MXCSR] & _FLUSH
    environment[_MXCSR] |= _FLUSH
    library.fesetenv(environment)
    try:
        yield
    finally:
        library.fegetenv(environment)
        environment[_MXCSR] = environment[_MXCSR] & ~_FLUSH | before
        library.fesetenv(environment)
