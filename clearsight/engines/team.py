"""Several processes that train one network together, started by torchrun; a team of one is a process by itself.

Each computes its share of every batch and of every validation; sums make them sync. It must not know networks or files.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from clearsight.errors import RunError

_TIMEOUT_MINUTES = 10


class Team:
    """A process by itself, which the others extend.

    Attributes:
        rank, size: which process this is, from 0, and of how many.
    """

    rank, size = 0, 1

    def share(self, count: int) -> slice:
        """This process's part of `count` rows; the parts of all are the whole, in order, and none overlap."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, tensor: Any) -> None:
        """Add up a tensor over all processes, in place."""

    def broadcast(self, tensor: Any) -> None:
        """Take over the tensor of process 0, in place."""

    def sync(self, numbers: tuple[int, int]) -> tuple[int, int]:
        """The first number as process 0 has it, and the largest of the second ones."""
        return numbers

    @contextmanager
    def rank_zero_first(self) -> Iterator[None]:
        """What process 0 does before the others go on; if it fails, they end."""
        try:
            yield
        except BaseException:
            self.sync((0, 1))
            raise
        self.sync((0, 0))

    def wait_for_rank_zero(self) -> None:
        """Wait until process 0 has done so.

        Raises:
            RunError: it failed.
        """
        if self.sync((0, 0))[1]:
            raise RunError("the first process must be able to begin, got an error there. See what it says.")

    def close(self) -> None:
        """Leave the team."""


class ProcessTeam(Team):
    """The processes that torchrun started, joined by gloo (CPU) or NCCL (CUDA)."""

    def __init__(self, device: str) -> None:
        from datetime import timedelta

        import torch
        from torch import distributed

        self._torch, self._group = torch, distributed
        backend = "nccl" if device.startswith("cuda") else "gloo"
        distributed.init_process_group(backend, timeout=timedelta(minutes=_TIMEOUT_MINUTES))
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self._device = device

    def _call(self, function: Any, *arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except RuntimeError as error:
            reason = str(error).splitlines()[0][:160]
            raise RunError(
                f"all {self.size} processes must go on together, got another one lost ({reason}). Look at its own message, then "
                "go on with --resume."
            ) from None

    def sum(self, tensor: Any) -> None:
        """See `Team`."""
        self._call(self._group.all_reduce, tensor)

    def broadcast(self, tensor: Any) -> None:
        """See `Team`."""
        self._call(self._group.broadcast, tensor, 0)

    def sync(self, numbers: tuple[int, int]) -> tuple[int, int]:
        """See `Team`."""
        first, second = (self._torch.tensor([n], device=self._device) for n in numbers)
        self.broadcast(first)
        self._call(self._group.all_reduce, second, op=self._group.ReduceOp.MAX)
        return int(first), int(second)

    def close(self) -> None:
        """See `Team`."""
        self.sync((0, 0))  # all leave together: whoever goes ahead takes the connections away
        self._group.destroy_process_group()


def started_by_torchrun() -> bool:
    """Whether the environment says, wholly, that this is one of several processes."""
    wanted = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    size = os.environ.get("WORLD_SIZE", "")
    return all(os.environ.get(name) for name in wanted) and size.isdigit() and int(size) > 1


def leave() -> None:
    """End a process that trained with others, at once and well: PyTorch's threads may abort one that ends in the usual way."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def local_rank() -> int:
    """Which of this machine's processes this is, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def join_team(device: str) -> Team:
    """The team that torchrun started this process for; a team of one without it."""
    return ProcessTeam(device) if started_by_torchrun() else Team()
