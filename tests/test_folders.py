"""Folders, zips and tars of pictures: every layout read alike, every odd file told, nothing dropped in silence."""

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import clearsight
from clearsight.data.load import load_data
from clearsight.errors import DataError, UsageError
from clearsight.intake import find_flaws, load_dataset
from clearsight.pipeline import resolve_config

PAIR = ("a/1.png", "a/2.png", "b/1.png", "b/2.png")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("CLEARSIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))


def make(root, *paths, table=None, text=None):
    """Pictures of noise at `paths`, each unlike the others; `table` as metadata.csv."""
    for path in paths:
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        seed = sum(ord(c) * 31**k for k, c in enumerate(path)) % 2**31
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8)).astype(np.uint8)).save(place, "PNG")
    root.mkdir(exist_ok=True)
    for name, content in {**({"metadata.csv": table} if table else {}), **(text or {})}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def many(*folders, n=12):
    return [f"{folder}/{k:02}.png" for folder in folders for k in range(n)]


def pack_zip(folder, path):
    with zipfile.ZipFile(path, "w") as file:
        for place in sorted(folder.rglob("*")):
            file.write(place, place.relative_to(folder))
    return path


def pack_tar(folder, path, *, backwards=False):
    mode = "w" if path.suffix == ".tar" else f"w:{path.suffix[1:]}"
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT) as file:  # as GNU tar writes by default
        for place in sorted(folder.rglob("*"), reverse=backwards):
            file.add(place, f"./{place.relative_to(folder)}", recursive=False)
    return path


def assert_same(found, wanted):
    assert found.class_names == wanted.class_names
    assert found.files == wanted.files
    for key in ("images", "labels", "given"):
        assert np.array_equal(getattr(found, key), getattr(wanted, key)), key
    assert (found.empty, found.fingerprint) == (wanted.empty, wanted.fingerprint)


def summary(dataset):
    """(split, class or number) of each file."""
    names = dataset.class_names or tuple(dataset.labels.tolist())
    label = (lambda k: names[dataset.labels[k]]) if dataset.class_names else (lambda k: names[k])
    return {file: (int(dataset.given[k]), label(k)) for k, file in enumerate(dataset.files)}


def refuse(path, message, **options):
    with pytest.raises(DataError, match=f"^{re.escape(message.format(root=path))}$"):
        load_data(path, **options)


def bad_of(path):
    """Bad files by path; they must be told without skip_bad, too."""
    dataset = load_data(path, skip_bad=True)
    found = {b.path: b.reason for b in dataset.bad}
    with pytest.raises(DataError, match=r"must hold pictures that can be read, got ") as caught:
        load_data(path)
    for name, reason in found.items():
        assert f"{name}: {reason.removeprefix(name + ' ')}" in str(caught.value)
    assert str(caught.value).endswith(" Mend or remove them, or go on without them with --skip-bad.")
    return found


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


def test_a_class_of_bad_files_alone_is_told(tmp_path):
    root = make(tmp_path / "d", *many("a", "b"), text={"c/1.png": "no picture", "c/2.png": ""})
    told = []
    clearsight.train(root, out=tmp_path / "run", epochs=1, hidden=(2,), skip_bad=True, note=told.append)
    assert any("classes without a picture were left out: c" in text for text in told), told


def test_a_class_of_one_picture_trains_with_a_warning(tmp_path):
    root = make(tmp_path / "d", *many("a", "b"), "c/1.png")
    told = []
    run = clearsight.train(root, out=tmp_path / "run", epochs=1, hidden=(2,), note=told.append)
    assert run.bundle.class_names == ("a", "b", "c")
    assert any("of fewer than 10 pictures: c (1)" in text for text in told)


@pytest.mark.parametrize("check", [True, False])
def test_one_class_is_refused(check, tmp_path):
    root = make(tmp_path / "d", *many("a"))
    with pytest.raises(DataError, match=r"two or more classes"):
        clearsight.train(root, out=tmp_path / "run", epochs=1, hidden=(2,), check=check)


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


def test_a_test_class_unknown_to_training_stops_training(tmp_path):
    root = make(tmp_path / "d", *many("train/a", "train/b", "test/a", "test/z"))
    with pytest.raises(DataError, match=r"classes of test must have training pictures, got none of 'z'\."):
        clearsight.train(root, out=tmp_path / "run", epochs=1, hidden=(2,))


def test_splits_only_of_test_are_refused(tmp_path):
    root = make(tmp_path / "d", *many("test/a", "test/b"))
    with pytest.raises(DataError, match=r"train"):
        clearsight.train(root, out=tmp_path / "run", epochs=1, hidden=(2,))


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


def test_pictures_of_one_class_alone_can_be_evaluated(tmp_path):
    root = make(tmp_path / "d", *many("a", "b"))
    clearsight.train(root, out=tmp_path / "run", epochs=1, hidden=(4,))
    shutil.copytree(root / "b", tmp_path / "o" / "b")
    found = clearsight.evaluate(tmp_path / "run", tmp_path / "o")
    assert found.n == 12
    assert found.confusion.sum(axis=1).tolist() == [0, 12]


# links, names, rights


def test_links_out_of_the_folder_broken_and_looping_are_bad_files(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    outside = make(tmp_path / "o", "x.png")
    (root / "a" / "out.png").symlink_to(outside / "x.png")
    (root / "a" / "gone.png").symlink_to("nowhere.png")
    (root / "a" / "self.png").symlink_to("self.png")
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "up.png").symlink_to("../../o/x.png")
    found = bad_of(root)
    leaves = "must be a file of this folder, got a link that leaves it"
    assert found.pop("a/self.png").startswith("must be a file, got a broken link (")
    assert found == {
        "a/out.png": leaves, "a/up.png": leaves, "a/loop": "must be a file, got a link to a folder; these are not followed",
        "a/gone.png": "must be a file, got a broken link (No such file or directory)",
    }  # fmt: skip


def test_links_within_the_folder_and_to_the_folder_are_followed(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    (root / "a" / "again.png").symlink_to("../b/1.png")
    (tmp_path / "link").symlink_to(root)
    found = load_data(tmp_path / "link")
    assert set(found.files) == {*PAIR, "a/again.png"}
    assert (found.images[found.files.index("a/again.png")] == found.images[found.files.index("b/1.png")]).all()


def test_a_pipe_is_a_bad_file(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    os.mkfifo(root / "a" / "pipe.png")
    assert bad_of(root) == {"a/pipe.png": "must be a file, got a pipe or device"}


def test_names_not_in_utf8_are_bad_files(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    place = os.fsencode(root) + b"/a/\xff\xfe.png"
    shutil.copy(root / "a" / "1.png", place)
    assert bad_of(root) == {"a/\\udcff\\udcfe.png": "must have a name in UTF-8, got other bytes"}


def test_a_class_named_not_in_utf8_is_a_bad_file_and_no_class(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    os.mkdir(os.fsencode(root) + b"/\xff")  # noqa: PTH102
    shutil.copy(root / "a" / "1.png", os.fsencode(root) + b"/\xff/1.png")
    assert bad_of(root) == {"\\udcff/1.png": "must have a name in UTF-8, got other bytes"}
    os.unlink(os.fsencode(root) + b"/\xff/1.png")  # noqa: PTH108
    found = load_data(root)  # an empty folder of that name, too, must not end in an encoding error
    found.fingerprint.encode()
    "".join(found.class_names).encode()


ODD = ("<script>alert(1)<", "line\nbreak", "\N{PILE OF POO}", "'; drop table", 'q"uote', "a" * 200, " spaced ", "-rf")


def test_odd_names_are_taken_as_they_are(tmp_path):
    root = make(tmp_path / "d", *(f"{name}/{name}.png" for name in ODD))
    found = load_data(root)
    assert found.class_names == tuple(sorted(ODD))
    assert set(found.files) == {f"{name}/{name}.png" for name in ODD}


def test_odd_names_do_no_harm_in_the_report_and_on_the_terminal(tmp_path):
    root = make(tmp_path / "d", *many("<script>alert(1)<", "line\nbreak\x1b[31m"))
    command = [sys.executable, "-m", "clearsight", "train", str(root), "--epochs", "1", "--hidden", "2", "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "<script>alert" not in (tmp_path / "run" / "report.html").read_text()


def test_a_file_without_rights_is_a_bad_file(tmp_path, monkeypatch):
    root = make(tmp_path / "d", *PAIR)
    read = Path.read_bytes

    def refuse_one(path):
        if path.name == "1.png" and path.parent.name == "a":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse_one)
    assert bad_of(root) == {"a/1.png": "a/1.png must be readable, got Permission denied. Check its rights."}


# tables that are not sound


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file_name,label\n1.png,a\n2.png\n", "{root}/metadata.csv must have 2 fields a row, got 1 in row 3. Mend the row."),
        ("file_name,label\n1.png,a,b\n", "{root}/metadata.csv must have 2 fields a row, got 3 in row 2. Mend the row."),
        ("file_name,label\n1.png,a\n1.png,b\n", "{root}/metadata.csv must list a file once in all tables, got '1.png' twice. Remove one row."),
        ("file_name,label\n1.png,\n2.png,b\n", "label must not be empty, got nothing in row 2 of {root}/metadata.csv. Fill it in."),
        (
            "file_name,label,split\n1.png,a,dev\n",
            "split must be train, valid or test, got 'dev' in row 2 of {root}/metadata.csv. Correct it.",
        ),
        (b"file_name,label\n1.png,\xff\n", "{root}/metadata.csv must be UTF-8 text, got other bytes. Save it as UTF-8."),
        ("file_name,x,y\n1.png,a,b\n", "{root}/metadata.csv must say which column is the label, got x, y. Set --label-column (or --target)."),
        ("file_name\n1.png\n", "{root}/metadata.csv must say which column is the label, got none. Set --label-column (or --target)."),
        ("file_name,label\n8.png,a\n9.png,b\n", "{root}/metadata.csv must list pictures that exist, got 2 names without a file. Check the paths."),
        ('file_name,label\n"1.png,a\n', "{root}/metadata.csv must be CSV, got: unexpected end of data. Mend the file."),
        ("\n", "{root}/metadata.csv must not be empty, got no rows. Fill or remove it."),
    ],
)  # fmt: skip
def test_tables_that_are_not_sound_are_refused(table, message, tmp_path):
    refuse(make(tmp_path / "d", "1.png", "2.png", table=table), message)


def test_an_empty_table_is_refused(tmp_path):
    refuse(
        make(tmp_path / "d", "1.png", text={"metadata.csv": b""}),
        "{root}/metadata.csv must not be empty, got no rows. Fill or remove it.",
    )


def test_a_table_of_a_header_alone_is_refused_as_such(tmp_path):
    root = make(tmp_path / "d", "1.png", table="file_name,label\n")
    with pytest.raises(DataError, match=r"metadata\.csv must .*, got "):
        load_data(root)


def test_a_column_without_numbers_cannot_be_predicted(tmp_path):
    root = make(tmp_path / "d", "1.png", table="file_name,count\n1.png,many\n")
    refuse(
        root,
        "labels must be numbers for regression, got 'many' in column count, row 2 of {root}/metadata.csv. Correct it.",
        task="regression",
    )


def test_a_listed_file_that_is_not_there_is_a_bad_file(tmp_path):
    root = make(tmp_path / "d", "1.png", "2.png", table="file_name,label\n1.png,a\n2.png,b\n3.png,b\n../x.png,a\n")
    assert bad_of(root) == dict.fromkeys(("3.png", "../x.png"), "must exist, got a name in metadata.csv without a file")


def test_a_table_without_a_column_of_files_is_no_table(tmp_path):
    root = make(tmp_path / "d", *PAIR, table="colour,label\nred,a\n")
    found = load_data(root)
    assert found.class_names == ("a", "b")
    assert found.notes == ("1 files are no pictures and were left out: 'metadata.csv'",)


def test_a_path_that_starts_with_a_dot_is_the_same_file(tmp_path):
    root = make(tmp_path / "d", "1.png", "x/2.png", table="file_name,label\n./1.png,a\nx/./2.png,b\n")
    assert summary(load_data(root)) == {"1.png": (0, "a"), "x/2.png": (0, "b")}


@pytest.mark.parametrize(
    "text",
    [
        {"train/metadata.csv": "file_name,label\n1.png,a\n./1.png,a\n2.png,b\n"},
        {"metadata.csv": "file_name,label\ntrain/1.png,a\ntrain/2.png,b\n", "train/metadata.csv": "file_name,label\n1.png,b\n"},
        {"metadata.csv": "file_name,label\ntrain/1.png,a\ntrain/2.png,b\n", "labels.csv": "file_name,label\ntrain/1.png,a\ntrain/2.png,b\n"},
    ],
    ids=["dot", "root-and-split", "two-tables"],
)  # fmt: skip
def test_a_file_listed_twice_in_whatever_way_is_refused(text, tmp_path):
    root = make(tmp_path / "d", "train/1.png", "train/2.png", text=text)
    with pytest.raises(DataError, match=r"must list a file once|more than one|twice|once"):
        load_data(root)


def test_a_label_column_without_a_table_is_refused(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    message = "label_column must belong to a metadata.csv or labels.csv, got 'x' but no such table in {root}. Leave it out or add the table."
    with pytest.raises(UsageError, match=f"^{re.escape(message.format(root=root))}$"):
        load_data(root, label_column="x")


# archives that lie or are damaged


def zip_with(path, root, *extra):
    """A zip of good pictures, and `extra` (ZipInfo or name, content)."""
    pack_zip(root, path)
    with zipfile.ZipFile(path, "a") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *a, **k: None)
        for info, content in extra:
            file.writestr(info, content)
    return path


@pytest.mark.parametrize(
    "name", ["../x.png", "/x.png", "a/../../x.png", "\\x.png", "..\\x.png", "C:\\x.png", "a/\\..\\..\\x.png"]
)
def test_names_that_leave_a_zip_are_bad_files(name, tmp_path):
    root = make(tmp_path / "d", *PAIR)
    found = bad_of(zip_with(tmp_path / "d.zip", root, (name, (root / "a/1.png").read_bytes())))
    assert found == {name: "must have a path inside the archive, got one that leaves it"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "d.zip"]


def test_links_encrypted_files_and_names_that_come_twice_in_a_zip_are_bad_files(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    link, png = zipfile.ZipInfo("a/link.png"), (root / "a/1.png").read_bytes()
    link.external_attr = 0o120777 << 16
    path = zip_with(tmp_path / "d.zip", root, (link, "/etc/passwd"), ("a/secret.png", png), ("a/1.png", png))
    content = bytearray(path.read_bytes())
    at = content.rfind(b"a/secret.png")
    content[at - 46 + 8] |= 1
    path.write_bytes(content)
    assert bad_of(path) == {
        "a/link.png": "must be a file, got a link", "a/1.png": "must be in the zip once, got it twice",
        "a/secret.png": "must not be encrypted, got a file with a password",
    }  # fmt: skip


def test_names_that_leave_a_tar_links_and_twice_the_same_are_bad_files(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    path = pack_tar(root, tmp_path / "d.tar")
    with tarfile.open(path, "a") as file:
        for name in ("../x.png", "/abs.png", "a/1.png"):
            info = tarfile.TarInfo(name)
            info.size = 0
            file.addfile(info)
        for name, kind in (
            ("a/link.png", tarfile.SYMTYPE),
            ("a/hard.png", tarfile.LNKTYPE),
            ("a/pipe", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            file.addfile(info)
    leaves, link = "must have a path inside the archive, got one that leaves it", "must be a file, got a link or device"
    assert bad_of(path) == {
        "../x.png": leaves, "/abs.png": leaves, "a/1.png": "must be in the tar once, got it twice",
        "a/link.png": link, "a/hard.png": link, "a/pipe": link,
    }  # fmt: skip


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
@pytest.mark.parametrize("percent", [1, 30, 60, 95])
def test_archives_cut_short_are_refused(suffix, percent, tmp_path):
    root = make(tmp_path / "d", *many("a", "b", n=40))
    path = (pack_zip if suffix == ".zip" else pack_tar)(root, tmp_path / f"d{suffix}")
    content = path.read_bytes()
    end = len(content.rstrip(b"\0")) if suffix == ".tar" else len(content)  # zeros alone can be missed
    path.write_bytes(content[: end * percent // 100])
    with pytest.raises(
        DataError, match=r"^.*/d\.[a-z0-9.]+ must be a whole (zip|tar), got damage \(.+\)\. Get it again\.$"
    ):
        load_data(path)


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
@pytest.mark.parametrize("seed", range(8))
def test_archives_with_flipped_bytes_are_refused_or_their_bad_files_told(suffix, seed, tmp_path):
    root = make(tmp_path / "d", *many("a", "b", n=10))
    whole = set(load_data(root).files)
    path = (pack_zip if suffix == ".zip" else pack_tar)(root, tmp_path / f"d{suffix}")
    content, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    for at in rng.integers(0, len(content), 12):
        content[at] ^= 0xFF
    path.write_bytes(content)
    try:
        found = load_data(path, skip_bad=True)
    except DataError as error:
        assert "\n" not in str(error)
        return
    told = sum(int(re.match(r"\d+", note)[0]) for note in found.notes if re.match(r"\d+ .* left out", note))
    assert len(found) + max(len(found.bad), told) >= len(whole) - 12
    assert len(found) + len(found.bad) + told >= len(whole)


def test_a_tar_with_a_damaged_header_in_the_middle_does_not_end_there_in_silence(tmp_path):
    root = make(tmp_path / "d", *many("a", "b"))
    path = pack_tar(root, tmp_path / "d.tar")
    content = bytearray(path.read_bytes())
    at = content.index(b"./b/03.png")
    content[at + 148] ^= 0xFF  # its checksum
    path.write_bytes(content)
    refuse_damage = pytest.raises(
        DataError, match=r"^.*/d\.tar must be a whole tar, got damage \(.+\)\. Get it again\.$"
    )
    with refuse_damage:
        load_data(path)


def test_a_tar_cut_between_two_files_is_refused(tmp_path):
    root = make(tmp_path / "d", *many("a", "b"))
    path = pack_tar(root, tmp_path / "d.tar")
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"./b/03.png")])
    with pytest.raises(DataError, match=r"^.*/d\.tar must be a whole tar, got damage \(.+\)\. Get it again\.$"):
        load_data(path)


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_compressed_tar_damaged_in_the_middle_is_refused_whole(suffix, share, tmp_path):
    root = make(tmp_path / "d", *many("a", "b", n=20))
    for k, place in enumerate(sorted(root.rglob("*.png"))):
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (60, 60)).astype(np.uint8)).save(place)
    path = pack_tar(root, tmp_path / f"d{suffix}")
    content = bytearray(path.read_bytes())
    at = int(len(content) * share)
    content[at : at + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"^[^\n]*/d\.tar\.[a-z0-9]+ must be a whole tar, got damage \([^\n]+\)\. Get it again\.$"
    ):
        load_data(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_file_of_a_zip_is_a_bad_file(method, tmp_path):
    root = make(tmp_path / "d", *PAIR)
    path = tmp_path / "d.zip"
    with zipfile.ZipFile(path, "w", method) as file:
        for name in PAIR:
            file.write(root / name, name)
        info = file.getinfo("a/2.png")
    content = bytearray(path.read_bytes())
    start = info.header_offset + 30 + len("a/2.png")
    content[start + 12 : start + 60] = b"\xff" * 48
    path.write_bytes(content)
    assert list(bad_of(path)) == ["a/2.png"]


def test_a_zip_that_claims_two_million_files_is_refused(tmp_path):
    path = tmp_path / "d.zip"
    large = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 2_000_000, 2_000_000, 92_000_000, 0)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
    path.write_bytes(
        b"PK\3\4"
        + bytes(30)
        + large
        + locator
        + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    )
    refuse(path, "{root} must hold at most 1,000,000 files, got 2,000,000 or more. Split it.")


def test_a_member_that_claims_300_mb_is_a_bad_file(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    path = pack_zip(root, tmp_path / "d.zip")
    content = bytearray(path.read_bytes())
    at = content.rfind(b"a/2.png") - 46
    content[at + 24 : at + 28] = struct.pack("<I", 300 * 2**20)
    path.write_bytes(content)
    assert bad_of(path) == {"a/2.png": "a/2.png must be at most 256 MB, got 300 MB. Shrink it."}


def test_a_member_that_swells_beyond_its_claim_is_a_bad_file(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    path = tmp_path / "d.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in PAIR:
            file.write(root / name, name)
        file.writestr("a/bomb.png", bytes(50 * 2**20))
    content = bytearray(path.read_bytes())
    at = content.rfind(b"a/bomb.png") - 46
    content[at + 24 : at + 28] = struct.pack("<I", 1000)
    path.write_bytes(content)
    assert list(bad_of(path)) == ["a/bomb.png"]


@pytest.mark.parametrize("name", ["d.zip", "d.tar", "d.tar.gz"])
@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\0" * 2000, b"PK\3\4", b"PK\5\6" + bytes(18), b"\x1f\x8b\x08\0"], ids=repr
)
def test_what_is_no_archive_is_refused(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_data(path)
    assert re.fullmatch(r"[^\n]* must [^\n]*, got [^\n]*\.", str(caught.value))


# going on without bad files


def spoil(tmp_path):
    root = make(tmp_path / "d", *many("a", "b"), text={"a/bad1.png": "text", "b/bad2.png": b""})
    (root / "b" / "bad3.png").write_bytes((root / "b" / "00.png").read_bytes()[:60])
    return root


def test_bad_files_are_all_listed_with_exit_code_3_and_no_run(tmp_path):
    root = spoil(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "clearsight", "train", str(root), "--out", str(tmp_path / "run")],
        capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert done.stderr.startswith(f"error: {root} must hold pictures that can be read, got 3 bad files: ")
    for name, reason in (("a/bad1.png", "got text"), ("b/bad2.png", "got an empty file"), ("b/bad3.png", "got damage")):
        assert re.search(rf"{name}: must [^;]*{reason}", done.stderr)
    assert not (tmp_path / "run").exists()


def test_skip_bad_goes_on_and_the_run_records_how_many(tmp_path):
    root = spoil(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "clearsight", "train", str(root), "--skip-bad", "--epochs", "1", "--hidden", "2", "--out", "run"],
        capture_output=True, text=True, env=os.environ, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "note: 3 bad files were left out" in done.stderr
    record = json.dumps([json.loads((tmp_path / "run" / name).read_text()) for name in ("run.json", "metrics.json")])
    assert "3 bad files" in record or '"bad": 3' in record or '"bad_files": 3' in record, record[:600]


def test_a_folder_of_bad_files_alone_is_refused(tmp_path):
    root = make(tmp_path / "d", text={"a/1.png": "x", "b/1.png": "y"})
    refuse(root, "{root} must hold pictures that can be read, got none of 2. Check the files.", skip_bad=True)


def test_the_configuration_brings_skip_bad_to_the_reader(tmp_path):
    config = resolve_config(None, {"source": str(spoil(tmp_path)), "skip_bad": True})
    dataset = load_dataset(config)
    assert len(dataset.bad) == 3
    assert [f.kind for f in find_flaws(config, dataset) if f.level == "error"] == []


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_a_run_on_an_archive_is_evaluated_and_resumed_like_one_on_a_folder(suffix, tmp_path):
    root = make(tmp_path / "d", *many("a", "b", n=30))
    packed = (pack_zip if suffix == ".zip" else pack_tar)(root, tmp_path / f"d{suffix}")
    first = clearsight.train(root, out=tmp_path / "one", epochs=2, hidden=(4,))
    second = clearsight.train(packed, out=tmp_path / "two", epochs=2, hidden=(4,))
    assert (first.bundle.params == second.bundle.params).all()
    assert clearsight.evaluate(tmp_path / "two").as_dict() == clearsight.evaluate(tmp_path / "one").as_dict()
