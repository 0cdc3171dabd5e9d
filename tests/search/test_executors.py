"""Threads, processes and a Dask cluster give the same outcomes; a worker that dies costs one more try and is counted once."""

import json
import os
import signal
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import count
from pathlib import Path

import forks
import pytest
from conftest import SMALL_CNN
from processes import LIMIT_SECONDS, Processes, lives, wait_until

from clearsight.config.build import build_config
from clearsight.data.read.load import load_data
from clearsight.errors import RunError, UsageError
from clearsight.search import executors
from clearsight.search.executors import Pool, open_pool
from clearsight.search.jobs import Job, run_job

pytestmark = pytest.mark.long
BASE = {"model": {"hidden": [12]}, "train": {"epochs": 2}}


def jobs(base=BASE, number=6):
    return {k: Job({**base, "train": {**base["train"], "seed": k}}) for k in range(number)}


def outcomes(pool, wanted, *, after_first=lambda: None):
    """What each run came to, by number; each must come once. `after_first` is called when the first has come."""
    found = {}
    for k, one in pool.run(wanted):
        assert k not in found
        if not found:
            after_first()
        found[k] = (one.status, one.metrics, one.epoch, one.n)
    return found


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def alone(digits, wanted):
    return {
        k: (one.status, one.metrics, one.epoch, one.n) for k, job in wanted.items() if (one := run_job(digits, job))
    }


@pytest.fixture(scope="module")
def plain(digits):
    return alone(digits, jobs())


@pytest.fixture(scope="module")
def long_jobs(digits):
    """Runs of which the first is over long before the others, and what they come to."""
    wanted = {k: Job({**BASE, "train": {"epochs": 150 if k else 1, "seed": k}}) for k in range(4)}
    return wanted, alone(digits, wanted)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_threads_and_processes_find_what_one_run_finds(digits, plain, executor, workers, forked_workers):
    with open_pool(digits, [build_config(BASE)], executor=executor, workers=workers) as pool:
        assert outcomes(pool, jobs()) == plain


def test_convolutional_nets_find_in_processes_what_one_run_finds(digits):
    base = {"model": {"family": "cnn", "widths": [4, 6], "depths": [1, 1]}, "train": {"epochs": 1}}
    with open_pool(digits, [build_config(base)], workers=2) as pool:
        assert outcomes(pool, jobs(base, 3)) == alone(digits, jobs(base, 3))


def test_threads_are_refused_for_torch(digits):
    text = "--executor must be processes for engine torch, got threads"
    with (
        pytest.raises(UsageError, match=text),
        open_pool(digits, [build_config({"model": {"family": "cnn"}})], executor="threads"),
    ):
        pass


def test_a_killed_worker_costs_one_more_try_and_nothing_is_counted_twice(digits, long_jobs, forked_workers):
    """A worker is killed when the first run is done, the second under way, and others to come."""
    wanted, expected = long_jobs
    with open_pool(digits, [build_config(BASE)], executor="processes", workers=2) as pool:
        first = pool._executor
        found = outcomes(pool, wanted, after_first=lambda: os.kill(next(iter(first._processes)), signal.SIGKILL))
        assert pool._executor is not first  # made anew, so the kill was noticed
    assert found == expected


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


SEARCH = """
import sys
from clearsight.actions.tune import tune
if __name__ == "__main__":
    tune("digits", search=["train.epochs=1,100000,100001"], executor="processes", workers=2, out=sys.argv[1], root=sys.argv[2])
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system has no /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path, processes):
    (tmp_path / "search.py").write_text(SEARCH)
    process = processes.start([sys.executable, tmp_path / "search.py", tmp_path / "s", tmp_path])
    wait_until(
        (tmp_path / "s" / "trials.jsonl").exists, process=process
    )  # the first is done; the others would never be
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 3  # two workers and multiprocessing's own tracker
    process.kill()
    process.wait()
    wait_until(lambda: not any(lives(pid) for pid in children))


@pytest.fixture(scope="module")
def cluster(fork_server, tmp_path_factory):
    """A real scheduler and two real workers on the loopback."""
    pytest.importorskip("distributed", reason="Dask is not installed")
    started, place = Processes(), tmp_path_factory.mktemp("dask") / "scheduler.json"
    many = ["--scheduler-file", place]
    scheduler = started.fork(
        fork_server, forks.dask, "scheduler", "--host", "127.0.0.1", "--port", "0", *many, "--no-dashboard"
    )
    workers = [
        started.fork(fork_server, forks.dask, "worker", *many, "--no-dashboard", "--nthreads", "1", "--no-nanny")
        for _ in range(2)
    ]
    wait_until(lambda: place.exists() and place.read_text().endswith("}"), process=scheduler)
    address = json.loads(place.read_text())["address"]
    from distributed import Client

    with Client(address, timeout=LIMIT_SECONDS, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=LIMIT_SECONDS)
    yield address.replace("tcp://", "dask://"), workers
    started.end()


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


def test_a_cluster_that_loses_a_worker_goes_on(digits, long_jobs, cluster):
    """One of the last of these tests: it kills a worker for good."""
    address, workers = cluster
    wanted, expected = long_jobs
    with open_pool(digits, [build_config(BASE)], executor=address) as pool:
        assert outcomes(pool, wanted, after_first=workers[1].kill) == expected


def test_a_cluster_that_loses_all_workers_is_given_up(digits, long_jobs, cluster, monkeypatch):
    address, workers = cluster
    monkeypatch.setattr(executors, "DESERTED_SECONDS", 2.0)
    with (
        open_pool(digits, [build_config(BASE)], executor=address) as pool,
        pytest.raises(RunError, match="workers must stay until the runs end, got none left"),
    ):
        outcomes(pool, long_jobs[0], after_first=workers[0].kill)


def test_a_scheduler_without_workers_is_refused(digits, cluster):
    address, _ = cluster
    refusals = []

    def refused():
        try:
            with open_pool(digits, [build_config(BASE)], executor=address):
                return False
        except UsageError as error:
            refusals.append(str(error))
            return True

    wait_until(refused)  # the scheduler may not yet have noticed that its workers are gone
    assert f"the Dask scheduler must have workers, got none at {address.removeprefix('dask://')}" in refusals[0]
