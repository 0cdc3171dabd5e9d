"""CSV files with a wrong cell, row or column are refused with file and line; the good ones beside them load."""

import re

import numpy as np
import pytest
from conftest import run

from clearsight.data.read.load import load_data
from clearsight.errors import DataError, UsageError

HEAD = "label,a,b,c\n"
ROWS = "0,1.5,2,3\n1,4,5,6\n0,7,8,9\n1,1,2,4\n"
GOOD = HEAD + ROWS
PICTURE = "label," + ",".join(f"p{k}" for k in range(64)) + "\n"
CELL = "{path} must hold finite numbers, got %s in row 6, column 3. Fix the cell."
LABEL = "{path} must hold labels that are %s, got %s in row 6. Fix the cell."
NAMED, NUMBERS = "names or whole numbers from 0", "all names or all numbers"
ONE_COLUMN = "{path} must have two or more columns, got one. Save it with commas between them."
NO_ROWS = "{path} must hold at least one row of data, got none. Check the file."
WIDTH = "{path} must have %d columns in each row, got %d in row %d. Fix the row."


def write(folder, text, name="data.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def picture_row(label, value=7, last=7):
    return f"{label}," + f"{value}," * 63 + f"{last}\n"


@pytest.mark.long
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "{path} must not be empty, got 0 bytes. Check the file."),
        ("\n\n", NO_ROWS),
        (HEAD, NO_ROWS),
        (b"\xef\xbb\xbf", NO_ROWS),
        (GOOD + "0,1,2\n", WIDTH % (4, 3, 6)),
        (GOOD + "0,1,2,3,4\n", WIDTH % (4, 5, 6)),
        (HEAD + ROWS * 50_000 + "0,1,2,3,4\n", WIDTH % (4, 5, 200_002)),
        ("label,a,b\n" + ROWS, WIDTH % (3, 4, 2)),
        (HEAD + '0,1,2,3\n1,"4,5,6\n0,1,1,1\n', WIDTH % (4, 2, 4)),
        (GOOD + "0,1,x,3\n", CELL % "'x'"),
        (GOOD + "0,1,,3\n", CELL % "''"),
        (GOOD + "0,1,nan,3\n", CELL % "'nan'"),
        (GOOD + "0,1,inf,3\n", CELL % "'inf'"),
        (GOOD + "0,1,1e40,3\n", CELL % "'1e40'"),
        (GOOD + "0,1,1_000,3\n", CELL % "'1_000'"),
        ("\n" + HEAD + "\n" + ROWS[:18] + "0,1,x,3\n", CELL % "'x'"),
        (GOOD + ",1,2,3\n", "{path} must hold a label in each row, got '' in row 6. Fix the cell."),
        (GOOD + "nan,1,2,3\n", LABEL % (NAMED, "'nan'")),
        (GOOD + "0.5,1,2,3\n", LABEL % (NAMED, "'0.5'")),
        (GOOD + "-1,1,2,3\n", LABEL % (NAMED, "'-1'")),
        (GOOD + "1e30,1,2,3\n", LABEL % (NAMED, "'1e30'")),
        (GOOD + "cat,1,2,3\n", LABEL % (NUMBERS, "'cat'")),
        (GOOD.replace(",", "|"), ONE_COLUMN),
        (GOOD.replace(",", ";") + "0;1;x;3\n", CELL % "'x'"),
        (GOOD.replace(",", ";") + "0;1;2\n", WIDTH % (4, 3, 6)),
        (HEAD.encode() + b"\xe9,1,2,3\n", "{path} must be UTF-8 text, got byte 0xe9 in row 2. Save it as UTF-8."),
        (GOOD.encode("utf-16"), "{path} must be UTF-8 text, got byte 0xff in row 1. Save it as UTF-8."),
        (
            HEAD + "0,1,2," + "3" * 200_000,
            "{path} must be a CSV file, got field larger than field limit (131072). Check the quotes.",
        ),
        (
            ",label,a,b\n0.5,0,1,2\n1,1,2,3\n",
            "{path} must name every column in its header, got no name for column 1. Name it, or remove it.",
        ),
        (
            "label,a,\n0,1,2\n1,2,2\n",
            "{path} must name every column in its header, got no name for column 3. Name it, or remove it.",
        ),
        (
            PICTURE + picture_row(0) + picture_row(1, last=300),
            "{path} must hold pixels, whole numbers of 0 to 255, got 300 in row 3, column 65. "
            "Fix the cell, or save other numbers as NPZ.",
        ),
        (
            PICTURE + picture_row(0) + picture_row(1, last=-1),
            "{path} must hold pixels, whole numbers of 0 to 255, got -1 in row 3, column 65. "
            "Fix the cell, or save other numbers as NPZ.",
        ),
        (
            HEAD + "0,1,2,3\n",
            "a classifier must have two or more classes, got ['0'] in data.csv. Add pictures of another class.",
        ),
    ],
)
def test_bad_files_are_refused_with_line_and_column(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=f"^{re.escape(message.format(path=path))}$"):
        load_data(path)


AMBIGUOUS = "label_column must be given for {path}: %s column looks like the label. Set data.label_column to first, last or a name."


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("0,1,2,0\n1,4,5,1\n0,7,8,0\n1,1,2,1\n", "auto", AMBIGUOUS % "more than one"),
        ("label,class,b\n0,1,2\n1,2,3\n", "auto", AMBIGUOUS % "more than one"),
        ("0.5,1.5\n2.5,3.5\n", "auto", AMBIGUOUS % "no"),
        (GOOD, "z", "label_column must be a column of {path}, got 'z'; it has label, a, b, c. Choose one."),
        (
            ROWS,
            "z",
            "label_column must be a column of {path}, got 'z'; it has (no header: only first or last). Choose one.",
        ),
        (
            "y,a,a\n0,1,2\n1,2,3\n",
            "a",
            "label_column must name one column of {path}, got 'a', which 2 columns are called. Rename one.",
        ),
    ],
)
def test_a_label_column_that_cannot_be_told_is_wrong_use(tmp_path, text, column, message):
    path = write(tmp_path, text)
    with pytest.raises(UsageError, match=f"^{re.escape(message.format(path=path))}$"):
        load_data(path, label_column=column)


TOOK = "data.csv: took the 'label' column as the label"


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        (GOOD, (TOOK,)),
        (ROWS, ("data.csv: took the first column as the label",)),
        (b"\xef\xbb\xbf" + GOOD.encode(), (TOOK,)),
        (GOOD.replace("\n", "\r\n"), (TOOK,)),
        (GOOD.replace("\n", "\r"), (TOOK,)),
        ("\n\n" + GOOD.replace("\n", "\n\n"), (TOOK,)),
        ('"label","a,b","b\nb",c\n' + ROWS.replace("1.5", '"1.5"'), (TOOK,)),
        (
            "0,1,2,3\n" + ROWS,
            ("data.csv: took the first row, 0 to 3, as a header", "data.csv: took the '0' column as the label"),
        ),
    ],
    ids=["header", "no header", "mark", "crlf", "cr", "blank lines", "quotes", "numbers as header"],
)
def test_good_files_load_the_same_in_every_dress(tmp_path, text, notes):
    dataset = load_data(write(tmp_path, text))
    assert (dataset.images.dtype, dataset.images.shape, dataset.value_range) == (
        np.dtype(np.float32),
        (4, 1, 3, 1),
        None,
    )
    assert dataset.images.ravel().tolist() == [1.5, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 4]
    assert (dataset.labels.tolist(), dataset.class_names, dataset.notes) == ([0, 1, 0, 1], ("0", "1"), notes)


def test_a_square_row_of_pixels_is_a_picture(tmp_path):
    dataset = load_data(write(tmp_path, PICTURE + picture_row("cat ") + picture_row("dog", 255) + picture_row("cat")))
    assert (dataset.images.dtype, dataset.images.shape) == (np.dtype(np.uint8), (3, 8, 8, 1))
    assert (dataset.labels.tolist(), dataset.class_names) == ([0, 1, 0], ("cat", "dog"))
    assert dataset.notes == (TOOK, "data.csv: read each row as a 8x8 picture")


def test_other_numbers_in_square_rows_stay_numbers_with_a_note(tmp_path):
    dataset = load_data(write(tmp_path, PICTURE + picture_row(0) + picture_row(1, 0.5)))
    assert dataset.images.shape == (2, 1, 64, 1)
    assert dataset.notes[1] == "data.csv: read each row as 64 numbers, not as a picture: 0.5 in row 3, column 2"


@pytest.mark.long
@pytest.mark.parametrize(
    ("text", "code", "start"),
    [(GOOD + "0,1,x,3\n", 3, "data.csv must hold finite"), ("0.5,1.5\n2.5,3.5\n", 2, "label_column must be given")],
)
def test_the_command_ends_with_3_or_2_one_line_and_no_run(tmp_path, text, code, start):
    write(tmp_path, text)
    done = run("train", "data.csv", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1)
    assert done.stderr.startswith(f"error: {start}")
    assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]


@pytest.mark.long
def test_a_good_file_trains_after_a_bad_one(tmp_path):
    write(tmp_path, "label,a,b\n" + "".join(f"{k % 2},{k % 2 * 3 + k / 50},{k}\n" for k in range(40)))
    done = run("train", "data.csv", "--epochs", "1", "--engine", "reference", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr.startswith("note: data.csv: took the 'label' column")) == (0, True), (
        done.stderr
    )


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_other_separators_than_commas_are_read_with_a_note(separator, name, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (6, 64))
    rows = [f"{k % 2}," + ",".join(map(str, image)) for k, image in enumerate(images)]
    plain = load_data(write(tmp_path, PICTURE + "\n".join(rows)))
    other = load_data(write(tmp_path, (PICTURE + "\n".join(rows)).replace(",", separator), "other.csv"))
    assert (other.images == plain.images).all()
    assert plain.images.shape == (6, 8, 8, 1)
    assert (other.labels == plain.labels).all()
    assert other.notes[0] == f"other.csv: columns are separated by {name}"


NUMBERED = {
    "pandas": [",label,a,b,c", "0,0,1,2,3", "1,1,4,5,6", "2,0,7,8,9"],
    "subset": [",label,a,b,c", "17,0,1,2,3", "4,1,4,5,6", "90,0,7,8,9"],
    "read again": ["Unnamed: 0,label,a,b,c", "0,0,1,2,3", "1,1,4,5,6", "2,0,7,8,9"],
    "id": ["label,ID,a,b,c", "0,11,1,2,3", "1,12,4,5,6", "0,13,7,8,9"],
    "R": ['"label","a","b","c"', '"1",0,1,2,3', '"2",1,4,5,6', '"3",0,7,8,9'],
    "no header": ["1,1,2,3,0", "2,4,5,6,1", "3,7,8,9,0"],
}


@pytest.mark.parametrize("kind", NUMBERED)
def test_a_column_that_numbers_the_rows_is_left_out_with_a_note(kind, tmp_path):
    found = load_data(
        write(tmp_path, "\n".join(NUMBERED[kind])), label_column="last" if kind == "no header" else "auto"
    )
    assert found.images.ravel().tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert found.labels.tolist() == [0, 1, 0]
    assert f"data.csv: column {2 if kind == 'id' else 1} numbers the rows and was left out" in found.notes


def test_numbered_rows_with_numbered_pixels_are_pictures_as_pandas_writes_them(tmp_path):
    rows = [f"{k},{k % 2}," + ",".join(str((k * 7 + p) % 256) for p in range(64)) for k in range(5)]
    head = ",label," + ",".join(map(str, range(64)))
    found = load_data(write(tmp_path, "\n".join([head, *rows])))
    assert found.images.shape == (5, 8, 8, 1)
    assert found.images[1].ravel().tolist() == [(7 + p) % 256 for p in range(64)]
    first = load_data(write(tmp_path, "\n".join([head, *rows])), label_column="first")
    assert first.labels.tolist() == found.labels.tolist()  # not the row numbers


@pytest.mark.parametrize("text", [GOOD, "label,id,a\n0,5,1\n1,5,2\n0,7,2\n", "label,id,a\n0,0.5,1\n1,1.5,2\n0,7,2\n"])
def test_a_column_that_does_not_number_the_rows_is_kept(text, tmp_path):
    found = load_data(write(tmp_path, text))
    assert found.images.shape[2] == text.split("\n")[0].count(",")
    assert not any("numbers the rows" in note for note in found.notes)
