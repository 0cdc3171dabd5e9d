"""What the program computes, as hashes: the same on the same machine before and after a change that must change nothing.

    python tests/behaviour.py [--only NAME ...] [--json FILE] [--against FILE]

It speaks to the command line alone, so that it runs unchanged whatever becomes of the modules. Each case is a list of
commands in a folder of its own; its facts are hashes of trained weights, of predictions and metrics, and the keys of every JSON
answer. `--against` compares with a file of earlier facts and ends with 1 where a hash differs or a key is missing. Bits depend on
the processor and the libraries: both files must come from one machine.
"""

import argparse
import csv
import hashlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load

Facts = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
_LIMIT_SECONDS = 600  # of one command
COMMAND = (sys.executable, "-m", "clearsight")
DENSE = ("train", "digits", "--hidden", "24,16", "--epochs", "3")
CNN = (
    "train",
    "digits",
    "--model",
    "cnn",
    *["--set", "model.widths=[4,6]", "--set", "model.depths=[1,1]", "--epochs", "2"],
)
SMALL = ("--hidden", "12", "--epochs", "2")
_VARIES = {"created", "python", "clearsight", "platform"}
_TEXTS = ("*.csv", "*.jsonl", "config.toml", "*.json")


def make_photographs(folder: Path) -> None:
    """30 noisy colour pictures of two classes and of several sizes, the same every time."""
    rng = np.random.default_rng(0)
    for name, colour in (("red", (180, 60, 50)), ("blue", (50, 70, 170))):
        (folder / name).mkdir(parents=True)
        for k in range(15):
            size = (*rng.integers(40, 70, 2), 3)
            pixels = np.clip(rng.normal(colour, 40, size), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{k}.png")


def make_numbers(path: Path) -> None:
    """60 grey pictures and how bright each is, a number."""
    rng = np.random.default_rng(1)
    pixels = (rng.integers(0, 200, (60, 1, 1)) + rng.integers(0, 56, (60, 8, 8))).astype(np.uint8)
    np.savez(path, images=pixels, labels=pixels.mean(axis=(1, 2)).astype(np.float32))


def hash_tensors(tensors: dict[str, Any]) -> str:
    """SHA-256 of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, values in sorted(tensors.items()):
        digest.update(f"{name} {values.dtype} {values.shape} ".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:16]


def hash_model(path: Path) -> str:
    """Of all numbers in a model file: weights, scaling, temperature's scores, the self-test's outputs."""
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".safetensors"))
        return hash_tensors(load(archive.read(name)))


def hash_value(value: Any) -> str:
    """Of a JSON value without times and versions; places must have been masked."""
    return hash_text(json.dumps(_leave_times(value), sort_keys=True))


def hash_text(text: str) -> str:
    """SHA-256 of a text, shortened."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _leave_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _leave_times(one) for key, one in value.items() if key not in _VARIES and "seconds" not in key}
    return [_leave_times(one) for one in value] if isinstance(value, list) else value


def mask(text: str, place: Path) -> str:
    """A text without the place it came from, clock times and durations."""
    text = text.replace(str(place), "PLACE").replace(place.name, "PLACE")
    text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d", "TIME", text)
    return re.sub(r"\d{8}-\d{6}", "TIME", text)


def list_keys(value: Any, prefix: str = "") -> list[str]:
    """The keys of a JSON value, nested ones with dots; entries of a list as `[]`."""
    if isinstance(value, dict):
        return sorted(
            {key for name, one in value.items() for key in (f"{prefix}{name}", *list_keys(one, f"{prefix}{name}."))}
        )
    if isinstance(value, list):
        return sorted({key for one in value for key in list_keys(one, f"{prefix}[].")})
    return []


def call(place: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command, without places and times."""
    done = subprocess.run([*COMMAND, *arguments], cwd=place, capture_output=True, text=True, timeout=_LIMIT_SECONDS)
    return done.returncode, mask(done.stdout, place), mask(done.stderr, place)


def run(place: Path, *arguments: str) -> Any:
    """The JSON answer of a command that must succeed.

    Raises:
        RuntimeError: it does not.
    """
    code, out, err = call(place, *arguments, "--quiet", "--json")
    if code:
        raise RuntimeError(f"clearsight {' '.join(arguments)} must succeed, got {code}: {err[-600:]}")
    return json.loads(out)


def describe_run(place: Path, answer: Any) -> Facts:
    """Hashes and keys of a run directory `out` and of the answer of the command that made it."""
    folder = place / "out"
    facts: Facts = {
        "answer": list_keys(answer),
        "files": sorted(path.name for path in folder.iterdir() if path.name[0] != "."),
    }
    for path in sorted(folder.rglob("*.clearsight")):
        facts[f"weights of {path.relative_to(folder)}"] = hash_model(path)
    for path in sorted(folder.glob("*.safetensors")):
        facts[path.name] = hash_tensors(load(path.read_bytes()))
    for path in sorted(path for pattern in _TEXTS for path in folder.glob(pattern) if path.name != "environment.json"):
        text = mask(path.read_text(), place)
        if path.suffix == ".json":
            facts[f"keys of {path.name}"] = list_keys(json.loads(text))
            facts[path.name] = hash_value(json.loads(text))
        elif path.suffix == ".jsonl":
            facts[path.name] = hash_value([json.loads(line) for line in text.splitlines()])
        elif path.suffix == ".csv":
            facts[path.name] = _hash_table(text)
        else:
            facts[path.name] = hash_text(text)
    return facts


def _hash_table(text: str) -> str:
    rows = list(csv.reader(text.splitlines()))
    kept = [k for k, name in enumerate(rows[0]) if "second" not in name] if rows else []
    return hash_text(str([[row[k] for k in kept if k < len(row)] for row in rows]))


def train(*arguments: str) -> Callable[[Path], Facts]:
    """A case that trains, and has the model predict and be evaluated."""

    def case(place: Path) -> Facts:
        facts = describe_run(place, run(place, *arguments, "--out", "out"))
        judged = run(place, "evaluate", "out")
        facts |= {"evaluate": hash_value(judged), "keys of evaluate": list_keys(judged)}
        said = run(place, "predict", "out", "photographs/red/0.png", "photographs/blue/3.png")
        return facts | {"predict": hash_value(said), "keys of predict": list_keys(said)}

    return case


def resume(*arguments: str) -> Callable[[Path], Facts]:
    """A case that is stopped once it has written a checkpoint, and goes on to its end: the facts do not depend on when."""

    def case(place: Path) -> Facts:
        began = [*COMMAND, *arguments, "--out", "out", "--set", "train.checkpoint_steps=20", "--quiet"]
        child = subprocess.Popen(began, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while child.poll() is None and not any((place / "out" / "checkpoints").glob("*")):
                time.sleep(0.02)
            child.send_signal(signal.SIGTERM)  # a SIGINT may have been ignored at the start
            child.wait(timeout=_LIMIT_SECONDS)
        finally:
            child.kill()
        if child.returncode != 143:
            raise RuntimeError(f"a stopped run must end with 143, got {child.returncode}. Let it train longer.")
        facts = describe_run(place, run(place, "train", "--resume", "out"))
        return {key: value for key, value in facts.items() if key not in ("files", "run.json")}

    return case


def study(*arguments: str, leaves: bool = True) -> Callable[[Path], Facts]:
    """A case of several runs, or of one answer."""

    def case(place: Path) -> Facts:
        answer = run(place, *arguments, *(("--out", "out") if leaves else ()))
        facts = describe_run(place, answer) if leaves else {"answer": list_keys(answer)}
        return facts | {"numbers": hash_value(answer)}

    return case


def find_mistakes_and_label_errors(place: Path) -> Facts:
    """A trained model's mistakes, and the label errors of the data."""
    run(place, *DENSE, "--out", "out")
    mistakes = run(place, "mistakes", "out", "--count", "5")
    doubted = run(place, "label-errors", "digits", *SMALL, "--folds", "3", "--out", "doubted", "--workers", "1")
    return {
        "mistakes": hash_value(mistakes), "keys of mistakes": list_keys(mistakes),
        "label errors": hash_value(doubted), "keys of label errors": list_keys(doubted),
    }  # fmt: skip


REFUSED = (
    ("train", "nowhere"), ("train", "digits", "--lr", "0"), ("train", "digits", "--epochs", "0"),
    ("train", "digits", "--set", "train.batchsize=1"), ("train", "digits", "--model", "cmn"),
    ("train", "digits", "--augment", "hflip=1"), ("train", "digits", "--valid-fraction", "0", "--patience", "2"),
    ("predict", "nowhere", "x.png"), ("evaluate", "nowhere"), ("cv", "digits", "--folds", "1"), ("compare", "a", "b"),
    ("tune", "digits"), ("train", "--resume", "nowhere"), ("data", "check", "nowhere"), ("runs", "show", "nowhere"),
)  # fmt: skip


def say_no(place: Path) -> Facts:
    """Exit codes and sentences of commands that are refused."""
    return {" ".join(arguments): list(call(place, *arguments, "--quiet")) for arguments in REFUSED}


def say_what_there_is(place: Path) -> Facts:
    """Everything that is printed without training: settings, models, recipes, and the public names with their arguments."""
    listed = {
        name: call(place, *name.split())
        for name in ("config show", "config schema", "models", "recipe list", "runs list")
    }
    names = "*(n + str(list(inspect.signature(getattr(clearsight, n)).parameters)) for n in clearsight.__all__ if n[0] != 'C')"
    code = f"import clearsight, inspect; print({names}, clearsight.__file__, sep=chr(10))"
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=True)
    *public, file = done.stdout.splitlines()
    if not Path(file).is_relative_to(ROOT):
        raise RuntimeError(f"the package must be that of {ROOT}, got {file}")
    return {key: hash_text(str(value)) for key, value in listed.items()} | {"public": public}


OPTIMIZERS = ("sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw")
CASES: dict[str, Callable[[Path], Facts]] = {
    **{f"dense {name}": train(*DENSE, "--optimizer", name) for name in OPTIMIZERS},
    "dense regularised": train(
        *DENSE, "--dropout", "0.2", "--l1", "0.0001", "--l2", "0.001", "--clip-norm", "1", "--label-smoothing", "0.1",
        "--schedule", "one-cycle", "--warmup-epochs", "0.5", "--activation", "tanh,gelu", "--class-weights", "balanced",
        "--sampling", "balanced", "--patience", "2", "--seed", "3", "--weight-history",
    ),
    "dense numbers": train(
        "train", "numbers.npz", "--task", "regression", "--hidden", "8", "--epochs", "5", "--scale", "standardize",
        "--loss", "huber",
    ),
    "dense augmented": train(*DENSE, "--augment", "digits", "--bias", "shared", "--init", "orthogonal"),
    "dense, lr auto": train(*DENSE, "--lr", "auto"),
    "reference": train(*DENSE, "--engine", "reference", "--optimizer", "momentum"),
    "torch": train(*DENSE, "--engine", "torch"),
    "torch muon": train(*DENSE, "--engine", "torch", "--optimizer", "muon", "--lookahead", "4", "--accumulate", "2"),
    "cnn": train(*CNN, "--augment", "digits,shift=0.1", "--dropout", "0.1", "--ema", "0.9"),
    "resnet8": train("train", "digits", "--model", "resnet8", "--set", "model.widths=[4,4,4]", "--epochs", "1"),
    "vgg": train(
        "train", "digits", "--model", "vgg", "--set", "model.widths=[4]", "--set", "model.depths=[1]", "--hidden", "8",
        "--epochs", "1", "--image-size", "12",
    ),
    "photographs": train("train", "photographs", "--model", "mlp", "--image-size", "16", "--epochs", "5"),
    "pretrained head": train("train", "photographs", "--pretrained", "--image-size", "64", "--epochs", "4"),
    "pretrained, last stages": train(
        "train", "photographs", "--pretrained", "--finetune", "last", "--image-size", "64", "--epochs", "1", "--batch-size", "8",
    ),
    "resumed": resume("train", "digits", "--hidden", "64,32", "--epochs", "400", "--schedule", "cosine", "--dropout", "0.1"),
    "resumed torch": resume(*CNN[:-2], "--epochs", "12", "--ema", "0.9", "--augment", "digits"),
    "search": study(
        "tune", "digits", *SMALL, "--search", "train.lr={log = [1e-3, 0.1]}", "--trials", "4", "--search-seed", "1",
        "--strategy", "random", "--workers", "1",
    ),
    "search with pruning": study(
        "tune", "digits", *SMALL, "--search", "train.lr=0.0001,0.01", "--search", "model.hidden=[[8],[16]]", "--prune", "halving",
        "--workers", "1",
    ),
    "cross-validation": study("cv", "digits", *SMALL, "--folds", "3", "--workers", "1"),
    "recipes compared": study(
        "compare", "--data", "digits", *SMALL, "train.lr=0.01", "train.lr=0.1", "--pairs", "10", "--workers", "1", leaves=False,
    ),
    "learning rates": study("lr-find", "digits", "--hidden", "12", leaves=False),
    "learning curve": study("learning-curve", "digits", *SMALL, "--shares", "0.3,1", "--seeds", "2", leaves=False),
    "data check": study("data", "check", "photographs", leaves=False),
    "label safety": study("data", "safety", "digits", leaves=False),
    "mistakes and label errors": find_mistakes_and_label_errors,
    "refusals": say_no,
    "listings": say_what_there_is,
}  # fmt: skip


def record(names: list[str], *, jobs: int) -> dict[str, Facts]:
    """The facts of each case, which gets one thread, and a folder with data in it; all share a new cache."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": path, "COLUMNS": "100"}

    def work(name: str) -> Facts:
        with tempfile.TemporaryDirectory(prefix="behaviour-") as folder:
            make_photographs(Path(folder) / "photographs")
            make_numbers(Path(folder) / "numbers.npz")
            began = time.monotonic()
            try:
                facts = CASES[name](Path(folder))
            except Exception as error:
                facts = {"error": f"{type(error).__name__}: {error}"}
            print(
                f"{time.monotonic() - began:6.1f} s  {name}{': ' + facts['error'] if 'error' in facts else ''}",
                flush=True,
            )
            return facts

    with tempfile.TemporaryDirectory(prefix="behaviour-cache-") as cache:
        os.environ["CLEARSIGHT_CACHE"] = cache
        with ThreadPoolExecutor(jobs) as pool:
            return dict(zip(names, pool.map(work, names), strict=True))


def find_changes(before: dict[str, Facts], after: dict[str, Facts]) -> list[str]:
    """A line for every hash that differs, every missing key or file and every fact without a counterpart.

    Keys and files may be added.
    """
    changes = [f"{name}: not recorded now" for name in before if name not in after]
    for name in after:
        if name not in before:
            changes.append(f"{name}: not recorded before")
            continue
        for fact in sorted({*before[name], *after[name]}):
            old, new = before[name].get(fact), after[name].get(fact)
            if isinstance(old, list) and isinstance(new, list):
                changes += [f"{name}: {fact}: {key} is missing" for key in old if key not in new]
            elif old != new and not (old is None and (fact.startswith("keys of ") or isinstance(new, list))):
                changes.append(f"{name}: {fact}: {old} before, {new} now")
    return changes


def describe_machine() -> dict[str, str]:
    """What bits may depend on."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else platform.processor()
    cpu = next(
        (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), text[:80]
    )
    versions = {name: version(name) for name in ("numpy", "scipy", "numba", "torch", "pillow")}
    return {"cpu": cpu, "python": platform.python_version(), **versions}


def main(arguments: list[str]) -> int:
    """Record, print, write and compare what is asked for."""
    parser = argparse.ArgumentParser(prog="python tests/behaviour.py")
    parser.add_argument("--only", action="append", default=[], help="cases whose name begins so")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write the facts there")
    parser.add_argument("--against", type=Path, help="compare with the facts of this file")
    options = parser.parse_args(arguments)
    names = [name for name in CASES if not options.only or any(name.startswith(part) for part in options.only)]
    before = json.loads(options.against.read_text()) if options.against else None
    if before and before["machine"] != describe_machine():
        parser.error(f"--against must be of this machine and these libraries, got {before['machine']}.")
    facts = record(names, jobs=options.jobs)
    failed = [name for name, found in facts.items() if "error" in found]
    if options.json:
        options.json.write_text(json.dumps({"machine": describe_machine(), "cases": facts}, indent=1) + "\n")
    earlier = before["cases"] if before else {}
    changes = (
        find_changes({name: earlier[name] for name in earlier if not options.only or name in facts}, facts)
        if before
        else []
    )
    print(*changes, sep="\n")
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    print(
        f"{len(names)} cases, {len(failed)} failed; all facts together {digest}"
        + f"; {len(changes)} changes" * bool(before)
    )
    return 1 if failed or changes else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
