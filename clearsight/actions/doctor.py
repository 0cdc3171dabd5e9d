"""The doctor: what is wrong with a training, by what it recorded; and with data, by checks and a short probe training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clearsight.config.build import build_config
from clearsight.core.flaws import Flaw
from clearsight.core.progress import MeterBuilder, Note, SilentMeter
from clearsight.data.clean import drop_flawed
from clearsight.data.dataset import Dataset
from clearsight.data.read.load import NAMED
from clearsight.diagnose.case import Case
from clearsight.diagnose.examine import examine
from clearsight.diagnose.finding import SEVERITIES, Evidence, Finding
from clearsight.diagnose.rules import DATA_CODES, RULES
from clearsight.errors import DataError, UsageError
from clearsight.pipeline.case import read_case
from clearsight.pipeline.data import check_source
from clearsight.pipeline.train_in_memory import train_case
from clearsight.runs import store

_SEVERITY = {"error": "severe", "warning": "warning", "note": "note"}
_PROBE_ROWS, _PROBE = 3000, {"model": {"family": "mlp"}, "train": {"epochs": 10}}
_SHOWN_FILES = 3


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What the doctor found.

    Args:
        run: the directory; None for data. findings: worst first. case: what they are drawn from; None for data that cannot be
            trained on. data: what was checked; empty for a run.
    """

    run: Path | None
    case: Case | None
    findings: tuple[Finding, ...]
    data: str = ""

    @property
    def is_severe(self) -> bool:
        """Whether a severe finding stands."""
        return any(finding.severity == "severe" for finding in self.findings)

    def summary(self) -> dict[str, Any]:
        """The object that `doctor --json` prints; its keys are a contract."""
        what = {"data": self.data} if self.run is None else {"run": str(self.run)}
        return {**what, "rules": len(RULES), "findings": [finding.as_dict() for finding in self.findings]}


def diagnose(
    what: str | Path, *, root: str | Path = "runs", note: Note = lambda text: None, meter: MeterBuilder = SilentMeter
) -> Diagnosis:
    """Say what is wrong with a training, from the numbers in its directory, or with data, before any training.

    Args:
        what: a run directory that has ended, its name below `root`, or `last`; or a name or path of data.
        note, meter: are told of the reading of data.

    Raises:
        UsageError: there is neither, or the run has not ended. RunError: it is damaged. DataError: the data cannot be read.
    """
    try:
        path = store.find_run(str(what), Path(root))
    except UsageError:
        if not is_data(str(what)):
            raise
        return diagnose_data(str(what), note=note, meter=meter)
    case = read_case(path)
    return Diagnosis(path, case, tuple(examine(case)))


def is_data(what: str) -> bool:
    """Whether this is a name of data, or a path at which something lies."""
    try:
        return what == "digits" or what in NAMED or (bool(what) and Path(what).exists())
    except (OSError, ValueError):  # a name too long, or with a null byte
        return False


def diagnose_data(source: str, *, note: Note = lambda text: None, meter: MeterBuilder = SilentMeter) -> Diagnosis:
    """What a check of data finds, and what a probe training of a few seconds tells of its labels and inputs.

    The probe is a dense net of the usual settings, for ten epochs on at most 3,000 of the rows.

    Raises:
        UsageError, DataError: the data cannot be read.
    """
    config = build_config({"data": {"source": source}})
    dataset, flaws = check_source(config, meter=meter)
    for text in dataset.notes:
        note(text)
    found = [_translate(flaw) for flaw in flaws]
    case = None
    try:
        case = _probe(drop_flawed(dataset))
        found += [
            one for one in examine(case) if one.code in DATA_CODES and one.code not in {flaw.kind for flaw in flaws}
        ]
    except (UsageError, DataError) as error:
        note(f"no probe training was possible: {error}")
    return Diagnosis(None, case, tuple(sorted(found, key=lambda one: SEVERITIES.index(one.severity))), source)


def _translate(flaw: Flaw) -> Finding:
    """A flaw of data as a finding; its message ends with what to do."""
    names = ", ".join(flaw.files[:_SHOWN_FILES]) + (", ..." if len(flaw.files) > _SHOWN_FILES else "")
    evidence = (Evidence("files", names),) if names else ()
    return Finding(flaw.kind, _SEVERITY[flaw.level], 1.0, flaw.message, "", evidence)


def _probe(dataset: Dataset) -> Case:
    rows = np.random.default_rng(0).permutation(len(dataset))[:_PROBE_ROWS]
    some = dataset if len(dataset) <= _PROBE_ROWS else dataset.select(np.sort(rows))
    return train_case(build_config(_PROBE), some)
