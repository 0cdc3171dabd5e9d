"""A setting without effect is refused or told, so that none is ignored in silence."""

import re
from dataclasses import replace

import pytest

import clearsight
from clearsight.combinations import check_used
from clearsight.config import build_config
from clearsight.data.load import load_data
from clearsight.errors import UsageError
from clearsight.intake import find_unused
from clearsight.settings import merge


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


UNUSED = "preprocess.channels has no effect on arrays: it is for reading picture files"


@pytest.mark.long
@pytest.mark.usefixtures("no_report")
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
