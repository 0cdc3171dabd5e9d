"""Shared by all tests: where the data sets are, the one tolerance table, and small pictures."""

import contextlib
import gc
import io
import os
import re

os.environ["OMP_NUM_THREADS"] = "1"  # PyTorch: nets of tests are too small to share out
os.environ["SCIPY_ARRAY_API"] = "1"  # SciPy reads it once, here: scikit-learn then runs all its estimator checks
import scipy.linalg  # noqa: F401

del os.environ["SCIPY_ARRAY_API"]

import multiprocessing
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from hashlib import sha256
from multiprocessing.context import BaseContext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from processes import Processes

from clearsight.cli.main import main
from clearsight.runs.directory import RunDirectory

SMALL_CNN = ["--model", "cnn", "--set", "model.widths=[4,6]", "--set", "model.depths=[1,1]"]
# A kernel takes a quarter of a minute to compile: quick tests use that of float32, with pictures of bytes.
FLOATS = [np.float32, pytest.param(np.float64, marks=pytest.mark.long)]
TOLERANCE = {"float32": {"rtol": 2e-4, "atol": 2e-5}, "float64": {"rtol": 1e-9, "atol": 1e-11}}


LONGEST_FIRST = [  # so that no process is left alone with one of them at the end; while one compiles, others do without
    f"test_{name}.py"
    for name in (
        "pretrained", "ranks", "readme", "json_page", "executors", "safety", "tune", "dense", "reference", "models", "settings_options", "pictures",
        "fuzz_pictures", "cache", "fetch", "archives", "split", "timm", "torch_engine", "settings_used", "cli", "crashes",
        "augmented_training", "recipes", "suspects_page", "report", "flags", "comparison", "check", "safety_levels",
    )
]  # fmt: skip
OWN_FOLDER: list[str] = []  # of all files of the tests, in the process that was started first
MEMORY_DISK, ROOM = (
    "/dev/shm",
    8 * 2**30,
)  # a test waits more for the disk than it computes, as each run is saved durably


def pytest_configure(config: pytest.Config) -> None:
    """No test reads or fills the user's cache. Ctrl-C means something, also where a shell without a terminal had it ignored."""
    if not hasattr(config, "workerinput"):  # the processes that it starts find it in their environment
        in_memory = os.access(MEMORY_DISK, os.W_OK) and shutil.disk_usage(MEMORY_DISK).free > ROOM
        OWN_FOLDER.append(tempfile.mkdtemp(prefix="clearsight-tests-", dir=MEMORY_DISK if in_memory else None))
        os.environ["TMPDIR"] = tempfile.tempdir = OWN_FOLDER[0]
    else:
        _compile_by_turns(Path(tempfile.gettempdir()))
    os.environ["CLEARSIGHT_CACHE"] = tempfile.mkdtemp(prefix="clearsight-tests-")
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _compile_by_turns(folder: Path) -> None:
    """A kernel is compiled by the process that needs it first; others that need it wait, and find it in Numba's cache."""
    from numba.core.caching import NullCache
    from numba.core.dispatcher import Dispatcher

    original = Dispatcher.compile

    def compile_alone(self: Any, signature: Any) -> Any:
        if isinstance(self._cache, NullCache):  # it would not be found
            return original(self, signature)
        name = sha256(f"{self.py_func.__module__} {self.py_func.__qualname__} {signature}".encode()).hexdigest()
        with FileLock(folder / f"{name}.lock"):
            return original(self, signature)

    Dispatcher.compile = compile_alone


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind."""
    for folder in OWN_FOLDER:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What imports leave stays to the end: to look through it for garbage, again and again, takes a quarter of their time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import files of which all tests are left out."""
    if "not long" not in config.option.markexpr or collection_path.suffix != ".py":
        return None
    return bool(re.search(r"^pytestmark = .*\bmark\.long\b", collection_path.read_text(), re.MULTILINE)) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is run by itself, and what this machine lacks; where `CLEARSIGHT_CI` is set, a lack of Chromium fails."""
    reasons = {mark: f"run by `make {mark}`" for mark in ("slow", "smoke") if mark not in config.option.markexpr}
    if not (Path(os.environ.get("CLEARSIGHT_DATA", "")) / "mnist").is_dir():
        reasons["data"] = "CLEARSIGHT_DATA does not hold mnist"
    if (
        not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
        and "CLEARSIGHT_CI" not in os.environ
    ):
        reasons["browser"] = "Chromium is not installed"
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
    for item in items:
        for mark, reason in reasons.items():
            if mark in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Of the quick tests, name those that are not."""
    if "not long" in config.option.markexpr:
        passed = terminalreporter.getreports("passed")
        slow = sorted((one.duration, one.nodeid) for one in passed if one.when == "call" and one.duration > 2)
        for seconds, name in reversed(slow):
            terminalreporter.write_line(f"{seconds:.1f} s without the mark `long`: {name}")


@pytest.fixture
def pictures() -> tuple[np.ndarray, np.ndarray]:
    """60 grey pictures of 6x6 in three classes that a small net can tell apart."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = rng.integers(0, 60, (60, 6, 6)).astype(np.uint8)
    for k in range(3):
        images[labels == k, 2 * k : 2 * k + 2] += 150
    return images, labels


@pytest.fixture
def processes() -> Iterator[Processes]:
    """Starts processes that end with the test."""
    started = Processes()
    yield started
    started.end()


WRITE_REPORT = "clearsight.report.html.write_report"


@pytest.fixture(autouse=True, scope="module")
def no_report_of_fixtures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs of module-wide fixtures draw no report where no test of the file is marked `report`."""
    with pytest.MonkeyPatch.context() as patch:
        if not any("report" in item.keywords for item in request.session.items if item.path == request.path):
            patch.setattr(WRITE_REPORT, lambda path: RunDirectory(path).report)
        yield


@pytest.fixture(autouse=True)
def no_report(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a test draw no report, which is most of a short run's time, unless it is marked `report`.

    Runs of other processes draw theirs.
    """
    if "report" not in request.keywords:
        monkeypatch.setattr(WRITE_REPORT, lambda path: RunDirectory(path).report)


@pytest.fixture(scope="session")
def compiled() -> None:
    """The dense engine lies in Numba's cache, so that a process that a test starts need not compile it."""
    from clearsight.engines.dense import kernel

    kernel.warm_up(np.dtype(np.uint8))


@pytest.fixture(scope="session")
def fork_server(compiled: None) -> Iterator[BaseContext]:
    """Processes that it starts are forked from one that has imported PyTorch and the dense engine: each would take seconds to."""
    from forks import start_server, stop_server

    yield start_server()
    stop_server()


@pytest.fixture
def forked_workers(fork_server: BaseContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers of a search are forked so; the search itself asks for new processes, as without this."""
    from forks import BeginWorker

    get_context = multiprocessing.get_context
    monkeypatch.setattr(
        multiprocessing, "get_context", lambda how=None: fork_server if how == "spawn" else get_context(how)
    )
    monkeypatch.setattr("clearsight.search.executors._begin_worker", BeginWorker())


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An empty cache for one test."""
    monkeypatch.setenv("CLEARSIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))


def run_main(*arguments: object) -> int:
    """The exit code of a command that runs in this process, which is left as it was."""
    handler, threshold = signal.getsignal(signal.SIGTERM), gc.get_threshold()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["clearsight", *map(str, arguments)])
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            signal.signal(signal.SIGTERM, handler)
            gc.set_threshold(*threshold)
    return int(ended.value.code or 0)


def run(*arguments: object, cwd: str | Path = ".", input: str = "") -> SimpleNamespace:
    """The command in this process, with what it prints; in one of its own, it takes a second or more to start."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.chdir(cwd)
        patch.setattr("sys.stdin", io.StringIO(input))
        code = run_main(*arguments)
    assert "Traceback" not in err.getvalue(), err.getvalue()
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


@pytest.fixture
def call() -> Callable[..., int]:
    """Runs the command line in this process and gives its exit code."""
    return run_main
