"""Every setting matters somewhere; where it cannot, it is refused or told, so that none is ignored in silence."""

import json
import re
from dataclasses import replace

import pytest
from published_weights import packaged, published_state, small_resnet18
from settings_table import CASES, REFUSING, build_place

import clearsight
from clearsight.config.build import build_config, known_keys
from clearsight.config.files import merge, nest
from clearsight.config.rules import check_used
from clearsight.data.read.load import load_data
from clearsight.errors import ClearsightError, UsageError
from clearsight.pipeline.data import find_unused
from clearsight.runs import store
from clearsight.runs.directory import RunDirectory
from clearsight.training import fit


@pytest.mark.parametrize(
    ("settings", "message", "partner"),
    [
        (
            {"train": {"schedule_unit": "epoch"}},
            "schedule_unit must go with a schedule or warmup_epochs, got epoch without. Leave it out or add that.",
            {"train": {"schedule_unit": "epoch", "schedule": "cosine"}},
        ),
        (
            {"model": {"activation": "tanh", "hidden": []}},
            "activation must go with a hidden layer, or model cnn or vgg, got tanh without. Leave it out or add that.",
            {"model": {"activation": "tanh", "hidden": [4]}},
        ),
    ],
    ids=["schedule_unit", "activation"],
)
def test_a_setting_without_effect_is_refused_and_taken_where_it_has_one(settings, message, partner):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        check_used(build_config(settings))
    check_used(build_config(partner))
    check_used(build_config({"model": {"activation": [], "hidden": []}}))  # as the small format writes it
    check_used(build_config({"train": {"schedule_unit": "epoch", "warmup_epochs": 2}}))


@pytest.fixture(scope="module")
def small():
    with small_resnet18():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory, small):
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("settings")
    build_place(folder)
    for name, seed in (("a", 0), ("b", 1)):
        save_file(published_state("resnet18", seed=seed), folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def seen():
    """What came out of contexts that several settings share."""
    return {}


@pytest.fixture
def observe(place, seen, tmp_path, monkeypatch):
    """Trains with settings: what came of it, and what was told on the way."""
    import torch

    from clearsight.report import html

    compiled, saved, save, report = [], [], fit.save_checkpoint, html.write_report
    monkeypatch.chdir(place)
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(1) or module)
    monkeypatch.setattr(html, "write_report", lambda path: path)
    monkeypatch.setattr(fit, "save_checkpoint", lambda *args, **more: saved.append(more["step"]) or save(*args, **more))

    def run(settings, *, with_report=False):
        compiled.clear(), saved.clear()
        out, notes = tmp_path / str(len(list(tmp_path.iterdir()))), []
        config = merge(*(nest(key, value) for key, value in settings.items()))
        try:
            run = clearsight.train(config=config, out=out, root=tmp_path, note=notes.append)
        except ClearsightError as error:
            return f"refused: {error}", notes
        text = report(out).read_text().partition("Bias and variance")[2] if with_report else ""
        return (describe(out, run), len(compiled), len(saved), text), notes

    def recall(settings, **more):
        key = repr((sorted(settings.items(), key=str), more))
        if key not in seen:
            seen[key] = run(settings, **more)
        return seen[key]

    return recall


def describe(out, run):
    """All that a run leaves behind but its times, its settings and its report."""
    metrics = {
        key: value
        for key, value in store.read_json(RunDirectory(out).metrics).items()
        if "seconds" not in key and key != "next_step"
    }
    record = store.read_json(RunDirectory(out).record)
    files = sorted(str(file.relative_to(out)) for file in out.rglob("*") if "checkpoints" not in file.parts)
    return (
        run.bundle.params.tobytes(), run.history.step_lrs.tobytes(), RunDirectory(out).shown.read_bytes(), run.engine,
        run.bundle.temperature, run.bundle.known is None, json.dumps(metrics), files,
        [record[key] for key in ("data", "fingerprint", "class_names", "bad", "status")],
    )  # fmt: skip


def test_every_setting_stands_in_the_table_and_no_other():
    assert list(CASES) == known_keys(), "add the setting to CASES in tests/helpers/settings_table.py, in its order"


MARKS = {"model.pretrained": [packaged], "eval.floor": [pytest.mark.report]}


@pytest.mark.long
@pytest.mark.parametrize("key", [pytest.param(key, marks=MARKS.get(key, [])) for key in CASES])
def test_a_setting_changed_alone_changes_what_comes_out(observe, key):
    value, context, _ = CASES[key]
    (before, _), (after, told) = (
        observe(one, with_report=key == "eval.floor") for one in (context, {**context, key: value})
    )
    assert before != after
    assert not any("has no effect" in text for text in told)
    refused = [text for text in (before, after) if isinstance(text, str)]
    assert len(refused) == (key in REFUSING), refused


@pytest.mark.long
@pytest.mark.parametrize("key", [key for key in CASES if CASES[key][2] is not None])
def test_a_setting_that_cannot_matter_is_refused_or_told(observe, key):
    value, _, context = CASES[key]
    section, name = key.split(".")
    without, _ = observe({one: other for one, other in context.items() if one != key})
    assert not isinstance(without, str), without
    found, told = observe({key: value, **context})
    if isinstance(found, str):
        assert re.match(rf"refused: ([\w, ]*\b)?({name}|{section}|train_per_class)\b[\w, ]* must ", found), found
    else:
        assert [text for text in told if text.startswith(f"{key} has no effect on ")]
        assert found == without or key in ("preprocess.resize", "preprocess.background", "augment.color")


UNUSED = "preprocess.channels has no effect on arrays: it is for reading picture files"


@pytest.mark.long
@pytest.mark.parametrize("way", ["train", "cross_validate", "tune", "compare"])
def test_each_way_to_train_tells_of_a_choice_without_effect_once(way, pictures, tmp_path):
    notes, sides = [], []
    settings = {"channels": "rgb", "epochs": 1, "hidden": (2,), "root": tmp_path, "note": notes.append}
    if way == "compare":
        sides = [{"train": {"lr": 0.1}}, "base"]
    if way == "tune":
        settings |= {"search": ["train.lr=0.1,0.01"]}
    getattr(clearsight, way)(*sides, *([] if sides else pictures), **settings, **_named(pictures, sides))
    assert notes.count(UNUSED) == 1
    assert not [text for text in notes if "has no effect" in text and text != UNUSED]


def _named(pictures, sides):
    return {"data": pictures[0], "labels": pictures[1]} if sides else {}


def test_saved_defaults_and_those_of_pretrained_nets_do_not_count_as_chosen(pictures):
    dataset = load_data(*pictures)
    for model in ({}, {"family": "resnet18", "pretrained": True}):
        config = build_config({"model": model})
        saved = build_config(config.model_dump())
        assert find_unused(config, dataset) == find_unused(saved, dataset) == []
    chosen = build_config({"preprocess": {"channels": "grey"}, "model": model})
    assert [text.split()[0] for text in find_unused(chosen, dataset)] == ["preprocess.channels"]


def test_data_that_was_read_already_is_told_apart_from_data_that_is_read_now(pictures):
    dataset, config = load_data("digits"), build_config({"data": {"source": "mnist", "skip_bad": True}})
    files = replace(dataset, files=tuple(map(str, range(len(dataset)))))
    wide = merge(config.model_dump(exclude_unset=True), {"preprocess": {"resize": "pad"}})
    assert find_unused(build_config(wide), files) == []
    told = "preprocess.resize has no effect on digits: it is for picture files, which the model may read later"
    assert find_unused(build_config(wide), files, files) == [told]
    assert find_unused(build_config(merge(wide, {"data": {"source": "digits"}})), files, files) == []


def test_a_source_beside_data_is_refused_by_each_way_to_train(pictures):
    text = "source must be left out beside data, got 'mnist'. Give one of them."
    for way in (clearsight.train, clearsight.cross_validate, clearsight.tune):
        for data in ((pictures[0], pictures[1]), ("digits",)):
            with pytest.raises(UsageError, match=f"^{re.escape(text)}$"):
                way(*data, source="mnist")
