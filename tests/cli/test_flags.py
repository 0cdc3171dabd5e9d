"""Flags: each says what its setting says, end to end, and none stands in no test.

The two lines of a pair must lead to the same resolved configuration, or to the same numbers, or to the same error.
"""

import ast
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from commands import walk_commands
from PIL import Image

from clearsight.cli.settings import SETTINGS
from clearsight.config.build import build_config
from clearsight.config.files import read_config_file

TESTS = Path(__file__).parents[1]


def lines():
    """Words of each call and list of literals in the tests, and of each command in README and guide: a command beside its flags."""
    for file in TESTS.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            inside = node.args if isinstance(node, ast.Call) else getattr(node, "elts", [])
            inside = [node.value] if isinstance(node, ast.Assign) else inside
            literals = [part for one in inside for part in (one.values if isinstance(one, ast.JoinedStr) else [one])]
            yield {word for one in literals if isinstance(one, ast.Constant) for word in str(one.value).split()}
    for page in ("README.md", "docs/guide.md"):
        for line in (TESTS.parent / page).read_text().splitlines():
            yield set(line.removeprefix("clearsight ").split())


@pytest.mark.long
def test_every_option_of_every_command_is_used_by_a_test():
    used, missing = [words for words in lines() if any(word.startswith("--") for word in words)], []
    for path, command in walk_commands():
        of_settings = {key.replace(".", "_") for key in SETTINGS}  # tested one by one in test_settings_options
        for option in (one for one in command.params if one.param_type_name == "option" and one.name != "help"):
            if option.name in of_settings:
                continue
            if not any({*path, name} <= words for words in used for name in option.opts):
                missing.append(f"clearsight {' '.join(path)} {option.opts[0]}")
    assert not missing, (
        f"no test uses {', '.join(missing)}: add a line with the command and the flag to tests/cli/test_flags.py"
    )


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to work in, with grey.npz, colour/ (a folder a class) and numbers/ (a metadata.csv)."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 60, (60, 6, 6)).astype(np.uint8)
    for k in range(3):
        grey[k::3, 2 * k : 2 * k + 2] += 150
    np.savez(tmp_path / "grey.npz", x_train=grey, y_train=np.arange(60) % 3)
    (tmp_path / "numbers").mkdir()
    table = ["file_name,size,weight"]
    for k in range(30):
        pixels = rng.integers(0, 200, (9, 12, 3)).astype(np.uint8)
        pixels[: k % 2 * 5] //= 3
        folder = tmp_path / "colour" / "ab"[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{k:02}.png")
        Image.fromarray(pixels[..., 0]).save(tmp_path / "numbers" / f"{k:02}.png")
        table.append(f"{k:02}.png,{k % 7}.5,{k}")
    (tmp_path / "numbers" / "metadata.csv").write_text("\n".join(table) + "\n")
    (tmp_path / "few.toml").write_text("[train]\nepochs = 2\n")
    (tmp_path / "fix.csv").write_text("row,name,label,new_label\n0,a/00.png,a,b\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def result(call, capsys, line):
    """Exit code, what was printed (without places and times), and error of a command."""
    code = call(*shlex.split(line))
    told = capsys.readouterr()
    return code, plain(json.loads(told.out)) if told.out.startswith("{") else told.out, told.err


def plain(value):
    """A JSON value without what differs between two runs of the same."""
    if isinstance(value, dict):
        unlike = (
            "seconds",
            "seconds_per_epoch",
            "run",
            "bundle",
            "report",
            "search",
            "cv",
            "names",
            "path",
            "outputs",
            "plot",
        )
        return {key: plain(one) for key, one in value.items() if key not in unlike}
    return [plain(one) for one in value] if isinstance(value, list) else value


CONFIGURED = {
    "mlp": (
        "train grey.npz --hidden 9,5 --activation tanh --bias shared --init normal --init-std 0.2 --batch-size 7 "
        "--optimizer momentum --momentum 0.3 --lr 0.02 --schedule cosine --warmup-epochs 0.5 --weight-decay 0.01 --l1 0.001 "
        "--l2 0.002 --dropout 0.1 --loss cross_entropy --label-smoothing 0.1 --class-weights 1,2,3 --clip-norm 2 --seed 3",
        {
            "model.hidden": [9, 5], "model.activation": "tanh", "model.bias": "shared", "model.init": "normal",
            "model.init_std": 0.2, "train.batch_size": 7, "train.optimizer": "momentum", "train.momentum": 0.3,
            "train.lr": 0.02, "train.schedule": "cosine", "train.warmup_epochs": 0.5, "train.weight_decay": 0.01,
            "train.l1": 0.001, "train.l2": 0.002, "train.dropout": 0.1, "train.loss": "cross_entropy",
            "train.label_smoothing": 0.1, "train.class_weights": [1, 2, 3], "train.clip_norm": 2, "train.seed": 3,
        },
    ),
    "pictures": (
        "train colour --image-size 8x10 --resize crop --channels grey --background black --scale symmetric --skip-bad "
        "--sampling balanced --valid-fraction 0.3 --test-fraction 0.3 --patience 2 --monitor valid_accuracy --engine reference "
        "--checkpoint-steps 1 --keep-steps 1 --weight-history --task classification --relabel fix.csv --hidden 3",
        {
            "preprocess.image_size": [8, 10], "preprocess.resize": "crop", "preprocess.channels": "grey",
            "preprocess.background": "black", "preprocess.scale": "symmetric", "data.skip_bad": True,
            "train.sampling": "balanced", "data.valid_fraction": 0.3, "data.test_fraction": 0.3, "train.patience": 2,
            "train.monitor": "valid_accuracy", "train.engine": "reference", "train.checkpoint_steps": 1,
            "train.keep_steps": 1, "train.weight_history": True, "data.task": "classification", "model.hidden": [3],
        },
    ),
    "torch": (
        "train colour --model cnn --set model.widths=[4] --set model.depths=[1] --image-size 8 --augment light,hflip=0.25 "
        "--engine torch --device cpu --precision float32 --accumulate 2 --ema 0.9 --lookahead 2 --label-column auto",
        {
            "model.family": "cnn", "model.widths": [4], "model.depths": [1], "augment.preset": "light", "augment.hflip": 0.25,
            "train.engine": "torch", "train.device": "cpu", "train.precision": "float32", "train.accumulate": 2,
            "train.ema": 0.9, "train.lookahead": 2, "data.label_column": "auto",
        },
    ),
    "numbers": (
        "train numbers --target size --hidden 4",
        {"data.task": "regression", "data.label_column": "size", "model.hidden": [4]},
    ),
    "file": ("train grey.npz --config few.toml --hidden 4", {"train.epochs": 2, "model.hidden": [4]}),
    "search": (
        "tune grey.npz --quiet --search train.lr=0.01,0.1 --strategy random --trials 2 --round-size 2 --search-seed 4 --minutes 5 "
        "--metric loss --workers 1 --executor processes --hidden 5 --activation tanh --batch-size 9 --optimizer sgd --seed 2 "
        "--engine reference --device cpu --image-size 5 --retrain",
        {
            "model.hidden": [5], "model.activation": "tanh", "train.batch_size": 9, "train.optimizer": "sgd", "train.seed": 2,
            "train.engine": "reference", "train.device": "cpu", "preprocess.image_size": 5,
        },
    ),
    "search of numbers": (
        "tune numbers --target size --no-retrain --search train.lr=0.01,0.1 --workers 1 --hidden 4 --set train.l2=0.25",
        {"train.l2": 0.25, "data.label_column": "size", "data.task": "regression"},
    ),
    "search of corrected labels": (
        "tune colour --relabel fix.csv --search train.lr=0.01,0.1 --workers 1 --hidden 3 --image-size 8 --no-retrain",
        {"model.hidden": [3], "preprocess.image_size": 8},
    ),
    "folds": (
        "cv colour --quiet --out out --folds 2 --repeats 2 --metric loss --workers 1 --group-by '[0-9]+' --relabel fix.csv --hidden 5 "
        "--activation tanh --batch-size 9 --optimizer sgd --seed 2 --engine reference --device cpu --image-size 8",
        {
            "data.group_by": "[0-9]+", "model.hidden": [5], "model.activation": "tanh", "train.batch_size": 9,
            "train.optimizer": "sgd", "train.seed": 2, "train.engine": "reference", "train.device": "cpu",
            "preprocess.image_size": 8,
        },
    ),
    "folds of numbers": (
        "cv numbers --folds 2 --target size --hidden 4 --config few.toml --workers 1",
        {"data.label_column": "size", "data.task": "regression", "train.epochs": 2},
    ),
    "suspects": (
        "label-errors colour --folds 2 --repeats 2 --workers 1 --executor processes --hidden 5 --batch-size 9 --optimizer sgd "
        "--seed 2 --engine reference --device cpu --image-size 8",
        {
            "model.hidden": [5], "train.batch_size": 9, "train.optimizer": "sgd", "train.seed": 2,
            "train.engine": "reference", "train.device": "cpu", "preprocess.image_size": 8,
        },
    ),
    "suspects with settings": (
        "label-errors colour --folds 2 --workers 1 --config few.toml --hidden 4 --image-size 8 --relabel fix.csv "
        "--set train.l2=0.25",
        {"train.epochs": 2, "train.l2": 0.25},
    ),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", CONFIGURED)
def test_flags_reach_the_configuration_that_is_kept(place, call, capsys, name, forked_workers):
    line, wanted = CONFIGURED[name]
    epochs = "" if "few.toml" in line else "--epochs 1"
    code, found, told = result(call, capsys, f"{line} {epochs} --out out --root . --json --quiet")
    assert code == 0, told
    config = build_config(read_config_file(place / "out" / "config.toml"))
    for key, value in wanted.items():
        section, field = key.split(".")
        got = getattr(getattr(config, section), field)
        assert got == (tuple(value) if isinstance(got, tuple) else value), key
    if "few.toml" in line:
        assert config.train.epochs == 2
    if "--relabel" in line:
        assert "fix.csv" in str(config.data.relabel)
    if "--metric" in line:
        assert found["metric"] == "loss"
    if name.startswith("search"):
        record = json.loads((place / "out" / "search.json").read_text())
        assert (place / "out" / "best").is_dir() == ("--no-retrain" not in line)
        assert record["plan"]["seed"] == (4 if "--search-seed" in line else 0)


SAME = {
    "rates": (
        "lr-find grey.npz --low 1e-4 --high 10 --steps 20 --hidden 5 --activation tanh --optimizer sgd --batch-size 9 "
        "--image-size 5 --engine reference --device cpu --seed 2",
        "lr-find grey.npz --low 1e-4 --high 10 --steps 20 --set model.hidden=[5] --set model.activation=tanh "
        "--set train.optimizer=sgd --set train.batch_size=9 --set preprocess.image_size=5 --set train.engine=reference "
        "--set train.device=cpu --set train.seed=2",
    ),
    "rates of numbers": (
        "lr-find numbers --steps 9 --target size --config few.toml --hidden 4",
        "lr-find numbers --steps 9 --set data.task=regression --set data.label_column=size --set train.epochs=2 "
        "--set model.hidden=[4]",
    ),
    "curve": (
        "learning-curve numbers --shares 0.5,1 --seeds 2 --plot c.svg --target size --config few.toml --image-size 8 --hidden 4",
        "learning-curve numbers --shares 0.5,1 --seeds 2 --set data.task=regression --set data.label_column=size "
        "--set train.epochs=2 --set preprocess.image_size=8 --set model.hidden=[4]",
    ),
    "recipes": (
        "compare base train.lr=0.1 --quiet --data grey.npz --pairs 11 --split test --metric loss --workers 1 --executor processes "
        "--config few.toml --hidden 5 --activation tanh --batch-size 9 --optimizer sgd --image-size 5 --seed 2 "
        "--engine reference --device cpu",
        "compare base train.lr=0.1 --data grey.npz --pairs 11 --split test --metric loss --set train.epochs=2 "
        "--set model.hidden=[5] --set model.activation=tanh --set train.batch_size=9 --set train.optimizer=sgd "
        "--set preprocess.image_size=5 --set train.seed=2 --set train.engine=reference --set train.device=cpu",
    ),
    "recipes of numbers": (
        "compare base train.lr=0.1 --data numbers --target size --set train.epochs=1 --hidden 3",
        "compare base train.lr=0.1 --data numbers --set data.task=regression --set data.label_column=size --set train.epochs=1 "
        "--set model.hidden=[3]",
    ),
    "rates of deep weights": (
        "train colour --model resnet18 --pretrained --weights none.safetensors --finetune last --engine torch --layer-decay 0.5",
        "train colour --set model.family=resnet18 --set model.pretrained=true --set model.weights=none.safetensors "
        "--set model.finetune=last --set train.engine=torch --set train.layer_decay=0.5",
    ),
    **{
        name: (
            line,
            f"{line.split(' --model')[0]} --set model.family=resnet18 --set model.pretrained=true --set model.weights=none.safetensors "
            "--set model.finetune=last --set train.engine=torch",
        )
        for name, line in (
            (
                "deep search",
                "tune colour --search train.lr=0.01,0.1 --model resnet18 --pretrained --weights none.safetensors --finetune last "
                "--engine torch",
            ),
            ("deep folds", "cv colour --model resnet18 --pretrained --weights none.safetensors --finetune last --engine torch"),
            (
                "deep suspects",
                "label-errors colour --model resnet18 --pretrained --weights none.safetensors --finetune last --engine torch",
            ),
        )
    },
    "checks": (
        "data check colour --json --image-size 8 --resize pad --skip-bad",
        "data check colour --set preprocess.image_size=8 --set preprocess.resize=pad --set data.skip_bad=true",
    ),
    "checks of numbers": (
        "data check numbers --target size --config few.toml",
        "data check numbers --set train.epochs=2 --set data.task=regression --set data.label_column=size",
    ),
    "safety": (
        "data safety colour --image-size 8 --resize crop --skip-bad --augment photo",
        "data safety colour --set preprocess.image_size=8 --set preprocess.resize=crop --set data.skip_bad=true "
        "--set augment.preset=photo",
    ),
    "safety of numbers": (
        "data safety numbers --target size --config few.toml",
        "data safety numbers --set train.epochs=2 --set data.task=regression --set data.label_column=size",
    ),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", SAME)
def test_a_flag_and_its_setting_lead_to_the_same(place, call, capsys, name, forked_workers):
    one, other = (result(call, capsys, f"{line} --json --quiet") for line in SAME[name])
    assert one == other
    assert one[0] == (2 if "none.safetensors" in SAME[name][0] else 0), one[2]


REFUSED = (
    *(
        (line, "hidden must go with model mlp or vgg, got (5,) without")
        for line in (
            "lr-find digits --model cnn --hidden 5", "learning-curve digits --shares 1 --model cnn --hidden 5",
            "tune digits --search train.lr=0.01,0.1 --model cnn --hidden 5", "cv digits --model cnn --hidden 5",
            "compare base train.lr=0.1 --data digits --model cnn --hidden 5", "label-errors digits --model cnn --hidden 5",
        )
    ),
    *(
        (line, "augment.hflip must be")
        for line in (
            "lr-find digits --augment light,hflip=5", "learning-curve digits --shares 1 --augment light,hflip=5",
            "tune digits --search train.lr=0.01,0.1 --augment light,hflip=5", "cv digits --augment light,hflip=5",
            "compare base train.lr=0.1 --data digits --augment light,hflip=5", "label-errors digits --augment light,hflip=5",
            "data show digits --augment light,hflip=5", "data safety digits --augment light,hflip=5",
        )
    ),
    ("train digits --compile --engine dense", "compile must go with engine torch, got True without"),
    ("train digits --layer-decay 0.5", "layer_decay must go with pretrained and finetune last or all, got 0.5 without"),
    ("train digits --l2 auto", "l2 auto must go with pretrained and finetune head, got it without. Give a number, such as 0.001."),
    ("train digits --target size --task regression", "--target must stand alone, got --label-column or --task beside it"),
    ("tune digits --search train.lr=0.01,0.1 --track paper", "--track must be one of tensorboard, mlflow, got 'paper'"),
    ("cv digits --resume nowhere", "got 'nowhere'"),
    *(
        (line, "max_megapixels must")
        for line in (
            "lr-find digits --max-megapixels 0",
            "learning-curve digits --shares 1 --max-megapixels 0",
            "tune digits --search train.lr=0.01,0.1 --max-megapixels 0",
            "cv digits --max-megapixels 0",
            "compare base train.lr=0.1 --data digits --max-megapixels 0",
            "label-errors digits --max-megapixels 0",
            "train digits --max-megapixels 0",
            "data check digits --max-megapixels 0",
            "data show digits --max-megapixels 0",
            "data safety digits --max-megapixels 0",
        )
    ),
    ("recipe run F3 --seeds 2 --root runs", "--seeds must be left out for F3, which is a search, got 2. Remove it."),
    ("data fetch letters --folder here --json --quiet", "must be one of"),
)  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(("line", "text"), REFUSED)
def test_a_flag_that_cannot_be_is_refused_in_its_sentence(place, call, capsys, line, text):
    before = set(place.iterdir())
    assert call(*shlex.split(line)) in (2, 3)
    assert text in capsys.readouterr().err
    assert set(place.iterdir()) == before


def drawn(path):
    return np.asarray(Image.open(path))


@pytest.mark.long
def test_flags_of_contact_sheets_change_what_is_drawn(place, call, capsys):
    def sheet(line):
        assert call(*shlex.split(line)) == 0
        return drawn("s.png")

    plain_one = sheet("data show colour --out s.png --per-class 2 --image-size 8 --quiet")
    assert not np.array_equal(
        plain_one, sheet("data show colour --out s.png --per-class 2 --image-size 8 --seed 1 --quiet")
    )
    cut = sheet("data show colour --out s.png --per-class 2 --image-size 8 --resize crop --skip-bad --quiet")
    as_set = (
        "data show colour --out s.png --per-class 2 --set preprocess.resize=crop --set preprocess.image_size=8 --quiet"
    )
    assert np.array_equal(cut, sheet(as_set))
    assert not np.array_equal(plain_one, cut)
    assert not np.array_equal(plain_one, sheet("data show colour --out s.png --per-class 3 --image-size 8 --quiet"))
    capsys.readouterr()
    assert call("data", "show", "numbers", "--target", "size", "--config", "few.toml", "--out", "n.png", "--json") == 0
    assert json.loads(capsys.readouterr().out)["classes"] == []


@pytest.mark.long
def test_flags_of_made_data_say_what_is_made(place, call, capsys):
    line = (
        "data make counting --counts 2,4 --per-class 3 --test-per-class 1 --size 48x32 --sizes various --seed 5 --out made "
        "--target number --overwrite --json --quiet"
    )

    def made(line):
        code, found, _ = result(call, capsys, line)
        assert (code, found["train"], found["test"]) == (0, 6, 2)
        return sorted(path.read_bytes() for path in (place / "made").rglob("*.png"))

    first = made(line)
    assert {drawn(path).shape[:2] for path in (place / "made").rglob("*.png")} == {(32, 48)}
    assert list((place / "made").rglob("metadata.csv"))
    assert made(line) == first
    assert made(line.replace("--seed 5", "--seed 6")) != first
    assert made(line.replace("various", "fixed")) != first
    code, _, told = result(call, capsys, line.replace(" --overwrite", ""))
    assert code == 2
    assert "out must be a new path, got made, which exists" in told


@pytest.mark.long
def test_flags_of_a_trained_model(place, call, capsys):
    assert call(*shlex.split("train numbers --target size --hidden 3 --epochs 1 --root runs --out runs/n --quiet")) == 0
    by_flag = result(call, capsys, "evaluate runs/n numbers --target size --split all --skip-bad --quiet --json")
    assert by_flag == result(call, capsys, "evaluate runs/n numbers --label-column size --split all --json")
    assert by_flag[0] == 0
    assert by_flag[1] != result(call, capsys, "evaluate runs/n numbers --target weight --split all --json")[1]
    assert call(*shlex.split("train colour --hidden 3 --epochs 1 --root runs --out runs/c --quiet")) == 0
    (place / "odd.bmp").write_bytes((place / "colour" / "a" / "00.png").read_bytes())
    assert "odd.bmp is a PNG file" in result(call, capsys, "predict runs/c odd.bmp")[2]
    assert result(call, capsys, "predict runs/c odd.bmp --quiet")[2] == ""
    code, found, told = result(call, capsys, "mistakes runs/c --skip-bad --quiet --out m.html --json")
    assert (code, told) == (0, "")
    assert set(found) >= {"mistakes"}
    code, found, _ = result(call, capsys, "report last --root runs --json")
    assert code == 0
    (place / "runs" / "broken").mkdir()
    (place / "runs" / "broken" / "run.json").write_text("{")
    assert result(call, capsys, "runs list --root runs")[2]
    assert result(call, capsys, "runs list --root runs --quiet")[2] == ""
    code, found, _ = result(call, capsys, "runs watch c --root runs --json")
    assert (code, found["status"], found["seconds_left"]) == (0, "finished", None)
    assert result(call, capsys, "runs remove c --root runs --yes --json")[0] == 0
    assert not (place / "runs" / "c").exists()


@pytest.mark.long
def test_flags_of_kept_pictures(place, own_cache, call, capsys):
    assert call(*shlex.split("data check colour --quiet")) == 0
    capsys.readouterr()
    listed = result(call, capsys, "data cache --json")[1]
    assert {Path(one["source"]).name for one in listed["entries"]} == {"colour"}
    assert result(call, capsys, "data cache --clear --json")[1]["removed"] == len(listed["entries"])
    assert result(call, capsys, "data cache --json")[1]["entries"] == []


@pytest.mark.long
def test_flags_of_lists(place, call, capsys):
    few, more = (
        result(call, capsys, f"models --classes {n} --channels 3 --image-size 32 --json")[1] for n in (10, 110)
    )
    assert (few["classes"], more["classes"]) == (10, 110)
    for a, b in zip(few["models"], more["models"], strict=True):
        assert b["parameters"] > a["parameters"]
    found = result(call, capsys, "recipe list --json")[1]["recipes"]
    assert {"D1", "K1", "V1"} <= {one["name"] for one in found}
