"""Folders, zips and tars of pictures: every layout read alike, every odd file told, nothing dropped in silence."""

import re
import shutil

import numpy as np
import pytest
from picture_trees import PAIR, assert_same, make, many, pack_tar, pack_zip, refuse, summary
from PIL import Image

import clearsight
from clearsight.data.read.load import load_data
from clearsight.errors import DataError, UsageError

pytestmark = pytest.mark.usefixtures("own_cache")


# layouts

LAYOUTS = {
    "classes": PAIR,
    "splits": ("train/a/1.png", "train/b/1.png", "valid/a/2.png", "test/b/3.png"),
    "words": ("training/a/1.png", "training/b/1.png", "validation/a/2.png", "testing/b/3.png"),
    "val": ("Train/a/1.png", "Train/b/1.png", "VAL/a/2.png", "Test/b/3.png"),
    "wrapper": ("d/e/a/1.png", "d/e/b/1.png"),
    "wrapped-splits": ("d/train/a/1.png", "d/train/b/1.png", "d/test/a/2.png"),
    "nested": ("a/x/1.png", "a/y/z/1.png", "a/3.png", "b/1.png"),
    "like-splits": ("train/training/1.png", "train/test/2.png", "test/test/3.png"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYOUTS)
def test_classes_and_splits_are_told_by_folders(kind, tmp_path):
    found = summary(load_data(make(tmp_path / "d", *LAYOUTS[kind])))
    for path in LAYOUTS[kind]:
        parts = [p for p in path.split("/") if p not in ("d", "e")]
        split = {"t": 0, "v": 1}.get(parts[0][0].lower(), 0) if len(parts) > 2 else 0
        split = 2 if parts[0].lower().startswith("test") else split
        label = parts[1] if parts[0].lower()[:2] in ("tr", "te", "va") else parts[0]
        assert found[path] == (split, label)
    assert len(found) == len(LAYOUTS[kind])


TABLES = {
    "root": ("file_name,label,split\nx/1.png,a,train\nx/2.png,b,test\ny.png,a,val\n", "metadata.csv"),
    "other-name": ("filename;class\nx/1.png;a\nx/2.png;b\ny.png;a\n", "labels.csv"),
    "bom-crlf": ("\ufefffile_name,label,split\r\nx/1.png,a,\r\nx/2.png,b,test\r\ny.png,a,training\r\n", "metadata.csv"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_tables_tell_classes_and_splits(kind, tmp_path):
    text, name = TABLES[kind]
    found = summary(load_data(make(tmp_path / "d", "x/1.png", "x/2.png", "y.png", text={name: text})))
    splits = {"root": (0, 2, 1), "other-name": (0, 0, 0), "bom-crlf": (0, 2, 0)}[kind]
    assert found == {"x/1.png": (splits[0], "a"), "x/2.png": (splits[1], "b"), "y.png": (splits[2], "a")}


def test_a_table_in_each_split_tells_its_classes(tmp_path):
    root = make(
        tmp_path / "d", "train/1.png", "train/2.png", "test/1.png",
        text={"train/metadata.csv": "file_name,label\n1.png,a\n2.png,b\n", "test/metadata.csv": "file_name,label\n1.png,b\n"},
    )  # fmt: skip
    assert summary(load_data(root)) == {"train/1.png": (0, "a"), "train/2.png": (0, "b"), "test/1.png": (2, "b")}


def test_the_words_of_a_header_may_be_capitalised(tmp_path):
    root = make(
        tmp_path / "d",
        "1.png",
        "2.png",
        "3.png",
        table="Filename,Label,Split\n1.png,a,Train\n2.png,b,TRAIN\n3.png,b,Test\n",
    )
    assert summary(load_data(root)) == {"1.png": (0, "a"), "2.png": (0, "b"), "3.png": (2, "b")}


def test_a_column_of_a_table_can_be_the_number_to_predict(tmp_path):
    root = make(tmp_path / "d", "1.png", "2.png", table="file_name,count,label\n1.png,3,x\n2.png,-4.5,y\n")
    found = load_data(root, label_column="count", task="regression")
    assert summary(found) == {"1.png": (0, 3.0), "2.png": (0, -4.5)}
    assert found.is_regression
    with pytest.raises(
        UsageError,
        match=r"^label_column must be one of file_name, count, label, got 'sum' in .*\. Choose one of them\.$",
    ):
        load_data(root, label_column="sum", task="regression")


def test_folders_named_by_numbers_can_be_predicted(tmp_path):
    root = make(tmp_path / "d", "10/1.png", "2.5/1.png", "-1/1.png")
    assert summary(load_data(root, task="regression")) == {
        "10/1.png": (0, 10.0),
        "2.5/1.png": (0, 2.5),
        "-1/1.png": (0, -1.0),
    }
    assert load_data(root).class_names == ("-1", "10", "2.5")
    make(root, "ten/1.png")
    refuse(
        root,
        "labels must be numbers for regression, got 'ten' in {root}. Name the folders by numbers or give a table.",
        task="regression",
    )


@pytest.mark.parametrize("value", ["nan", "inf", "1e99"])
def test_numbers_that_are_not_finite_are_refused(value, tmp_path):
    root = make(tmp_path / "d", "1.png", "2.png", table=f"file_name,count\n1.png,3\n2.png,{value}\n")
    with pytest.raises(DataError, match=r"must be finite"):
        load_data(root, task="regression")


@pytest.mark.long
@pytest.mark.parametrize("kind", [*LAYOUTS, *TABLES, "empty"])
@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_an_archive_is_read_as_its_folder(kind, suffix, tmp_path):
    paths = LAYOUTS.get(kind, ("x/1.png", "x/2.png", "y.png") if kind in TABLES else PAIR)
    root = make(tmp_path / "d", *paths, text={TABLES[kind][1]: TABLES[kind][0]} if kind in TABLES else None)
    if kind == "empty":
        (root / "c").mkdir()
    packed = (pack_zip if suffix == ".zip" else pack_tar)(root, tmp_path / f"d{suffix}")
    assert_same(load_data(packed), load_data(root))


@pytest.mark.parametrize("suffix", [".tar.bz2", ".tar.xz", ".tgz"])
def test_other_compressions_of_tar_are_read(suffix, tmp_path):
    root = make(tmp_path / "d", *PAIR)
    path = tmp_path / f"d{suffix}"
    shutil.move(pack_tar(root, tmp_path / f"d.tar.{'gz' if suffix == '.tgz' else suffix[5:]}"), path)
    assert_same(load_data(path), load_data(root))


def test_the_order_of_a_tar_does_not_matter(tmp_path):
    root = make(tmp_path / "d", *many("a", "b"))
    assert_same(load_data(pack_tar(root, tmp_path / "d.tar", backwards=True)), load_data(root))


def test_a_picture_in_a_zip_with_a_readme_beside_its_folder_has_the_same_class(tmp_path):
    root = make(tmp_path / "d", "data/a/1.png", "data/b/1.png", text={"README.txt": "hello"})
    assert load_data(root).class_names == ("a", "b")


def test_classes_are_in_order_of_their_names(tmp_path):
    names = ("b", "a", "10", "9", "B", "é", "z z")
    found = load_data(make(tmp_path / "d", *(f"{name}/1.png" for name in names)))
    assert found.class_names == tuple(sorted(names))
    assert [found.class_names[k] for k in found.labels] == [file.split("/")[0] for file in found.files]


# what is left out, and told

SYSTEM = (
    "a/.DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/a/._1.png", ".ipynb_checkpoints/a/1.png", "a/.ipynb_checkpoints/1-checkpoint.png",
    ".git/config", "a/.hidden.png",
)  # fmt: skip


def test_hidden_and_system_files_are_left_out_with_a_note(tmp_path):
    root = make(tmp_path / "d", *PAIR, text=dict.fromkeys(SYSTEM, "x"))
    found = load_data(root)
    assert set(found.files) == set(PAIR)
    assert len(found.notes) == 1
    assert re.fullmatch(r"8 hidden or system files were left out: '.*', '.*', '.*' and 5 more", found.notes[0])
    assert found.class_names == ("a", "b")


def test_hidden_links_are_left_out_like_hidden_files(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    (root / "a" / ".#1.png").symlink_to("somebody@host.123")  # an editor's lock
    (root / ".cache").symlink_to("/tmp")
    found = load_data(root)
    assert set(found.files) == set(PAIR)
    assert any("hidden links or special files were left out" in note for note in found.notes)


def test_files_outside_class_folders_are_left_out_with_a_note(tmp_path):
    root = make(tmp_path / "d", *PAIR, "stray.png", text={"README.md": "x", "a/notes.txt": "x"})
    assert load_data(root).notes == (
        "2 files are no pictures and were left out: 'README.md', 'a/notes.txt'",
        "1 files outside the class folders were left out: 'stray.png'",
    )
    splits = make(tmp_path / "s", "train/a/1.png", "train/b/1.png", "train/2.png", "3.png")
    assert load_data(splits).notes == ("2 files outside the class folders were left out: '3.png', 'train/2.png'",)


def test_pictures_without_a_row_in_the_table_are_left_out_with_a_note(tmp_path):
    root = make(tmp_path / "d", "1.png", "2.png", "3.png", table="file_name,label\n1.png,a\n2.png,b\n")
    assert load_data(root).notes == ("1 pictures without a row in the table were left out: '3.png'",)


@pytest.mark.long
@pytest.mark.parametrize("content", [None, ".gitkeep", ".DS_Store", "notes.txt"])
def test_a_class_without_a_picture_is_told_and_stops_training(content, tmp_path):
    root = make(tmp_path / "d", *many("a", "b"))
    (root / "c").mkdir()
    if content:
        (root / "c" / content).write_text("x")
    found = load_data(root)
    assert found.empty == (("train", "c"),)
    assert found.class_names == ("a", "b", "c")
    with pytest.raises(
        DataError, match=r"class 'c' of train must hold pictures, got none\. Add some or remove its folder\."
    ):
        clearsight.train(root, out=tmp_path / "run", epochs=1, hidden=(2,))
    assert not (tmp_path / "run").exists()
    assert clearsight.train(root, out=tmp_path / "run", epochs=1, hidden=(2,), skip_bad=True).bundle.class_names == (
        "a",
        "b",
    )


@pytest.mark.long
def test_a_class_of_bad_files_alone_is_told(tmp_path):
    root = make(tmp_path / "d", *many("a", "b"), text={"c/1.png": "no picture", "c/2.png": ""})
    told = []
    clearsight.train(root, out=tmp_path / "run", epochs=1, hidden=(2,), skip_bad=True, note=told.append)
    assert any("classes without a picture were left out: c" in text for text in told), told


@pytest.mark.long
def test_a_class_of_one_picture_trains_with_a_warning(tmp_path):
    root = make(tmp_path / "d", *many("a", "b"), "c/1.png")
    told = []
    run = clearsight.train(root, out=tmp_path / "run", epochs=1, hidden=(2,), note=told.append)
    assert run.bundle.class_names == ("a", "b", "c")
    assert any("has fewer than 10 pictures: c (1)" in text for text in told)


@pytest.mark.parametrize("check", [True, False])
def test_one_class_is_refused(check, tmp_path):
    root = make(tmp_path / "d", *many("a"))
    with pytest.raises(DataError, match=r"two or more classes"):
        clearsight.train(root, out=tmp_path / "run", epochs=1, hidden=(2,), check=check)


@pytest.mark.long
def test_classes_that_differ_in_case_alone_stop_training_but_letters_do_not(tmp_path):
    root = make(tmp_path / "d", *many("Cat", "cat"))
    message = (
        r"classes must differ by more than case, got 'Cat' and 'cat'\. Put their pictures together or rename one\."
    )
    with pytest.raises(DataError, match=message):
        clearsight.train(root, out=tmp_path / "run", epochs=1, hidden=(2,))
    letters = make(tmp_path / "l", *many("A", "a"))
    assert clearsight.train(letters, out=tmp_path / "run", epochs=1, hidden=(2,)).bundle.class_names == ("A", "a")


def test_a_split_of_two_names_is_refused(tmp_path):
    root = make(tmp_path / "d", "train/a/1.png", "valid/a/1.png", "val/a/1.png", "validation/a/1.png")
    refuse(root, "{root} must have one folder for valid, got 'val' and 'valid'. Put their pictures together.")


def test_splits_beside_classes_are_refused(tmp_path):
    root = make(tmp_path / "d", "train/a/1.png", "dog/1.png", "cat/1.png")
    refuse(
        root,
        "{root} must hold folders of splits or folders of classes, got both: 'train' beside 'cat', 'dog'. "
        "Move the classes into train/, or rename.",
    )


def test_a_folder_without_pictures_is_refused(tmp_path):
    root = make(tmp_path / "d")
    refuse(
        root,
        "{root} must hold a folder of pictures a class, IDX files, or a metadata.csv, got no pictures. See the README for the layouts.",
    )
    make(root, "1.png")
    refuse(
        root,
        "{root} must hold a folder of pictures a class, IDX files, or a metadata.csv, got 1 pictures without one. See the README for the layouts.",
    )


@pytest.mark.long
def test_a_test_class_unknown_to_training_stops_training(tmp_path):
    root = make(tmp_path / "d", *many("train/a", "train/b", "test/a", "test/z"))
    with pytest.raises(DataError, match=r"classes of test must have training pictures, got none of 'z'\."):
        clearsight.train(root, out=tmp_path / "run", epochs=1, hidden=(2,))


def test_splits_only_of_test_are_refused(tmp_path):
    root = make(tmp_path / "d", *many("test/a", "test/b"))
    with pytest.raises(DataError, match=r"train"):
        clearsight.train(root, out=tmp_path / "run", epochs=1, hidden=(2,))


@pytest.mark.long
def test_classes_are_matched_by_name_when_evaluating(tmp_path):
    root = make(tmp_path / "d", *many("a", "b", "c", "d", n=30))
    rng = np.random.default_rng(0)
    for k, label in enumerate("abcd"):
        for path in (root / label).iterdir():
            pixels = rng.integers(0, 60, (8, 8)).astype(np.uint8)
            pixels[2 * k : 2 * k + 2] += 180
            Image.fromarray(pixels).save(path)
    run = clearsight.train(root, out=tmp_path / "run", epochs=30, hidden=(16,), check=False)
    assert run.test.accuracy == 1
    other = tmp_path / "o"
    for label in ("d", "b"):
        shutil.copytree(root / label, other / label)
    found = clearsight.evaluate(tmp_path / "run", other)
    assert (found.accuracy, found.n) == (1, 60)
    make(other, "x/1.png")
    with pytest.raises(DataError, match=r"^classes must be among a, b, c, d, got 'x' at x/1\.png\. Check the data\.$"):
        clearsight.evaluate(tmp_path / "run", other)


@pytest.mark.long
def test_pictures_of_one_class_alone_can_be_evaluated(tmp_path):
    root = make(tmp_path / "d", *many("a", "b"))
    clearsight.train(root, out=tmp_path / "run", epochs=1, hidden=(4,))
    shutil.copytree(root / "b", tmp_path / "o" / "b")
    found = clearsight.evaluate(tmp_path / "run", tmp_path / "o")
    assert found.n == 12
    assert found.confusion.sum(axis=1).tolist() == [0, 12]
