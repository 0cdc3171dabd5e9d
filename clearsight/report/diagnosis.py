"""What the doctor found, for a terminal."""

from collections.abc import Sequence
from typing import Any

from clearsight.diagnose.case import Case
from clearsight.diagnose.finding import SEVERITIES, Evidence, Finding
from clearsight.diagnose.proof import Cure

_COLORS = {"severe": "31;1", "warning": "33", "note": "2"}
_INDENT = 10


def render_diagnosis(findings: Sequence[Finding], case: Case | None, *, rules: int, color: bool) -> str:
    """All findings, each with its evidence, cause and cure; or that there is none."""
    if case is not None and not case.classes:
        return "The rules are for classifiers; none was applied to this regression."
    if not findings and case is None:
        return "No finding."
    if not findings and case is not None:
        looked = f"{len(case.losses):,} steps and {len(case.probes)} looks inside the network"
        return f"No finding: none of {rules} rules speaks against {looked}."
    return "\n\n".join([*(_render(finding, color=color) for finding in findings), count_findings(findings)])


def render_line(finding: Finding) -> str:
    """A finding in a line: `warning: The validation loss was lowest after epoch 4 ... (overtrained)`."""
    return f"{finding.severity}: {finding.summary} ({finding.code})"


def render_section(findings: Sequence[Finding]) -> str:
    """Severe findings and warnings as a section of a page; empty where there are none."""
    from clearsight.report import page

    loud = [finding for finding in findings if finding.severity != "note"]
    if not loud:
        return ""
    texts = [f"{one.severity.capitalize()}: {one.summary} {one.cause} {_render_cure(one)}" for one in loud]
    return page.section("What the doctor says", *(page.paragraph(text) for text in texts))


def render_cure(cure: Cure) -> str:
    """What treating a run brought, beside its controls; and the file of the cured configuration."""
    before = cure.arms["as it was"]
    lines = [f"accuracy on {cure.n:,} validation rows, mean of {len(before.scores)} seeds:"]
    lines.append(f"  {'as it was':<14}{before.mean:.3f}")
    for arm in list(cure.arms.values())[1:]:
        interval = "" if arm.low is None else f" (95 % interval {arm.low:+.3f} to {arm.high:+.3f})"
        budget = f", the best of {cure.tries} tries" if arm.name == "random search" else ""
        lines.append(f"  {arm.name:<14}{arm.mean:.3f}  {arm.gain:+.3f}{interval}{budget}")
    if cure.file is None:
        return "\n".join([*lines, "Nothing helped: no prescription raised the accuracy beyond that of the controls."])
    lines.append("changes, and what the cured run loses without each alone:")
    for bill in cure.bills:
        interval = "" if bill.low is None else f" ({bill.low:+.3f} to {bill.high:+.3f})"
        lines.append(f"  {bill.change.code}: {render_patch(bill.change.patch)}  {bill.loss:.3f}{interval}")
    if cure.left:
        lines.append(f"left    {', '.join(cure.left)}")
    return "\n".join([*lines, f"file    {cure.file}", f"next    `clearsight train --config {cure.file}`"])


def count_findings(findings: Sequence[Finding]) -> str:
    """`1 severe finding, 2 warnings, 1 note`; empty for none."""
    names = {
        "severe": ("severe finding", "severe findings"),
        "warning": ("warning", "warnings"),
        "note": ("note", "notes"),
    }
    counts = {level: sum(finding.severity == level for finding in findings) for level in SEVERITIES}
    return ", ".join(f"{n} {names[level][n > 1]}" for level, n in counts.items() if n)


def _render(finding: Finding, *, color: bool) -> str:
    head = f"{finding.severity:<{_INDENT}}{finding.code}"
    if color:
        head = f"\x1b[{_COLORS[finding.severity]}m{head}\x1b[0m"
    if finding.severity == "note":
        return f"{head}\n{'':{_INDENT}}{finding.summary}"
    sure = f" ({finding.confidence:.0%} sure of the cause)" if finding.cause else ""
    lines = [f"{head}{sure}", f"{'':{_INDENT}}{finding.summary}"]
    lines += _render_part("why", [finding.cause])
    lines += _render_part("evidence", [_render_evidence(one) for one in finding.evidence])
    lines += _render_part("cure", [_render_cure(finding)])
    lines += _render_part("or else", [", ".join(finding.alternatives)] if finding.alternatives else [])
    return "\n".join(lines)


def _render_cure(finding: Finding) -> str:
    return " ".join(part for part in (finding.advice, render_patch(finding.prescription)) if part)


def _render_part(name: str, lines: Sequence[str]) -> list[str]:
    return [f"{name if k == 0 else '':<{_INDENT}}{line}" for k, line in enumerate(lines) if line]


def _render_evidence(one: Evidence) -> str:
    value = one.value if isinstance(one.value, str) else f"{one.value:.3g}"
    known = [f"limit {one.limit:.3g}"] if one.limit is not None else []
    known += [f"healthy {one.healthy[0]:.3g} to {one.healthy[1]:.3g}"] if one.healthy else []
    beside = f" ({', '.join(known)})" if known else ""
    return f"{one.what}: {value}{beside}{f', {one.where}' if one.where else ''}"


def render_patch(patch: dict[str, Any]) -> str:
    """Settings as flags: `--set train.lr=0.01`."""
    pairs = [(f"{section}.{name}", value) for section, inner in patch.items() for name, value in inner.items()]
    return " ".join(f"--set {name}={_render_value(value)}" for name, value in pairs)


def _render_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(str, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
