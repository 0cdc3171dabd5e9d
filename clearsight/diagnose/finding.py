"""What the doctor says of a training: one thing that is wrong, with its evidence, its cause and its cure."""

from dataclasses import dataclass, field
from typing import Any

SEVERITIES = ("severe", "warning", "note")


@dataclass(frozen=True)
class Evidence:
    """A number that speaks for a finding.

    Args:
        what: was measured, in words. value: what came out. limit: what it is beyond, None where it is compared with nothing.
        where: layer, class, split or step; empty for the whole.
        statistic: its name in the bank of healthy trainings; empty for what needs none. healthy: the smallest and largest value
            there. p: the p-value by the bank; see `Healthy.find_p`.
    """

    what: str
    value: float | str
    limit: float | None = None
    where: str = ""
    statistic: str = ""
    healthy: tuple[float, float] | None = None
    p: float | None = None


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        code: a fixed word for programs, such as `vanishing-signal`; docs/doctor.md lists them.
        severity: `severe`, where the model is worthless or much worse than it could be; `warning`, where it could be better;
            `note`, what one should know.
        confidence: that the cause is the one named, 0 to 1.
        summary: what is seen, a sentence. cause: why, a sentence.
        evidence: the numbers behind it.
        prescription: settings that should cure it, nested as in a configuration file; empty where no setting does.
        advice: the prescription in words.
        alternatives: codes of what else could look like it.
        reference: where the threshold or the mechanism comes from.
    """

    code: str
    severity: str
    confidence: float
    summary: str
    cause: str
    evidence: tuple[Evidence, ...] = ()
    prescription: dict[str, Any] = field(default_factory=dict)
    advice: str = ""
    alternatives: tuple[str, ...] = ()
    reference: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        evidence = [
            {"what": e.what, "value": e.value, "limit": e.limit, "where": e.where, "healthy": e.healthy, "p": e.p}
            for e in self.evidence
        ]
        return {
            "code": self.code, "severity": self.severity, "confidence": self.confidence, "summary": self.summary,
            "cause": self.cause, "evidence": evidence, "prescription": self.prescription, "advice": self.advice,
            "alternatives": list(self.alternatives), "reference": self.reference,
        }  # fmt: skip
