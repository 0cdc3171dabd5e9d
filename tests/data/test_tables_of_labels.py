"""A metadata.csv or labels.csv that is not sound is refused with its row."""

import re

import pytest
from picture_trees import PAIR, bad_of, make, refuse, summary

from clearsight.data.read.load import load_data
from clearsight.errors import DataError, UsageError

pytestmark = pytest.mark.usefixtures("own_cache")


# tables that are not sound


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file_name,label\n1.png,a\n2.png\n", "{root}/metadata.csv must have 2 fields a row, got 1 in row 3. Fix the row."),
        ("file_name,label\n1.png,a,b\n", "{root}/metadata.csv must have 2 fields a row, got 3 in row 2. Fix the row."),
        ("file_name,label\n1.png,a\n1.png,b\n", "{root}/metadata.csv must list a file once in all tables, got '1.png' twice. Remove one row."),
        ("file_name,label\n1.png,\n2.png,b\n", "label must not be empty, got nothing in row 2 of {root}/metadata.csv. Fill it in."),
        (
            "file_name,label,split\n1.png,a,dev\n",
            "split must be train, valid or test, got 'dev' in row 2 of {root}/metadata.csv. Correct it.",
        ),
        (b"file_name,label\n1.png,\xff\n", "{root}/metadata.csv must be UTF-8 text, got other bytes. Save it as UTF-8."),
        ("file_name,x,y\n1.png,a,b\n", "{root}/metadata.csv must say which column is the label, got x, y. Set data.label_column (or --target)."),
        ("file_name\n1.png\n", "{root}/metadata.csv must say which column is the label, got none. Set data.label_column (or --target)."),
        ("file_name,label\n8.png,a\n9.png,b\n", "{root}/metadata.csv must list pictures that exist, got 2 names without a file. Check the paths."),
        ('file_name,label\n"1.png,a\n', "{root}/metadata.csv must be CSV, got: unexpected end of data. Fix the file."),
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
