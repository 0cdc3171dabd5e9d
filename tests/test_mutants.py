"""The tool behind `make mutants`, on a module with one line that a test guards and one that none does."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.mutants.make import apply, make_mutants

SOURCE = """
LIMIT = 3

def guarded(x):
    if x < LIMIT:
        return "low"
    return "high"

def unguarded(x):
    return x + LIMIT

def unused(x):
    return x - 1
"""
TESTS = """
import small

def test_the_limit_is_high():
    assert small.guarded(3) == "high"
    assert small.guarded(2) == "low"

def test_nothing():
    small.unguarded(1)
"""
KNOWN = """
[[equivalent]]
module = "small"
function = "unused"
line = "return x - 1"
mutant = "return x + 1"
reason = "said so here"
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "small_package").mkdir()
    (tmp_path / "small_package" / "__init__.py").write_text("")
    (tmp_path / "small_package" / "small.py").write_text(SOURCE)
    (tmp_path / "test_small.py").write_text(TESTS.replace("import small", "from small_package import small"))
    (tmp_path / "known.toml").write_text(KNOWN)
    (tmp_path / "modules.toml").write_text('package = "small_package"\n[tests]\nsmall = ["test_small.py"]\n')
    return tmp_path


def run(folder, *options):
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parent.parent}{os.pathsep}{folder}"}
    command = [
        sys.executable,
        "-m",
        "benchmarks.mutants",
        "--modules",
        "modules.toml",
        "--known",
        "known.toml",
        *options,
    ]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.long
def test_mutants_of_guarded_lines_are_killed_and_others_survive(project):
    done = run(project, "--json", "found.json", "--page", "page.md")
    assert done.returncode == 0, done.stderr
    found = json.loads((project / "found.json").read_text())["modules"]["small"]
    left = {(one["function"], one["mutant"]): one for one in found["left"]}
    assert found["mutants"] == found["tried"] == found["killed"] + len(found["left"])
    assert {function for function, _ in left} == {"unguarded", "unused"}
    assert left["unguarded", "return x - LIMIT"]["tests"] == 1
    assert left["unused", "return x - 0"]["tests"] == 0
    assert left["unused", "return x + 1"]["status"] == "equivalent"
    assert found["score"] == pytest.approx(found["killed"] / (found["tried"] - 1))
    assert found["killed"] == 5  # the limit, < for <=, not <, and both answers lost
    assert "said so here" in (project / "page.md").read_text()
    assert "no test executes it" in (project / "page.md").read_text()
    assert (project / "small_package" / "small.py").read_text() == SOURCE


@pytest.mark.long
def test_a_test_that_fails_without_a_mutant_is_told(project):
    (project / "test_small.py").write_text("def test_wrong():\n    assert False\n")
    done = run(project)
    assert done.returncode != 0
    assert "must pass without mutants" in done.stderr
    assert "test_wrong" in done.stderr


@pytest.mark.long
def test_a_test_that_passes_only_once_kills_nothing(project):
    """It would fail for every mutant, whatever that changes."""
    once = "\nran = []\n\ndef test_once():\n    ran.append(small.unguarded(1))\n    assert len(ran) == 1\n"
    tests = (project / "test_small.py").read_text()
    (project / "test_small.py").write_text(tests + once)
    done = run(project, "--json", "found.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((project / "found.json").read_text())["modules"]["small"]
    assert found["unfit"] == ["test_small.py::test_once"]
    assert found["killed"] == 5
    assert "test_once" in done.stdout


@pytest.mark.long
def test_an_entry_that_names_no_survivor_is_told(project):
    (project / "known.toml").write_text(KNOWN.replace("x + 1", "x * 1"))
    assert "known.toml names a mutant that is no survivor: unused | return x - 1 | return x * 1" in run(project).stdout


@pytest.mark.parametrize(
    ("source", "mutants"),
    [
        ("x = a <= b", {"x = a < b"}),
        ("x = a and not b", {"x = a or not b", "x = a and b"}),
        ("x = -a ** 2", {"x = a ** 2", "x = -a", "x = -a ** 3"}),
        ("x = min(a, 1.0)", {"x = max(a, 1.0)", "x = min(a, 1.1)"}),
        ("x = f(a, k=True)", {"x = f(a)", "x = f(a, k=False)"}),
        ("f(a)", {"pass"}),
        ("x: list[1] = 'text'", set()),
        ("raise ValueError(f'{1 + 1}')", set()),
        ("assert x < 1", set()),
    ],
)
def test_each_kind_of_change_is_made_once_and_can_be_taken_back(source, mutants):
    tree = ast.parse(source)
    found = make_mutants(tree)
    assert sorted(mutant.mutant for mutant in found) == sorted(mutants)
    for mutant in found:
        apply(apply(mutant.edit))
        assert ast.unparse(tree) == ast.unparse(ast.parse(source))
