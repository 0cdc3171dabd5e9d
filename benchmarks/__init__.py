"""What every benchmark here shares: command line, timing in turns, the state of the machine, tables and where they go.

It must not know what is measured.
"""

import argparse
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import clearsight
from clearsight.errors import UsageError

INTRO = """# Benchmarks

Each table is written by the command that it names; run it to get the numbers of your machine. Peers are measured in the
same process, in turns with this project, and every figure is a median of `n` rounds with its range.
"""
SETTINGS = ("OPENBLAS_", "OMP_", "MKL_", "NUMBA_")  # environment variables that change what is measured
PACKAGES = ("numpy", "scipy", "numba", "scikit-learn", "torch")

Work = Callable[[], float | None]
"""Something to time, set up and not yet begun; it may return the loss that it reached."""
Prepare = Callable[[], Work]
"""Sets one piece of work up anew; not timed."""


def measure_in_turns(contestants: Mapping[str, Prepare], *, rounds: int) -> dict[str, dict[str, list[Any]]]:
    """Time every contestant once a round, A B C A B C ..., so that a slow minute of the machine falls on all.

    Returns:
        For each contestant one entry a round in `seconds`, in `cpu_share` (processor seconds by wall seconds: clearly
        below 1 in work of one thread means that something else held the processor) and in `loss`.
    """
    record: dict[str, dict[str, list[Any]]] = {
        name: {"seconds": [], "cpu_share": [], "loss": []} for name in contestants
    }
    for _ in range(rounds):
        for name, prepare in contestants.items():
            work = prepare()
            cpu, wall = time.process_time(), time.perf_counter()
            loss = work()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            for key, value in (("seconds", wall), ("cpu_share", cpu / wall), ("loss", loss)):
                record[name][key].append(value)
    return record


def summarize(values: Iterable[float]) -> dict[str, Any]:
    """Median, min, max and n."""
    found = list(values)
    return {"median": statistics.median(found), "min": min(found), "max": max(found), "n": len(found)}


def _read_field(path: str, name: str) -> str | None:
    """The first `name : value` of a file of /proc, or None where the system has no such file or line."""
    try:
        text = Path(path).read_text()
    except OSError:
        return None
    match = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1).strip() if match else None


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory and operating system."""
    memory = _read_field("/proc/meminfo", "MemTotal")
    return {
        "cpu": _read_field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory.split()[0]) / 2**20, 1) if memory else None,
        "system": platform.platform(),
    }


def find_versions() -> dict[str, str]:
    """Versions of Python, of this project, and of those packages that are there."""
    found = {"python": platform.python_version(), "clearsight": clearsight.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def load_average() -> list[float] | None:
    """How many processes wanted to run over the last 1, 5 and 15 minutes, or None where the system does not tell."""
    return [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None


def describe_run(command: str) -> dict[str, Any]:
    """What every record begins with: how and when it was made, on what and with what."""
    return {
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "versions": find_versions(),
        "environment": {key: value for key, value in sorted(os.environ.items()) if key.startswith(SETTINGS)},
        "load_average_before": load_average(),
    }


def render_run(record: Mapping[str, Any]) -> str:
    """`describe_run` as a sentence or two."""
    machine, load = record["machine"], record["load_average_before"]
    settings = " ".join(f"{key}={value}" for key, value in record["environment"].items())
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    sentences = [
        f"`{record['command']}`, {record['date'][:10]}, {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB; {versions}."
    ]
    if settings:
        sentences.append(f"The environment set `{settings}`.")
    if load:
        sentences.append(f"Load average before: {load[0]}.")
    return " ".join(sentences)


def render_rows(rows: Mapping[str, Mapping[str, Any]], *, unit: str, bold: Collection[str]) -> str:
    """A Markdown table of contestants with `median, min, max, n, ratio`."""
    lines = [f"| | median {unit} | min | max | n | times ours |", "|-|-:|-:|-:|-:|-:|"]
    for name, row in rows.items():
        numbers = " | ".join(f"{row[key]:#.3g}" for key in ("median", "min", "max"))
        lines.append(f"| {f'**{name}**' if name in bold else name} | {numbers} | {row['n']} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def replace_section(text: str, *, name: str, body: str) -> str:
    """`text` with what lies between `<!-- name:begin -->` and `<!-- name:end -->` replaced, or added at the end.

    Raises:
        UsageError: the markers are not one pair in order.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    section = f"{begin}\n{body.strip()}\n{end}"
    if begin not in text and end not in text:
        return f"{text.rstrip()}\n\n{section}\n".lstrip()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise UsageError(f"the table's document must hold one {begin} and then one {end}, got others. Fix the markers.")
    return text[: text.index(begin)] + section + text[text.index(end) + len(end) :]


def parse_arguments(name: str, arguments: list[str] | None) -> argparse.Namespace:
    """`rounds`, `quick`, and where `json` and `table` go; a quick run writes only what it is told to write."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--rounds", type=int, help="measurements of each contestant (5; with --quick 2)")
    parser.add_argument("--json", type=Path, help=f"the record (docs/benchmarks/{name}.json; with --quick none)")
    parser.add_argument("--table", type=Path, help="the document of the table (docs/benchmarks.md; with --quick none)")
    parser.add_argument("--quick", action="store_true", help="few rows and rounds: does it run at all?")
    args = parser.parse_args(arguments)
    if args.rounds is None:
        args.rounds = 2 if args.quick else 5
    if args.rounds < 1:
        parser.error(f"--rounds must be 1 or more, got {args.rounds}. Leave it out for 5.")
    if not args.quick:
        args.json = args.json or Path("docs/benchmarks") / f"{name}.json"
        args.table = args.table or Path("docs/benchmarks.md")
    args.command = f"python -m benchmarks.{name} --rounds {args.rounds}{' --quick' if args.quick else ''}"
    return args


def write_results(
    record: Mapping[str, Any], table: str, *, name: str, json_path: Path | None, table_path: Path | None
) -> None:
    """Write the record and the table's section, each where a path is given, and print the table.

    Raises:
        UsageError: see `replace_section`; the record is written by then.
    """
    for path in (json_path, table_path):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
    if json_path:
        json_path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if table_path:
        text = table_path.read_text(encoding="utf-8") if table_path.exists() else INTRO
        table_path.write_text(replace_section(text, name=name, body=table), encoding="utf-8")
    print(table)


def run_benchmark(
    name: str,
    arguments: list[str] | None,
    *,
    measure: Callable[..., dict[str, Any]],
    render: Callable[[dict[str, Any]], str],
) -> None:
    """The command line of a benchmark: measure (by `rounds`, `quick`, `command`), print, write the files asked for."""
    args = parse_arguments(name, arguments)
    record = measure(rounds=args.rounds, quick=args.quick, command=args.command)
    write_results(record, render(record), name=name, json_path=args.json, table_path=args.table)
