"""Folders of links: told and left out, or followed with --follow-links by every command, without end or harm."""

import os
import re

import numpy as np
import pytest
from picture_trees import PAIR, assert_same, bad_of, make, many, refuse
from PIL import Image

import clearsight
from clearsight.bundle.predict import predict_files
from clearsight.data.read.load import load_data
from clearsight.errors import DataError

pytestmark = pytest.mark.usefixtures("own_cache")
HINT = "use --follow-links to read them"


def make_subset(tmp_path, *, n=12):
    """A folder `subset` of links to the pictures of classes a and b in `real`, which can be told apart."""
    rng = np.random.default_rng(0)
    for k, label in enumerate("ab"):
        for folder in ("real", "subset"):
            (tmp_path / folder / label).mkdir(parents=True)
        for i in range(n):
            place = tmp_path / "real" / label / f"{i:02}.png"
            Image.fromarray(rng.integers(120 * k, 120 + 120 * k, (8, 8)).astype(np.uint8)).save(place)
            (tmp_path / "subset" / label / f"{i:02}.png").symlink_to(place)
    return tmp_path / "subset"


# told


def test_a_folder_of_links_alone_is_refused_with_their_count_and_the_flag(tmp_path):
    root = make_subset(tmp_path)
    words = "{root} must hold a folder of pictures a class, IDX files, or a metadata.csv, got no pictures; "
    refuse(root, words + "24 links were left out. Use --follow-links to read them.")


def test_a_folder_whose_classes_are_links_is_refused_with_their_count_and_the_flag(tmp_path):
    make_subset(tmp_path)
    (tmp_path / "d").mkdir()
    for label in "ab":
        (tmp_path / "d" / label).symlink_to(tmp_path / "real" / label)
    words = "{root} must hold a folder of pictures a class, IDX files, or a metadata.csv, got no pictures; "
    refuse(tmp_path / "d", words + "2 links were left out. Use --follow-links to read them.")


@pytest.mark.parametrize(("count", "text"), [(1, "1 link was left out"), (4, "4 links were left out")])
def test_links_beside_pictures_are_left_out_with_their_count(count, text, tmp_path):
    root, other = make(tmp_path / "d", *PAIR), make(tmp_path / "o", *many("x"))
    for k in range(count - 1):
        (root / "a" / f"link{k}.png").symlink_to(other / "x" / f"{k:02}.png")
    (root / "a" / "more").symlink_to(other / "x")
    found = load_data(root)
    assert found.files == PAIR
    (note,) = found.notes
    assert note.startswith(f"{text}; {HINT}: 'a/link0.png'" if count > 1 else f"{text}; {HINT}: 'a/more'")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_class_of_links_alone_beside_pictures_stops_training(kind, tmp_path):
    root = make(tmp_path / "d", *many("a", "b"))
    make(tmp_path / "o", "c/1.png")
    if kind == "folder":
        (root / "c").symlink_to(tmp_path / "o" / "c")
    else:
        (root / "c").mkdir()
        (root / "c" / "1.png").symlink_to(tmp_path / "o" / "c" / "1.png")
    told = []
    with pytest.raises(DataError, match=r"class 'c' of train must hold pictures, got none\."):
        clearsight.train(root, out=tmp_path / "run", epochs=1, hidden=(2,), note=told.append)
    assert any(text.startswith(f"1 link was left out; {HINT}") for text in told)


def test_a_row_of_a_table_that_names_a_link_says_so(tmp_path):
    root = make(tmp_path / "d", "1.png", "2.png", table="file_name,label\n1.png,a\n2.png,b\n3.png,a\nf/1.png,b\n")
    other = make(tmp_path / "o", "3.png", "f/1.png")
    (root / "3.png").symlink_to(other / "3.png")
    (root / "f").symlink_to(other / "f")
    reason = "must be a file, got a link; use --follow-links to read it"
    assert bad_of(root) == {"3.png": reason, "f/1.png": reason}
    assert set(load_data(root, follow_links=True).files) == {"1.png", "2.png", "3.png", "f/1.png"}


# followed


def test_links_to_files_are_followed_and_told(tmp_path):
    root = make_subset(tmp_path)
    found, real = load_data(root, follow_links=True), load_data(tmp_path / "real")
    assert_same(found, real)
    assert found.notes == (f"24 links were followed out of {root}: 'a/00.png', 'a/01.png', 'a/02.png' and 21 more",)


def test_links_to_folders_are_followed_and_told(tmp_path):
    make_subset(tmp_path)
    (tmp_path / "d" / "train").mkdir(parents=True)
    for label in "ab":
        (tmp_path / "d" / "train" / label).symlink_to(f"../../real/{label}")
    found = load_data(tmp_path / "d", follow_links=True)
    assert found.files == tuple(f"train/{path}" for path in many("a", "b"))
    assert found.notes == (f"2 links were followed out of {tmp_path / 'd'}: 'train/a', 'train/b'",)


@pytest.mark.parametrize("target", [".", "..", "../..", "a"])
def test_links_that_lead_into_each_other_are_bad_files_and_end(target, tmp_path):
    root = make(tmp_path / "d", *PAIR)
    (root / "a" / "loop").symlink_to(target if target != "a" else root / "a")
    found = bad_of(root, follow_links=True)
    assert set(found.values()) == {"must not hold itself, got a link to a folder above it"}
    assert len(found) == 1


@pytest.mark.long
def test_links_that_fan_out_are_bad_files_and_end(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    for k in range(20):  # 2^20 ways lead to the last
        (root / "a" / f"f{k}").mkdir()
        for name in "xy":
            (root / "a" / f"f{k}" / name).symlink_to(f"../f{k + 1}")
    (root / "a" / "f20").mkdir()
    found = load_data(root, follow_links=True, skip_bad=True)
    assert found.files == PAIR
    reasons = {bad.reason for bad in found.bad}
    assert reasons == {"must be reached by at most 100 ways, got links that fan out"}


def test_hidden_links_are_not_followed(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    other = make(tmp_path / "o", *many("x"))
    (root / ".cache").symlink_to(other)
    found = load_data(root, follow_links=True)
    assert found.files == PAIR
    assert found.notes == ("1 hidden links or special files were left out: '.cache'",)


def test_links_to_devices_are_bad_files(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    (root / "a" / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    (root / "a" / "pipe.png").symlink_to(tmp_path / "pipe")
    device = "must be a file, got a pipe or device"
    assert bad_of(root, follow_links=True) == {"a/zero.png": device, "a/pipe.png": device}


def test_a_file_reached_twice_is_a_copy(tmp_path):
    root = make_subset(tmp_path)
    (root / "a" / "again.png").symlink_to(tmp_path / "real" / "a" / "00.png")
    (root / "b" / "wrong.png").symlink_to(tmp_path / "real" / "a" / "01.png")
    with pytest.raises(
        DataError, match=r"1 picture appears more than once with different labels.*a/01\.png = b/wrong\.png"
    ):
        clearsight.train(root, out=tmp_path / "run", epochs=1, hidden=(2,), follow_links=True)
    told = []
    clearsight.train(
        root, out=tmp_path / "run", epochs=1, hidden=(2,), follow_links=True, skip_bad=True, note=told.append
    )
    assert "1 copies of pictures were left out" in told


def test_classes_that_differ_in_case_alone_stop_training_through_links_too(tmp_path):
    make(tmp_path / "real", *many("cat", "other"))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "Cat").symlink_to(tmp_path / "real" / "other")
    (tmp_path / "d" / "cat").symlink_to(tmp_path / "real" / "cat")
    with pytest.raises(DataError, match=r"classes must differ by more than case, got 'Cat' and 'cat'\."):
        clearsight.train(tmp_path / "d", out=tmp_path / "run", epochs=1, hidden=(2,), follow_links=True)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_link_that_comes_to_lead_elsewhere_is_read_anew(kind, tmp_path):
    root = make(tmp_path / "d", *PAIR)
    old, new = make(tmp_path / "old", "x.png"), make(tmp_path / "new", "x.png")
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(new / "x.png", "BMP")
    Image.fromarray(np.full((8, 8), 9, np.uint8)).save(old / "x.png", "BMP")
    for place in (old, new):  # equal in size and age
        os.utime(place / "x.png", ns=(10**18, 10**18))
    link = root / "a" / ("l.png" if kind == "file" else "l")
    end = "x.png" if kind == "file" else "."
    seen = []
    for place in (old, new):
        link.unlink(missing_ok=True)
        link.symlink_to(place / end)
        found = load_data(root, follow_links=True)
        seen.append(int(found.images[[f.startswith("a/l") for f in found.files]].max()))
    assert seen == [9, 7]


# every command


def test_a_run_remembers_that_links_were_followed(tmp_path):
    root = make_subset(tmp_path, n=30)
    run = clearsight.train(root, out=tmp_path / "run", epochs=20, hidden=(8,), follow_links=True)
    assert run.config.data.follow_links
    assert "follow_links = true" in (tmp_path / "run" / "config.toml").read_text()
    found = clearsight.evaluate(tmp_path / "run")
    assert (found.n, found.accuracy) == (run.test.n, run.test.accuracy)
    assert clearsight.evaluate(tmp_path / "run", root).n == run.test.n


def test_another_folder_of_links_is_evaluated_when_asked(tmp_path):
    root = make_subset(tmp_path, n=30)
    clearsight.train(tmp_path / "real", out=tmp_path / "run", epochs=1, hidden=(2,))
    with pytest.raises(DataError, match=r"60 links were left out\. Use --follow-links"):
        clearsight.evaluate(tmp_path / "run", root, split="all")
    assert clearsight.evaluate(tmp_path / "run", root, split="all", follow_links=True).n == 60
    (answer,), problems = predict_files(clearsight.load(tmp_path / "run"), [root / "a" / "00.png"])
    assert not problems
    assert "label" in answer


COMMANDS = {
    "train": ("train", "DATA", "--hidden", "2", "--epochs", "1", "--out", "OUT", "--follow-links"),
    "tune": ("tune", "DATA", "--search", "train.lr=0.01,0.1", "--hidden", "2", "--epochs", "1", "--strategy", "grid", "--out", "OUT", "--follow-links"),
    "cv": ("cv", "DATA", "--folds", "2", "--hidden", "2", "--epochs", "1", "--out", "OUT", "--follow-links"),
    "label-errors": ("label-errors", "DATA", "--folds", "2", "--hidden", "2", "--epochs", "1", "--out", "OUT", "--follow-links"),
    "compare": ("compare", "base", "train.lr=0.1", "--data", "DATA", "--hidden", "2", "--epochs", "1", "--follow-links"),
    "lr-find": ("lr-find", "DATA", "--hidden", "2", "--follow-links"),
    "learning-curve": ("learning-curve", "DATA", "--shares", "1", "--seeds", "1", "--hidden", "2", "--epochs", "1", "--plot", "PLOT", "--follow-links"),
    "check": ("data", "check", "DATA", "--follow-links"),
    "show": ("data", "show", "DATA", "--out", "SHEET", "--follow-links"),
    "safety": ("data", "safety", "DATA", "--augment", "light", "--follow-links"),
    "evaluate": ("evaluate", "MODEL", "DATA", "--split", "all", "--follow-links"),
    "mistakes": ("mistakes", "MODEL", "DATA", "--split", "all", "--out", "PAGE", "--follow-links"),
    "compare-models": ("compare", "MODEL", "OTHER", "--data", "DATA", "--split", "all", "--follow-links"),
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of links, and two models trained on other pictures of the same classes."""
    place = tmp_path_factory.mktemp("links")
    make_subset(place, n=30)
    make(place / "other", *many("a", "b"))
    for k in (1, 2):
        clearsight.train(place / "other", out=place / f"run{k}", epochs=1, hidden=(2,), seed=k, check=False)
    return place


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_reads_data_follows_links_when_asked(command, trained, tmp_path, call, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = {
        "DATA": trained / "subset", "OUT": tmp_path / "out", "SHEET": tmp_path / "s.png", "PAGE": tmp_path / "p.html",
        "PLOT": tmp_path / "p.svg", "MODEL": trained / "run1", "OTHER": trained / "run2",
    }  # fmt: skip
    arguments = [words.get(word, word) for word in COMMANDS[command]]
    assert call(*arguments[:-1]) == 3
    assert "60 links were left out. Use --follow-links to read them." in capsys.readouterr().err
    assert call(*arguments) == 0


def test_names_of_links_that_are_not_utf8_are_told(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    (tmp_path / "o").mkdir()
    os.symlink(tmp_path / "o", os.fsencode(root) + b"/\xff")  # noqa: PTH211
    found = load_data(root, skip_bad=True)
    assert any(re.search(r"1 link was left out; .*udcff", note) for note in found.notes)


@pytest.mark.parametrize(
    "line",
    [
        ("evaluate", "MODEL", "DATA", "--max-megapixels", "0"),
        ("mistakes", "MODEL", "DATA", "--out", "PAGE", "--max-megapixels", "0"),
        ("predict", "MODEL", "PICTURE", "--max-megapixels", "0"),
    ],
)
def test_a_largest_size_of_nothing_is_refused(line, trained, tmp_path, call, capsys):
    words = {
        "MODEL": trained / "run1",
        "DATA": trained / "other",
        "PICTURE": trained / "other/a/00.png",
        "PAGE": tmp_path / "p.html",
    }
    assert call(*(words.get(word, word) for word in line)) == 2
    assert "max_megapixels must lie above 0 and up to 1000, got 0.0. For example 108." in capsys.readouterr().err
