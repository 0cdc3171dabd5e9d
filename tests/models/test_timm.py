"""Networks of the library timm: their outputs, their training at two depths, their files, and the sentences."""

import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timm_stub import import_timm

import clearsight
from clearsight.bundle.archive import DESCRIPTION, pack_zip
from clearsight.bundle.load import load
from clearsight.config.build import build_config
from clearsight.core.timm_library import import_timm as import_library
from clearsight.engines.torch_tools import build_bound
from clearsight.errors import ClearsightError, DataError, UsageError
from clearsight.models.convnet import ConvNet
from clearsight.models.initialize import initialize
from clearsight.models.pretrained import find_weights, load_weights
from clearsight.models.timm_net import _build_body

pytestmark = pytest.mark.long

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
NAMES = ("test_resnet", "test_vit", "test_efficientnet", "test_convnext")


@pytest.fixture(autouse=True, scope="module")
def library():
    """Imported where it is used, which takes seconds, and not by each process that collects tests."""
    global timm
    timm = import_timm()


@pytest.fixture(autouse=True)
def _own_cache(own_cache):
    from clearsight.pipeline import features

    features._last.clear()


@pytest.fixture
def folder(tmp_path):
    """Coloured squares in two folders: warm and cold."""
    rng = np.random.default_rng(0)
    for name, channel in (("warm", 0), ("cold", 2)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(12):
            picture = rng.integers(0, 120, (40, 40, 3), dtype=np.uint8)
            picture[8:30, 8:30, channel] += 100
            Image.fromarray(picture).save(tmp_path / "data" / name / f"{k}.png")
    return tmp_path / "data"


def published(name, path):
    """A network of timm's as it might be published: random numbers, all of 1000 classes, in a file."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 1.5)
    save_file(model.state_dict(), path)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_those_of_timm(name, tmp_path):
    theirs = published(name, tmp_path / "w.safetensors")
    net = ConvNet(f"timm:{name}", (160, 160, 3), 1000)
    params = initialize(net, init="auto", seed=0)
    last = theirs.get_classifier()
    head = {"fc.weight": last.weight.detach().numpy(), "fc.bias": last.bias.detach().numpy()}
    found = load_weights(net, tmp_path / "w.safetensors") | head
    for key, values in net.tensors(params).items():
        values[:] = found[key]
    pictures = torch.rand(2, 160, 160, 3)
    with torch.no_grad():
        wanted, got = theirs(pictures.permute(0, 3, 1, 2)), build_bound(net, params)(pictures)
    assert (wanted - got).abs().max() < 1e-5
    assert wanted.std() > 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tune", ["head", "all"])
def test_each_trains_and_its_file_answers_the_same(name, tune, folder, tmp_path):
    published(name, tmp_path / "w.safetensors")
    settings = {"epochs": 2, "image_size": 64} if tune == "all" else {"l2": 0.01, "image_size": 64}
    run = clearsight.train(
        folder, family=f"timm:{name}", pretrained=True, weights=str(tmp_path / "w.safetensors"), finetune=tune, seed=1,
        root=tmp_path / "runs", **settings,
    )  # fmt: skip
    pictures = clearsight.load_data(folder, image_size=64, channels="rgb").images[:6]
    bundle = load(run.path)
    assert (bundle.predict_proba(pictures) == run.bundle.predict_proba(pictures)).all()
    frozen = {k: v for k, v in bundle.net.tensors(bundle.params).items() if k.startswith("body.")}
    start = load_weights(bundle.net, tmp_path / "w.safetensors")
    same = all((frozen[k] == start[k]).all() for k in start if k in frozen and k.endswith("weight"))
    assert same == (tune == "head")


def test_pictures_are_as_the_weights_were_learnt():
    config = build_config({"model": {"family": "timm:test_vit", "pretrained": True}})
    assert (config.preprocess.image_size, config.preprocess.scale) == (160, "symmetric")
    config = build_config({"model": {"family": "timm:resnet18", "pretrained": True}})
    assert (config.preprocess.image_size, config.preprocess.scale) == (224, "imagenet")


def test_an_odd_scale_must_be_chosen():
    with pytest.raises(
        UsageError, match=r"preprocess.scale must be chosen for timm:vit_base_patch32_clip_224.openai, got none"
    ):
        build_config({"model": {"family": "timm:vit_base_patch32_clip_224.openai", "pretrained": True}})


def test_nothing_is_dropped_by_the_generator_of_pytorch():
    name = "tiny_vit_11m_224"  # whose paths timm drops by chance
    assert any(getattr(module, "drop_prob", 0) for module in timm.create_model(name).modules())
    body = _build_body(f"timm:{name}", (224, 224, 3))
    assert not any(getattr(module, "drop_prob", 0) for module in body.modules())


@pytest.mark.parametrize("name", ["test_resnet", "test_vit_relpos"])
def test_training_from_nothing_repeats_itself(name, folder, tmp_path):
    size = 160 if "vit" in name else 32
    settings = {
        "epochs": 1,
        "image_size": size,
        "seed": 3,
        "train_per_class": 2,
        "valid_per_class": 1,
        "test_per_class": 1,
    }
    state = torch.random.get_rng_state()
    runs = [clearsight.train(folder, family=f"timm:{name}", **settings, root=tmp_path / str(k)) for k in range(2)]
    assert (runs[0].bundle.params == runs[1].bundle.params).all()
    assert (torch.random.get_rng_state() == state).all()
    assert runs[0].bundle.preprocess.scaling == "unit"
    assert load(runs[0].path).net == runs[0].bundle.net


def test_a_last_batch_of_one_picture_trains(folder, tmp_path):
    settings = {"train_per_class": 3, "valid_per_class": 1, "test_per_class": 1, "batch_size": 5}
    run = clearsight.train(folder, family="timm:test_resnet", epochs=2, image_size=32, root=tmp_path, **settings)
    assert run.status == "finished"


def test_networks_that_keep_tables_are_kept_whole(folder, tmp_path):
    """Rotary positions are float buffers that no published file holds, and that come after the head in the layout."""
    run = clearsight.train(folder, family="timm:eva02_tiny_patch14_224", epochs=1, image_size=224, train_per_class=2,
                           valid_per_class=1, test_per_class=1, root=tmp_path)  # fmt: skip
    assert (load(run.path).params == run.bundle.params).all()


def test_networks_that_timm_cannot_part_ask_for_one_rate():
    net = ConvNet("timm:caformer_s18", (224, 224, 3), 2)
    with pytest.raises(
        UsageError, match=r"layer_decay must be 1 for timm:caformer_s18, which timm does not part into stages"
    ):
        net.stage_depth("fc.weight")


def test_many_layers_are_no_farther_from_the_head_than_ours():
    net = ConvNet("timm:vit_tiny_patch16_224", (224, 224, 3), 2)
    depths = {name: net.stage_depth(name) for name in net.layout()}
    assert max(depths.values()) == 8
    assert depths["fc.bias"] == 0
    assert 0 < depths["body.blocks.11.mlp.fc1.weight"] < depths["body.blocks.0.mlp.fc1.weight"] < 8


def test_weights_of_other_shapes_are_named_by_their_file(tmp_path):
    from safetensors.torch import load_file, save_file

    published("test_resnet", tmp_path / "w.safetensors")
    state = load_file(tmp_path / "w.safetensors")
    state["layer1.0.conv1.weight"] = torch.zeros(3, 3, 3, 3)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(
        UsageError, match=r"w.safetensors must hold the weights of timm:test_resnet, got some that do not fit \(Error"
    ):
        load_weights(ConvNet("timm:test_resnet", (160, 160, 3), 2), tmp_path / "w.safetensors")
    del state["layer1.0.conv1.weight"]
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match=r"got some without layer1.0.conv1.weight"):
        load_weights(ConvNet("timm:test_resnet", (160, 160, 3), 2), tmp_path / "x.safetensors")


def test_pictures_far_larger_than_a_network_was_made_for_are_refused(folder, tmp_path):
    with pytest.raises(UsageError, match=r"must take pictures of 700x700 .* more than 16 times the pixels"):
        clearsight.train(folder, family="timm:test_vit", image_size=700, root=tmp_path)


def test_fetched_weights_are_kept(monkeypatch, tmp_path):
    published("test_resnet", tmp_path / "w.safetensors")
    create, calls = timm.create_model, []

    def from_a_file(name, pretrained=False, **options):
        calls.append(pretrained)
        if pretrained:
            options = {"pretrained_cfg_overlay": {"file": str(tmp_path / "w.safetensors")}} | options
        return create(name, pretrained=pretrained, **options)

    monkeypatch.setattr(timm, "create_model", from_a_file)
    path = find_weights("timm:test_resnet")
    assert path.name == "timm-test_resnet.r160_in1k.safetensors"
    net = ConvNet("timm:test_resnet", (160, 160, 3), 1000)
    first, wanted = load_weights(net, path), load_weights(net, tmp_path / "w.safetensors")
    assert all((first[name] == wanted[name]).all() for name in wanted)
    calls.clear()
    assert find_weights("timm:test_resnet") == path
    assert calls == []
    content = path.read_bytes()
    path.write_bytes(content[:5000])  # damaged: fetched anew
    assert find_weights("timm:test_resnet").read_bytes() == content
    assert calls


def test_fetching_is_shown(monkeypatch, folder, tmp_path, call, capsys):
    create = timm.create_model

    def make(name, pretrained=False, **options):
        return create(name, pretrained=pretrained and "pretrained_cfg_overlay" in options, **options)

    monkeypatch.setattr(timm, "create_model", make)
    monkeypatch.setattr("clearsight.core.progress._FIRST_LINE_SECONDS", 0.0)
    flags = ["--model", "timm:test_resnet", "--pretrained", "--image-size", 160, "--l2", 0.1]
    assert call("train", folder, *flags, "--out", tmp_path / "run") == 0
    assert "fetching weights of timm:test_resnet" in capsys.readouterr().err


def test_weights_that_cannot_be_fetched_are_told(monkeypatch):
    def fail(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(
        DataError,
        match=r"weights of timm:test_resnet must be there to be fetched, got .*no route to host.*model\.weights",
    ):
        find_weights("timm:test_resnet")


def test_layers_further_from_the_head_learn_more_slowly():
    net = ConvNet("timm:test_resnet", (64, 64, 3), 2)
    depths = {name: net.stage_depth(name) for name in net.layout() if "running" not in name}
    assert depths["fc.weight"] == 0
    assert depths["body.layer4.0.conv1.weight"] < depths["body.layer1.0.conv1.weight"] < depths["body.conv1.0.weight"]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"family": "timm:test_resnett"}, r"model must be one that timm knows, got timm:test_resnett. Did you mean timm:test_resnet\?"),
        ({"family": "timm:test_resnet.nobody"}, r"got timm:test_resnet.nobody. Did you mean timm:test_resnet\?"),
        ({"family": "timm:hf-hub:someone/model"}, r"^model must be one of mlp, .*, got 'timm:hf-hub:someone/model'"),
        ({"family": "resnet19"}, r"^model must be one of mlp, .*, got 'resnet19'. Did you mean resnet18\?$"),
        ({"family": "timm:"}, r"^model must be one of mlp, .* or timm:NAME, got 'timm:'"),
    ],
)  # fmt: skip
def test_names_that_are_none(settings, text, folder, tmp_path):
    with pytest.raises(UsageError, match=text):
        clearsight.train(folder, config={"model": settings}, image_size=32, root=tmp_path / "runs")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"pretrained": True, "finetune": "last"}, r"finetune last must go with resnet18, .*, got timm:test_resnet. Use finetune head or all."),
        ({"init": "he"}, "init must go with a network of our own, got he without"),
        ({"widths": [4]}, r"widths must go with a convolutional model of our own, got \(4,\) without"),
        ({"pad_to": 64}, "pad_to must go with a convolutional model of our own, got 64 without"),
    ],
)  # fmt: skip
def test_choices_that_do_not_go_with_it(settings, text, folder, tmp_path):
    with pytest.raises(UsageError, match=text):
        clearsight.train(folder, family="timm:test_resnet", image_size=32, root=tmp_path / "runs", **settings)


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        UsageError, match=r"must have timm, got none installed. Install it with `pip install 'clearsight\[timm\]'`"
    ):
        import_library("timm:resnet18")


def test_with_a_broken_library(monkeypatch, tmp_path):
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm")
    with pytest.raises(
        UsageError, match=r"got one that cannot be imported \(operator torchvision::nms does not exist\)"
    ):
        import_library("timm:resnet18")


def test_mistakes_are_explained_by_occlusion(folder, tmp_path):
    run = clearsight.train(folder, family="timm:test_vit", epochs=1, image_size=160, root=tmp_path / "runs")
    found = clearsight.find_mistakes(run.path, split="valid")
    assert found.how == "occlusion"
    with pytest.raises(UsageError, match=r"grad-cam must go with a convolutional net of our own, got timm:test_vit"):
        clearsight.find_mistakes(run.path, split="valid", saliency="grad-cam")


def test_a_file_that_names_another_network_is_refused(folder, tmp_path):
    run = clearsight.train(folder, family="timm:test_resnet", epochs=1, image_size=32, root=tmp_path / "runs")
    with zipfile.ZipFile(Path(run.path) / "model.clearsight") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for family, text in (
        ("timm:test_vit", "must hold exactly the tensors of its architecture"),
        ("timm:hf-hub:a/b", "must be valid at architecture.conv.family"),
        ("timm:nobody_knows", "bent.clearsight: model must be one that timm knows, got timm:nobody_knows"),
    ):
        about = json.loads(members[DESCRIPTION])
        about["architecture"]["family"] = family
        (tmp_path / "bent.clearsight").write_bytes(pack_zip({**members, DESCRIPTION: json.dumps(about).encode()}))
        with pytest.raises(ClearsightError, match=text):
            load(tmp_path / "bent.clearsight")


def test_pictures_that_a_network_does_not_take(folder, tmp_path):
    with pytest.raises(
        UsageError, match=r"model timm:swin_tiny_patch4_window7_224 must take pictures of 3x3 and 3 channels, got an"
    ):
        clearsight.train(folder, family="timm:swin_tiny_patch4_window7_224", image_size=3, root=tmp_path / "runs")
