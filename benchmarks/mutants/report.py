"""What the mutants of all modules came to: plain values for JSON, and a page."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.mutants.session import EQUIVALENT, KILLED, NOT_INSTALLED, SURVIVED, Session

Key = tuple[str, str, str]
KINDS = ("equivalent", "open")
_COMMAND = "make mutants"
_INTRO = f"""# Mutants: do the tests notice mistakes?

`{_COMMAND}` (`python -m benchmarks.mutants`) makes one small change at a time in the modules below (a comparison, a sign, a
constant, a condition, an argument, a
statement left out), runs the tests that execute the changed line, and counts how many changes make a test fail. The score is the
killed share of all mutants that are not equivalent: an equivalent mutant changes nothing that anyone can observe.
`python -m benchmarks.mutants --module training/fit` looks at one module and prints its survivors. [How it works and
why](decisions/0015-mutants.md).
"""


def read_known(path: Path) -> dict[str, dict[Key, tuple[str, str]]]:
    """For each module the kind and reason of each mutant that is known to survive.

    Raises:
        ValueError: an entry without reason, of another kind, or there twice.
    """
    found: dict[str, dict[Key, tuple[str, str]]] = {}
    entries = tomllib.loads(path.read_text())
    if odd := set(entries) - set(KINDS):
        raise ValueError(f"{path} must hold entries {' and '.join(KINDS)}, got {sorted(odd)}")
    for kind in KINDS:
        for entry in entries.get(kind, []):
            key, own = (entry["function"], entry["line"], entry["mutant"]), found.setdefault(entry["module"], {})
            if key in own or not entry["reason"]:
                raise ValueError(f"{path} must name each mutant once, with its reason, got {entry}")
            own[key] = kind, entry["reason"]
    return found


def summarize(session: Session, known: dict[Key, tuple[str, str]], seconds: float) -> dict[str, Any]:
    """One module's result as plain values."""
    counts = {status: sum(one.status == status for one in session.results) for status in _STATUSES}
    judged = counts[KILLED] + counts[SURVIVED]
    rest = [one for one in session.results if one.status != KILLED]
    whole = len(session.results) == session.total
    return {
        "mutants": session.total,
        "tried": len(session.results),
        **{status.replace(" ", "_"): count for status, count in counts.items()},
        "score": counts[KILLED] / judged if judged else None,
        "seconds": round(seconds),
        "tests": session.num_tests, "unfit": session.unfit,
        "left": [
            {
                "status": one.status, "function": one.mutant.function, "line": one.mutant.line, "mutant": one.mutant.mutant,
                "tests": one.tests, "reason": known.get(one.mutant.key, ("", ""))[1],
            }
            for one in rest
        ],
        "stale": sorted(set(known) - {one.mutant.key for one in rest}) if whole else [],
    }  # fmt: skip


_STATUSES = (KILLED, EQUIVALENT, NOT_INSTALLED, SURVIVED)


def render_survivors(name: str, result: dict[str, Any]) -> str:
    """A module's score and survivors as text for the terminal."""
    lines = [f"{name}: {_describe(result)}"]
    for one in result["left"]:
        if one["status"] in (SURVIVED, NOT_INSTALLED) and not one["reason"]:
            ran = f"{one['tests']} tests" if one["status"] == SURVIVED else one["status"]
            lines += [f"  {one['function'] or '(module)'} ({ran})", f"    - {one['line']}", f"    + {one['mutant']}"]
    lines += [f"  not used, as it fails when it runs again without a mutant: {name}" for name in result["unfit"]]
    lines += [f"  known.toml names a mutant that is no survivor: {' | '.join(key)}" for key in result["stale"]]
    return "\n".join(lines)


def _describe(result: dict[str, Any]) -> str:
    score = "no score" if result["score"] is None else f"{result['score']:.1%} killed"
    return (
        f"{score} ({result[KILLED]} of {result[KILLED] + result[SURVIVED]}; {result[EQUIVALENT]} equivalent, "
        f"{result['not_installed']} not installed, {result['tried']} of {result['mutants']} tried, {result['seconds']} s)"
    )


def render_page(results: dict[str, dict[str, Any]]) -> str:
    """The page `docs/mutants.md`."""
    lines = [
        _INTRO,
        "| module | mutants | tried | killed | equivalent | survived | score | date |",
        "|-|-:|-:|-:|-:|-:|-:|-|",
    ]
    for name, r in results.items():
        score = "" if r["score"] is None else f"{r['score']:.1%}"
        counts = [r["mutants"], r["tried"], r[KILLED], r[EQUIVALENT], r[SURVIVED]]
        lines.append(f"| {name} | {' | '.join(map(str, counts))} | {score} | {r['date']} |")
    totals = [sum(r[key] for r in results.values()) for key in ("mutants", "tried", KILLED, EQUIVALENT, SURVIVED)]
    share = totals[2] / max(1, totals[2] + totals[4])
    lines += [f"| **all** | {' | '.join(map(str, totals))} | {share:.1%} | |", ""]
    sampled = sorted({r["chosen"] for r in results.values()} - {"all"})
    lines += [f"Tried where *tried* is less than *mutants*: {'; '.join(sampled)}.", ""] if sampled else []
    missed = sum(r["not_installed"] for r in results.values())
    lines.append(
        f"{missed} changes could not be installed while the module was in use and count in no column but *tried*."
    )
    for title, status in (("Survivors", SURVIVED), ("Equivalent mutants", EQUIVALENT)):
        lines += ["", f"## {title}", ""]
        for name, r in results.items():
            lines += [
                f"- `{name}` {line}" for line in _render_left(one for one in r["left"] if one["status"] == status)
            ]
    return "\n".join(lines) + "\n"


def _render_left(left: Iterable[dict[str, Any]]) -> list[str]:
    return [
        f"{one['function'] or '(module)'}: `{_escape(one['line'])}` to `{_escape(one['mutant'])}`: "
        f"{one['reason'] or ('no test executes it' if not one['tests'] else 'no test tells them apart yet')}"
        for one in left
    ]


def _escape(text: str) -> str:
    return text.replace("`", "'")
