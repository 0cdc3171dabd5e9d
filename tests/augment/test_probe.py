"""What probes see of a picture, by closed forms and by SciPy, and the classifiers on it, by the textbook."""

import numpy as np
import pytest
from scipy.ndimage import convolve1d
from scipy.stats import multivariate_normal

from clearsight.augment import probe
from clearsight.augment.probe import Probe, fit_probe

BYTES = {"low": 0.0, "high": 255.0}
UNIT = {"low": 0.0, "high": 1.0}


def triangles(length):
    """(5, length): the share of each pixel in five windows whose middles lie a cell apart and that reach 1.25 cells."""
    cell = length / 5
    return np.array(
        [[max(0.0, 1 - abs(x + 0.5 - (k + 0.5) * cell) / (1.25 * cell)) for x in range(length)] for k in range(5)]
    )


def soften(grey):
    """A 1-2-1 filter both ways, whose outermost pixels go on for ever."""
    for axis in (1, 2):
        grey = convolve1d(grey, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
    return grey


@pytest.mark.parametrize("size", [(64, 32), (32, 64), (64, 64)])
def test_pictures_are_averaged_down_until_the_longer_side_fits(size):
    images = np.random.default_rng(0).integers(0, 256, (3, *size, 3)).astype(np.uint8)
    small = probe._shrink(images, 32)
    assert small.dtype == np.float32
    expected = images.reshape(3, size[0] // 2, 2, size[1] // 2, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(small, expected, rtol=1e-6)


def test_pictures_that_fit_stay_as_they_are_and_thin_ones_keep_a_pixel():
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 20, 1)).astype(np.uint8)
    np.testing.assert_array_equal(probe._shrink(images, 32), images)
    for shape, small in (((2, 100, 1, 1), (2, 10, 1, 1)), ((2, 1, 100, 1), (2, 1, 10, 1))):
        np.testing.assert_allclose(probe._shrink(np.full(shape, 7), 10), np.full(small, 7), rtol=1e-6)


@pytest.mark.parametrize("shape", [(2, 5, 7), (1, 1, 4), (1, 6, 1)])
def test_softening_is_that_of_scipy(shape):
    grey = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_allclose(probe._soften(grey), soften(grey), rtol=1e-5, atol=1e-6)


def ramp(degrees, side=20, slope=0.02):
    """A grey picture that rises in one direction: 0 to the right, 90 downwards."""
    y, x = np.mgrid[:side, :side] - side / 2
    turn = np.deg2rad(degrees)
    return (0.5 + slope * (x * np.cos(turn) + y * np.sin(turn)))[None, ..., None]


def inner_cell(features):
    """Directions in the middle cell, as shares of one."""
    own = features[0, : 5 * 5 * 8].reshape(5, 5, 8)[2, 2].astype(float) ** 2
    return own / own.sum()


@pytest.mark.parametrize(
    ("degrees", "shares"),
    [
        (0, {0: 1}), (180, {0: 1}), (90, {4: 1}), (45, {2: 1}), (135, {6: 1}), (-45, {6: 1}), (11.25, {0: 0.5, 1: 0.5}),
        (5.625, {0: 0.75, 1: 0.25}), (168.75, {7: 0.5, 0: 0.5}), (163.125, {7: 0.75, 0: 0.25}),
    ],
)  # fmt: skip
def test_an_edge_counts_for_the_two_directions_nearest_to_it(degrees, shares):
    found = inner_cell(probe.describe_shape(ramp(degrees), 0.0, 1.0))
    np.testing.assert_allclose(found, [shares.get(k, 0) for k in range(8)], atol=1e-4)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 3.0)])
def test_edges_add_up_by_cell_and_are_scaled_to_one_length_where_they_are_strong(low, high):
    """A ramp across has its slope inside, and softened ends; faint edges stay faint by the 0.05 that is added."""
    side, slope = 20, 0.02
    rise = slope * np.r_[0.75, 0.875, np.ones(side - 4), 0.875, 0.75]
    cells = np.outer(triangles(side).sum(axis=1), triangles(side) @ rise)
    expected = np.sqrt(cells / (np.sqrt((cells**2).sum()) + 0.05))
    features = probe.describe_shape(low + (high - low) * ramp(0, side, slope), low, high)
    found = features[0, :200].reshape(5, 5, 8)
    np.testing.assert_allclose(found[..., 0], expected, rtol=1e-3)
    assert np.abs(found[..., 1:]).max() < 0.01
    faint = probe.describe_shape(ramp(0, side, 1e-5), 0.0, 1.0)[0, :200].reshape(5, 5, 8)[..., 0]
    cells *= 1e-5 / slope
    np.testing.assert_allclose(faint, np.sqrt(cells / (np.sqrt((cells**2).sum()) + 0.05)), rtol=0.02)


def test_shapes_end_with_the_mean_and_spread_of_each_tone():
    images = np.random.default_rng(0).integers(0, 256, (4, 9, 7, 2)).astype(np.uint8)
    features = probe.describe_shape(images, 51, 255)
    assert features.shape == (4, 200 + 4)
    flat = (images.reshape(4, -1, 2) - 51.0) / 204
    np.testing.assert_allclose(features[:, 200:], np.concatenate([flat.mean(axis=1), flat.std(axis=1)], 1), rtol=1e-5)


def test_colours_are_shares_of_the_light_of_each_pixel():
    images = np.zeros((1, 4, 4, 3))
    images[0, :, :2], images[0, :, 2:] = (1.0, 0.2, 0.2), (0.0, 0.4, 0.0)  # half bright red, half dark green
    features = probe.describe_shape(images, **UNIT)
    assert features.shape == (1, 200 + 6 + 7)
    one, other = np.array([1, 0.2, 0.2]) / 1.5, np.array([0, 0.4, 0]) / 0.5
    expected = [*(one + other) / 2, *np.abs(one - other) / 2, (0.8 + 0.4) / 2]
    np.testing.assert_allclose(features[0, 206:], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "side"), [("shape and colour", 32), ("blobs", 224), ("figure", 48), ("surface", 224)])
def test_large_pictures_are_described_as_if_averaged_down_to_this_side(kind, side):
    small = np.random.default_rng(0).integers(0, 256, (1, side, side, 1)).astype(np.uint8)
    large = small.repeat(2, axis=1).repeat(2, axis=2)
    given = {"low": 0, "high": 255}
    np.testing.assert_allclose(
        probe.describe(kind, large, **given), probe.describe(kind, small, **given), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("kind", probe.DESCRIPTIONS)
def test_a_picture_is_described_by_itself_whatever_stands_beside_it(kind):
    images = np.random.default_rng(0).integers(0, 256, (3, 14, 11, 3)).astype(np.uint8)
    images[1], images[2] = images[1] // 8, 120
    together = probe.describe(kind, images, **BYTES)
    alone = np.concatenate([probe.describe(kind, images[k : k + 1], **BYTES) for k in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 12), (12, 1), (2, 12), (12, 2)])
def test_thin_pictures_have_edges_only_along_what_they_have(shape):
    rise = np.arange(12) * 0.05
    across = shape[1] == 12
    image = np.broadcast_to(rise if across else rise[:, None], shape)[None, ..., None]
    found = probe.describe_shape(image, **UNIT)[0, :200].reshape(25, 8)
    assert np.isfinite(found).all()
    assert found[:, 0 if across else 4].max() > 0.1
    assert found[:, 4 if across else 0].max() < 1e-3


@pytest.mark.parametrize("describe", list(probe.DESCRIPTIONS.values()))
def test_black_that_is_white_divides_by_nothing(describe):
    images = np.random.default_rng(0).random((2, 6, 6, 1))
    np.testing.assert_array_equal(describe(images, 0.25, 0.25), describe(images, 0.25, 1.25))


def squares(count, side=40):
    """Bright squares of 4x4 on dark ground, apart."""
    image = np.zeros((side, side))
    for k in range(count):
        y, x = 3 + 9 * (k // 4), 3 + 9 * (k % 4)
        image[y : y + 4, x : x + 4] = 1
    return image


def blobs(image, **scale):
    return np.expm1(probe.describe_blobs(image[None, ..., None], **(scale or UNIT))[0].astype(float))


@pytest.mark.parametrize("count", [1, 5, 13])
def test_pieces_are_counted_bright_or_dark(count):
    share = 100 * count * 16 / 1600
    np.testing.assert_allclose(blobs(squares(count)), [count, 1, share], rtol=1e-5)
    np.testing.assert_allclose(blobs(1 - squares(count)), [count, 1, share], rtol=1e-5)
    np.testing.assert_allclose(blobs(50 + 100 * squares(count), **BYTES), [count, 1, share], rtol=1e-5)


def test_a_ring_has_two_pieces_of_background_and_halves_are_as_they_are():
    ring = np.zeros((20, 20))
    ring[5:15, 5:15], ring[8:12, 8:12] = 1, 0
    np.testing.assert_allclose(blobs(ring), [1, 2, 100 * 84 / 400], rtol=1e-5)
    half = np.zeros((10, 10))
    half[:, 2:4] = half[:, 6:9] = 1  # just half is foreground: it is not taken for background
    np.testing.assert_allclose(blobs(half), [2, 3, 50], rtol=1e-5)
    half[:2, 5] = 1  # and of more than half the rest is
    np.testing.assert_allclose(blobs(half), [3, 2, 48], rtol=1e-5)


def test_a_blank_picture_is_one_piece_of_background():
    np.testing.assert_allclose(blobs(np.full((6, 6), 0.3)), [0, 1, 0], atol=1e-6)


def test_a_smeared_rim_of_two_pixels_counts_by_its_share_and_what_lies_further_not_at_all():
    image = np.zeros((30, 30))
    image[10:20, 10:20] = 1
    image[10:20, 8:10], image[10:20, 6:8] = 0.4, 0.3
    np.testing.assert_allclose(blobs(image)[2], 100 * (100 + 20 * 0.4) / 900, rtol=1e-5)


def test_what_lies_just_in_the_middle_is_ground():
    image = 0.5 + 0.25 * squares(3)
    image[30:34, 30:34] = 0.625
    assert blobs(image)[:2] == pytest.approx([3, 1], rel=1e-5)


def test_the_middle_lies_between_the_darkest_and_the_lightest_value_of_all_channels():
    image = np.zeros((1, 20, 20, 2))
    image[0, 2:6, 2:6] = 1
    image[0, 10:14, 2:6] = [1, 0.1]  # 0.55 on average
    image[0, 10:14, 10:14] = [0.9, 0]  # 0.45
    found = np.expm1(probe.describe_blobs(image, **UNIT))[0]
    assert found[:2] == pytest.approx([2, 1], rel=1e-5)
    large = np.kron(squares(3), np.ones((12, 12)))[None, ..., None]  # 480 pixels wide: averaged down
    assert np.expm1(probe.describe_blobs(large, **UNIT))[0, :2] == pytest.approx([3, 1], rel=1e-5)


def figure(image, **scale):
    return probe.describe_figure(image[None, ..., None], **(scale or UNIT))[0].reshape(12, 12)


def drawn(y, x, tall, wide):
    """An upright stroke with a foot, of any proportions, somewhere on 48x48 pixels."""
    image = np.zeros((48, 48))
    image[y : y + tall, x : x + wide // 3] = 1
    image[y + 2 * tall // 3 : y + tall, x : x + wide] = 1
    return image


def test_a_figure_is_the_same_anywhere_of_any_size_and_proportions():
    one = figure(drawn(3, 5, 24, 24))
    assert np.sqrt((one**2).sum()) == pytest.approx(1, rel=1e-4)
    for place in ((20, 20, 24, 24), (2, 2, 36, 36), (4, 9, 36, 12), (4, 9, 12, 36)):
        assert (one * figure(drawn(*place))).sum() > 0.97, place
    assert (one * figure(drawn(3, 5, 24, 24)[::-1])).sum() < 0.9
    assert (one * figure(drawn(3, 5, 24, 24)[:, ::-1])).sum() < 0.9
    np.testing.assert_allclose(one, figure(255 * (1 - drawn(3, 5, 24, 24)), **BYTES), atol=1e-5)
    np.testing.assert_array_equal(figure(np.full((48, 48), 0.4)), np.zeros((12, 12)))


@pytest.mark.parametrize(("faint", "seen"), [(0.24, False), (0.25, True), (0.26, True)])
def test_what_stands_out_less_than_a_quarter_belongs_to_no_figure(faint, seen):
    alone, image = np.zeros((2, 48, 48))
    alone[10:20, 10:20] = 1
    image[10:20, 10:20], image[30:40, 30:40] = 1, faint
    found = figure(image)
    assert (found[8:, 8:].mean() > 0.01 and found[:3, :3].mean() > 0.1) == seen
    assert np.allclose(found, figure(alone), atol=1e-6) == (not seen)


@pytest.mark.parametrize(
    "sides", [(np.s_[0], np.s_[:, 0]), (np.s_[-1], np.s_[:, -1])], ids=["upper left", "lower right"]
)
def test_a_figures_ground_is_the_middle_tone_of_the_four_sides(sides):
    """Two sides and two corners are bright, that is more than half of the rim: all within it stands out from that."""
    image = np.full((48, 48), 0.5)
    for side in sides:
        image[side] = 0.9
    assert figure(image)[2:10, 2:10].min() > 0.07  # of 1 / 12 each
    dark = image.copy()
    dark[0, 47] = dark[47, 0] = 0.5  # without those corners it is less than half, and the bright sides stand out
    assert figure(dark)[2:10, 2:10].max() < 0.07


def test_a_frame_holds_all_but_a_hundredth_at_each_end():
    """Of 24 equal weights it runs from 0.24 to 23.76, in twelve pieces with windows that reach one and a half pieces."""
    found = probe._frame(np.ones(24, np.float32))
    cell = (23.76 - 0.24) / 12
    middles = 0.24 + (np.arange(12) + 0.5) * cell
    shares = np.clip(1 - np.abs(np.arange(24) + 0.5 - middles[:, None]) / (1.5 * cell), 0, None)
    np.testing.assert_allclose(found, shares / shares.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6)
    tight = probe._frame(np.r_[np.zeros(10), np.ones(6), np.zeros(10)].astype(np.float32))
    np.testing.assert_allclose(tight.sum(axis=1), 1, rtol=1e-5)
    cell = 5.88 / 12  # under a pixel: windows reach one and a half pixels all the same
    middles = 10.06 + (np.arange(12) + 0.5) * cell
    shares = np.clip(1 - np.abs(np.arange(26) + 0.5 - middles[:, None]) / 1.5, 0, None)
    np.testing.assert_allclose(tight, shares / shares.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_surface_is_its_tones_its_grain_at_four_scales_and_its_colours(channels):
    images = np.random.default_rng(0).random((3, 24, 17, channels))
    images[1] *= 0.2
    grey = images.mean(axis=3)
    flat = grey.reshape(3, -1)
    spread = flat.std(axis=1)
    expected = [flat.mean(axis=1), np.log(spread + 1e-3), *np.quantile(flat, [0.02, 0.25, 0.5, 0.75, 0.98], axis=1)]
    if channels == 3:
        vivid = np.ptp(images, axis=3)
        expected += [np.log(vivid.mean(axis=(1, 2)) + 1e-3), np.log(vivid.max(axis=(1, 2)) + 1e-3)]
    for _ in range(4):
        soft = soften(grey)
        fine = np.abs(grey - soft).mean(axis=(1, 2)) + 1e-3
        expected += [np.log(fine), np.log(fine / (spread + 1e-3))]
        grey = soften(soft)[:, ::2, ::2]
    found = probe.describe_surface(20 + 100 * images, 20, 120)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=1e-3, atol=1e-4)


def test_a_flat_surface_has_no_grain():
    found = probe.describe_surface(np.full((1, 8, 8, 1), 0.3), **UNIT)[0]
    small = np.log(1e-3)
    np.testing.assert_allclose(found, [0.3, small, *[0.3] * 5, *[small, 0] * 4], rtol=1e-3, atol=1e-3)


def test_rows_are_described_by_chunks_of_whole_pictures(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 1)).astype(np.uint8)
    sizes = []

    def spy(some, low, high):
        sizes.append(len(some))
        return some.reshape(len(some), -1).astype(np.float32) + low + high

    monkeypatch.setitem(probe.DESCRIPTIONS, "spy", spy)
    flat = images.reshape(7, -1) + 3.0
    for values, expected in ((59, [2, 2, 2, 1]), (60, [3, 3, 1]), (140, [7]), (5, [1] * 7)):
        monkeypatch.setattr(probe, "_CHUNK_VALUES", values)
        sizes.clear()
        np.testing.assert_array_equal(probe.describe("spy", images, low=1, high=2), flat)
        assert sizes == expected
    rows = np.array([5, 0, 5])
    np.testing.assert_array_equal(probe.describe("spy", images, low=1, high=2, rows=rows), flat[rows])


def two_members():
    """Scores of three classes are x0, x1 and 1 for one member, and twice x0, x1 and 0 for the other; x is (f - 1) * 2."""
    one = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    other = np.array([[2.0, 0, 0], [0, 1, 0], [0, 0, 0]])
    return Probe(
        np.ones(2), np.full(2, 2.0), np.stack([one, other]), np.diag([1.0, 0.5]), np.array([[0.0, 0], [2, 0], [0, 3]])
    )


def test_members_answer_and_margins_are_means_over_them():
    features = np.array([[3.0, 1.0], [1.0, 4.0], [1.2, 1.1]])  # x: (4, 0), (0, 6), (0.4, 0.2)
    found = two_members()
    np.testing.assert_array_equal(found.answers(features), [[0, 1, 2], [0, 1, 0]])
    # mean scores: (6, 0, 0.5), (0, 6, 0.5), (0.6, 0.2, 0.5)
    for classes, margins in (([0, 1, 0], [5.5, 5.5, 0.1]), ([2, 0, 1], [-5.5, -6, -0.4])):
        np.testing.assert_allclose(found.margins(features, np.array(classes)), margins, rtol=1e-5, atol=1e-6)


def test_distances_are_from_a_classs_centre_in_whitened_numbers():
    features = np.array([[3.0, 4.0], [1.0, 1.0]])  # x: (4, 6), (0, 0); whitened: (4, 3), (0, 0)
    found = two_members()
    np.testing.assert_allclose(found.distances(features, np.array([0, 2])), [5, 3])
    np.testing.assert_allclose(found.distances(features, np.array([1, 1])), [np.sqrt(13), 2])


def test_one_class_alone_leaves_no_margin():
    alone = Probe(np.zeros(1), np.ones(1), np.ones((2, 2, 1)), np.eye(1), np.zeros((1, 1)))
    np.testing.assert_array_equal(alone.margins(np.array([[1.0], [5.0]]), np.zeros(2, int)), [0, 0])


def sample(n=90, classes=3):
    rng = np.random.default_rng(1)
    labels = np.r_[np.zeros(n // 2, int), rng.integers(0, classes, n - n // 2)]
    mixing = np.array([[3.0, 0, 0, 0], [1, 0.5, 0, 0], [0, 2, 9, 0], [0, 0, 0, 0]])
    features = (rng.normal(size=(n, 4)) + np.eye(3, 4)[labels]) @ mixing + [5, 0, -3, 7]
    return features, labels


def shrunk_covariance(x, labels, centres):
    within = x - centres[labels]
    return within.T @ within / len(x) + 0.05 * np.eye(x.shape[1])


def test_each_member_is_linear_discriminant_analysis_on_its_own_sample():
    """The scores of two classes differ by the logarithm of how much likelier one is, with normal densities and counted priors."""
    features, labels = sample()
    found = fit_probe(features, labels, num_classes=3, rng=np.random.default_rng(7))
    rng, deviation = np.random.default_rng(7), features.std(axis=0)
    x = np.where(deviation > 1e-6, (features - features.mean(axis=0)) / np.maximum(deviation, 1e-6), 0)
    scores = found._scores(features)
    assert scores.shape == (7, 90, 3)
    for own in scores:
        rows = rng.integers(0, 90, 90)
        centres = np.stack([x[rows][labels[rows] == k].mean(axis=0) for k in range(3)])
        covariance = shrunk_covariance(x[rows], labels[rows], centres)
        prior = np.log(np.bincount(labels[rows], minlength=3) / 90)
        logs = np.stack([multivariate_normal(c, covariance).logpdf(x) for c in centres], axis=1) + prior
        np.testing.assert_allclose(own - own[:, :1], logs - logs[:, :1], rtol=1e-3, atol=1e-3)


def test_distances_of_a_fitted_probe_are_those_of_mahalanobis():
    features, labels = sample()
    found = fit_probe(features, labels, num_classes=3, rng=np.random.default_rng(7))
    deviation = features.std(axis=0)
    x = np.where(deviation > 1e-6, (features - features.mean(axis=0)) / np.maximum(deviation, 1e-6), 0)
    centres = np.stack([x[labels == k].mean(axis=0) for k in range(3)])
    inverse = np.linalg.inv(shrunk_covariance(x, labels, centres))
    away = x - centres[1]
    expected = np.sqrt(np.einsum("ni,ij,nj->n", away, inverse, away))
    np.testing.assert_allclose(found.distances(features, np.ones(90, int)), expected, rtol=1e-3)


def test_numbers_that_never_change_say_nothing_whatever_they_become():
    features, labels = sample()  # the last number is always 7
    found = fit_probe(features, labels, num_classes=3, rng=np.random.default_rng(0))
    other = features + np.array([0, 0, 0, 100.0])
    np.testing.assert_array_equal(found._scores(other), found._scores(features))
    np.testing.assert_array_equal(found.distances(other, labels), found.distances(features, labels))
    np.testing.assert_allclose(found.mean, features.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.scale, [*1 / features.std(axis=0)[:3], 0], rtol=1e-5)
    tiny = features.copy()
    tiny[:, 3] = 1e-4 * np.random.default_rng(3).normal(size=90)  # small, yet it changes
    assert fit_probe(tiny, labels, num_classes=3, rng=np.random.default_rng(0)).scale[3] == pytest.approx(1e4, rel=0.3)


def test_a_class_that_a_sample_lacks_is_never_answered():
    features, labels = sample()
    found = fit_probe(features, labels, num_classes=5, rng=np.random.default_rng(0))  # classes 3 and 4 have no rows
    assert found.answers(features).max() == 2
    assert np.isfinite(found._scores(features)).all()
    assert found._scores(features)[..., 3:].max() < -1e8
    assert found.centres.shape == (5, 4)


def test_centres_covariance_and_counts_are_those_of_the_classes():
    features, labels = sample()
    centres, covariance, counts = probe._find_centres(features, labels, 4)
    np.testing.assert_array_equal(counts, np.bincount(labels, minlength=4))
    np.testing.assert_allclose(centres[:3], [features[labels == k].mean(axis=0) for k in range(3)])
    np.testing.assert_array_equal(centres[3], 0)
    np.testing.assert_allclose(covariance, shrunk_covariance(features, labels, centres))
