"""Mistakes: the worst first, saliency that points where the evidence is, neighbours, and the page."""

import json

import numpy as np
import pytest
from conftest import SMALL_CNN

import clearsight
from clearsight.diagnose.saliency import grad_cam, occlude
from clearsight.errors import UsageError

pytestmark = pytest.mark.long
torch = pytest.importorskip("torch", reason="PyTorch is not installed")


def corners(n=300, side=16, seed=0):
    """Noise with a bright square in the upper left (class 0) or lower right (class 1) corner."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 80, (n, side, side)).astype(np.uint8)
    labels = np.arange(n) % 2
    images[labels == 0, 1:6, 1:6] += 150
    images[labels == 1, -6:-1, -6:-1] += 150
    return images, labels


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return clearsight.train(*corners(), hidden=(16,), epochs=20, root=tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module", params=["cnn", "vgg", "resnet8", "speednet", "efficientnet_lite0"])
def conv(request, tmp_path_factory):
    sizes = {"cnn": {"widths": (8, 16), "depths": (1, 1)}, "vgg": {"widths": (8,), "depths": (1,), "hidden": (16,)}}
    options = {"efficientnet_lite0": {"pad_to": 32}}.get(request.param, sizes.get(request.param, {}))
    root = tmp_path_factory.mktemp(request.param)
    count, epochs = (300, 4) if request.param == "cnn" else (40, 1)
    return clearsight.train(*corners(count), family=request.param, epochs=epochs, batch_size=16, root=root, **options)


def share_inside(maps, labels):
    """Share of a map that lies in the half of the picture, cut along the diagonal, where its class has its square."""
    rows, columns = np.indices(maps.shape[1:])
    upper = rows + columns < maps.shape[1]
    inside = np.where((labels == 0)[:, None, None], upper, ~upper)
    return (maps * inside).sum() / maps.sum()


def test_occlusion_points_where_the_evidence_is(dense):
    images, labels = corners(20, seed=1)
    maps = occlude(dense.bundle.predict_proba, images[..., None], labels)
    assert maps.shape == (20, 16, 16)
    assert 0 <= maps.min() <= maps.max() == 1
    assert share_inside(maps, labels) > 0.75


def test_grad_cam_of_every_family_has_the_size_of_the_picture(conv):
    images, labels = corners(6, seed=1)
    bundle = conv.bundle
    maps = grad_cam(bundle.net, bundle.params, bundle.preprocess, images[..., None], labels)
    assert maps.shape == (6, 16, 16)
    assert np.isfinite(maps).all()
    assert 0 <= maps.min() <= maps.max() <= 1
    if bundle.net.family == "cnn":  # others see most of so small a picture from each place
        assert conv.test.accuracy > 0.9
        assert share_inside(maps, labels) > 0.6


@pytest.mark.parametrize("conv", ["cnn"], indirect=True)
def test_grad_cam_is_what_its_equations_say(conv):
    """Against a plain forward pass and finite differences of the last maps, for the plain nets."""
    bundle = conv.bundle
    from clearsight.engines.torch_tools import Inputs, build_bound

    images, labels = corners(2, seed=2)
    module = build_bound(bundle.net, bundle.params).double()
    with torch.no_grad():
        inputs = Inputs(bundle.preprocess)(torch.from_numpy(images[..., None])).double().permute(0, 3, 1, 2)
        maps = module.features(inputs)
        gradient = torch.zeros_like(maps)
        for place in np.ndindex(*maps.shape):
            step = torch.zeros_like(maps)
            step[place] = 1e-4
            up, down = module.classifier(maps + step), module.classifier(maps - step)
            gradient[place] = (up - down)[place[0], labels[place[0]]] / 2e-4
        cam = (gradient.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).clamp(min=0)
        wide = torch.nn.functional.interpolate(cam, (16, 16), mode="bilinear")[:, 0].numpy()
    found = grad_cam(bundle.net, bundle.params, bundle.preprocess, images[..., None], labels)
    np.testing.assert_allclose(found, wide / wide.max((1, 2), keepdims=True), atol=2e-3)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    return clearsight.train("digits", epochs=4, hidden=(16,), root=root, out=root / "run")


def test_the_worst_come_first_with_their_neighbours(digits):
    found = clearsight.find_mistakes(digits.path, count=7, neighbours=2)
    assert [one.loss for one in found.worst] == sorted((one.loss for one in found.worst), reverse=True)
    data = clearsight.load_data("digits")
    split = clearsight.pipeline.data.build_split(digits.config, data)
    names = {data.row_name(int(row)): row for row in split.train}
    for one in found.worst:
        assert one.row in split.test
        assert one.true == data.class_names[data.labels[one.row]] != one.answer
        assert len(one.neighbours) == 2
        assert one.neighbours[0].distance <= one.neighbours[1].distance
        assert all(near.label == data.class_names[data.labels[names[near.name]]] for near in one.neighbours)
    assert found.how == "occlusion"
    assert found.summary()["wrong"] == round((1 - digits.test.accuracy) * 359)


def test_mistakes_on_the_command_line(digits, call, capsys, tmp_path):
    assert call("mistakes", digits.path, "--count", "5", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["page"] == str(digits.path / "mistakes.html")
    assert (found["split"], found["n"], len(found["mistakes"])) == ("test", 359, 5)
    page = (digits.path / "mistakes.html").read_text()
    assert "answers of digits (test) are wrong" in page
    assert page.count("<img") > 5 * 5
    assert call("mistakes", digits.path, "--split", "valid", "--saliency", "none", "--neighbours", "0") == 0
    text, other = capsys.readouterr().out, digits.path / "mistakes-valid.html"
    assert f"answers (valid) are wrong\nlook    {other}\nearlier {digits.path / 'mistakes.html'}" in text
    assert (digits.path / "mistakes.html").read_text() == page
    assert "answers of digits (valid) are wrong" in other.read_text()
    assert call("mistakes", digits.path, "digits", "--split", "train", "--count", "1", "--saliency", "none") == 0
    assert f"look    {digits.path / 'mistakes-digits-train.html'}" in capsys.readouterr().out
    assert call("mistakes", digits.path, "--saliency", "grad-cam") == 2
    assert "--saliency grad-cam must go with a convolutional net of our own, got 64-16-10" in capsys.readouterr().err
    assert call("mistakes", digits.path, "--saliency", "magic") == 2
    (tmp_path / "notes.txt").write_text("mine")
    assert call("mistakes", digits.path, "--out", tmp_path / "notes.txt") == 2
    assert "--out must not replace what is no earlier picture or page" in capsys.readouterr().err


def test_a_look_at_a_test_split_is_counted(digits):
    looks = digits.path.parent / "test-looks.jsonl"
    before = len(looks.read_text().splitlines())
    clearsight.find_mistakes(digits.path, count=1, split="valid")
    clearsight.find_mistakes(digits.path, count=1)
    assert len(looks.read_text().splitlines()) == before  # of a model that was evaluated there when it was trained
    looks.write_text("")
    clearsight.find_mistakes(digits.path, count=1)
    (line,) = looks.read_text().splitlines()
    assert json.loads(line)["by"] == f"mistakes {digits.path / 'model.clearsight'}"
    assert json.loads(line)["model"] == digits.bundle.fingerprint


def test_a_model_without_its_run_shows_no_neighbours(digits, tmp_path):
    path, notes = tmp_path / "alone.clearsight", []
    digits.bundle.save(path, examples=clearsight.load_data("digits").images[:3])
    found = clearsight.find_mistakes(path, "digits", split="all", count=3, note=notes.append)
    assert all(not one.neighbours for one in found.worst)
    assert any("because the data of the model's run cannot be found" in text for text in notes)


def test_a_model_without_mistakes_has_an_empty_gallery(dense):
    images, labels = corners(40, seed=5)
    found = clearsight.find_mistakes(dense.bundle, images, labels)
    assert found.worst == ()
    assert "0 of 40 answers" in found.render()


def test_numbers_have_no_mistakes(tmp_path):
    pixels = np.random.default_rng(0).random((60, 4, 4)).astype(np.float32)
    run = clearsight.train(pixels, pixels.mean((1, 2)), task="regression", epochs=1, root=tmp_path)
    with pytest.raises(UsageError, match="mistakes must be those of a classifier, got a regression model"):
        clearsight.find_mistakes(run.bundle, pixels, pixels.mean((1, 2)))


def test_convolutional_nets_show_where_they_look(tmp_path, call, capsys):
    assert (
        call("train", "digits", *SMALL_CNN, "--epochs", "1", "--out", tmp_path / "run", "--root", tmp_path, "--quiet")
        == 0
    )
    assert call("mistakes", tmp_path / "run", "--count", "3", "--json") == 0
    assert json.loads(capsys.readouterr().out)["saliency"] == "grad-cam"


@pytest.mark.parametrize("family", ["resnet8", "efficientnet_lite0"])
def test_grad_cam_of_a_net_with_mean_pool_and_one_layer_is_its_class_activation_map(family):
    """Selvaraju et al. 2017, section 3.1: there the weights of the head are the weights of the maps."""
    from clearsight.data.preprocess import fit_preprocess
    from clearsight.engines.torch_tools import Inputs, build_bound
    from clearsight.models.convnet import ConvNet
    from clearsight.models.initialize import initialize

    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    net, labels = ConvNet(family, (64, 64, 3), 4), np.array([0, 3, 1])
    params = initialize(net, init="he", seed=0)
    preprocess = fit_preprocess(clearsight.load_data(images, np.array([0, 1, 2])), np.arange(3))
    module, seen = build_bound(net, params), []
    module.pool.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        module(Inputs(preprocess)(torch.from_numpy(images)))
        cam = (module.fc.weight[labels][:, :, None, None] * seen[0]).sum(1, keepdim=True).clamp(min=0)
        wide = torch.nn.functional.interpolate(cam, (64, 64), mode="bilinear")[:, 0].numpy()
    most = wide.max((1, 2), keepdims=True)
    np.testing.assert_allclose(
        grad_cam(net, params, preprocess, images, labels), wide / np.maximum(most, 1e-30), atol=1e-3
    )


def test_a_training_picture_is_not_its_own_neighbour(digits):
    found = clearsight.find_mistakes(digits.path, split="train", count=5)
    assert all(near.name != one.name and near.distance > 0 for one in found.worst for near in one.neighbours)
    with pytest.raises(UsageError, match="--count must be a whole number of 1 or more, got -1"):
        clearsight.find_mistakes(digits.path, count=-1)
    with pytest.raises(UsageError, match="--neighbours must be a whole number of 0 or more, got '2'"):
        clearsight.find_mistakes(digits.path, neighbours="2")
