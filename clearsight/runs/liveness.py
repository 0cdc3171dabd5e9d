"""Whether the process that works on a run still lives, told without its lock, so that a look never stands in anybody's way."""

import os
import platform
import time
from pathlib import Path
from typing import Any

_SILENT_SECONDS = 120.0  # after which a process on another machine counts as dead


def describe_process() -> dict[str, Any]:
    """What a record holds of the process that writes it."""
    return {"host": platform.node(), "pid": os.getpid(), "pid_began": _find_begin(os.getpid())}


def is_alive(record: dict[str, Any], *, sign: Path) -> bool | None:
    """Whether the process of a record lives; None where the record does not say which that is.

    Args:
        sign: a file that the process adds to. On another machine, this must have happened lately.
    """
    pid, host = record.get("pid"), record.get("host")
    if not isinstance(pid, int) or pid <= 0:
        return None
    if host != platform.node():
        try:
            return time.time() - sign.stat().st_mtime < _SILENT_SECONDS
        except OSError:
            return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass  # it is somebody else's
    except (OSError, OverflowError):
        return False
    began = _find_begin(pid)
    return began is None or record.get("pid_began") in (None, began)


def _find_begin(pid: int) -> int | None:
    """When a process began, by the system's own count, as numbers are used again; None where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[19]) if fields[0] != "Z" else -1
