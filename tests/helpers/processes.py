"""Processes that tests start: each in a session of its own, so that all of it can be ended, also when its test fails."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

CLEARSIGHT = [sys.executable, "-m", "clearsight"]
LIMIT_SECONDS = 300  # no claim, only an end to waiting for what will never come, however busy the machine is
_MARK = "CLEARSIGHT_STARTED_BY_TEST"


class Processes:
    """Starts processes and, at `end`, ends them with all that they started, found by a mark in their environment."""

    def __init__(self):
        self._mark, self._started = uuid4().hex, []

    def start(self, command, *, env=None, **options):
        environment = {**(os.environ if env is None else env), _MARK: self._mark}
        words = [os.fspath(word) if isinstance(word, os.PathLike) else word for word in command]
        process = subprocess.Popen(words, env=environment, start_new_session=True, text=True, **options)
        self._started.append(process)
        return process

    def fork(self, server, action, *arguments, **options):
        """A function of `forks`, with these arguments, in a process that the server forks."""
        from forks import Forked

        process = Forked(server, action, *arguments, **options)
        self._started.append(process)
        return process

    def end(self):
        for process in self._started:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        for pid in self._find_left():  # some open sessions of their own, as torchrun does for its ranks
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for process in self._started:
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def _find_left(self):
        mark = f"{_MARK}={self._mark}".encode()
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (place / "environ").read_bytes().split(b"\0"):
                    yield int(place.name)


def lives(pid):
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(happened, *, process=None):
    """Wait for an event. An end of `process` before it, or nothing for a long time, fails the test."""
    until = time.monotonic() + LIMIT_SECONDS
    while not happened():
        if process is not None and process.poll() is not None and not happened():
            said = process.communicate() if process.stderr else ""
            raise AssertionError(f"the process ended with {process.returncode} before what was waited for: {said}")
        assert time.monotonic() < until, "what was waited for never came"
        time.sleep(0.02)
