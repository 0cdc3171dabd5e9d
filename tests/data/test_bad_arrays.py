"""Arrays and labels that are not fit to train on are refused in one full sentence; the good ones beside them load."""

import re

import numpy as np
import pytest

from clearsight.data.dataset import build_dataset
from clearsight.data.read.load import load_data
from clearsight.errors import DataError, UsageError

IMAGES = np.arange(6 * 8 * 8, dtype=np.uint8).reshape(6, 8, 8)
LABELS = [0, 1, 2, 0, 1, 2]
ONE_HOT = np.eye(3)[LABELS]
SHAPES = "images must have shape (n, height, width), (n, height, width, channels) or (n, features), got "
CONVERT = "images must be numbers, got an array of {}. Convert it to uint8 or float32."
COUNT = "labels must be as many as the pictures (6), got {}. Check that both belong together."
WHOLE = (
    "labels must be whole numbers or names, got {} at row 2. Fix it, or set data.task=regression to predict numbers."
)
HOT = "labels with 3 columns must be one-hot (a single 1 a row), got {} at row 0. Give class numbers instead."


def with_value(value):
    images = IMAGES.astype(np.float64)
    images[3, 2, 1] = value
    return images


def with_label(value):
    return [0, 1, value, 0, 1, 2]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (with_value(np.nan), "images must be finite, got nan at row 3. Remove the row or fix its values."),
        (with_value(-np.inf), "images must be finite, got -inf at row 3. Remove the row or fix its values."),
        (with_value(1e300), "images must be finite, got 1e+300 at row 3. Remove the row or fix its values."),
        (IMAGES.astype(object), CONVERT.format("object")),
        (IMAGES.astype(str), CONVERT.format("<U3")),
        (IMAGES.astype(complex), CONVERT.format("complex128")),
        (
            np.zeros((6, 3, 8, 8)),
            "images must be (n, height, width, channels), got (6, 3, 8, 8), which looks like channels first. "
            "Use images.transpose(0, 2, 3, 1).",
        ),
        (
            np.zeros((6, 8, 8, 5)),
            "images must have 1 to 4 channels, got 5 of (6, 8, 8, 5). Reshape it.",
        ),
        (np.zeros(6), SHAPES + "(6,). Reshape it."),
        (np.zeros((6, 1, 1, 1, 1)), SHAPES + "(6, 1, 1, 1, 1). Reshape it."),
        (IMAGES[:0], "images must hold at least one row, got shape (0, 8, 8). Check the source."),
        (IMAGES[:, :, :0], "images must not have an empty side, got shape (6, 8, 0). Check the source."),
    ],
)
def test_bad_images_are_refused_with_row_or_shape(images, message):
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        load_data(images, LABELS)


@pytest.mark.parametrize(
    ("images", "dtype", "shape", "value_range"),
    [
        (IMAGES, np.uint8, (6, 8, 8, 1), (0.0, 255.0)),
        (IMAGES > 9, np.uint8, (6, 8, 8, 1), (0.0, 1.0)),
        (IMAGES.astype(np.int64), np.uint8, (6, 8, 8, 1), None),
        (IMAGES.astype(np.int64) - 9, np.float32, (6, 8, 8, 1), None),
        (IMAGES.astype(np.uint16), np.float32, (6, 8, 8, 1), (0.0, 65535.0)),
        (IMAGES.astype(np.float16), np.float32, (6, 8, 8, 1), None),
        (np.zeros((6, 8, 8, 3), np.uint8), np.uint8, (6, 8, 8, 3), (0.0, 255.0)),
        (IMAGES.reshape(6, 64), np.uint8, (6, 1, 64, 1), (0.0, 255.0)),
        (IMAGES.tolist(), np.uint8, (6, 8, 8, 1), None),
    ],
)
def test_good_images_load_with_their_type_shape_and_range(images, dtype, shape, value_range):
    dataset = load_data(images, LABELS)
    assert (dataset.images.dtype, dataset.images.shape, dataset.value_range) == (np.dtype(dtype), shape, value_range)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:5], COUNT.format(5)),
        ([*LABELS, 0], COUNT.format(7)),
        (3, COUNT.format(0)),
        (with_label(-1), "labels must be 0 or more, got -1 at row 2. Check the class list."),
        (with_label(1e300), "labels must be less than 2^53, got 1e+300 at row 2. Check the class list."),
        (with_label(2.5), WHOLE.format("2.5")),
        (with_label(np.nan), WHOLE.format("nan")),
        (with_label(np.inf), WHOLE.format("inf")),
        (["a", 1, "b", "a", 1, "b"], "labels must be all names or all numbers, got 1 at row 1. Fix the row."),
        (["a", np.nan, "b"] * 2, "labels must be all names or all numbers, got nan at row 1. Fix the row."),
        (["a", None, "b"] * 2, "labels must be all names or all numbers, got None at row 1. Fix the row."),
        (["a", "", "b"] * 2, "labels must not be empty, got an empty name at row 1. Name the class or drop the row."),
        ([b"a", b"\xff"] * 3, "labels must be UTF-8 names, got b'\\xff'. Decode them first."),
        ([[1], [1, 2]] * 3, "labels must be one value a row, got rows of different lengths. Give one label each."),
        (np.full((6, 3), 1 / 4), HOT.format("[0.25, 0.25, 0.25]")),
        (np.zeros((6, 3)), HOT.format("[0.0, 0.0, 0.0]")),
        (ONE_HOT * 2, HOT.format("[2.0, 0.0, 0.0]")),
        (np.full((6, 3), np.nan), HOT.format("[nan, nan, nan]")),
        (ONE_HOT[:5], COUNT.format(5)),
        (
            np.zeros((6, 2, 2)),
            "labels must have shape (n,) or be one-hot (n, classes), got (6, 2, 2). Reshape them.",
        ),
        ([1] * 6, "a classifier must have two or more classes, got ['1']. Add pictures of another class."),
    ],
)
def test_bad_labels_are_refused_with_their_row(labels, message):
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        load_data(IMAGES, labels)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (LABELS, ("0", "1", "2")),
        ([0.0, 1.0, 2.0] * 2, ("0", "1", "2")),
        ([3, 7, 9] * 2, ("3", "7", "9")),
        (ONE_HOT, ("0", "1", "2")),
        (ONE_HOT.astype(bool), ("0", "1", "2")),
        (np.array(LABELS)[:, None], ("0", "1", "2")),
        (np.array(LABELS, object), ("0", "1", "2")),
        (["a", "b", "c"] * 2, ("a", "b", "c")),
        ([b"a", b"b", b"c"] * 2, ("a", "b", "c")),
        (np.array(["a", "b", "c"] * 2, object), ("a", "b", "c")),
    ],
)
def test_good_labels_become_indices_and_names(labels, names):
    dataset = load_data(IMAGES, labels)
    assert dataset.labels.dtype == np.int64
    assert (dataset.labels.tolist(), dataset.class_names) == (LABELS, names)


def test_a_label_of_k_is_refused_where_k_classes_are_known():
    message = "labels must lie in [0, 3), got 3 at row 5. Check the class list."
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        build_dataset({"train": (IMAGES, [0, 1, 2, 0, 1, 3])}, name="x", class_names=("a", "b", "c"))


@pytest.mark.parametrize("train", [[1, 2, 3] * 2, ["cat", "dog", "owl"] * 2])
def test_labels_of_another_split_are_matched_by_name_and_never_by_index(train):
    message = (
        "labels of test must be among the 3 known classes, got '0' at row 0. "
        "Add training pictures of it, or take it out."
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        build_dataset({"train": (IMAGES, train), "test": (IMAGES, LABELS)}, name="x")


def test_splits_of_different_ranges_are_refused():
    message = "images must have one range in all splits, got uint8 in train, float64 in test. Convert them to one type."
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        build_dataset({"train": (IMAGES, LABELS), "test": (IMAGES / 255, LABELS)}, name="x")


@pytest.mark.parametrize(("names", "got"), [(("a", "a", "b"), "'a' at 1"), (("a", "", "b"), "'' at 1")])
def test_class_names_are_different_and_not_empty(names, got):
    message = f"class_names must be different and not empty, got {got}. Rename it."
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        build_dataset({"train": (IMAGES, LABELS)}, name="x", class_names=names)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (with_label(np.nan), "targets must be finite as float32, got nan at row 2. Fix the row."),
        (with_label(1e300), "targets must be finite as float32, got 1e+300 at row 2. Fix the row."),
        (list("abcabc"), "targets must be numbers for regression, got an array of <U1. Convert them."),
        ([1.0], "targets must be one number a picture (6), got shape (1,). Reshape them."),
        ([[1], [1, 2]] * 3, "targets must be one number a row, got rows of different lengths. Reshape them."),
    ],
)
def test_bad_targets_are_refused_with_their_row(targets, message):
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        load_data(IMAGES, targets, task="regression")


def test_arrays_without_labels_are_wrong_use():
    message = "labels must be given with an array of pictures, got none. Pass labels=."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        load_data(IMAGES)
