"""The doctor: what is wrong with a training, by what it recorded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clearsight.diagnose.case import Case
from clearsight.diagnose.examine import examine
from clearsight.diagnose.finding import Finding
from clearsight.diagnose.rules import RULES
from clearsight.pipeline.case import read_case
from clearsight.runs import store


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What the doctor found.

    Args:
        run: the directory. findings: worst first. case: what they are drawn from.
    """

    run: Path
    case: Case
    findings: tuple[Finding, ...]

    @property
    def is_severe(self) -> bool:
        """Whether a severe finding stands."""
        return any(finding.severity == "severe" for finding in self.findings)

    def summary(self) -> dict[str, Any]:
        """The object that `doctor --json` prints; its keys are a contract."""
        return {"run": str(self.run), "rules": len(RULES), "findings": [finding.as_dict() for finding in self.findings]}


def diagnose(run: str | Path, *, root: str | Path = "runs") -> Diagnosis:
    """Say what is wrong with a training, from the numbers in its directory; nothing is trained and no picture is read.

    Args:
        run: a run directory that has ended, its name below `root`, or `last`.

    Raises:
        UsageError: there is none, or it has not ended. RunError: it is damaged.
    """
    path = store.find_run(str(run), Path(root))
    case = read_case(path)
    return Diagnosis(path, case, tuple(examine(case)))
