"""Scalings do what their names say, are fitted on training rows alone, and are the same in kernel, NumPy and bundle."""

from dataclasses import replace

import numpy as np
import pytest

from clearsight.data.preprocess import SCALINGS, Preprocess, find_range, fit_preprocess
from clearsight.data.read.load import load_data
from clearsight.data.read.pictures import PictureFormat
from clearsight.engines.dense import kernel
from clearsight.errors import DataError, UsageError


def data(rows=40, shape=(5, 4, 3)):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (rows, *shape)).astype(np.uint8)
    images[0], images[1] = 0, 255
    return load_data(images, np.arange(rows) % 2)


ROWS = np.arange(30)


def test_unit_and_symmetric_use_the_whole_range():
    dataset = data()
    for scaling, low, high in (("unit", 0, 1), ("symmetric", -1, 1)):
        x = fit_preprocess(dataset, ROWS, scaling=scaling).apply(dataset.images)
        assert (x.min(), x.max()) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def test_standardize_gives_mean_0_and_deviation_1_a_channel_of_the_training_rows():
    dataset = data()
    x = fit_preprocess(dataset, ROWS, scaling="standardize").apply(dataset.images[ROWS]).reshape(30, -1, 3)
    np.testing.assert_allclose(x.mean(axis=(0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=(0, 1)), 1, atol=1e-5)


def test_standardize_works_feature_by_feature_on_rows_and_survives_constants():
    rng = np.random.default_rng(0)
    features = rng.normal([0, 100, 5, 1e8, 0], [1, 50, 0, 1e7, 1e-3], (40, 5))
    dataset = load_data(features, np.arange(40) % 2)
    x = fit_preprocess(dataset, np.arange(40), scaling="standardize").apply(dataset.images)
    np.testing.assert_allclose(x.std(axis=0), [1, 1, 0, 1, 1], atol=1e-4)


def test_mean_image_subtracts_the_training_mean():
    dataset = data()
    x = fit_preprocess(dataset, ROWS, scaling="mean-image").apply(dataset.images[ROWS])
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-6)


def test_none_feeds_stored_values():
    dataset = data()
    x = fit_preprocess(dataset, ROWS, scaling="none").apply(dataset.images)
    np.testing.assert_array_equal(x, dataset.images.reshape(40, -1))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_only_training_rows_matter(scaling):
    dataset = data()
    before = fit_preprocess(dataset, ROWS, scaling=scaling)
    dataset.images[30:] = 7
    after = fit_preprocess(dataset, ROWS, scaling=scaling)
    assert before.scale.tobytes() == after.scale.tobytes()
    assert before.offset.tobytes() == after.offset.tobytes()


@pytest.mark.long
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_kernel_and_numpy_feed_the_network_the_same_bits(scaling, dtype):
    dataset = data()
    preprocess = fit_preprocess(dataset, ROWS, scaling=scaling)
    flat = dataset.images.reshape(40, -1).astype(dtype)
    rows = np.array([3, 1, 39])
    x = np.empty((3, flat.shape[1]), np.float32)
    kernel._gather(flat, rows, preprocess.scale, preprocess.offset, x)
    np.testing.assert_array_equal(x, preprocess.apply(dataset.images[rows]))


def test_digits_end_at_16_and_bytes_at_255():
    digits = load_data("digits")
    assert fit_preprocess(digits, np.arange(100)).apply(digits.images).max() == 1.0
    assert digits.images.dtype == np.uint8


def test_pictures_of_another_size_are_refused():
    preprocess = fit_preprocess(data(), ROWS)
    with pytest.raises(
        DataError, match=r"pictures must be 5x4 with 3 channels, as in training, got 6x4x3\. Resize them\."
    ):
        preprocess.apply(np.zeros((2, 6, 4, 3), np.uint8))


def test_unknown_scaling_is_refused():
    with pytest.raises(
        UsageError, match="scale must be one of unit, symmetric, standardize, mean-image, imagenet, none, got 'zscore'"
    ):
        fit_preprocess(data(), ROWS, scaling="zscore")


def test_pictures_in_plainly_other_units_are_refused():
    preprocess = fit_preprocess(load_data("digits"), ROWS)
    for images, got in (
        (np.full((1, 8, 8, 1), 255, np.uint8), "255..255"),
        (np.full((1, 8, 8, 1), 0.5, np.float32), "0.5..0.5"),
    ):
        with pytest.raises(
            DataError, match=rf"pictures must have values in 0\.\.16, as in training, got {got}\. Rescale them\."
        ):
            preprocess.check_range(images)
    preprocess.check_range(np.zeros((1, 8, 8, 1), np.uint8))


def test_each_scaling_is_its_formula_under_any_range():
    """Stored values from -10 to 30, against the formulas written out; the mean is over training rows alone."""
    rng = np.random.default_rng(1)
    images = rng.uniform(-10, 30, (50, 3, 4, 3)).astype(np.float32)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = -10, 30
    dataset, rows = load_data(images, np.arange(50) % 2), np.arange(0, 40)
    unit = (images.astype(np.float64) + 10) / 40
    train, imagenet = (
        images[rows].astype(np.float64),
        (np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])),
    )
    wanted = {
        "none": images,
        "unit": unit,
        "symmetric": 2 * unit - 1,
        "mean-image": unit - unit[rows].mean(axis=0),
        "standardize": (images - train.mean(axis=(0, 1, 2))) / train.std(axis=(0, 1, 2)),
        "imagenet": (unit - imagenet[0]) / imagenet[1],
    }
    for scaling, expected in wanted.items():
        found = fit_preprocess(dataset, rows, scaling=scaling)
        assert (found.low, found.high, found.scaling) == (-10, 30, scaling)
        np.testing.assert_allclose(found.apply(images), expected.reshape(50, -1), atol=2e-5)


def test_imagenet_scaling_of_grey_pictures_is_refused():
    with pytest.raises(
        UsageError,
        match=r"scale imagenet must have pictures in colour, got 1 channels\. Set preprocess.scale to symmetric",
    ):
        fit_preprocess(data(shape=(4, 4)), ROWS, scaling="imagenet")


@pytest.mark.parametrize(
    ("values", "wanted"),
    [([5, 9], (0, 9)), ([-3, 9], (-3, 9)), ([-9, -3], (-9, -3)), ([0, 0], (0, 0))],
)
def test_the_range_of_floats_is_that_of_training_rows_and_begins_at_0_or_below(values, wanted):
    images = np.zeros((5000, 2, 2), np.float32) + values[0]
    images[4990], images[4995:] = values[1], 1000  # the largest beyond the first chunk; the others are no training rows
    dataset = load_data(images, np.arange(5000) % 2)
    assert find_range(dataset, np.arange(4995)) == wanted
    low, high = np.array(wanted, float)
    found = fit_preprocess(dataset, np.arange(4995))
    np.testing.assert_allclose(found.apply(dataset.images[:1]), (values[0] - low) / ((high - low) or 1))


def test_bytes_have_their_whole_range_whatever_they_show():
    assert find_range(load_data(np.full((6, 3, 3), 7, np.uint8), np.arange(6) % 2), np.arange(6)) == (0, 255)


def test_moments_are_those_of_all_chunks():
    features = np.random.default_rng(0).normal(3, 2, (9001, 3)) + np.arange(9001)[:, None] / 1000
    found = fit_preprocess(load_data(features, np.arange(9001) % 2), np.arange(9001), scaling="standardize")
    np.testing.assert_allclose(found.scale, 1 / features.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.offset, -features.mean(axis=0) / features.std(axis=0), rtol=1e-5)


def test_a_hardly_varying_input_is_scaled_and_a_constant_one_becomes_0():
    features = np.stack([1 + 1e-5 * (np.arange(40) % 2), np.full(40, 1e6), np.zeros(40)], axis=1)
    dataset = load_data(features, np.arange(40) % 2)
    found = fit_preprocess(dataset, np.arange(40), scaling="standardize")
    assert found.scale[0] == pytest.approx(2e5, rel=0.02)
    assert found.scale[1:].tolist() == [1, 1]
    np.testing.assert_allclose(found.apply(dataset.images)[:, 1:], 0)


def test_targets_are_standardised_over_training_rows_and_restored():
    targets = np.random.default_rng(0).normal(50, 8, 40)
    dataset = load_data(np.zeros((40, 3)), targets, task="regression")
    found = fit_preprocess(dataset, ROWS)
    standard = found.standardize_targets(dataset.labels)
    assert standard.dtype == np.float64
    assert (standard[ROWS].mean(), standard[ROWS].std()) == (pytest.approx(0, abs=1e-6), pytest.approx(1))
    np.testing.assert_allclose(found.restore_targets(standard.astype(np.float32)), targets, rtol=1e-5)
    same = fit_preprocess(load_data(np.zeros((4, 3)), np.full(4, 7.0), task="regression"), np.arange(4))
    assert (same.target_mean, same.target_std) == (7, 1)
    assert (fit_preprocess(data(), ROWS).target_mean, fit_preprocess(data(), ROWS).target_std) == (0, 1)


def test_settings_and_arrays_make_the_same_again():
    found = fit_preprocess(data(), ROWS, scaling="standardize", resize="pad", background=(1, 2, 3))
    again = Preprocess(scale=found.scale, offset=found.offset, **found.settings() | {"background": (1, 2, 3)})
    assert vars(again) == vars(found)
    assert found.settings()["background"] == [1, 2, 3]
    assert found.picture_format == PictureFormat(5, 4, 3, "pad", (1, 2, 3))
    assert found.num_inputs == 60


def test_shapes_that_fit_are_flattened_and_others_refused():
    pictures, rows = (
        fit_preprocess(data(), ROWS),
        fit_preprocess(load_data(np.zeros((8, 12)), np.arange(8) % 2), np.arange(8)),
    )
    assert pictures.check_shape(np.zeros((2, 5, 4, 3))).shape == (2, 60)
    assert pictures.check_shape(np.zeros((2, 1, 60, 1))).shape == (2, 60)  # the same as features
    assert rows.check_shape(np.zeros((2, 2, 2, 3))).shape == (2, 12)
    for images in (np.zeros((2, 4, 5, 3)), np.zeros((2, 1, 59, 1)), np.zeros((2, 5, 4, 1))):
        with pytest.raises(
            DataError, match=r"^names must be 5x4 with 3 channels, as in training, got \d+x\d+x\d+\. Resize them"
        ):
            pictures.check_shape(images, what="names")
    with pytest.raises(DataError, match="pictures must be 1x12 with 1 channels"):
        rows.check_shape(np.zeros((2, 2, 2, 2)))


@pytest.mark.parametrize(
    ("low", "high", "values", "fits"),
    [
        (0, 16, [0, 32], True), (0, 16, [0, 33], False), (0, 16, [-16, 9], True), (0, 16, [-17, 9], False),
        (-1, 1, [-3, 3], True), (-1, 1, [-3.1, 0], False), (-1, 1, [0, 3.1], False), (10, 20, [0, 30], True),
        (0, 16, [0.0, 1.0], False), (0, 16, [0.0, 1.01], True), (0, 16, [0.0, 0.0], True), (0, 15, [0.0, 1.0], True),
        (0, 16, [-0.5, 0.5], False), (-1, 16, [0.0, 0.5], True), (0, 255, [0.0, 1.0], False),
    ],
)  # fmt: skip
def test_values_up_to_a_range_beyond_fit_and_fractions_for_bytes_do_not(low, high, values, fits):
    """Pictures brighter than any in training are right; bytes for 0..1, or 0..1 for bytes, are not."""
    one = replace(fit_preprocess(data(), ROWS), low=float(low), high=float(high))
    images = np.resize(np.array(values, np.float32), (1, 5, 4, 3))
    if fits:
        one.check_range(images)
    else:
        with pytest.raises(DataError, match=rf"pictures must have values in {low}\.\.{high}, as in training, got"):
            one.check_range(images)
    if values == [0.0, 1.0]:
        one.check_range(images.astype(np.uint8))  # whole numbers may be that dark
    replace(one, height=1).check_range(images)  # features have no common range


@pytest.mark.parametrize("scaling", ["unit", "standardize"])
def test_values_too_small_to_scale_are_refused_even_in_one_column(scaling):
    features = np.random.default_rng(0).random((8, 3)).astype(np.float32)
    features[:, 1] = np.where(np.arange(8) % 2, 1e-42, -1e-42)
    dataset = load_data(features if scaling == "standardize" else features[:, 1:2], np.arange(8) % 2)
    with pytest.raises(
        DataError, match=r"pixels must span a range that float32 can scale, got .*\. Rescale them first"
    ):
        fit_preprocess(dataset, np.arange(8), scaling=scaling)


def test_without_a_word_classes_are_not_scaled_and_files_are_squashed_on_white():
    one = Preprocess(2, 2, 1, "unit", 0.0, 1.0, np.ones(4, np.float32), np.zeros(4, np.float32))
    for found in (one, fit_preprocess(data(), ROWS)):
        assert (found.target_mean, found.target_std) == (0, 1)
        assert (found.resize, found.background) == ("squash", (255, 255, 255))


def test_pictures_of_one_value_are_not_scaled():
    for value in (0, -5):
        found = fit_preprocess(load_data(np.full((6, 2, 2), value, np.float32), np.arange(6) % 2), np.arange(6))
        assert found.scale.tolist() == [1] * 4
        assert found.apply(np.full((1, 2, 2, 1), value + 2.0)).tolist() == [[2] * 4]


def test_one_row_of_features_is_one_picture():
    assert fit_preprocess(data(), ROWS).check_shape(np.zeros((1, 1, 60, 1))).shape == (1, 60)
