"""Damaged, lying and misnamed IDX files are refused in one sentence that names the file; good ones load."""

import gzip
import re
import struct

import numpy as np
import pytest
from conftest import run

from clearsight.data.read.load import load_data
from clearsight.errors import DataError

PIXELS = np.arange(6 * 8 * 8, dtype=np.uint8).reshape(6, 8, 8)
CODES = {"uint8": 8, "int8": 9, "int16": 11, "float32": 13, "float64": 14}


def idx(array, *, code=None, shape=None):
    shape = array.shape if shape is None else shape
    head = bytes([0, 0, CODES[array.dtype.name] if code is None else code, len(shape)])
    return head + struct.pack(f">{len(shape)}I", *shape) + array.astype(array.dtype.newbyteorder(">")).tobytes()


IMAGES, LABELS = idx(PIXELS), idx(np.array([0, 1, 2, 0, 1, 2], np.uint8))
ZIPPED = gzip.compress(IMAGES, mtime=0)
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")


def write(folder, images=IMAGES, labels=LABELS, names=NAMES):
    folder.mkdir(exist_ok=True)
    for name, content in zip(names, (images, labels), strict=True):
        if content is not None:
            (folder / name).write_bytes(content)
    return folder


def refuse(folder, message):
    with pytest.raises(DataError, match=f"^{re.escape(message.format(folder=folder))}$"):
        load_data(folder)


MAGIC = "{folder}/train-images-idx3-ubyte must start with an IDX magic number, got 0x%s. Check that it is IDX."
SIZES = (
    "{folder}/train-images-idx3-ubyte must have sizes above 0 and at most 8 GiB in all, got (%d, 8, 8). Check the file."
)
BYTES = (
    "{folder}/train-images-idx3-ubyte must hold 384 bytes for sizes (6, 8, 8), got %s. "
    "The file is damaged; get it again."
)
ZIP = "{folder}/train-images-idx3-ubyte must be a whole gzip file, got damage (%s). Download it again."


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (b"\1" + IMAGES[1:], MAGIC % "01000803"),
        (idx(PIXELS, code=7), MAGIC % "00000703"),
        (b"\0\0\x08\0", MAGIC % "00000800"),
        (b"\0\0\x08\5", MAGIC % "00000805"),
        (b"", MAGIC % "(nothing)"),
        (
            IMAGES[:9],
            "{folder}/train-images-idx3-ubyte must hold 3 sizes, got a file that ends inside them. Download it again.",
        ),
        (IMAGES[:-1], BYTES % "383"),
        (IMAGES + b"x", BYTES % "more"),
        (idx(PIXELS, shape=(0, 8, 8)), SIZES % 0),
        (idx(PIXELS, shape=(2**32 - 1, 8, 8)), SIZES % (2**32 - 1)),
        (
            idx(PIXELS, shape=(2**26, 8, 8)),
            "{folder}/train-images-idx3-ubyte must hold 4294967296 bytes for sizes (67108864, 8, 8), got a file of "
            "400 bytes. The file is damaged; get it again.",
        ),
        (ZIPPED[:-20], ZIP % "Compressed file ended before the end-of-stream marker was reached"),
        (ZIPPED[:10], ZIP % "Compressed file ended before the end-of-stream marker was reached"),
    ],
)
def test_damaged_pictures_are_refused_by_name(tmp_path, images, message):
    refuse(write(tmp_path / "data", images), message)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (
            LABELS,
            IMAGES,
            "{folder}/train-images-idx3-ubyte must hold images, got an array of shape (6,). "
            "Are pictures and labels swapped?",
        ),
        (
            IMAGES,
            idx(np.zeros(5, np.uint8)),
            "labels in train-labels-idx1-ubyte must be as many as the pictures (6), got 5. "
            "Check that both belong together.",
        ),
        (
            IMAGES,
            idx(np.array([0, 1, -1, 0, 1, 2], np.int8)),
            "labels in train-labels-idx1-ubyte must be 0 or more, got -1 at row 2. Check the class list.",
        ),
        (
            idx(np.full((6, 8, 8), np.nan, np.float32)),
            LABELS,
            "images in train-images-idx3-ubyte must be finite, got nan at row 0. Remove the row or fix its values.",
        ),
        (IMAGES, None, "{folder} must hold train labels too, got none. Add the file."),
        (None, LABELS, "{folder} must hold train images too, got none. Add the file."),
        (
            None,
            None,
            "{folder} must hold a folder of pictures a class, IDX files, or a metadata.csv, got no pictures. See the README for the layouts.",
        ),
    ],
)
def test_pictures_and_labels_that_do_not_belong_together_are_refused(tmp_path, images, labels, message):
    refuse(write(tmp_path / "data", images, labels), message)


def test_a_folder_with_test_files_only_is_refused(tmp_path):
    folder = write(tmp_path / "data", names=("t10k-images", "t10k-labels"))
    refuse(folder, "{folder} must hold train-images and train-labels in IDX format, got only test. Check the folder.")


def test_splits_of_different_sizes_are_refused(tmp_path):
    folder = write(tmp_path / "data")
    write(folder, idx(PIXELS[:, :7]), names=("t10k-images", "t10k-labels"))
    refuse(
        folder,
        "pictures must have one shape in all splits, got {{'train': (8, 8, 1), 'test': (7, 8, 1)}}. "
        "Resize them to one shape.",
    )


@pytest.mark.parametrize("pack", [bytes, lambda content: gzip.compress(content, mtime=0)], ids=["plain", "gzip"])
def test_good_files_load_whatever_their_ending(tmp_path, pack):
    dataset = load_data(write(tmp_path / "data", pack(IMAGES), pack(LABELS)))
    assert (dataset.images.dtype, dataset.images.shape) == (np.dtype(np.uint8), (6, 8, 8, 1))
    assert (dataset.labels.dtype, dataset.class_names) == (np.dtype(np.int64), ("0", "1", "2"))
    assert (dataset.value_range, dataset.notes, dataset.name) == ((0.0, 255.0), (), "data")
    assert (dataset.images[..., 0] == PIXELS).all()


@pytest.mark.parametrize("dtype", ["int16", "float32", "float64"])
def test_other_types_become_float32_without_a_known_range(tmp_path, dtype):
    dataset = load_data(write(tmp_path / "data", idx(PIXELS.astype(dtype) * 100)))
    assert (dataset.images.dtype, dataset.value_range) == (np.dtype(np.float32), None)
    assert (dataset.images[..., 0] == PIXELS * np.float32(100)).all()


def test_one_file_stands_for_its_folder(tmp_path):
    assert len(load_data(write(tmp_path / "data") / NAMES[0])) == 6


def test_a_file_of_another_name_is_not_taken_for_its_neighbours(tmp_path):
    path = write(tmp_path / "data") / "other.bin"
    path.write_bytes(IMAGES)
    message = f"{path} must be named like train-images-idx3-ubyte or train-labels-idx1-ubyte, got other.bin. Rename it."
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        load_data(path)


def test_a_second_file_for_the_same_split_is_ignored_with_a_note(tmp_path):
    folder = write(tmp_path / "data")
    (folder / "train-images-idx3-ubyte.gz").write_bytes(ZIPPED)
    assert load_data(folder).notes == (f"ignored {folder}/train-images-idx3-ubyte.gz beside train-images-idx3-ubyte",)


@pytest.mark.long
@pytest.mark.parametrize("images", [IMAGES[:-1], LABELS, b"hello"], ids=["short", "swapped", "text"])
def test_the_command_ends_with_3_one_line_and_no_run(tmp_path, images):
    folder = write(tmp_path / "data", images)
    done = run("train", folder, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert done.stderr.startswith(f"error: {folder}/train-images-idx3-ubyte must ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
