"""Networks as descriptions and modules: shapes, names, first weights, files."""

import os

import forks
import numpy as np
import pytest
import torch
from processes import LIMIT_SECONDS

import clearsight
from clearsight.bundle.bundle import Bundle
from clearsight.bundle.load import load
from clearsight.config.build import build_config
from clearsight.config.families import FAMILIES
from clearsight.core.hashing import mix
from clearsight.data.preprocess import fit_preprocess
from clearsight.data.read.load import load_data
from clearsight.engines.dense import reference
from clearsight.engines.torch_tools import build_bound
from clearsight.errors import ModelFileError, UsageError
from clearsight.evaluation.losses import mean_loss
from clearsight.models.convnet import ConvNet
from clearsight.models.count import count_multiply_adds, list_models
from clearsight.models.initialize import INITIALIZERS, initialize, whiten
from clearsight.models.layers import ACTIVATE, Dropout
from clearsight.models.layers import mix as torch_mix
from clearsight.models.mlp import MLP
from clearsight.models.modules import build_module
from clearsight.models.residual import _PickingConv2d
from clearsight.pipeline.prepare import prepare
from clearsight.pipeline.train_in_memory import train_dataset

CONV = [name for name, family in FAMILIES.items() if not family.dense]
SMALL = {"vgg": {"hidden": (9,), "widths": (4, 5), "depths": (1, 2)}, "resnet50": {"widths": (2, 2, 2, 2)}}


def small(family, **options):
    return ConvNet(family, (16, 20, 3), 5, **{"widths": (), **SMALL.get(family, {}), **options})


def data(size=(16, 20), channels=3, count=30):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *size, channels)).astype(np.uint8)
    return load_data(images, np.arange(count) % 5)


@pytest.mark.long
@pytest.mark.parametrize("family", CONV)
def test_every_family_maps_pictures_to_logits_and_back_from_its_file(family, tmp_path):
    net, dataset = small(family), data()
    preprocess = fit_preprocess(dataset, np.arange(30))
    params = initialize(net, init="auto", seed=0).astype(np.float32)
    if family == "speednet":
        whiten(net, params, preprocess.apply(dataset.images).reshape(30, 16, 20, 3))
    bundle = Bundle(net, params, ("a", "b", "c", "d", "e"), preprocess)
    logits = bundle.logits(dataset.images)
    assert logits.shape == (30, 5)
    assert np.isfinite(logits).all()
    bundle.save(tmp_path / "m.clearsight", examples=dataset.images)
    again = load(tmp_path / "m.clearsight")
    assert again.net == net
    assert again.params.tobytes() == params.tobytes()
    np.testing.assert_array_equal(again.logits(dataset.images), logits)
    single = np.concatenate([bundle.logits(dataset.images[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(single, logits[:4], rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("family", CONV)
def test_every_family_learns_one_batch_by_heart(family):
    model = (
        {"family": family, "widths": (4, 4, 4), "depths": (1, 1, 1)} if family in ("cnn", "vgg") else {"family": family}
    )
    model |= {"hidden": (16,)} if family == "vgg" else {}
    model |= {"widths": (8, 8, 8)} if family == "speednet" else {}
    model |= {"widths": (8, 8, 8, 8)} if family in ("resnet18", "resnet34", "resnet50") else {}
    model |= {"depths": (1,) * 7} if family == "efficientnet_lite0" else {}
    epochs = 30 if family.startswith("resnet") else 60  # the others learn more slowly, and take less time
    train = {"epochs": epochs, "batch_size": 30, "optimizer": "adam", "lr": 0.01}
    split = {"valid_fraction": 0.0, "test_fraction": 0.0}
    run = train_dataset(build_config({"model": model, "train": train, "data": split}), data())
    assert run.train.accuracy > 0.9


@pytest.mark.long
@pytest.mark.parametrize("family", CONV)
def test_an_untrained_net_knows_nothing_and_its_signals_end_in_its_logits(family):
    model = {"family": family, **SMALL.get(family, {})}
    dataset = data()
    prepared = prepare(build_config({"model": model, "data": {"valid_fraction": 0.0, "test_fraction": 0.0}}), dataset)
    rows = np.arange(30)
    logits = prepared.engine.logits(rows)
    loss = -reference.log_softmax(logits.astype(np.float64))[rows, dataset.labels].mean()
    assert np.log(5) - 0.3 < loss < np.log(5) + 1.5
    probe = prepared.engine.probe(rows)
    last = probe.layers[-1]
    assert probe.loss == pytest.approx(mean_loss(logits[:28], dataset.labels[:28]), rel=1e-4)
    looked_at = logits[:28].astype(np.float64)  # four equal parts
    assert (last.mean, last.std, last.low) == pytest.approx(
        (looked_at.mean(), looked_at.std(), looked_at.min()), rel=1e-3, abs=1e-5
    )


def test_a_model_draws_nothing_from_pytorchs_generator():
    net = ConvNet("cnn", (8, 8, 1), 3)
    before = torch.get_rng_state()
    build_bound(net, initialize(net, init="auto", seed=0).astype(np.float32))
    assert torch.equal(torch.get_rng_state(), before)


# Numbers of weights of the published networks for 1,000 classes (He et al. 2016; torchvision's model table)
@pytest.mark.parametrize(
    ("family", "count"), [("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032)]
)
def test_resnets_are_the_published_ones(family, count):
    net = ConvNet(family, (224, 224, 3), 1000)
    assert net.num_parameters == count
    assert net.stem == "large"
    names = set(net.layout())
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv1.weight",
        "layer4.1.bn2.bias",
        "layer2.0.downsample.1.weight",
        "fc.bias",
    } <= names
    assert net.layout()["conv1.weight"][0] == (64, 3, 7, 7)
    assert (family == "resnet50") == ("layer1.0.conv3.weight" in names)


def test_a_narrow_shortcut_computes_what_a_strided_convolution_does():
    """oneDNN's own gradient of it writes outside its memory and ends the process."""
    torch.manual_seed(0)
    narrow = build_module(ConvNet("resnet8", (8, 8, 1), 3, widths=(4, 4, 4))).layer2[0].downsample[0]
    assert type(narrow) is _PickingConv2d
    wide = build_module(ConvNet("resnet8", (8, 8, 1), 3, widths=(16, 16, 16))).layer2[0].downsample[0]
    assert type(wide) is torch.nn.Conv2d
    narrow.weight = torch.nn.Parameter(torch.randn(narrow.weight.shape, dtype=torch.float64))
    answers = []
    for forward in (narrow.forward, lambda x: torch.nn.functional.conv2d(x, narrow.weight, stride=2)):
        x = torch.randn(5, 4, 7, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
        narrow.weight.grad = None
        out = forward(x)
        out.square().sum().backward()
        answers.append((out, x.grad, narrow.weight.grad))
    for ours, theirs in zip(*answers, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.long
def test_a_narrow_resnet_trains_on_one_thread(tmp_path, processes, fork_server):
    options = [
        "--model",
        "resnet8",
        "--set",
        "model.widths=[4,4,4]",
        "--epochs",
        "1",
        "--quiet",
        "--out",
        tmp_path / "run",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = processes.fork(fork_server, forks.command, "train", "digits", *options, env=environment)
    assert child.wait(LIMIT_SECONDS) == 0


# Multiply-adds at 224x224 as torchvision's table states them, in thousand millions, to its two digits
@pytest.mark.parametrize(("family", "giga"), [("resnet18", 1.81), ("resnet34", 3.66), ("resnet50", 4.09)])
def test_multiply_adds_are_the_published_ones(family, giga):
    assert count_multiply_adds(ConvNet(family, (224, 224, 3), 1000)) / 1e9 == pytest.approx(giga, abs=0.01)


@pytest.mark.long
def test_the_list_of_models_counts_and_says_what_does_not_fit():
    rows = {row["model"]: row for row in list_models((8, 8, 1), outputs=10)}
    assert list(rows) == list(FAMILIES)
    assert rows["mlp"]["parameters"] == 64 * 128 + 128 + 128 * 10 + 10
    assert rows["mlp"]["multiply_adds"] == 64 * 128 + 128 * 10
    assert rows["speednet"] == {
        "model": "speednet",
        "title": FAMILIES["speednet"].title,
        "fits": False,
        "why": "pictures must be 9x9 or more for speednet of 3 stages",
    }
    net = ConvNet("cnn", (8, 8, 1), 10)
    assert rows["cnn"]["multiply_adds"] == 64 * 9 * 32 + 16 * 9 * 32 * 64 + 4 * 9 * 64 * 128 + 128 * 10
    assert rows["cnn"]["parameters"] == net.num_parameters


def test_vgg_is_the_one_of_the_study():
    """64, 64, 128, 128, 256 three times, 512 three times, each group with a pool, 4,096 and 10, on 32x32."""
    net = ConvNet("vgg", (28, 28, 1), 10, hidden=FAMILIES["vgg"].hidden, pad_to=32, norm="none")
    shapes = [shape for shape, _ in net.layout().values() if len(shape) > 1]
    units = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512]
    assert shapes == [*((o, i, 3, 3) for i, o in zip([1, *units], units, strict=False)), (4096, 2048), (10, 4096)]


@pytest.mark.parametrize("name", INITIALIZERS)
@pytest.mark.parametrize("family", ["cnn", "vgg", "resnet8"])
def test_initialisers_have_their_spread_for_every_kind_of_layer(name, family):
    net = ConvNet(
        family, (16, 16, 3), 40, hidden=(64,) if family == "vgg" else (), widths=(32, 48, 64), depths=(1, 1, 1)
    )
    tensors = net.tensors(initialize(net, init=name, seed=1, init_std=0.3))
    for key, values in tensors.items():
        if values.ndim == 1:
            assert set(values.tolist()) == {1.0 if key.endswith(("running_var", "weight")) else 0.0}
            continue
        area = int(np.prod(values.shape[2:]))
        fans = values.shape[1] * area, values.shape[0] * area
        expected = {
            "normal": 0.3, "uniform": 0.3, "xavier": np.sqrt(2 / sum(fans)), "he": np.sqrt(2 / fans[0]), "zeros": 0.0,
            "orthogonal": 1 / np.sqrt(max(fans[0], values.shape[0])),
        }[name]  # fmt: skip
        assert values.std() == pytest.approx(expected, rel=0.1, abs=1e-9), key
        if name == "orthogonal":
            flat = values.reshape(len(values), -1).astype(np.float64)
            small = flat @ flat.T if len(flat) <= flat.shape[1] else flat.T @ flat
            np.testing.assert_allclose(small, np.eye(len(small)), atol=1e-5)


def test_auto_is_he_for_hidden_layers_and_xavier_for_the_last():
    net = ConvNet("vgg", (16, 16, 3), 40, hidden=(64,), widths=(32,), depths=(2,))
    found = net.tensors(initialize(net, init="auto", seed=3))
    shapes = {name: values.shape for name, values in found.items() if values.ndim > 1}
    *hidden, last = shapes
    for name in hidden:
        assert found[name].std() == pytest.approx(np.sqrt(2 / np.prod(shapes[name][1:])), rel=0.1)
    assert found[last].std() == pytest.approx(np.sqrt(2 / sum(shapes[last])), rel=0.1)


def test_a_dense_net_starts_alike_in_both_engines():
    net = MLP((12, 7, 3), ("relu",), "unit")
    params = initialize(net, init="auto", seed=5, bias_init="normal").astype(np.float32)
    module = build_bound(net, params)
    x = np.random.default_rng(0).normal(size=(4, 2, 3, 2)).astype(np.float32)
    np.testing.assert_allclose(
        module(torch.from_numpy(x)).numpy(), reference.logits(net, params, x.reshape(4, 12)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", ACTIVATE)
def test_activations_are_those_of_the_textbook(name):
    z = np.linspace(-4, 4, 101)[:, None]
    np.testing.assert_allclose(
        ACTIVATE[name](torch.from_numpy(z)).numpy(), reference.ACTIVATE[name](z)[0], rtol=1e-6, atol=1e-9
    )


def test_hash_and_masks_have_the_bits_of_the_dense_engine():
    words = np.array([0, 1, 2**63, 2**64 - 1, 0x123456789ABCDEF0], np.uint64)
    assert (torch_mix(torch.from_numpy(words.view(np.int64))).numpy().view(np.uint64) == mix(words)).all()
    drop = Dropout(0.3, 5)
    drop.moment[0], drop.moment[1] = int((mix(np.array([9], np.uint64)) ^ np.uint64(7 * 64)).view(np.int64)[0]), 2
    found = drop(torch.ones(3, 11)).numpy()
    whole = reference.dropout_mask((5, 11), 0.3, seed=9, step=7, layer=5, dtype=np.dtype(np.float32))
    np.testing.assert_array_equal(found, whole[2:])
    assert torch.equal(drop.eval()(torch.ones(3, 11)), torch.ones(3, 11))


def test_whitened_patches_have_no_correlation_and_unit_spread():
    net = ConvNet("speednet", (16, 16, 3), 10)
    rng = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(200, 16, 16, 3)), axis=1), axis=2).astype(np.float32)
    smooth /= np.abs(smooth).max()
    params = initialize(net, init="auto", seed=0)
    whiten(net, params, smooth)
    filters = net.tensors(params)["whiten"]
    assert (filters[:12] == -filters[12:]).all()
    answers = torch.nn.functional.conv2d(
        torch.from_numpy(smooth).permute(0, 3, 1, 2), torch.from_numpy(filters[:12])
    ).permute(0, 2, 3, 1)
    flat = answers.reshape(-1, 12).numpy().astype(np.float64)
    moments = flat.T @ flat / len(flat)
    assert np.abs(moments - np.diag(np.diag(moments))).max() < 1e-3
    assert np.diag(moments).max() < 1.001
    assert np.diag(moments).max() > 0.9


def test_padding_is_even_and_zero():
    net = ConvNet("cnn", (5, 6, 1), 2, widths=(3,), depths=(1,), pad_to=8)
    pad = build_module(net).features[0]
    padded = pad(torch.ones(1, 1, 5, 6))
    assert padded.shape == (1, 1, 8, 8)
    assert padded[0, 0, 1:6, 1:7].min() == 1
    assert padded.sum() == 30


def test_pooling_by_mean_sums_up_a_map_so_twice_the_things_count_twice():
    net = ConvNet("cnn", (8, 8, 1), 1, "identity", widths=(3,), depths=(1,), norm="none")
    assert net.pooling == "mean"
    params = initialize(net, init="he", seed=0).astype(np.float32)
    module = build_bound(net, params)
    one, two = torch.zeros(2, 1, 8, 8, 1)
    one[:, 1, 1], two[:, 1, 1], two[:, 6, 6] = 1, 1, 1
    nothing, single, double = (float(module(x)) for x in (torch.zeros(1, 8, 8, 1), one, two))
    assert double - nothing == pytest.approx(2 * (single - nothing), rel=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "lenet"}, "family"),
        ({"widths": [0]}, "widths"),
        ({"widths": [3]}, "widths and depths must be one a stage"),
        ({"norm": "layer"}, "norm must be one of batch, none"),
        ({"pooling": "sum"}, "pooling must be one of max, mean"),
        ({"depths": [900, 900, 900]}, "depths must be 1000 or less in all"),
        ({"widths": [2**20] * 3}, "pictures times widths must be"),
        ({"kernel": 5}, "tensor features"),
        ({"widths": [1, 2**19, 1], "kernel": 1, "pad_to": 64}, "pictures times widths must be"),
        ({"outputs": 6}, "class_names"),
        ({"input_shape": [16, 20, 1]}, "the first layer must take"),
        ({"input_shape": [16, 20]}, "input_shape"),
        ({"hidden": "x"}, "hidden"),
        ({"code": "import os"}, "code"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(change, message, tmp_path):
    import json

    net, dataset = ConvNet("cnn", (16, 20, 3), 5, widths=(4, 4, 4)), data()
    params = initialize(net, init="auto", seed=0).astype(np.float32)
    Bundle(net, params, ("a", "b", "c", "d", "e"), fit_preprocess(dataset, np.arange(30))).save(
        tmp_path / "m", examples=dataset.images
    )
    place = tmp_path / "m" / "model.json"
    description = json.loads(place.read_text())
    description["architecture"] |= change
    place.write_text(json.dumps(description))
    with pytest.raises(ModelFileError, match=message):
        load(tmp_path / "m")


def test_a_predictor_that_runs_out_of_memory_says_so(monkeypatch):
    net, dataset = ConvNet("cnn", (16, 20, 3), 5), data()
    bundle = Bundle(
        net,
        initialize(net, init="auto", seed=0).astype(np.float32),
        tuple("abcde"),
        fit_preprocess(dataset, np.arange(30)),
    )

    def fail(*arguments, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("clearsight.engines.predictor.run_module", fail)
    with pytest.raises(MemoryError):
        bundle.logits(dataset.images)


def test_without_pytorch_a_conv_net_says_how_to_get_it(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "clearsight.models.modules")
    with pytest.raises(
        UsageError,
        match=r"must have PyTorch, got none installed\. Install it with `pip install 'clearsight\[torch\]'`\.$",
    ):
        clearsight.train(np.zeros((20, 8, 8), np.uint8), np.arange(20) % 2, family="cnn", check=False)
