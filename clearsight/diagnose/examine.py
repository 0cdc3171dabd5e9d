"""From a case to its findings, worst first: every rule is asked, and a symptom gives way to what explains it."""

from dataclasses import replace

import numpy as np

from clearsight.diagnose.bank import weigh
from clearsight.diagnose.case import Case
from clearsight.diagnose.finding import SEVERITIES, Finding
from clearsight.diagnose.rules import NEVER_SEVERE, RULES

LEVEL = 0.05  # of a false alarm in a healthy training, over all rules
_SYMPTOMS = {"dead-units", "collapsed", "stuck", "overtrained", "overfitting", "underfitting", "miscalibrated"}


def examine(case: Case) -> list[Finding]:
    """What is wrong with a training: severe findings first, and among equals causes before symptoms.

    A symptom beside a severe cause is a note. Of the severe causes the first stays so, and those that follow it are warnings, for
    they may be no more than its consequences.
    """
    if not case.classes:  # the rules are for classifiers
        return []
    with np.errstate(all="ignore"):
        found = [_weigh(finding) for rule in RULES.values() if (finding := rule(case)) is not None]
    severe = [finding for finding in found if finding.severity == "severe" and finding.code not in _SYMPTOMS]
    judged = [_relate(finding, severe) for finding in found]
    return sorted(judged, key=lambda finding: SEVERITIES.index(finding.severity))  # stable: causes stay before symptoms


def _weigh(finding: Finding) -> Finding:
    """With p-values; what is severe by numbers that healthy trainings have too is a warning.

    The level is 0.05, divided by the number of rules that can be severe (Bonferroni). Evidence that no healthy training can show
    has no p-value.
    """
    evidence = tuple(weigh(one) for one in finding.evidence)
    known = [one.p for one in evidence if one.p is not None]
    doubtful = finding.severity == "severe" and known and min(known) > LEVEL / (len(RULES) - len(NEVER_SEVERE))
    return replace(finding, evidence=evidence, severity="warning" if doubtful else finding.severity)


def _relate(finding: Finding, causes: list[Finding]) -> Finding:
    if not causes or finding is causes[0]:
        return finding
    if finding.code in _SYMPTOMS:
        return replace(finding, severity="note")
    return replace(finding, severity="warning") if finding.severity == "severe" else finding
