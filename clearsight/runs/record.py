"""What is said of a run in one line: its folder, how it stands, and its accuracies."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class RunStatus(StrEnum):
    """How a run stands. A record says so; `killed` is found where the process of one that is under way no longer lives."""

    PREPARING = "preparing"  # data is read and checked, nothing was trained
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    KILLED = "killed"
    FINISHED = "finished"
    STOPPED_EARLY = "stopped early"
    DIVERGED = "diverged"


UNDER_WAY = (RunStatus.PREPARING, RunStatus.RUNNING)
ENDED = (RunStatus.FINISHED, RunStatus.STOPPED_EARLY, RunStatus.DIVERGED)  # with results


@dataclass(frozen=True)
class RunRecord:
    """One line about a run: its folder, how it stands (a `RunStatus`, or what a damaged record says), and its accuracies."""

    path: Path
    status: str
    created: str
    data: str
    model: str
    accuracy: dict[str, float]
