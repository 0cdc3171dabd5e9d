"""Processes forked from one that has imported everything once (`loaded`), where each would take seconds to."""

import importlib
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

import clearsight.search.executors

HELPERS = Path(__file__).parent
begin_worker = clearsight.search.executors._begin_worker  # as it is before a test changes it


def start_server():
    """The process that others are forked from, as a context of `multiprocessing`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["loaded"])
    multiprocessing.current_process()._config.setdefault(
        "tempdir", tempfile.mkdtemp()
    )  # not one to be removed at the exit
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HELPERS), *filter(None, [before])])
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


def stop_server():
    forkserver._forkserver._stop()


class BeginWorker:
    """A search's own beginning of a worker, in the environment of the test: a fork has that of the first process."""

    def __init__(self):
        self._environment = dict(os.environ)

    def __call__(self, *arguments):
        _take(self._environment)
        begin_worker(*arguments)


class Forked:
    """A function in a forked process, which is used as a `Popen` with pipes is."""

    def __init__(self, context, action, *arguments, env=None):
        self._place = Path(tempfile.mkdtemp())
        environment = dict(os.environ if env is None else env)
        self._process = context.Process(target=_run, args=(action, arguments, environment, self._place))
        self._process.start()
        self.pid, self.stdout, self.stderr = self._process.pid, None, None

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a forked process", timeout)
        return self.returncode

    def communicate(self, timeout=None):
        self.wait(timeout)
        return tuple(
            (self._place / name).read_text() if (self._place / name).exists() else "" for name in ("out", "err")
        )

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self._process.kill()


def _take(environment):
    os.environ.clear()
    os.environ.update(environment)


def _run(action, arguments, environment, place):
    """In the fork, which is a session of its own."""
    os.setsid()
    _take(environment)
    for stream, name in ((1, "out"), (2, "err")):
        handle = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, stream)
        os.close(handle)
    action(*arguments)


def draw_no_report():
    """It takes most of the time of a short run."""
    from clearsight.report import html
    from clearsight.runs.directory import RunDirectory

    html.write_report = lambda path: RunDirectory(path).report


def command(*arguments):
    """Runs `clearsight` with these arguments and ends the process as it does; draws no report."""
    from clearsight.cli.main import main

    draw_no_report()
    sys.argv = ["clearsight", *map(os.fspath, arguments)]
    main()


def script(path, *arguments):
    """Runs a file of Python as `python` does; draws no report."""
    draw_no_report()
    sys.path.insert(0, os.fspath(path.parent))
    sys.argv = [os.fspath(path), *map(os.fspath, arguments)]
    runpy.run_path(os.fspath(path), run_name="__main__")


def dask(part, *arguments):
    """Runs `dask scheduler` or `dask worker`."""
    main = importlib.import_module(f"distributed.cli.dask_{part}").main
    main(list(map(os.fspath, arguments)))


def torchrun(pids, ranks, *arguments):
    """Runs `torchrun`, whose ranks are forked and not started; each writes its process number to a file in `pids`."""
    import torch.distributed.run as starter

    launch = starter.elastic_launch

    def launch_forks(config, entrypoint):
        config.start_method = "fork"
        return lambda *_: launch(config, _rank)(pids, *arguments)

    starter.elastic_launch = launch_forks
    starter.main(["--standalone", "--nproc-per-node", str(ranks), "-m", "clearsight", *map(os.fspath, arguments)])


def _rank(pids, *arguments):
    (pids / os.environ["RANK"]).write_text(str(os.getpid()))
    command(*arguments)
