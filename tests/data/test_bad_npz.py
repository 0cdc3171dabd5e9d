"""NPZ files that are damaged, lie, swell or hold Python objects are refused by name; nothing in them is run."""

import io
import os
import pickle
import re
import struct
import zipfile

import numpy as np
import pytest
from conftest import run

from clearsight.data.read.load import load_data
from clearsight.errors import DataError

IMAGES = np.arange(6 * 8 * 8, dtype=np.uint8).reshape(6, 8, 8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
KEYS = "{path} must hold pictures and labels such as x_train, y_train or images, labels; got %s, without %s. Rename the arrays."
OBJECTS = "%r of {path} must be a plain array, got Python objects, which could run code. Save it as uint8 or float32."
BYTES = "'images' of {path} must hold as many bytes as its shape %s of %s needs, got %d. Save it again."
MANY = "{path} must hold at most 1000 arrays, got %d. Check the file."


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy(array=None, *, shape="(6,)", descr="|u1", data=b""):
    if array is not None:
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data


def pack(*members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def with_images(content, **options):
    return pack(("images.npy", content), ("labels.npy", npy(LABELS)), **options)


def many_entries(count):
    """A zip whose end record admits two entries while its 64-bit one, which `zipfile` believes, has `count`."""
    entry = struct.pack("<I6H3I5H2I", 0x02014B50, 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    start = struct.pack("<I5H3I2H", 0x04034B50, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
    size = len(entry) * count
    end64 = struct.pack("<IQ2H2I4Q", 0x06064B50, 44, 45, 45, 0, 0, count, count, size, len(start))
    locator = struct.pack("<IIQI", 0x07064B50, 0, len(start) + size, 1)
    return start + entry * count + end64 + locator + struct.pack("<I4H2IH", 0x06054B50, 0, 0, 2, 2, 100, 0, 0)


def refuse(folder, content, message):
    path = folder / "data.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{re.escape(message.format(path=path))}$"):
        load_data(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, KEYS % ("[]", "train images, train labels")),
        ({"a": IMAGES, "b": LABELS}, KEYS % ("['a', 'b']", "train images, train labels")),
        ({"images": IMAGES}, KEYS % ("['images']", "train labels")),
        ({"labels": LABELS}, KEYS % ("['labels']", "train images")),
        ({"x_val": IMAGES, "y_val": LABELS}, KEYS % ("['x_val', 'y_val']", "train images")),
        (
            {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES},
            KEYS % ("['x_test', 'x_train', 'y_train']", "test labels"),
        ),
        (
            {"images": IMAGES, "x": IMAGES, "labels": LABELS},
            "{path} must name each array once, got two for train images: ['images', 'x', 'labels']. Remove one.",
        ),
        ({"images": IMAGES.astype(object), "labels": LABELS}, OBJECTS % "images"),
        ({"images": IMAGES, "labels": LABELS.astype(object)}, OBJECTS % "labels"),
        ({"images": IMAGES, "labels": LABELS, "class_names": np.array(["a"], object)}, OBJECTS % "class_names"),
        (
            {"images": IMAGES, "labels": LABELS, "class_names": np.array("abc")},
            "class_names of {path} must be a list of names, got <U3 (). Save it as strings.",
        ),
        (
            {"images": IMAGES, "labels": LABELS, "class_names": ["a", "b", "a"]},
            "class_names in data.npz must be different and not empty, got 'a' at 2. Rename it.",
        ),
        (
            {"images": IMAGES, "labels": LABELS, "class_names": ["a", "b"]},
            "labels in data.npz must lie in [0, 2), got 2 at row 2. Check the class list.",
        ),
        (
            {"images": IMAGES, "labels": LABELS[:5]},
            "labels in data.npz must be as many as the pictures (6), got 5. Check that both belong together.",
        ),
        (
            {"x_train": IMAGES, "y_train": LABELS, "x_test": np.full((6, 8, 8), np.nan), "y_test": LABELS},
            "images of test in data.npz must be finite, got nan at row 0. Remove the row or fix its values.",
        ),
    ],
)
def test_arrays_that_do_not_make_a_data_set_are_refused(tmp_path, arrays, message):
    refuse(tmp_path, npz(**arrays), message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda: with_images(npy(shape="(1048576, 8, 8)", data=bytes(2**26 + 1)), compression=zipfile.ZIP_DEFLATED),
            "{path} must unpack to a sensible size, got 65,",
        ),
        (with_images(npy(shape="(1099511627776, 8, 8)", data=bytes(9))), BYTES % ("(1099511627776, 8, 8)", "uint8", 9)),
        (with_images(npy(shape="(-1, 8, 8)", data=bytes(9))), BYTES % ("(-1, 8, 8)", "uint8", 9)),
        (with_images(npy(descr="<U536870911", data=bytes(9))), BYTES % ("(6,)", "<U536870911", 9)),
        (with_images(npy(IMAGES) + b"x"), BYTES % ("(6, 8, 8)", "uint8", 385)),
        (with_images(b"hello"), "'images' of {path} must be a plain .npy array, got damage ("),
        (with_images(npy(shape="(" * 5000)), "'images' of {path} must be a plain .npy array, got damage ("),
        (with_images(npy(shape="open('canary','w')")), "'images' of {path} must be a plain .npy array, got damage ("),
        (pack(*((f"{k}.npy", b"") for k in range(1001))), MANY % 1001),
        (lambda: many_entries(1_000_000), MANY % 1_000_000),
        (
            pack(("../images.npy", npy(IMAGES)), ("labels.npy", npy(LABELS))),
            KEYS % ("['../images', 'labels']", "train images"),
        ),
    ],
    ids=["bomb", "huge", "negative", "wide", "long", "text", "deep", "code", "many", "million", "climbing"],
)
def test_archives_that_lie_are_refused_before_memory_is_taken(tmp_path, content, message):
    path = tmp_path / "data.npz"
    path.write_bytes(
        content() if callable(content) else content
    )  # not where tests are only collected: it takes a second
    with pytest.raises(DataError, match=f"^{re.escape(message.format(path=path))}"):
        load_data(path)


@pytest.mark.parametrize("size", range(4, 900, 64))
def test_a_cut_file_is_refused(tmp_path, size):
    refuse(
        tmp_path,
        npz(images=IMAGES, labels=LABELS)[:size],
        "{path} must be a whole NPZ file, got damage (File is not a zip file). Save it again.",
    )


def test_a_flipped_byte_is_found(tmp_path):
    content = bytearray(npz(images=IMAGES, labels=LABELS))
    content[300] ^= 1
    refuse(
        tmp_path,
        bytes(content),
        "{path} must be a whole NPZ file, got damage (Bad CRC-32 for file 'images.npy'). Save it again.",
    )


class Canary:
    def __reduce__(self):
        return os.mkdir, ("canary",)


def test_a_pickle_inside_is_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = np.array([Canary()], object)
    refuse(tmp_path, npz(images=evil, labels=LABELS), OBJECTS % "images")
    refuse(
        tmp_path,
        with_images(pickle.dumps(Canary())),
        "'images' of {path} must be a plain .npy array, got damage (the magic string is not correct; expected "
        f"b'\\x93NUMPY', got {pickle.dumps(Canary())[:6]}). Save it again.",
    )
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "keys", [("images", "labels"), ("X", "y"), ("x_train", "y_train"), ("train_images", "train_labels")]
)
def test_good_files_load_under_the_usual_names(tmp_path, keys):
    path = tmp_path / "data.npz"
    path.write_bytes(npz(**dict(zip(keys, (IMAGES, LABELS), strict=True))))
    dataset = load_data(path)
    assert (dataset.images.dtype, dataset.images.shape) == (np.dtype(np.uint8), (6, 8, 8, 1))
    assert (dataset.labels.dtype, dataset.class_names) == (np.dtype(np.int64), ("0", "1", "2"))
    assert (dataset.value_range, dataset.notes, dataset.name) == ((0.0, 255.0), (), "data")


def test_splits_names_and_column_order_are_kept_and_other_arrays_noted(tmp_path):
    path = tmp_path / "data.npz"
    flipped = np.asfortranarray(IMAGES)
    path.write_bytes(
        npz(x_train=flipped, y_train=LABELS, x_val=IMAGES, y_val=LABELS, class_names=["a", "b", "c"], extra=LABELS)
    )
    dataset = load_data(path)
    assert (dataset.images[:6, ..., 0] == IMAGES).all()
    assert (dataset.given.tolist(), dataset.class_names) == ([0] * 6 + [1] * 6, ("a", "b", "c"))
    assert dataset.notes == ("data.npz: ignored extra",)


@pytest.mark.long
@pytest.mark.parametrize("content", [npz(a=IMAGES), npz(images=IMAGES, labels=LABELS)[:500]], ids=["names", "cut"])
def test_the_command_ends_with_3_one_line_and_no_run(tmp_path, content):
    (tmp_path / "data.npz").write_bytes(content)
    done = run("train", "data.npz", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert done.stderr.startswith("error: data.npz must ")
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]
