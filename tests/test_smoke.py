"""The smallest case of every benchmark and of every recipe runs to its end. Both folders are walked over, so none is forgotten."""

import json
import re
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
from processes import LIMIT_SECONDS

from clearsight.config.build import build_config
from clearsight.config.files import merge
from clearsight.pipeline import data as pipeline_data
from clearsight.recipes import list_experiments, load_experiment, run_experiment
from clearsight.recipes.searches import load_search, run_search_recipe

pytestmark = pytest.mark.smoke
ROOT = Path(__file__).parent.parent
SMALLEST = {"mutants": ["--module", "schedules", "--sample", "2", "--jobs", "1"]}  # others: --quick --rounds 1


def list_benchmarks():
    files = [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("benchmarks/*/__main__.py")]
    programs = [path for path in files if 'if __name__ == "__main__"' in path.read_text()]
    return sorted(path.parent.name if path.stem == "__main__" else path.stem for path in programs)


@pytest.mark.parametrize("name", list_benchmarks())
def test_benchmark_runs_and_leaves_the_docs_alone(name, processes):
    docs = {path: path.read_bytes() for path in ROOT.glob("docs/**/*.*")}
    command = [sys.executable, "-m", f"benchmarks.{name}", *SMALLEST.get(name, ["--quick", "--rounds", "1"])]
    process = processes.start(command, cwd=ROOT, stdout=PIPE, stderr=PIPE)
    out, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 0, err
    assert re.search(r"\d", out)
    assert {path: path.read_bytes() for path in ROOT.glob("docs/**/*.*")} == docs


def test_behaviour_is_recorded_and_a_change_is_named(processes, tmp_path):
    def record(*options):
        command = [sys.executable, ROOT / "tests" / "behaviour.py", "--only", "data check", "--jobs", "1", *options]
        process = processes.start(command, stdout=PIPE, stderr=PIPE)
        out, err = process.communicate(timeout=LIMIT_SECONDS)
        return process.returncode, out + err

    facts = tmp_path / "facts.json"
    assert record("--json", facts)[0] == 0
    code, said = record("--against", facts)
    assert (code, said.splitlines()[-1].endswith("; 0 changes")) == (0, True), said
    found = json.loads(facts.read_text())
    found["cases"]["data check"]["numbers"] = "other"
    found["cases"]["data check"]["answer"].append("lost")
    facts.write_text(json.dumps(found))
    code, said = record("--against", facts)
    assert code == 1
    assert "data check: answer: lost is missing" in said
    assert "data check: numbers: other before, " in said
    found["machine"]["cpu"] = "another"
    facts.write_text(json.dumps(found))
    assert record("--against", facts)[0] == 2


@pytest.fixture
def few_pictures(monkeypatch):
    """Of large data sets only the first pictures of each class and given split are read."""
    load_data = pipeline_data.load_data

    def load_few(*arguments, **options):
        dataset = load_data(*arguments, **options)
        if len(dataset) < 5000:
            return dataset
        groups = np.unique(np.stack([dataset.given, dataset.labels]), axis=1, return_inverse=True)[1]
        order = np.argsort(groups, kind="stable")
        starts = [*np.flatnonzero(np.diff(groups[order], prepend=-1)), len(order)]
        return dataset.select(np.sort(np.concatenate([order[a:b][:10] for a, b in pairwise(starts)])))

    monkeypatch.setattr(pipeline_data, "load_data", load_few)


def shrink(variant):
    few = {
        "train": {"epochs": 1, "precision": "auto"},
        "data": {"train_fraction": 1.0},
    }  # bfloat16 is slow on a CPU without it
    settings = merge(variant.config.model_dump(exclude_unset=True), few)
    make = variant.make and variant.make | {"per_class": 4, "test_per_class": 2}
    judge = variant.judge and variant.judge | {"per_class": 4}
    return replace(variant, config=build_config(settings), make=make, judge=judge)


@pytest.mark.data
@pytest.mark.parametrize("name", [name for name in list_experiments() if load_search(name) is None])
def test_recipe_runs_with_few_pictures_for_an_epoch(name, few_pictures, tmp_path):
    experiment = load_experiment(name)
    tiny = replace(experiment, variants=tuple(map(shrink, experiment.variants)))
    found = list(run_experiment(tiny, seeds=1, root=tmp_path))
    assert [one.variant.name for one in found] == [variant.name for variant in experiment.variants]
    for measured in found:
        assert np.isfinite(measured.mean)
        assert len(measured.first.history.epochs) == 1


@pytest.mark.data
@pytest.mark.parametrize("name", [name for name in list_experiments() if load_search(name) is not None])
def test_published_search_runs_with_few_pictures_for_an_epoch(name, few_pictures, tmp_path):
    recipe = load_search(name)
    tiny = replace(recipe, config=merge(recipe.config, {"train": {"epochs": 1}}), final={"train": {"epochs": 1}})
    found = run_search_recipe(tiny, root=tmp_path, quiet=True, note=lambda text: None)
    assert len(found.verdicts) == len(recipe.means)
    assert found.run.test.n < 1000
