"""Threads, processes and a Dask cluster give the same outcomes; a worker that dies costs one more try and is counted once."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import count
from pathlib import Path

import pytest
from conftest import SMALL_CNN

from clearsight.config import build_config
from clearsight.data.load import load_data
from clearsight.errors import RunError, UsageError
from clearsight.tuning import executors
from clearsight.tuning.executors import Pool, open_pool
from clearsight.tuning.jobs import Job, run_job

BASE = {"model": {"hidden": [12]}, "train": {"epochs": 2}}


def jobs(base=BASE, number=6):
    return {k: Job({**base, "train": {**base["train"], "seed": k}}) for k in range(number)}


def outcomes(pool, wanted):
    return {k: (one.status, one.metrics, one.epoch, one.n) for k, one in sorted(pool.run(wanted))}


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def plain(digits):
    return {k: (one.status, one.metrics, one.epoch, one.n) for k in jobs() if (one := run_job(digits, jobs()[k]))}


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_threads_and_processes_find_what_one_run_finds(digits, plain, executor, workers):
    with open_pool(digits, [build_config(BASE)], executor=executor, workers=workers) as pool:
        assert outcomes(pool, jobs()) == plain


def test_convolutional_nets_run_in_processes_with_any_number_of_workers(digits):
    base = {"model": {"family": "cnn", "widths": [4, 6], "depths": [1, 1]}, "train": {"epochs": 1}}
    found = []
    for workers in (1, 2):
        with open_pool(digits, [build_config(base)], workers=workers) as pool:
            found.append(outcomes(pool, jobs(base, 3)))
    assert found[0] == found[1]


def test_threads_are_refused_for_torch(digits):
    text = "--executor must be processes for engine torch, got threads"
    with (
        pytest.raises(UsageError, match=text),
        open_pool(digits, [build_config({"model": {"family": "cnn"}})], executor="threads"),
    ):
        pass


def test_a_killed_worker_costs_one_more_try_and_nothing_is_counted_twice(digits, plain):
    """The worker is killed while it trains; long runs make sure that it does."""
    wanted = {k: Job({**BASE, "train": {"epochs": 2500, "seed": k}}) for k in range(3)}
    whole = {k: run_job(digits, job).metrics for k, job in wanted.items()}
    with open_pool(digits, [build_config(BASE)], executor="processes", workers=2) as pool:
        killed, first = threading.Event(), pool._executor

        def kill():
            time.sleep(2.2)
            child = next(iter(pool._executor._processes))
            os.kill(child, signal.SIGKILL)
            killed.set()

        thread = threading.Thread(target=kill)
        thread.start()
        numbers, found = [], {}
        for k, one in pool.run(wanted):
            numbers.append(k)
            found[k] = one.metrics
        thread.join()
        assert pool._executor is not first  # made anew, so the kill was noticed
    assert killed.is_set()
    assert sorted(numbers) == [0, 1, 2]
    assert found == whole


class Fragile:
    """An executor whose n-th submitted job ends as if its worker had died."""

    def __init__(self, deaths):
        self.deaths, self.turn, self.inner = set(deaths), count(), ThreadPoolExecutor(2)

    def submit(self, job):
        if next(self.turn) in self.deaths:
            future = Future()
            future.set_exception(BrokenProcessPool("died"))
            return future
        return self.inner.submit(lambda: job)


def test_a_job_whose_workers_die_twice_ends_the_search():
    once = Fragile({1})
    pool = Pool(lambda: (once.inner, once.submit), workers=2)
    once.inner.shutdown = lambda **_: None
    assert sorted(k for k, _ in pool.run({k: k for k in range(5)})) == [0, 1, 2, 3, 4]
    twice = Fragile({1, 2, 3})
    twice.inner.shutdown = lambda **_: None
    pool = Pool(lambda: (twice.inner, twice.submit), workers=1)
    with pytest.raises(RunError, match=r"a worker must live until its run ends, got 2 that died in one\. Free memory"):
        list(pool.run({k: k for k in range(5)}))


def test_workers_end_when_their_parent_is_killed(tmp_path):
    script = (
        "from clearsight.tuning.tune import tune\n"
        "if __name__ == '__main__':\n"
        f"    tune('digits', search=['train.lr=0.1,0.2'], executor='processes', workers=2, epochs=100000, root={str(tmp_path)!r})\n"
    )
    (tmp_path / "search.py").write_text(script)
    process = subprocess.Popen([sys.executable, str(tmp_path / "search.py")])
    children, deadline = [], time.monotonic() + 60
    while len(children) < 3 and time.monotonic() < deadline:  # two workers and multiprocessing's own tracker
        time.sleep(0.2)
        path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not path.exists():
            process.kill()
            pytest.skip("no /proc here")
        children = path.read_text().split()
    time.sleep(2)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(_lives(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(_lives(pid) for pid in children)


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def cluster():
    """A real scheduler and two real workers on the loopback."""
    pytest.importorskip("distributed", reason="Dask is not installed")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "18786", "--no-dashboard"],
            env=environment, stderr=subprocess.DEVNULL,
        )
    ]  # fmt: skip
    for _ in range(2):
        worker = [
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            "tcp://127.0.0.1:18786",
            "--nthreads",
            "1",
            "--no-dashboard",
        ]
        started.append(subprocess.Popen([*worker, "--no-nanny"], env=environment, stderr=subprocess.DEVNULL))
    from distributed import Client

    deadline = time.monotonic() + 60
    while True:
        try:
            with Client("tcp://127.0.0.1:18786", timeout="5s", set_as_default=False) as client:
                client.wait_for_workers(2, timeout=40)
            break
        except (OSError, TimeoutError):
            assert time.monotonic() < deadline, "the scheduler did not start"
            time.sleep(0.5)
    yield "dask://127.0.0.1:18786", started
    for process in started:
        process.terminate()
        process.wait(timeout=20)


def test_a_cluster_finds_what_one_run_finds(digits, plain, cluster):
    address, _ = cluster
    with open_pool(digits, [build_config(BASE)], executor=address) as pool:
        assert pool.workers == 2
        assert outcomes(pool, jobs()) == plain


def test_a_search_on_a_cluster_is_the_search_at_home(tmp_path, call, cluster, capsys):
    address, _ = cluster
    flags = [
        "--search",
        "train.lr=0.001,0.01",
        "--epochs",
        "2",
        "--folds",
        "3",
        "--no-retrain",
        "--json",
        "--root",
        tmp_path,
    ]
    found = []
    for executor in ("auto", address):
        assert call("tune", "digits", *flags, "--executor", executor) == 0
        found.append(json.loads(capsys.readouterr().out)["trials"])
    for trial in found[0] + found[1]:
        del trial["seconds"]
    assert found[0] == found[1]


def test_convolutional_nets_run_on_a_cluster(tmp_path, call, cluster):
    address, _ = cluster
    assert (
        call("cv", "digits", *SMALL_CNN, "--epochs", "1", "--folds", "2", "--executor", address, "--root", tmp_path)
        == 0
    )


def test_a_cluster_that_loses_a_worker_goes_on(digits, cluster):
    """The last of these tests: it kills a worker for good."""
    address, started = cluster
    wanted = {k: Job({**BASE, "train": {"epochs": 300, "seed": k}}) for k in range(4)}
    whole = {k: run_job(digits, job).metrics for k, job in wanted.items()}
    with open_pool(digits, [build_config(BASE)], executor=address) as pool:
        threading.Timer(1.0, started[-1].kill).start()
        assert {k: one.metrics for k, one in sorted(pool.run(wanted))} == whole


def test_a_cluster_that_loses_all_workers_is_given_up(digits, cluster, monkeypatch):
    address, started = cluster
    monkeypatch.setattr(executors, "DESERTED_SECONDS", 2.0)
    wanted = {k: Job({**BASE, "train": {"epochs": 2000}}) for k in range(4)}
    with open_pool(digits, [build_config(BASE)], executor=address) as pool:
        threading.Timer(1.0, started[1].kill).start()
        with pytest.raises(RunError, match="workers must stay until the runs end, got none left"):
            list(pool.run(wanted))


def test_a_scheduler_without_workers_is_refused(digits, cluster):
    address, _ = cluster
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with open_pool(digits, [build_config(BASE)], executor=address):
                time.sleep(0.5)
        except UsageError as error:
            assert "the Dask scheduler must have workers, got none at 127.0.0.1:18786" in str(error)
            return
    pytest.fail("a scheduler without workers was taken")
