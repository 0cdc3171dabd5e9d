"""How many small mistakes put into the code the tests notice.

    python -m benchmarks.mutants [--module NAME ...] [--function NAME] [--sample N] [--seed S] [--jobs 2]
                                 [--json FILE] [--page FILE]

Each module gets a process of its own. Without `--sample` every mutant is tried. Results of other modules in the JSON file stay
there, and the page shows them too.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.mutants.report import read_known, render_page, render_survivors, summarize
from benchmarks.mutants.session import Session, run_session

HERE = Path(__file__).parent


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutants", description="Do the tests notice mistakes?")
    parser.add_argument("--module", action="append", help="for example training/fit or fit; all without")
    parser.add_argument("--function", default="", help="only mutants of functions and classes that begin so")
    parser.add_argument("--sample", type=int, help="at most so many mutants a module, drawn with --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once")
    parser.add_argument("--cap", type=float, default=20.0, help="seconds of tests a mutant gets at most")
    parser.add_argument("--json", type=Path, help="write the results there")
    parser.add_argument("--page", type=Path, help="write the page there")
    parser.add_argument(
        "--modules", type=Path, default=HERE / "modules.toml", help="which tests stand for which module"
    )
    parser.add_argument("--known", type=Path, default=HERE / "known.toml", help="what is known of survivors")
    return parser.parse_args(arguments)


def _test_module(name: str, options: argparse.Namespace, package: str, tests: list[str]) -> dict[str, Any]:
    """The mutants of one module, in this process."""
    began = time.monotonic()
    known = read_known(options.known).get(name, {})
    session = Session(
        f"{package}.{name.replace('/', '.')}",
        {key for key, (kind, _) in known.items() if kind == "equivalent"},
        sample=options.sample,
        seed=options.seed,
        jobs=options.jobs,
        cap=options.cap,
        only=options.function,
    )
    run_session(session, tests)
    return summarize(session, known, time.monotonic() - began)


def _start(name: str, arguments: list[str]) -> dict[str, Any]:
    """The mutants of one module, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/result.json"
        command = [
            sys.executable,
            "-m",
            "benchmarks.mutants",
            *arguments,
            "--module",
            name,
            "--jobs",
            "1",
            "--json",
            file,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name}: {done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        print(done.stdout, end="", flush=True)
        found: dict[str, Any] = json.loads(Path(file).read_text())["modules"][name]
        return found


def main(arguments: list[str]) -> None:
    """Test the modules that are asked for, print what survived, and write the files that are asked for."""
    options = _parse(arguments)
    listed = tomllib.loads(options.modules.read_text())
    tests: dict[str, list[str]] = listed["tests"]
    wanted = options.module or list(tests)
    names = [name for name in tests if any(name == one or name.endswith(f"/{one}") for one in wanted)]
    if not names:
        raise SystemExit(f"--module must be one of {', '.join(tests)}, got {', '.join(wanted)}.")
    if len(names) == 1:
        results = {names[0]: _test_module(names[0], options, listed["package"], tests[names[0]])}
        print(render_survivors(names[0], results[names[0]]))
    else:
        shared = ["--seed", str(options.seed), "--cap", str(options.cap), "--modules", str(options.modules)]
        shared += ["--known", str(options.known)]
        shared += [] if options.sample is None else ["--sample", str(options.sample)]
        with ThreadPoolExecutor(options.jobs) as pool:
            found = list(pool.map(lambda name: _start(name, shared), names))
        results = dict(zip(names, found, strict=True))
    tried = "all" if options.sample is None else f"at most {options.sample}, drawn with seed {options.seed}"
    for result in results.values():
        result |= {"date": f"{datetime.now(UTC):%Y-%m-%d}", "chosen": tried}
    if options.json:
        if options.json.exists():  # of other modules
            before = json.loads(options.json.read_text())["modules"]
            results = {name: (before | results)[name] for name in tests if name in before | results}
        options.json.write_text(json.dumps({"modules": results}, indent=1) + "\n")
    if options.page:
        options.page.write_text(render_page(results))


if __name__ == "__main__":
    main(sys.argv[1:])
