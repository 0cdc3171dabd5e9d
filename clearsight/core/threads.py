"""How many threads BLAS may take. It must not know what is computed."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_limit_lock = threading.Lock()
_limit_users = 0
_limit: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread while any user is inside: a sum split over threads would round differently.

    The limit belongs to the process, so the first to enter sets it and the last to leave lifts it.
    """
    global _limit_users, _limit
    from threadpoolctl import threadpool_limits

    with _limit_lock:
        if _limit_users == 0:
            _limit = threadpool_limits(1, user_api="blas")
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
