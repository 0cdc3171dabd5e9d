"""Where runs are computed: threads, processes, or a Dask cluster, all as standard executors. Workers compute; the caller writes.

However many workers there are and whenever each is done, outcomes go by the number of their job, and each is computed alike: the
dense engine in one thread, PyTorch on a CPU in a process that takes one. A worker that dies costs its jobs one more try. It must
not know what is searched.
"""

import contextlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from typing import Any, Protocol

from clearsight.config.files import check_count
from clearsight.config.rules import uses_torch
from clearsight.config.schema import RunConfig
from clearsight.core.threads import count_cores, one_blas_thread
from clearsight.data.dataset import Dataset
from clearsight.errors import RunError, UsageError
from clearsight.pipeline.build import choose_device
from clearsight.search.jobs import Job, Outcome, run_job, run_job_alone

_TRIES = 2
_POLL_SECONDS = 0.5  # so that Ctrl-C is heard where waiting is not interrupted
_ANSWER_TIME = "10s"  # that a scheduler has to answer
_LOST = (
    f"a worker must live until its run ends, got {_TRIES} that died in one. Free memory, or lower --workers; a script must guard "
    "its start by `if __name__ == '__main__'`."
)
_DESERTED = "workers must stay until the runs end, got none left. Start them, then go on."
DESERTED_SECONDS = 30.0  # in which workers of a cluster may come back
EXECUTORS = ("auto", "threads", "processes")


class Pool:
    """Runs jobs on an executor, as many at a time as there are workers.

    Args:
        start: makes the executor anew after a worker died, and a function that hands it a job.
        workers: how many jobs run at a time. lost: what an executor that tries again by itself raises when it gives up.
        count_workers: how many there are now, where they may leave and come back.
    """

    def __init__(
        self,
        start: "Callable[[], tuple[Executor, Submit]]",
        *,
        workers: int,
        lost: tuple[type[Exception], ...] = (),
        count_workers: Callable[[], int] | None = None,
    ) -> None:
        self._start, self.workers, self._lost, self._count_workers = start, workers, lost, count_workers
        self._deserted: float | None = None
        self._executor, self._submit = start()

    def run(self, jobs: dict[int, Job], *, deadline: float | None = None) -> Iterator[tuple[int, Outcome]]:
        """Outcomes by the numbers of their jobs, as they come; after `deadline` (of `time.monotonic`) no other begins.

        Raises:
            RunError: the workers of a job died twice. Whatever a job raises, after all that run with it have ended.
        """
        waiting, tries = list(jobs), dict.fromkeys(jobs, 0)
        running: dict[Future[Outcome], int] = {}
        while waiting or running:
            if deadline is not None and time.monotonic() > deadline:
                waiting.clear()
            while waiting and len(running) < self.workers:
                number = waiting.pop(0)
                tries[number] += 1
                try:
                    running[self._submit(jobs[number])] = number
                except BrokenExecutor:
                    tries[number] -= 1
                    waiting.insert(0, number)
                    break
            done, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            if not done:
                self._check_workers()
            lost = []
            for future in done:
                number = running.pop(future)
                try:
                    yield number, future.result()
                except BrokenExecutor:
                    lost.append(number)
                except self._lost:
                    raise RunError(_LOST) from None
                except CancelledError:  # all workers left, and the data with them
                    tries[number] -= 1
                    lost.append(number)
            if lost or (waiting and not running and not done):
                lost += running.values()  # of a broken pool, nothing comes any more
                running.clear()
                if any(tries[number] >= _TRIES for number in lost):
                    raise RunError(_LOST)
                waiting = sorted(lost) + waiting
                if self._count_workers is None:  # of a cluster, what waits there was cancelled
                    self._executor.shutdown(wait=False, cancel_futures=True)
                while self._count_workers is not None and self._count_workers() == 0:
                    self._check_workers()
                    time.sleep(_POLL_SECONDS)
                self._executor, self._submit = self._start()

    def _check_workers(self) -> None:
        """Give up on a cluster that has had no worker for a while."""
        if self._count_workers is None or self._count_workers() > 0:
            self._deserted = None
            return
        now = time.monotonic()
        self._deserted = self._deserted or now
        if now - self._deserted > DESERTED_SECONDS:
            raise RunError(_DESERTED)

    def close(self) -> None:
        """End the workers; running jobs were told to stop."""
        self._executor.shutdown(wait=True, cancel_futures=True)


class Submit(Protocol):
    """Hands a job to an executor."""

    def __call__(self, job: Job) -> "Future[Outcome]":
        """The outcome to come."""


def check_executor(executor: str, workers: int | None) -> None:
    """Refuse what cannot be had, before any work is done.

    Raises:
        UsageError: an unknown executor, or a number of workers below 1.
    """
    if workers is not None:
        check_count("--workers", workers)
    if executor not in EXECUTORS and not str(executor).startswith("dask://"):
        raise UsageError(
            f"--executor must be {', '.join(EXECUTORS)} or dask://HOST:PORT, got {executor!r}. Choose one of them."
        )


@contextmanager
def open_pool(
    dataset: Dataset, configs: Sequence[RunConfig], *, executor: str = "auto", workers: int | None = None
) -> Iterator[Pool]:
    """A pool for runs on one data set, closed at the end whatever happens.

    Args:
        configs: of what will be run; their engines and devices decide what suits.
        executor: `threads`, `processes`, `dask://HOST:PORT`, or `auto`: threads for the dense engine, whose kernel leaves the
            interpreter free, and processes for PyTorch.
        workers: by default one a core; one a CUDA device; all of a cluster.

    Raises:
        UsageError: an unknown executor, threads for PyTorch, or a library that is missing.
    """
    torch = [config for config in configs if uses_torch(config)]
    check_executor(executor, workers)
    if executor.startswith("dask://"):
        with _open_dask(dataset, executor.removeprefix("dask://"), workers, torch) as pool:
            yield pool
        return
    if torch and executor == "threads":
        raise UsageError("--executor must be processes for engine torch, got threads. Leave it out.")
    if executor == "processes" or (executor == "auto" and torch):
        with _open_processes(dataset, torch, workers) as pool:
            yield pool
        return
    with _open_threads(dataset, workers) as pool:
        yield pool


@contextmanager
def _open_threads(dataset: Dataset, workers: int | None) -> Iterator[Pool]:
    stop, count = threading.Event(), workers or count_cores()

    def start() -> tuple[Executor, Submit]:
        executor = ThreadPoolExecutor(count, thread_name_prefix="clearsight")
        return executor, lambda job: executor.submit(run_job, dataset, job, stop)

    with one_blas_thread():
        pool = Pool(start, workers=count)
        try:
            yield pool
        finally:
            stop.set()
            pool.close()


_worker_dataset: Dataset | None = None


def _begin_worker(dataset: Dataset, count: Any) -> None:
    """In a new process: keep the data, take one thread or one CUDA device, and end when the parent does."""
    global _worker_dataset
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    _worker_dataset = dataset
    os.environ["OMP_NUM_THREADS"] = "1"
    if count is not None:
        with count.get_lock():
            seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            os.environ["CUDA_VISIBLE_DEVICES"] = (
                seen[count.value] if count.value < len(seen) and seen[0] else str(count.value)
            )
            count.value += 1


def _end_with(sentinel: int) -> None:
    from multiprocessing.connection import wait as wait_for

    wait_for([sentinel])
    os._exit(1)


def _run_in_worker(job: Job) -> Outcome:
    assert _worker_dataset is not None
    return run_job_alone(_worker_dataset, job)


@contextmanager
def _open_processes(dataset: Dataset, torch: list[RunConfig], workers: int | None) -> Iterator[Pool]:
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that threads of PyTorch hold
    devices = max((_count_devices(config) for config in torch), default=0)
    count = workers or devices or count_cores()
    if devices and count > devices:
        raise UsageError(
            f"--workers must be at most {devices}, one a CUDA device, got {count}. Lower it, or set train.device to cpu."
        )

    def start() -> tuple[Executor, Submit]:
        turn = context.Value("i", 0) if devices else None
        executor = ProcessPoolExecutor(count, mp_context=context, initializer=_begin_worker, initargs=(dataset, turn))
        return executor, lambda job: executor.submit(_run_in_worker, job)

    before = set(multiprocessing.active_children())
    pool = Pool(start, workers=count)
    ended = False
    try:
        yield pool
        ended = True
    finally:
        if not ended:
            for child in set(multiprocessing.active_children()) - before:
                child.terminate()
        pool.close()


def _count_devices(config: RunConfig) -> int:
    if not choose_device(config).startswith("cuda"):
        return 0
    from clearsight.models.modules import import_torch

    return int(import_torch().cuda.device_count())


@contextmanager
def _open_dask(dataset: Dataset, address: str, workers: int | None, torch: list[RunConfig]) -> Iterator[Pool]:
    try:
        import distributed
    except ImportError:
        raise UsageError(
            "--executor dask:// must have Dask, got none installed. Install it with `pip install 'clearsight[cluster]'`."
        ) from None
    client_class: Any = distributed.Client
    try:
        client = client_class(f"tcp://{address}", timeout=_ANSWER_TIME, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--executor must be a Dask scheduler that answers, got {address}: {error or 'no answer'}. Start `dask scheduler` "
            "and `dask worker` there."
        ) from None
    with contextlib.closing(client):

        def count_workers() -> int:
            return sum(one["nthreads"] for one in client.scheduler_info(n_workers=-1)["workers"].values())

        count = count_workers()
        if count == 0:
            raise UsageError(
                f"the Dask scheduler must have workers, got none at {address}. Start `dask worker tcp://{address}`."
            )
        wanted = any(config.train.device == "cuda" for config in torch)
        resources = {"resources": {"GPU": 1}} if wanted else {}  # as `dask worker --resources GPU=1` offers them

        def start() -> tuple[Executor, Submit]:
            there = client.scatter(dataset, broadcast=True, hash=False)  # once a worker
            executor = client.get_executor(retries=_TRIES - 1, pure=False, **resources)
            return executor, lambda job: executor.submit(run_job_alone, there, job)

        yield Pool(start, workers=workers or count, lost=(distributed.KilledWorker,), count_workers=count_workers)
