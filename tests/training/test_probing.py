"""When a training is looked into, and that this is kept, told, and changes nothing."""

import json

import numpy as np
import pytest
from scripted import STEPS, TRAIN, Listener, Scripted, train

from clearsight.config.build import build_config
from clearsight.data.read.load import load_data
from clearsight.engines.probe import Probe
from clearsight.engines.team import Team
from clearsight.errors import Interrupted
from clearsight.pipeline.prepare import fit_prepared, prepare
from clearsight.training.probing import find_probe_steps
from clearsight.training.stop import StopRequest

WHEN = {"probe_rows": TRAIN[:2], "probe_steps": (0, 1, 3, STEPS, 2 * STEPS, 3 * STEPS)}


def test_looks_are_dense_at_first_and_no_more_than_pays():
    assert find_probe_steps(epochs=5, steps=40, rows=1149, n=256) == (0, 1, 4, 16, 40, 80, 160, 200)
    assert find_probe_steps(epochs=1, steps=1, rows=10, n=10) == (0, 1)
    long = find_probe_steps(epochs=10, steps=1875, rows=60_000, n=256)
    assert long == (0, 1, 4, 16, 64, 256, 1024, *range(1875, 18751, 1875))


@pytest.mark.parametrize("epochs", [1, 7, 100, 1000])
@pytest.mark.parametrize("rows", [100, 20_000, 60_000])
def test_looks_are_few_rising_and_take_a_hundredth_of_the_rows(epochs, rows):
    found = find_probe_steps(epochs=epochs, steps=rows // 10, rows=rows, n=256)
    assert list(found) == sorted(set(found))
    assert found[-1] == epochs * (rows // 10)
    assert len(found) <= 90
    fixed = 2 + 7 + np.log2(epochs)  # at the start, inside the first epoch, and after 1, 2, 4, ... epochs
    assert (len(found) - fixed) * 256 <= epochs * rows / 100


def test_a_training_looks_inside_at_the_planned_steps_with_the_step_to_come():
    engine, heard = Scripted(), Listener()
    result = train(engine, 3, observers=[heard], **WHEN)
    assert [taken for taken, _, _ in engine.looks] == list(WHEN["probe_steps"])
    assert all(rows == [0, 1] for _, rows, _ in engine.looks)
    lrs = np.linspace(0.1, 0.01, 12)
    assert [trial for _, _, trial in engine.looks] == [(k, lrs[min(k, 11)]) for k in WHEN["probe_steps"]]
    assert [(done, probe.loss) for done, probe in result.history.probes] == [(k, k) for k in WHEN["probe_steps"]]
    told = [(kind, facts["done"]) for kind, facts in heard.heard if kind in ("probe", "steps")]
    assert [done for kind, done in told if kind == "probe"] == list(WHEN["probe_steps"])
    assert told.index(("probe", 3)) == told.index(("steps", 3)) + 1
    plain = Scripted()
    assert train(plain, 3).history.probes == plain.looks == []


def test_of_a_team_the_first_process_looks_without_a_trial_step_and_all_pause_alike():
    class Two(Team):
        size = 2

        def __init__(self, rank):
            self.rank, self.asked = rank, 0

        def sync(self, numbers):
            self.asked += 1
            return numbers

    engines, teams = [Scripted(), Scripted()], [Two(0), Two(1)]
    for engine, team in zip(engines, teams, strict=True):
        train(engine, 3, team=team, **WHEN)
    assert [trial for _, _, trial in engines[0].looks] == [None] * len(WHEN["probe_steps"])
    assert engines[1].looks == []
    assert [len(call[-1]) for call in engines[0].calls] == [len(call[-1]) for call in engines[1].calls]


def test_a_run_that_goes_on_keeps_its_looks_and_takes_none_twice(tmp_path):
    engine, request = Scripted(), StopRequest()
    engine.on_step = lambda at: request.ask() if at == 5 else None
    with pytest.raises(Interrupted):
        train(engine, 3, checkpoints=tmp_path, stop=request, **WHEN)
    again = Scripted()
    result = train(again, 3, checkpoints=tmp_path, resume=True, **WHEN)
    assert [done for done, _ in result.history.probes] == list(WHEN["probe_steps"])
    assert repr(result.history.probes) == repr(train(Scripted(), 3, **WHEN).history.probes)
    assert [taken for taken, _, _ in engine.looks + again.looks] == list(WHEN["probe_steps"])


@pytest.mark.parametrize("engine", ["dense", "reference", "torch"])
def test_bits_of_a_training_are_the_same_with_and_without_looks(engine):
    settings = {
        "train": {"engine": engine, "epochs": 2, "dropout": 0.2, "optimizer": "adam"},
        "model": {"hidden": (8,)},
    }
    found = []
    for probe in (False, True):
        prepared = prepare(build_config(settings), load_data("digits"))
        result = fit_prepared(prepared, probe=probe)
        state = {name: values.tobytes() for name, values in prepared.engine.state().items()}
        found.append((state, result.history.step_losses.tolist(), result.history.epochs[-1]["valid_loss"]))
    assert found[0] == found[1]
    assert [done for done, _ in result.history.probes] == [0, 1, 4, 16, 41, 82]
    assert all(layer.update > 0 for _, probe in result.history.probes for layer in probe.layers)


def test_a_probe_comes_back_from_json_as_it_was():
    prepared = prepare(build_config({"model": {"hidden": (5,)}}), load_data("digits"))
    probe = prepared.engine.probe(prepared.split.train[:32], trial=(0, 0.1))
    text = json.dumps(probe.as_dict())
    assert Probe.from_dict(json.loads(text)) == probe
    values = json.loads(text)
    values["layers"][0]["spread"] = None
    assert np.isnan(Probe.from_dict(values).layers[0].spread)


@pytest.mark.parametrize(
    "damage",
    [
        lambda v: v.pop("loss"), lambda v: v.update(n="many"), lambda v: v.update(layers=None), lambda v: v.update(layers=[3]),
        lambda v: v["layers"][0].update(name=7), lambda v: v["layers"][0].update(counts=["a"]), lambda v: v["layers"][0].clear(),
    ],
)  # fmt: skip
def test_a_damaged_probe_is_refused(damage):
    prepared = prepare(build_config({"model": {"hidden": (5,)}}), load_data("digits"))
    values = prepared.engine.probe(prepared.split.train[:32]).as_dict() | {"layers": []}
    values["layers"] = [
        {"name": "a", "units": 1} | prepared.engine.probe(prepared.split.train[:32]).as_dict()["layers"][0]
    ]
    damage(values)
    with pytest.raises(ValueError, match="a probe must have numbers for all of its values, got"):
        Probe.from_dict(values)
