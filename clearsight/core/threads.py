"""How many threads BLAS may take. It must not know what is computed."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

_limit_lock = threading.Lock()
_limit_users = 0
_limit: Any = None


@lru_cache(maxsize=1)
def _find_pools(modules: int) -> Any:
    """The libraries with threads of their own; looked for anew where a module, which may bring one, was imported since."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread while any user is inside: a sum split over threads would round differently.

    The limit belongs to the process, so the first to enter sets it and the last to leave lifts it.
    """
    global _limit_users, _limit
    with _limit_lock:
        if _limit_users == 0:
            _limit = _find_pools(len(sys.modules)).limit(limits=1, user_api="blas")
        _limit_users += 1
    try:
        yield
    finally:
        with _limit_lock:
            _limit_users -= 1
            if _limit_users == 0:
                _limit.restore_original_limits()


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
