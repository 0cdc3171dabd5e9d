"""The command line as a person or a program uses it: JSON contracts, exit codes, one-line errors, help everywhere."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from commands import walk_commands
from conftest import run
from PIL import Image
from processes import CLEARSIGHT, LIMIT_SECONDS, wait_until

from clearsight.data.read.load import load_data


def run_apart(*arguments, **options):
    """The command in a process of its own, which takes seconds to start."""
    done = subprocess.run([*CLEARSIGHT, *map(str, arguments)], capture_output=True, text=True, **options)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def refused(*arguments, code, **options):
    done = run(*arguments, **options)
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("note: ", "epoch "))]
    assert len(lines) == 1
    assert done.stdout == ""
    return lines[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, compiled):
    folder = tmp_path_factory.mktemp("cli")
    done = run_apart(
        "train", "digits", "--epochs", 30, "--hidden", "32,16", "--json", "--quiet", "--root", folder / "runs"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder, json.loads(done.stdout)


@pytest.mark.long
def test_train_json_keeps_its_contract(trained):
    _, found = trained
    assert set(found) >= {
        "run", "bundle", "report", "status", "epoch", "seed", "engine", "parameters", "data", "seconds", "seconds_per_epoch",
        "train", "valid", "test",
    }  # fmt: skip
    assert (found["engine"], found["seed"], found["parameters"]) == (
        "dense",
        0,
        64 * 32 + 32 + 32 * 16 + 16 + 16 * 10 + 10,
    )
    assert [found[split]["n"] for split in ("train", "valid", "test")] == [1294, 144, 359]
    for split in ("train", "valid", "test"):
        assert {"accuracy", "loss", "n", "interval", "confusion", "classes"} <= set(found[split])
        low, high = found[split]["interval"]
        assert 0.9 < low < found[split]["accuracy"] < high


def test_the_run_directory_holds_its_files(trained):
    _, found = trained
    names = {path.name for path in __import__("pathlib").Path(found["run"]).iterdir()}
    assert names >= {
        "config.toml", "history.csv", "steps.csv", "metrics.json", "environment.json", "run.json", "model.clearsight",
        "report.html", "history.svg",
    }  # fmt: skip


@pytest.mark.long
def test_evaluate_repeats_the_numbers_of_the_run(trained):
    _, found = trained
    for split in ("train", "valid", "test"):
        done = run("evaluate", found["run"], "--split", split, "--json")
        got = json.loads(done.stdout)
        assert got["confusion"] == found[split]["confusion"]
        assert got["loss"] == pytest.approx(found[split]["loss"], rel=1e-5)
    done = run("evaluate", found["bundle"])
    assert f"test accuracy {found['test']['accuracy']:.4f} (n = 359, 95 % interval " in done.stdout
    assert "precision" in done.stdout


@pytest.mark.long
def test_predict_names_classes_of_pictures_and_arrays(trained):
    folder, found = trained
    digits = load_data("digits")
    pictures = []
    for row in range(10):
        path = folder / f"digit {row}.png"
        Image.fromarray((digits.images[row, :, :, 0] * 15.9375).astype(np.uint8)).save(path)
        pictures.append(path)
    np.save(folder / "digits.npy", digits.images[:10, :, :, 0])
    files = json.loads(run("predict", found["run"], *pictures, "--json").stdout)["predictions"]
    arrays = json.loads(run("predict", found["bundle"], folder / "digits.npy", "--json").stdout)["predictions"]
    assert [p["label"] for p in files] == [p["label"] for p in arrays]
    assert sum(p["label"] == str(k) for k, p in enumerate(files)) >= 9
    for one, other in zip(files, arrays, strict=True):
        assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-5)
        assert one["probabilities"] == pytest.approx(
            other["probabilities"], abs=0.05
        )  # the files are rounded to 8 bits
    text = run("predict", found["run"], pictures[0], "--top", 2).stdout
    assert text.startswith(f"{pictures[0]}  0 0.")
    assert len(text.split("  ")) == 3


@pytest.mark.long
def test_one_bad_picture_fails_only_itself(trained):
    folder, found = trained
    good, bad = folder / "good.png", folder / "bad.png"
    Image.new("L", (20, 20), 100).save(good)
    bad.write_text("no picture")
    done = run("predict", found["run"], bad, good, "--json")
    assert done.returncode == 3
    answers = json.loads(done.stdout)["predictions"]
    assert "must be a picture" in answers[0]["error"]
    assert "label" in answers[1]


@pytest.mark.long
@pytest.mark.report
def test_report_and_runs(trained):
    folder, found = trained
    done = run("report", found["run"])
    assert done.stdout.strip() == found["report"]
    listed = json.loads(run("runs", "list", "--root", folder / "runs", "--json").stdout)["runs"]
    assert [(r["status"], r["data"], r["model"]) for r in listed] == [("finished", "digits", "64-32-16-10")]
    assert listed[0]["accuracy"]["test"] == found["test"]["accuracy"]
    assert "finished" in run("runs", "list", "--root", folder / "runs").stdout
    shown = json.loads(run("runs", "show", "last", "--root", folder / "runs", "--json").stdout)
    assert shown["metrics"]["test"]["accuracy"] == found["test"]["accuracy"]
    assert "test accuracy" in run("runs", "show", found["run"]).stdout


@pytest.mark.long
def test_runs_remove_deletes_one_run_after_asking(tmp_path):
    for _ in range(2):
        run("train", "digits", "--epochs", 1, "--root", tmp_path, "--quiet")
    first, second = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert run("runs", "remove", first, "--root", tmp_path, input="n\n").returncode == 1
    assert run("runs", "remove", first, "--root", tmp_path, "--yes").returncode == 0
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [second]


@pytest.mark.long
def test_quiet_says_nothing_and_a_log_gets_plain_lines(tmp_path):
    done = run("train", "digits", "--epochs", 2, "--quiet", "--out", tmp_path / "a")
    assert (done.stdout, done.stderr) == ("", "")
    done = run("train", "digits", "--epochs", 2, "--out", tmp_path / "b")
    assert "epoch 2/2  loss " in done.stderr
    assert "\x1b" not in done.stderr + done.stdout


@pytest.mark.long
def test_config_show_reads_back_equal_and_schema_explains(tmp_path):
    shown = run("config", "show", "--set", "train.lr=0.25", "--set", "model.hidden=[7, 8]").stdout
    (tmp_path / "c.toml").write_text(shown)
    again = run("config", "show", "--config", tmp_path / "c.toml").stdout
    assert again == shown
    assert "lr = 0.25" in shown
    assert json.loads(run("config", "show", "--json").stdout)["train"]["epochs"] == 20
    schema = json.loads(run("config", "schema").stdout)
    for section in schema["$defs"].values():
        assert all("description" in field for field in section["properties"].values())


@pytest.mark.long
def test_small_json_format_runs_as_it_is(tmp_path):
    config = {
        "layers": [{"nodes": 64, "activation": "Sigmoid"}, {"nodes": 30, "activation": "Softmax"}, {"nodes": 10}],
        "learning_rate": 0.01, "epochs": 30, "momentum": 0.5, "batch_size": 32,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = run("train", "digits", "--config", tmp_path / "config.json", "--out", tmp_path / "run", "--json", "--quiet")
    found = json.loads(done.stdout)
    assert found["parameters"] == 64 * 30 + 30 + 300 + 10
    assert found["valid"] is None
    assert found["test"]["accuracy"] > 0.93
    config["layers"][0]["nodes"] = 784
    (tmp_path / "config.json").write_text(json.dumps(config))
    line = refused("train", "digits", "--config", tmp_path / "config.json", "--root", tmp_path / "none", code=2)
    assert line == "error: inputs must fit the data, which has 64, got 784. Correct the layers or the data."
    assert not (tmp_path / "none").exists()


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["train", "digitz"], 3, "error: DATA must be digits, mnist, fashion-mnist, kmnist, cifar10 or a path that exists, got 'digitz'. Check the spelling."),
        (["train", "digits", "--set", "train.leraning_rate=1"], 2, "error: the settings must hold known keys, got 'train.leraning_rate'. Did you mean train.lr?"),
        (["train", "digits", "--epochs", "0"], 2, "error: train.epochs must be greater than or equal to 1, got 0 in the settings. `clearsight config schema` says what each setting takes."),
        (["train", "digits", "--set", "oops"], 2, "error: --set must be KEY=VALUE, got 'oops'. For example --set train.lr=0.1."),
        (["train", "digits", "--hidden", "12,x"], 2, "error: model.hidden must be a valid integer, got 'x' in the settings. `clearsight config schema` says what each setting takes."),
        (["train", "digits", "--optimizer", "adamm"], 2, "error: train.optimizer must be 'sgd', 'momentum', 'nesterov', 'rmsprop', 'adam', 'adamw' or 'muon', got 'adamm' in the settings. `clearsight config schema` says what each setting takes."),
        (["train", "digits", "--config", "none.toml"], 2, "error: config must be a readable file, got none.toml: No such file or directory. Check the path."),
        (["train", "digits", "--patience", "3", "--valid-fraction", "0"], 2, "error: patience must have validation rows to watch valid_loss, got none. Set data.valid_fraction to 0.1."),
        (["train", "digits", "--momentum", "0.5"], 2, "error: momentum must go with optimizer momentum, nesterov or muon, got 0.5 without. Leave it out or add that."),
        (["train", "digits", "--init-std", "0.5"], 2, "error: init_std must go with init or bias_init normal, or init uniform, got 0.5 without. Leave it out or add that."),
        (["train", "digits", "--resume", "nowhere"], 2, "error: RUN must be a run directory, got 'nowhere'. See `clearsight runs list`."),
        (["evaluate", "none.clearsight"], 1, "error: none.clearsight must exist, got nothing there. Check the path."),
        (["report", "nowhere"], 2, "error: RUN must be a run directory, got 'nowhere'. See `clearsight runs list`."),
        (["recipe", "run", "Z9"], 2, "error: recipe must be one of C1, C2, C3, C4, D1, D2, D3, F1, F2, F3, K1, K2, R1, R2, R3, R4, R5, R6, T5, T6, T7, T8, V1, V2, V3, V5, V6, got 'Z9'. See `clearsight recipe list`."),
    ],
)  # fmt: skip
def test_wrong_use_is_one_sentence_and_leaves_nothing(arguments, code, line, tmp_path):
    assert refused(*arguments, code=code, cwd=tmp_path) == line
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_key_gets_a_suggestion(tmp_path):
    line = refused("train", "digits", "--set", "train.batchsize=1", code=2, cwd=tmp_path)
    assert line.endswith("Did you mean train.batch_size?")


def test_unknown_flag_and_missing_argument_are_wrong_use():
    assert run("train", "digits", "--no-such-flag").returncode == 2
    assert run("predict").returncode == 2


@pytest.mark.long
@pytest.mark.report
def test_divergence_ends_with_4_and_keeps_a_model(tmp_path):
    out = tmp_path / "run"
    line = refused(
        "train", "digits", "--activation", "identity", "--optimizer", "sgd", "--lr", "10000", "--out", out, code=4
    )
    assert "must stay finite, got" in line
    assert f"The run is in {out}." in line
    assert run("evaluate", out).returncode == 0
    assert json.loads((out / "run.json").read_text())["status"] == "diverged"
    again = refused("train", "--resume", out, code=2)
    assert again == f"error: --resume must name a run that has not ended, got {out}, diverged. Start a new run."
    assert "diverged" in (out / "report.html").read_text()


def test_out_never_overwrites(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    line = refused("train", "digits", "--out", tmp_path, code=2)
    assert line == f"error: --out must be a new or empty folder, got {tmp_path}, which holds files. Choose another."


@pytest.mark.long
def test_debug_shows_the_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "clearsight", "--debug", "train", "digitz"], capture_output=True, text=True
    )
    assert "Traceback" in done.stderr


def test_every_command_and_every_option_has_help():
    for path, command in walk_commands():
        assert command.help, path
        for parameter in command.params:
            if parameter.name != "help":
                assert parameter.help, (path, parameter.name)


def test_version():
    assert run("--version").stdout.startswith("clearsight 0.")


@pytest.mark.long
def test_a_reader_that_leaves_does_not_stop_training(tmp_path):
    command = f"{sys.executable} -m clearsight train digits --epochs 100 --hidden 8 --out {tmp_path / 'run'} --root {tmp_path} 2>&1 >/dev/null | head -c 1"
    subprocess.run(["bash", "-c", command], check=True, capture_output=True)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"
    closed = f"{sys.executable} -m clearsight train digits --epochs 2 --out {tmp_path / 'closed'} 2>&-"
    assert subprocess.run(["bash", "-c", closed], capture_output=True).returncode == 0


@pytest.mark.long
def test_a_reader_that_leaves_early_is_the_usual_code(trained):
    folder, found = trained
    for command in ("runs list", f"runs watch {found['run']}"):
        line = f"{sys.executable} -m clearsight {command} --root {folder / 'runs'} | true; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (141, ""), command


def test_edited_configuration_is_refused(trained, tmp_path):
    _, found = trained
    copy = tmp_path / "copy"
    shutil.copytree(found["run"], copy)
    text = (copy / "config.toml").read_text()
    (copy / "config.toml").write_text(text.replace("split_seed = 0", "split_seed = 1"))
    line = refused("evaluate", copy, code=1)
    assert (
        line
        == f"error: {copy / 'config.toml'} must be as the run began, got data.split_seed: 0 -> 1. Undo that, or start a new run."
    )


@pytest.mark.report
def test_a_killed_run_is_listed_as_killed_and_a_damaged_one_is_noted(trained, tmp_path):
    _, found = trained
    for name in ("killed", "damaged"):
        shutil.copytree(found["run"], tmp_path / name)
    record = json.loads((tmp_path / "killed" / "run.json").read_text())
    (tmp_path / "killed" / "run.json").write_text(json.dumps(record | {"status": "running"}))
    (tmp_path / "damaged" / "metrics.json").write_text('{"test": {"accuracy": [1]}}')
    done = run("runs", "list", "--root", tmp_path, "--json")
    assert [r["status"] for r in json.loads(done.stdout)["runs"]] == ["killed"]
    assert "must hold numbers, got damage" in done.stderr
    assert run("runs", "show", tmp_path / "damaged").returncode == 1
    assert run("report", tmp_path / "damaged").returncode == 1


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "digits", "--task", "regression"], 2, "task must fit the labels of digits, which are classes, got regression."),
        (["train", "digits", "--epochs", "1000000000"], 2, "epochs must make at most 100,000,000 steps"),
        (["train", "digits", "--set", "train.lr=" + "[" * 5000], 2, "train.lr must be"),
        (["train", "digits", "--set", "train.seed=" + "9" * 10000], 2, "train.seed must be"),
        (["train", "digits", "--hidden", "99999999999999999999999"], 2, "model.hidden must"),
        (["train", "digits", "--batch-size", "99999999999999999999999"], 2, "train.batch_size must"),
        (["train", "digits", "--resume", ""], 2, "RUN must be a run directory, got ''."),
        (["runs", "show", "~nosuch/x"], 2, "RUN must be a run directory, got '~nosuch/x'."),
        (["runs", "list", "--root", "/etc/passwd"], 2, "--root must be a folder, got /etc/passwd, which is a file."),
        (["train", os.fsdecode(b"p\xff.npz")], 3, "DATA must be a path in UTF-8"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_odd_values_end_in_one_sentence(arguments, code, words, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert len(done.stderr) < 600
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.report
def test_an_infinite_loss_of_a_mistake_does_not_stop_the_report(tmp_path):
    out = tmp_path / "run"
    done = run("train", "digits", "--init", "normal", "--init-std", "1e30", "--epochs", "1", "--out", out)
    assert done.returncode == 4
    assert (out / "report.html").is_file()


@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_outside_training_ends_in_a_sentence_and_leaves_nothing(tmp_path, processes, number, code):
    command = [*CLEARSIGHT, "data", "make", "counting", "--per-class", "200000", "--out", "made"]
    process = processes.start(command, cwd=tmp_path, stderr=subprocess.PIPE)
    wait_until(lambda: list(tmp_path.iterdir()), process=process)
    process.send_signal(number)
    _, said = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == code
    assert said.splitlines()[-1] == "error: stopped at once, on request."
    assert list(tmp_path.iterdir()) == []


def test_a_run_inside_its_own_data_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "d" / name).mkdir(parents=True)
        Image.fromarray(np.random.default_rng(ord(name)).integers(0, 255, (8, 8), np.uint8)).save(
            tmp_path / "d" / name / "1.png"
        )
    done = run("train", str(tmp_path / "d"), "--out", str(tmp_path / "d" / "run"), cwd=tmp_path)
    assert done.returncode == 2
    assert "--out or --root must lie outside the data" in done.stderr


def test_a_sheet_replaces_a_sheet_and_nothing_else(tmp_path):
    assert run("data", "check", "digits", "--sheet", "s.png", cwd=tmp_path).returncode == 0
    assert run("data", "show", "digits", "--out", "s.png", cwd=tmp_path).returncode == 0
    Image.new("L", (4, 4)).save(tmp_path / "mine.png")
    done = run("data", "check", "digits", "--sheet", "mine.png", cwd=tmp_path)
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: the sheet must not replace another file, got mine.png, which exists. Choose another name.\n"
    )


@pytest.mark.long
def test_a_picture_does_not_replace_another_kind_of_file(tmp_path, call, capsys):
    place = tmp_path / "notes.txt"
    place.write_text("mine")
    assert call("optimizers", "--out", place) == 2
    assert f"--out must not replace what is no earlier picture or page, got {place}" in capsys.readouterr().err
    assert place.read_text() == "mine"
    for _ in range(2):  # an earlier picture may be drawn anew
        assert call("optimizers", "--out", tmp_path / "paths.svg") == 0


@pytest.mark.long
@pytest.mark.report
def test_a_path_cannot_steer_the_terminal(tmp_path):
    place = tmp_path / "x\x1b[31m\n<b>"
    done = run("train", "digits", "--epochs", "1", "--hidden", "4", "--out", place)
    shown = f"{tmp_path}/x\\x1b[31m\\n<b>"
    assert f"\nmodel   {shown}/model.clearsight\nreport  {shown}/report.html\n" in done.stdout
    assert run("report", place).stdout == f"{shown}/report.html\n"
    assert run("runs", "show", place).stdout.endswith(f"files       {shown}\n")
    assert f"\nlook    {shown}/mistakes.html\n" in run("mistakes", place, "--count", "1").stdout
    assert run("runs", "remove", place, "--yes").stdout == f"removed {shown}\n"


@pytest.mark.long
@pytest.mark.report
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["huge.npz"], 0, ""),
        (
            ["digits", "--init", "normal", "--init-std", "1e300"],
            4,
            "look at model.init_std and at the scale of the pixels",
        ),
        (["digits", "--model", "cnn", "--init", "normal", "--init-std", "1e300"], 4, "look at model.init_std"),
        (["digits", "--engine", "reference", "--lr", "1e30"], 4, "try a tenth of the learning rate"),
    ],
)
def test_absurd_numbers_end_in_a_sentence_without_warnings(arguments, code, words, tmp_path):
    images = np.random.default_rng(0).random((40, 8, 8, 1), dtype=np.float32) * 1e30
    np.savez(tmp_path / "huge.npz", images=images, labels=np.arange(40) % 2)
    done = run("train", *arguments, "--epochs", "1", "--quiet", "--out", "run", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (code, code > 0)
    assert words in done.stderr
    assert words.capitalize() in (tmp_path / "run" / "report.html").read_text()
