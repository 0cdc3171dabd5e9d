"""Scalings do what their names say, are fitted on training rows alone, and are the same in kernel, NumPy and bundle."""

import numpy as np
import pytest

from clearsight.data.load import load_data
from clearsight.data.preprocess import SCALINGS, fit_preprocess
from clearsight.dense import kernel
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
