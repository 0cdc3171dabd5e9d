"""Imports run downwards, the core stays light and free of pickle, and start-up loads nothing heavy."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "clearsight"
PACKAGES = {
    "cli": "one file per command group; turns flags into one call of actions and prints the answer",
    "recipes": "published experiments as TOML, each with its source and published number",
    "actions": "one file per public call: train, evaluate, tune, cross_validate, compare, mistakes, label_errors, learning_curve, classifier",
    "search": "space, strategies, loop, jobs, executors, leaderboard, journal: what tune and cross_validate share",
    "report": "from numbers to pictures, tables, sentences and pages",
    "pipeline": "from RunConfig to a trained model in memory: data, choice, build, features, head, prepare, judge, cost, safety, finish",
    "runs": "the run directory: layout, record, events, liveness, environment, trackers, corrections, uses of the test split. No training",
    "diagnose": "from recorded numbers to findings. No training, no files",
    "bundle": "the model file, and predictions for picture files. Needs no training code and, for a dense net, no PyTorch",
    "training": "the fit loop, its plan and observers, the order of rows, schedules, history, checkpoints, probes, learning-rate search",
    "engines": "the Engine protocol; dense (reference, kernel, product, primitives); torch; several processes",
    "models": "architectures as descriptions, initialisers",
    "augment": "transforms of pictures, and whether labels survive them",
    "data": "read (files to Dataset), named (known data sets), Dataset, split, preprocess, checks",
    "evaluation": "losses, metrics, calibration, statistical comparison, novelty. Pure numbers",
    "config": "RunConfig and how it is read: schema, families of networks, build, resolve, rules, files, the page of settings",
    "core": "what every package may use: durable files, progress, flaws of data, hashing, threads, intervals, numerics",
    "errors": "the exception tree",
}  # from the top down: a package may import those below it
RANK = {name: -place for place, name in enumerate(PACKAGES)}
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("torch", "numba", "matplotlib", "sklearn", "scipy", "numpy", "pydantic", "rich", "PIL")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, []


def unit(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.long
@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downwards_only(path):
    own = unit(path)
    if own in ("__init__", "__main__"):
        return
    for module, names in imports(path):
        if module == "clearsight":
            targets = [name for name in names if not name.startswith("__")]
        elif module.startswith("clearsight."):
            targets = [module.split(".")[1]]
        else:
            continue
        for target in targets:
            assert RANK[target] <= RANK[own], f"{own} must not import {target}"


def test_the_design_page_prints_the_same_packages_in_the_same_order():
    text = (PACKAGE.parent / "docs" / "design.md").read_text()
    printed = re.findall(r"^    (\w+) +(.+)$", text.partition("## Packages")[2].partition("\n## ")[0], re.MULTILINE)
    assert dict(printed) == PACKAGES
    assert [name for name, _ in printed] == list(PACKAGES)


def test_every_part_has_its_place():
    assert {unit(path) for path in FILES} - {"__init__", "__main__"} == set(RANK)


@pytest.mark.long
@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_imports_pickle_or_runs_text(path):
    modules = {module.split(".")[0] for module, _ in imports(path)}
    assert not modules & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    calls = {
        n.func.id
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    assert not calls & {"eval", "exec", "compile", "__import__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_short_and_say_what_they_do(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 420
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize(
    "command", ["import clearsight", "from clearsight.cli.main import main; sys.argv = ['c', '--help']; main()"]
)
def test_start_up_imports_nothing_heavy(command):
    code = f"import sys, atexit; atexit.register(lambda: print('LOADED', *sorted(set(m.split('.')[0] for m in sys.modules)))); {command}"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(out.split("LOADED")[1].split())
    assert not loaded & set(HEAVY)


@pytest.mark.long
def test_core_needs_no_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('torch is hidden')")
    code = (
        "import clearsight; import numpy as np;"
        f"run = clearsight.train('digits', epochs=2, out={str(tmp_path / 'run')!r});"
        "print(clearsight.evaluate(run.path).n, clearsight.load(run.path).predict(np.zeros((1, 8, 8), np.uint8)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("359 ")


@pytest.mark.long
def test_optimizers_do_not_load_pytorchs_compiler():
    code = (
        "import sys, torch; from clearsight.engines.objective import Objective; from clearsight.engines.torch_optimizers import build_optimizer\n"
        "for name in ('sgd', 'momentum', 'nesterov', 'adam', 'adamw', 'rmsprop', 'muon'):\n"
        "    flat, grad = torch.zeros(12), torch.ones(12)\n"
        "    stepper = build_optimizer(Objective(optimizer=name), flat, grad, shapes=[(3, 2), (2,), (2, 2)])\n"
        "    stepper.step(0.1)\n"
        "    stepper.load_slots(stepper.slots())\n"
        "    assert flat.all(), name\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_public_names_are_all_there():
    import clearsight

    assert sorted(clearsight.__all__) == clearsight.__all__
    assert dir(clearsight) == sorted([*clearsight.__all__, "__version__"])
    for name in clearsight.__all__:
        assert callable(getattr(clearsight, name))
        assert callable(getattr(clearsight, name)), "a subpackage of that name would hide it the second time"
