"""Run in a process of its own: imports everything once, then forks two ranks that train together, as a cluster starts them.

usage: two_ranks.py PORT ARGUMENTS...: of `clearsight train`. Only rank 0 may speak.
"""

import os
import sys
import tempfile

import torch.distributed  # noqa: F401

import clearsight.actions.train
import clearsight.engines.torch_engine  # noqa: F401
from clearsight.cli.main import main
from clearsight.report import html as report
from clearsight.runs.directory import RunDirectory


def begin(rank, port, arguments, said):
    """The process number of a rank; `said` takes what rank 1 says."""
    pid = os.fork()
    if pid:
        return pid
    if rank == 1:
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)
    os.environ |= {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
    }
    sys.argv = ["clearsight", "train", *arguments]
    main()
    raise AssertionError("the command must exit")


def run(port, arguments):
    report.write_report = lambda path: (
        RunDirectory(path).report
    )  # drawing it takes most of the time, and no part in this
    with tempfile.TemporaryFile("w+") as said:
        ranks = [begin(rank, port, arguments, said) for rank in range(2)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in ranks]
        said.seek(0)
        assert (codes, said.read()) == ([0, 0], "")


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2:])
