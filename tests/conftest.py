"""Shared by all tests: where the data sets are, the one tolerance table, and small pictures."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # PyTorch: nets of tests are too small to share out
os.environ["SCIPY_ARRAY_API"] = "1"  # SciPy reads it once, here: scikit-learn then runs all its estimator checks
import scipy.linalg  # noqa: F401

del os.environ["SCIPY_ARRAY_API"]

import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from processes import Processes

from clearsight.cli.main import main
from clearsight.store import REPORT

SMALL_CNN = ["--model", "cnn", "--set", "model.widths=[4,6]", "--set", "model.depths=[1,1]"]
TOLERANCE = {"float32": {"rtol": 2e-4, "atol": 2e-5}, "float64": {"rtol": 1e-9, "atol": 1e-11}}


def pytest_configure(config: pytest.Config) -> None:
    """No test reads or fills the user's cache. Ctrl-C means something, also where a shell without a terminal had it ignored."""
    os.environ["CLEARSIGHT_CACHE"] = tempfile.mkdtemp(prefix="clearsight-tests-")
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    folder = os.environ.get("CLEARSIGHT_DATA", "")
    chosen = config.option.markexpr
    for item in items:
        if "data" in item.keywords and not (Path(folder) / "mnist").is_dir():
            item.add_marker(pytest.mark.skip(reason="CLEARSIGHT_DATA does not hold mnist"))
        if "slow" in item.keywords and "slow" not in chosen:
            item.add_marker(pytest.mark.skip(reason="slow experiment; run with -m slow"))


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


@pytest.fixture
def no_report(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw no report, which is most of a short run's time, unless the test is marked `report`."""

    def write_report(path: Path) -> Path:
        (path / REPORT).touch()
        return path / REPORT

    if "report" not in request.keywords:
        monkeypatch.setattr("clearsight.report.html.write_report", write_report)


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An empty cache for one test."""
    monkeypatch.setenv("CLEARSIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command line in this process and gives its exit code."""

    def run(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["clearsight", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return run
