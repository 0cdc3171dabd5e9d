"""The tests of one module, run by pytest in this process: once to see which lines each executes, then for every mutant.

A mutant lives in a forked process that already holds everything loaded, so that it costs little more than its tests. It runs
only tests that execute its line, fastest first, and ends with the first that fails. Before all mutants, such a process runs the
tests without any: those that fail even so are left out, as they would kill every mutant. Files on disk are not touched. What
tests do in other processes they start is not seen.
"""

import ast
import contextlib
import functools
import gc
import importlib
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from benchmarks.mutants.install import find_functions, install
from benchmarks.mutants.make import Mutant, apply, make_mutants

KILLED, SURVIVED, EQUIVALENT, NOT_INSTALLED = "killed", "survived", "equivalent", "not installed"
_MEMORY = 6 * 2**30  # bytes that a mutant may take beyond what is in use
_LEAST_SECONDS = 5.0
_LONG = 1.0  # seconds of a test that is timed again
_NOT_THERE = 3  # exit code of a process whose mutant could not be installed
_SAID = 2**16  # bytes that a process says at the most, as a pipe holds
_FAULT = "fault: "


@dataclass(eq=False)
class Tested:
    """A mutant and what became of it: `by` names the test that failed, or says how else it ended; `tests` those that ran."""

    mutant: Mutant
    status: str
    by: str = ""
    tests: int = 0


@dataclass(eq=False)
class Session:
    """A plugin of pytest that runs mutants instead of tests.

    Args:
        module: dotted name. equivalent: keys of mutants that need no run.
        sample, seed: how many mutants to draw, and how; None for all. jobs: processes at once.
        cap: seconds of computing in tests that a mutant gets. only: what the functions of its mutants begin with.
    """

    module: str
    equivalent: set[tuple[str, str, str]]
    sample: int | None = None
    seed: int = 0
    jobs: int = 1
    cap: float = 20.0
    only: str = ""
    total: int = 0
    results: list[Tested] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    unfit: list[str] = field(default_factory=list)
    _lines: dict[Any, set[int]] = field(default_factory=dict)
    _seconds: dict[Any, float] = field(default_factory=dict)

    @property
    def num_tests(self) -> int:
        """Tests that execute any of the module's lines."""
        return len(self._lines)

    def pytest_configure(self, config: pytest.Config) -> None:
        """Property tests draw the same examples every time, and do not look for the smallest."""
        import hypothesis  # not before pytest has seen it

        phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
        hypothesis.settings.register_profile("mutants", database=None, derandomize=True, deadline=None, phases=phases)
        hypothesis.settings.load_profile("mutants")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """All of it."""
        if session.testsfailed:
            raise session.Interrupted(f"{session.testsfailed} errors during collection")
        module = importlib.import_module(self.module)
        assert module.__file__ is not None
        self._watch(session.items, module.__file__)
        tree = ast.parse(Path(module.__file__).read_text())
        mutants = make_mutants(tree)
        self.total = len(mutants)
        if self.only:
            mutants = [mutant for mutant in mutants if mutant.function.startswith(self.only)]
        if self.sample is not None and self.sample < len(mutants):
            kept = set(random.Random(f"{self.seed} {self.module}").sample(range(len(mutants)), self.sample))
            mutants = [mutant for k, mutant in enumerate(mutants) if k in kept]
        functions, caches = find_functions(module), find_caches()

        def begin(mutant: Mutant) -> None:
            apply(mutant.edit)
            if not install(module, functions, tree):
                os._exit(_NOT_THERE)
            clear(caches)

        gc.collect()
        gc.freeze()  # what is here is shared by all processes
        self._leave_out_unfit(lambda: install(module, functions, tree))

        self.results = [
            Tested(m, EQUIVALENT) if m.key in self.equivalent else Tested(m, SURVIVED, tests=len(self._choose(m)))
            for m in mutants
        ]
        waiting = [one for one in self.results if one.status == SURVIVED and one.tests]
        running: list[tuple[Tested, _Child]] = []
        while waiting or running:
            while waiting and len(running) < self.jobs:
                one = waiting.pop(0)
                child = _Child(self._choose(one.mutant), self._seconds, functools.partial(begin, one.mutant))
                running.append((one, child))
            select.select([child.pipe for _, child in running], [], [], 0.5)
            for one, child in [pair for pair in running if pair[1].has_ended()]:
                running.remove((one, child))
                if child.code == _NOT_THERE:
                    one.status = NOT_INSTALLED
                elif child.code != 0:
                    one.status, one.by = KILLED, child.said or f"ended by {child.code}"
        return True

    def _leave_out_unfit(self, begin: Callable[[], object]) -> None:
        """Run all tests in a process as mutants have, without one, and do not use those that fail there."""
        items = list(self._lines)
        control = _Child(items, self._seconds, begin, most=len(items))
        while not control.has_ended():
            select.select([control.pipe], [], [], 0.5)
        if control.code not in (0, 1) or control.said.startswith(_FAULT):
            raise RuntimeError(f"tests must run in a forked process, got {control.said or control.code}")
        self.unfit = control.said.split("\n") if control.said else []
        self._lines = {item: hit for item, hit in self._lines.items() if item.nodeid not in self.unfit}

    def _watch(self, items: list[pytest.Item], file: str) -> None:
        """Run each test by itself, with fixtures of its own, and note the lines it executes and how long it takes."""
        for item in items:
            clear(find_caches())
            hit: set[int] = set()
            began = time.process_time()
            with quiet(), tracing(file, hit):
                reports = runtestprotocol(item, log=False, nextitem=None)
            spent = time.process_time() - began
            if any(report.failed for report in reports):
                self.broken.append(item.nodeid)
            elif hit and not any(report.skipped for report in reports):
                if spent > _LONG:  # it may have been the first to load something
                    began = time.process_time()
                    with quiet():
                        _find_failures([item])
                    spent = time.process_time() - began
                self._lines[item], self._seconds[item] = hit, spent

    def _choose(self, mutant: Mutant) -> list[pytest.Item]:
        chosen, spent = [], 0.0
        for item in sorted(self._lines, key=lambda item: self._seconds[item]):
            if (mutant.lines is None or mutant.lines & self._lines[item]) and (not chosen or spent < self.cap):
                chosen.append(item)
                spent += self._seconds[item]
        return chosen


class _Child:
    """A forked process that runs tests.

    Args:
        begin: called there first. most: failures after which it ends.

    Attributes:
        code: how it ended: 0 if all tests passed, 1 if some failed, -1 if it was too slow.
        said: the tests that failed, a line each.
    """

    def __init__(
        self, items: list[pytest.Item], seconds: dict[Any, float], begin: Callable[[], object], *, most: int = 1
    ) -> None:
        self.code, self.said = 0, ""
        self.folder = tempfile.mkdtemp(prefix="mutant-")
        self.pipe, end = os.pipe()
        limit = max(_LEAST_SECONDS, 8 * sum(seconds[item] for item in items))
        self.latest = time.monotonic() + 4 * limit  # where it sleeps; a busy machine has its time
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 3.12 warns of threads
            self.pid = os.fork()
        if self.pid == 0:
            try:
                os.setsid()
                _bound(limit)
                os.environ["CLEARSIGHT_CACHE"] = self.folder
                with quiet():
                    begin()
                    failed = _find_failures(items, most=most)
                os.write(end, "\n".join(failed).encode()[:_SAID])
                os._exit(1 if failed else 0)
            except BaseException as error:
                os.write(end, f"{_FAULT}{error!r}".encode()[:400])
                os._exit(1)
        os.close(end)

    def has_ended(self) -> bool:
        """Whether it is over, and if so note how."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        late = pid == 0 and time.monotonic() > self.latest
        if pid == 0 and not late:
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # with all that its tests started
        if late:
            os.waitpid(self.pid, 0)
        if select.select([self.pipe], [], [], 0)[0]:
            self.said = os.read(self.pipe, _SAID).decode(errors="replace")
        os.close(self.pipe)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.code = -1 if late else os.waitstatus_to_exitcode(status)
        return True


def _bound(seconds: float) -> None:
    """Limit what this process may take: seconds of computing, and memory."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, most))
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, int(used + seconds) + 5))


def _find_failures(items: list[pytest.Item], *, most: int = 1) -> list[str]:
    """The first tests that fail."""
    failed: list[str] = []
    for item, following in zip(items, [*items[1:], None], strict=True):
        item._initrequest()  # type: ignore[attr-defined]  # it has run before
        if any(report.failed for report in runtestprotocol(item, log=False, nextitem=following)):
            failed.append(item.nodeid)
            if len(failed) == most:
                break
    return failed


def find_caches() -> list[Any]:
    """The functions of the project and its tests under `lru_cache`."""
    wrapper = type(functools.lru_cache(len))
    return [o for o in gc.get_objects() if type(o) is wrapper and str(getattr(o, "__module__", "")).startswith(_OWN)]


def clear(caches: list[Any]) -> None:
    """Forget what they remember, so that a test computes it by itself."""
    for cache in caches:
        cache.cache_clear()


_OWN = ("clearsight", "test_", "conftest")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing that tests print reaches the terminal."""
    kept = [os.dup(1), os.dup(2)]
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        yield
    finally:
        for place, old in zip((1, 2), kept, strict=True):
            os.dup2(old, place)
            os.close(old)
        os.close(nothing)


@contextlib.contextmanager
def tracing(file: str, hit: set[int]) -> Iterator[None]:
    """Note in `hit` the lines of `file` that are executed."""

    def in_line(frame: FrameType, event: str, arg: Any) -> Any:
        hit.add(frame.f_lineno)
        return in_line

    def in_call(frame: FrameType, event: str, arg: Any) -> Any:
        return in_line if frame.f_code.co_filename == file else None

    threading.settrace(in_call)
    sys.settrace(in_call)
    try:
        yield
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]


def run_session(session: Session, tests: list[str]) -> None:
    """Fill `session.results`.

    Raises:
        RuntimeError: tests that fail without any mutant, or cannot be collected.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        options = ["--capture=sys", "--basetemp", f"{folder}/tests", "-o", "tmp_path_retention_policy=none"]
        plugins = ["-p", "no:cacheprovider", "-p", "no:xdist"]
        code = pytest.main([*options, *plugins, "-m", "not slow and not data and not gpu", *tests], plugins=[session])
    if code or session.broken:
        raise RuntimeError(
            f"tests of {session.module} must pass without mutants, got {code}: {session.broken or 'see above'}"
        )
