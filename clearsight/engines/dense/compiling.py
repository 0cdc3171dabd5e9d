"""The compiled kernel made ready: loaded from its cache, or compiled, which is told because it takes seconds."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import event

from clearsight.errors import RunError


class _Teller(event.Listener):
    """Tells of the first function that Numba compiles; one that it finds in its cache raises no such event."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note, self._told = note, False

    def on_start(self, event: Any) -> None:
        if not self._told:
            self._told = True
            self._note("compiling the dense engine for this machine, once (10 seconds or more)")

    def on_end(self, event: Any) -> None:
        pass


def warm_up(dtype: np.dtype[Any], note: Callable[[str], None]) -> None:
    """Load the kernel for stored pixels of this type, or compile it and tell `note` so.

    Raises:
        RunError: it cannot be compiled or kept.
    """
    try:
        from clearsight.engines.dense import kernel

        with event.install_listener("numba:compile", _Teller(note)):
            kernel.warm_up(dtype)
    except (ValueError, EOFError, OSError, AttributeError, NotImplementedError) as error:
        raise RunError(
            f"the dense engine must compile and be kept in its cache, got: {error}. Delete NUMBA_CACHE_DIR or the __pycache__ of "
            "clearsight/engines/dense, free space, or use --engine reference."
        ) from None
