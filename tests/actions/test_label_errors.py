"""Label errors: confident learning agrees with cleanlab, planted errors are found, and corrections are read back."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clearsight
from clearsight.data.relabel import relabel
from clearsight.diagnose.suspects import find_suspects
from clearsight.errors import DataError, RunError, UsageError

pytestmark = pytest.mark.long


def draw(seed):
    """Probabilities (n, K) of a fair judge, and labels of which a tenth is wrong."""
    rng = np.random.default_rng(seed)
    n, classes = int(rng.integers(50, 2000)), int(rng.integers(2, 8))
    logits, true = rng.normal(0, 2, (n, classes)), rng.integers(0, classes, n)
    logits[np.arange(n), true] += rng.uniform(1, 4)
    labels = np.where(rng.random(n) < 0.1, rng.integers(0, classes, n), true)
    shares = np.exp(logits)
    return shares / shares.sum(1, keepdims=True), labels


@pytest.mark.parametrize("seed", range(10))
def test_suspects_and_their_order_are_those_of_cleanlab(seed):
    filters = pytest.importorskip("cleanlab.filter", reason="cleanlab is not installed")
    shares, labels = draw(seed)
    ours = find_suspects(shares, labels).rows
    theirs = filters.find_label_issues(labels, shares, return_indices_ranked_by="self_confidence", n_jobs=1)
    both = set(ours) & set(theirs)
    assert len(both) / len(set(ours) | set(theirs)) > 0.98  # they round the counts of pairs otherwise
    assert [row for row in ours if row in both] == [row for row in theirs if row in both]


def test_a_class_without_rows_and_one_row_a_class_are_no_obstacle():
    shares = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    found = find_suspects(shares, np.array([0, 1]))
    assert len(found.rows) == 0
    assert found.thresholds[2] == np.inf
    assert found.joint.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


@pytest.fixture
def planted(tmp_path):
    """A folder of 120 pictures in two classes, of which 8 lie in the wrong one."""
    rng = np.random.default_rng(0)
    for name in ("dark", "light"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for k in range(120):
        light, wrong = k % 2, k < 8
        pixels = np.clip(rng.normal(70 + 110 * light, 30, (8, 8)), 0, 255).astype(np.uint8)
        folder = ("dark", "light")[light ^ wrong]
        Image.fromarray(pixels).save(tmp_path / "data" / folder / f"{'wrong' if wrong else 'right'}-{k}.png")
    return tmp_path / "data"


def test_planted_errors_are_found_corrected_and_read_back(planted, tmp_path, call, capsys):
    flags = ["--hidden", "16", "--epochs", "60", "--set", "train.lr=0.003", "--root", tmp_path / "runs"]
    assert call("label-errors", planted, *flags, "--out", tmp_path / "found", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 120
    names = [one["name"] for one in found["suspects"]]
    hits = [name for name in names if "wrong" in name]
    assert len(hits) >= 7
    assert len(names) <= 10
    assert all(one["label"] != one["suggested"] for one in found["suspects"])
    table = tmp_path / "found" / "suspects.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == names
    page = (tmp_path / "found" / "suspects.html").read_text()
    assert f"{len(names)} of 120 labels of data may be wrong" in page
    assert page.count("<img") == len(names)
    for row in rows:
        row["new_label"] = row["suggested"] if "wrong" in row["name"] else ""
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert call("train", planted, "--relabel", table, *flags, "--out", tmp_path / "clean", "--json") == 0
    text = capsys.readouterr()
    assert f"{len(hits)} labels are changed as {table} says" in text.err
    assert json.loads(text.out)["test"]["n"] == 24
    assert "relabel" in (tmp_path / "clean" / "config.toml").read_text()
    assert call("evaluate", tmp_path / "clean", "--split", "train") == 0  # reads the corrections again
    capsys.readouterr()
    assert call("label-errors", planted, "--relabel", table, *flags, "--json") == 0
    assert not set(hits) & {one["name"] for one in json.loads(capsys.readouterr().out)["suspects"]}


def test_a_finished_cross_validation_serves_again(planted, tmp_path):
    first = clearsight.find_label_errors(planted, hidden=(16,), epochs=15, root=tmp_path, out=tmp_path / "cv")
    (tmp_path / "cv" / "suspects.csv").unlink()
    again = clearsight.find_label_errors(resume=tmp_path / "cv")
    assert (again.rows == first.rows).all()
    assert (tmp_path / "cv" / "suspects.csv").is_file()


def test_arrays_and_tables_have_label_errors_too(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    features = rng.normal(3 * labels[:, None], 1, (200, 5)).astype(np.float32)
    labels[:10] = 1 - labels[:10]
    found = clearsight.find_label_errors(features, labels, hidden=(8,), epochs=40, lr=0.01, root=tmp_path)
    assert len(set(range(10)) & set(found.rows)) >= 8
    page = (found.path / "suspects.html").read_text()
    assert page.count("<fieldset") == len(found.rows)
    assert "<img" not in page


def test_numbers_have_no_label_errors(tmp_path):
    with pytest.raises(UsageError, match="label errors must be sought among classes, got numbers to predict"):
        clearsight.find_label_errors(np.zeros((20, 4, 4)), np.arange(20.0), task="regression", root=tmp_path)


HEADER = "row,name,label,new_label\n"


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            "row,name,label\n",
            UsageError,
            "--relabel must have the columns row, name, label, new_label, got none new_label",
        ),
        ("", UsageError, "--relabel must have the columns"),
        (HEADER + "x,{name},0,1\n", DataError, r"row must be a number from 0 to 1796, got 'x' in line 2"),
        (HEADER + "1797,{name},0,1\n", DataError, "row must be a number from 0 to 1796, got '1797' in line 2"),
        (
            HEADER + "0,other,0,1\n",
            DataError,
            "row 0 must be row 0 of train .*of class 0, as in digits, got other of class 0",
        ),
        (HEADER + "0,{name},5,1\n", DataError, "got row 0 of train .*of class 5 in line 2"),
        (HEADER + "0,{name},0,eleven\n", DataError, "new_label must be a class of digits, got 'eleven' in line 2"),
        (HEADER + "0,{name},0,1\n0,{name},0,2\n", DataError, "rows of --relabel must come once, got 0 again in line 3"),
        (HEADER + "0\n", DataError, "lines of --relabel must have 4 cells, got fewer in line 2"),
        (HEADER + "0,{name},0,,7\n", DataError, "lines of --relabel must have 4 cells, got more in line 2"),
        ("row,name,label,new_label,label\n", UsageError, "--relabel must have each column once, got label again"),
        (HEADER + "9" * 5000 + ",{name},0,1\n", DataError, "row must be a number from 0 to 1796, got '999"),
        ("\ufeffsep=;\nrow;name;label;new_label;mine\n0;{name};0;7;x\n", 7, ""),
        ("row\tname\tlabel\tnew_label\n0\t{name}\t0\t7\n", 7, ""),
        (HEADER + "\n0,{name},0, \n", 0, ""),
    ],
)
def test_corrections_are_read_or_refused(tmp_path, text, kind, message):
    data = clearsight.load_data("digits")
    path = tmp_path / "fixes.csv"
    path.write_text(text.format(name=data.row_name(0)), encoding="utf-8")
    if isinstance(kind, int):  # a table that a spreadsheet wrote is read
        assert relabel(data, path).labels[0] == kind
        return
    with pytest.raises(kind, match=message):
        relabel(data, path)


def test_a_missing_and_a_foreign_file_of_corrections_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"--relabel must be a readable file, got .*none\.csv: No such file"):
        clearsight.train("digits", relabel=str(tmp_path / "none.csv"), epochs=1, root=tmp_path)
    (tmp_path / "bad.csv").write_bytes(b"\xff\xfe\x00row")
    with pytest.raises(UsageError, match="--relabel must be a CSV of UTF-8 text, got damage"):
        clearsight.train("digits", relabel=str(tmp_path / "bad.csv"), epochs=1, root=tmp_path)


def test_corrections_make_other_data_and_resume_refuses_changed_ones(tmp_path):
    data, path = clearsight.load_data("digits"), tmp_path / "fixes.csv"
    path.write_text(HEADER + f"0,{data.row_name(0)},0,7\n")
    fixed = relabel(data, path)
    assert fixed.labels[0] == 7
    assert data.labels[0] == 0
    assert fixed.fingerprint != data.fingerprint
    assert fixed.pictures_fingerprint == data.pictures_fingerprint
    run = clearsight.tune("digits", search=["train.lr=0.01"], relabel=str(path), epochs=1, root=tmp_path).run
    own = run.path.parent / "corrections.csv"  # of the search
    assert run.config.data.relabel == str(own)
    assert own.read_bytes() == path.read_bytes()


def test_a_run_keeps_the_corrections_that_it_began_with(tmp_path, call, capsys):
    data, path = clearsight.load_data("digits"), tmp_path / "fixes.csv"
    path.write_text(HEADER + f"0,{data.row_name(0)},0,7\n")
    flags = ["digits", "--relabel", path, "--epochs", 3, "--out", tmp_path / "run"]
    assert call("train", *flags, "--set", "train.patience=1") == 0
    path.write_text(HEADER + f"1,{data.row_name(1)},1,8\n")  # the next round
    capsys.readouterr()
    assert call("evaluate", tmp_path / "run") == 0
    assert "is not the data" not in capsys.readouterr().err
    (tmp_path / "run").rename(tmp_path / "moved")
    assert clearsight.find_mistakes(tmp_path / "moved", split="valid").answered.dataset.labels[0] == 7
    own = tmp_path / "moved" / "corrections.csv"
    own.write_text(own.read_text().replace("7", "3"))
    with pytest.raises(RunError, match=r"corrections.csv must be as the work began, got changes"):
        clearsight.evaluate(tmp_path / "moved")


def test_corrections_that_change_while_a_run_begins_are_refused(tmp_path, monkeypatch):
    data, path = clearsight.load_data("digits"), tmp_path / "fixes.csv"
    path.write_text(HEADER + f"0,{data.row_name(0)},0,7\n")
    prepare = clearsight.actions.train.prepare

    def slowly(*parts, **more):
        path.write_text(HEADER + f"1,{data.row_name(1)},1,8\n")
        return prepare(*parts, **more)

    monkeypatch.setattr("clearsight.actions.train.prepare", slowly)
    with pytest.raises(
        DataError, match=r"--relabel must stay as it is until the work has begun, got a change of .*fixes.csv"
    ):
        clearsight.train("digits", relabel=str(path), epochs=1, root=tmp_path)


def test_searches_and_folds_go_on_with_their_own_corrections(tmp_path, call, monkeypatch):
    data, path = clearsight.load_data("digits"), tmp_path / "fixes.csv"
    path.write_text(HEADER + f"0,{data.row_name(0)},0,7\n")
    finish = clearsight.actions.train.finish_run
    for command, more in (("tune", ["--search", "train.lr=0.01"]), ("cv", ["--folds", "2"])):
        out = tmp_path / command
        path.write_text(HEADER + f"0,{data.row_name(0)},0,7\n")

        def stop(*parts):
            path.write_text(HEADER + f"1,{data.row_name(1)},1,8\n")  # the next round
            raise KeyboardInterrupt

        where = (
            "clearsight.actions.train.finish_run"
            if command == "tune"
            else "clearsight.actions.cross_validate.warm_features"
        )
        with monkeypatch.context() as patch:
            patch.setattr(where, stop if command == "tune" else lambda *a, **k: stop())
            assert call(command, "digits", *more, "--relabel", path, "--epochs", 1, "--out", out, "--quiet") == 130
        assert (out / "corrections.csv").read_text() != path.read_text()
        assert call(command, "--resume", out, "--quiet") == 0
    assert clearsight.actions.train.finish_run is finish
    assert not (tmp_path / "tune" / "best-2").exists()


def test_resume_takes_the_same_corrections_by_any_path(tmp_path, call):
    data, path = clearsight.load_data("digits"), tmp_path / "fixes.csv"
    path.write_text(HEADER + f"0,{data.row_name(0)},0,7\n")
    stop = {"epochs": 2, "relabel": str(path), "out": tmp_path / "run"}

    def interrupt(step):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clearsight.actions.train.finish_run", lambda *parts: interrupt(0))
        with pytest.raises(KeyboardInterrupt):
            clearsight.train("digits", **stop)
    (tmp_path / "other.csv").write_text(HEADER + f"0,{data.row_name(0)},0,8\n")
    assert call("train", "--resume", tmp_path / "run", "--relabel", tmp_path / "other.csv") == 2
    path.rename(tmp_path / "again.csv")
    assert call("train", "--resume", tmp_path / "run", "--relabel", tmp_path / "again.csv") == 0


def test_relative_paths_of_corrections_stay_the_same_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = clearsight.load_data("digits")
    (tmp_path / "fixes.csv").write_text(HEADER + f"0,{data.row_name(0)},0,7\n")
    run = clearsight.train("digits", relabel="fixes.csv", epochs=1, root=tmp_path / "r")
    monkeypatch.chdir(tmp_path / "r")
    assert run.config.data.relabel == str(tmp_path / "fixes.csv")
    assert clearsight.evaluate(run.path, split="valid").n == run.valid.n


def test_probabilities_are_those_of_each_picture(planted, tmp_path):
    found = clearsight.find_label_errors(planted, hidden=(16,), epochs=5, repeats=2, root=tmp_path)
    assert found.confidence.sum(axis=1) == pytest.approx(np.ones(len(found.rows)))
    assert found.suspects.quality.max() > 0.5
    assert found.accuracy == pytest.approx(found.cross_validated.mean, abs=0.1)


def test_filled_in_corrections_are_not_written_over(planted, tmp_path, call, capsys):
    assert call("label-errors", planted, "--epochs", "20", "--out", tmp_path / "cv", "--root", tmp_path) == 0
    table = tmp_path / "cv" / "suspects.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], lines[1] + "dark", *lines[2:]]) + "\n")
    before = table.read_text()
    assert call("label-errors", "--resume", tmp_path / "cv", "--root", tmp_path) == 2
    assert "must hold no corrections to be written anew, got 1. Train with --relabel" in capsys.readouterr().err
    assert table.read_text() == before


def test_cells_are_no_formulas(tmp_path):
    from clearsight.data.relabel import guard_cell, unguard_cell

    for text in ("=1+1", "-x", "+", "@a", "'quoted", "'=x", "plain", ""):
        assert not guard_cell(text).startswith(("=", "-", "+", "@"))
        assert unguard_cell(guard_cell(text)) == text


def test_folds_that_diverged_judge_nobody(planted, tmp_path):
    from clearsight.errors import DivergedError

    with pytest.raises(DivergedError, match="folds must have finite losses, got none in any"):
        clearsight.find_label_errors(planted, hidden=(16,), epochs=2, lr=1e30, optimizer="sgd", root=tmp_path)


@pytest.mark.parametrize("form", ["semicolons", "sep", "utf-16", "binary"])
def test_a_table_that_was_filled_in_is_not_written_over_in_any_form(tmp_path, call, capsys, form):
    flags = ["--folds", "2", "--epochs", "2", "--hidden", "16", "--quiet"]
    assert call("label-errors", "digits", *flags, "--out", tmp_path / "le") == 0
    table = tmp_path / "le" / "suspects.csv"
    lines = list(csv.reader(table.read_text().splitlines()))
    lines[1][-1] = "7"
    rows = [(";" if form == "semicolons" else ",").join(line) for line in lines]
    text = "\n".join((["sep=,"] if form == "sep" else []) + rows)
    table.write_bytes(b"\x00\xff" * 50 if form == "binary" else text.encode("utf-16" if form == "utf-16" else "utf-8"))
    before = table.read_bytes()
    capsys.readouterr()
    assert call("label-errors", "--resume", tmp_path / "le", "--quiet") == 2
    assert "suspects.csv must hold no corrections to be written anew, got " in capsys.readouterr().err
    assert table.read_bytes() == before


@pytest.mark.parametrize("odd", ["\x0b", "\r", "\x85", "\u2028", "\n", "\x1c"])
def test_odd_letters_in_names_come_back(tmp_path, odd):
    from clearsight.actions.label_errors import _render_csv
    from clearsight.data.relabel import parse_corrections

    class Found:
        def summary(self):
            line = {"row": 3, "name": f"x{odd}y.jpeg", "label": "a", "suggested": "b"}
            return {"suspects": [line | {"probability_of_label": 0.1, "probability_of_suggested": 0.9}]}

    ((_, cells),) = parse_corrections(_render_csv(Found()).encode(), tmp_path)
    assert cells["name"] == f"x{odd}y.jpeg"


def test_what_is_no_file_of_corrections_is_refused(tmp_path):
    data = clearsight.load_data("digits")
    for path in (tmp_path, Path("/dev/zero")):
        if path.exists():
            with pytest.raises(UsageError, match=r"--relabel must be a file, got .*, which is none"):
                relabel(data, path)
