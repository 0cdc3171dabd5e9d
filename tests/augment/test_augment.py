"""Every transform: what it does, exactly or within its interval; the same bytes from NumPy, PyTorch, any batch and device."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from clearsight.augment.kernel import move_rows
from clearsight.augment.presets import PRESETS, TRANSFORMS, Augmentation
from clearsight.augment.randomness import draw_keys
from clearsight.augment.transforms import augment_rows, build_places, move_pixels

STRENGTHS = {
    "hflip": 0.5, "vflip": 0.5, "rot90": 0.6, "rotate": 40.0, "shear": 20.0, "zoom": 0.4, "shift": 0.3, "crop": 0.3,
    "brightness": 0.4, "contrast": 0.6, "color": 0.7, "blur": 1.5, "noise": 0.3, "cutout": 0.4, "mixup": 0.4, "cutmix": 1.0,
}  # fmt: skip
SIZES = [(9, 13), (16, 16), (1, 8), (7, 1), (1, 1)]
GEOMETRY = ("hflip", "vflip", "rot90", "rotate", "shear", "zoom", "shift", "crop")
MIXES = ("mixup", "cutmix")
CASES = {
    **{name: {name: STRENGTHS[name]} for name in STRENGTHS},
    **{f"preset-{name}": values for name, values in PRESETS.items()},
    "all": STRENGTHS,
}


pytestmark = pytest.mark.usefixtures("own_cache")


def noise(n=24, size=(9, 13), channels=3, high=256, dtype=np.uint8, seed=0):
    pixels = np.random.default_rng(seed).integers(0, high, (n, *size, channels))
    return (pixels / 255).astype(dtype) if dtype == np.float32 else pixels.astype(dtype)


def vary(images, values, rows=None, *, seed=3, epoch=2, **options):
    rows = np.arange(len(images)) if rows is None else np.asarray(rows)
    options = {
        "pool": np.arange(len(images)),
        "high": 1.0 if str(images.dtype).endswith("float32") else 255.0,
    } | options
    return augment_rows(images, rows, augmentation=Augmentation(**values), seed=seed, epoch=epoch, **options)


def test_every_transform_of_the_registry_is_tested_here():
    assert tuple(STRENGTHS) == TRANSFORMS


@pytest.mark.long
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_strength_zero_is_the_identity(name, dtype):
    images = noise(dtype=dtype)
    got = vary(images, {name: 0.0})
    assert got.images.tobytes() == images.tobytes()
    assert got.partners is got.shares is None


KINDS = {"bytes": (np.uint8, 256, 255.0), "sixteen": (np.uint8, 17, 16.0), "floats": (np.float32, 256, 1.0)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_pictures_keep_type_shape_and_range(case, kind):
    dtype, below, high = KINDS[kind]
    images = noise(dtype=dtype, high=below)
    before = images.tobytes()
    got = vary(images, CASES[case], high=high).images
    assert (got.dtype, got.shape) == (images.dtype, images.shape)
    assert np.isfinite(got).all()
    assert got.min() >= 0
    assert got.max() <= high * (1 + 1e-6)
    assert images.tobytes() == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_does_something_on_every_kind_of_picture(name, kind):
    dtype, below, high = KINDS[kind]
    images = noise(dtype=dtype, high=below)
    changed = (vary(images, {name: STRENGTHS[name]}, high=high).images != images).any(axis=(1, 2, 3))
    assert changed.mean() > 0.25


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_a_picture_is_a_function_of_seed_epoch_and_row_alone(case):
    images = noise(40, (6, 7))
    whole = vary(images, CASES[case])
    rng = np.random.default_rng(1)
    for rows in (rng.permutation(40), rng.integers(0, 40, 55), np.array([7])):
        part = vary(images, CASES[case], rows)
        assert part.images.tobytes() == whole.images[rows].tobytes()
        if whole.shares is not None:
            assert part.shares.tobytes() == whole.shares[rows].tobytes()
            assert part.partners.tobytes() == whole.partners[rows].tobytes()


@pytest.mark.parametrize("case", ["all", "preset-photo", "contrast"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_how_a_batch_is_cut_into_blocks_does_not_matter(case, dtype, monkeypatch):
    images = noise(30, (6, 7), dtype=dtype)
    found = set()
    for values in (1, 300, 2**18):
        monkeypatch.setattr("clearsight.augment.transforms._BLOCK_VALUES", values)
        found.add(vary(images, CASES[case]).images.tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("name", TRANSFORMS)
def test_other_rows_epochs_seeds_and_uses_give_other_pictures(name):
    images = np.repeat(noise(1), 64, axis=0)
    if name in MIXES:
        images[1::2] = noise(1, seed=5)
    one, rows = {name: STRENGTHS[name]}, np.arange(64)
    usual = vary(images, one).images
    assert len({picture.tobytes() for picture in usual[::2]}) > 1
    for other in ({"epoch": 3}, {"seed": 4}, {"uses": np.ones(64, np.int64)}, {"uses": np.full(64, 2)}):
        assert vary(images, one, rows, **other).images.tobytes() != usual.tobytes(), other
    assert vary(images, one, rows, uses=np.zeros(64, np.int64)).images.tobytes() == usual.tobytes()


def as_tensor(images, device="cpu"):
    torch = pytest.importorskip("torch")
    return torch.tensor(images, device=device)


@pytest.mark.long
@pytest.mark.parametrize("fill", ["edge", "reflect"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_pytorch_gives_the_same_bytes_as_numpy(case, channels, fill):
    for size in SIZES:
        images = noise(12, size, channels)
        values = CASES[case] | {"fill": fill}
        rows = np.array([3, 0, 11, 3, 7])
        one, other = vary(images, values, rows), vary(as_tensor(images), values, rows)
        assert other.images.numpy().dtype == np.uint8
        np.testing.assert_array_equal(other.images.numpy(), one.images, err_msg=f"{size}")
        assert (one.shares is None) == (other.shares is None)
        if one.shares is not None:
            assert one.shares.tobytes() == other.shares.tobytes()


@pytest.mark.parametrize("case", CASES)
def test_pytorch_agrees_with_numpy_on_floats(case):
    for size in SIZES:
        images = noise(12, size, dtype=np.float32)
        one, other = (vary(kind, CASES[case]).images for kind in (images, as_tensor(images)))
        np.testing.assert_allclose(other.numpy(), one, rtol=1e-5, atol=1e-5, err_msg=f"{size}")


@pytest.mark.long
@pytest.mark.gpu
@pytest.mark.parametrize("fill", ["edge", "reflect"])
@pytest.mark.parametrize("case", CASES)
def test_a_gpu_gives_the_same_bytes_as_numpy(case, fill):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    for size, channels in [(size, channels) for size in [*SIZES, (64, 48)] for channels in (1, 3)]:
        images, values = noise(40, size, channels), CASES[case] | {"fill": fill}
        one, other = vary(images, values), vary(as_tensor(images, "cuda"), values)
        np.testing.assert_array_equal(other.images.cpu().numpy(), one.images)


@pytest.mark.parametrize("wild", [1, 100])
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]), st.booleans(), st.integers(0, 10**6))
def test_the_compiled_mover_equals_the_plain_one(wild, height, width, channels, reflect, seed):
    rng = np.random.default_rng(seed)
    images = noise(4, (height, width), channels, seed=seed)
    places = np.rint(rng.normal(size=(5, 6)) * 65536 * wild).astype(np.int64)
    rows = rng.integers(0, 4, 5)
    got = move_rows(images, rows, places, reflect)
    np.testing.assert_array_equal(got, move_pixels(images[rows], places, "reflect" if reflect else "edge"))


@pytest.mark.parametrize("size", [(1, 4096), (4096, 1), (300, 1200)])
def test_the_compiled_mover_equals_the_plain_one_on_large_pictures(size):
    """The strongest of many draws: places far outside, numbers that 32 bits hold only just."""
    images, augmentation = noise(2, size, 1), Augmentation(zoom=0.9, shear=60.0, rotate=180.0, shift=0.9)
    places = build_places(draw_keys(np.arange(5000), seed=0, epoch=0), augmentation, *size)
    places = places[np.argsort(np.abs(places).max(axis=1))[-2:]]
    got = move_rows(images, np.arange(2), places, False)
    np.testing.assert_array_equal(got, move_pixels(images, places, "edge"))


@pytest.mark.parametrize(("name", "axis"), [("hflip", 2), ("vflip", 1)])
@pytest.mark.parametrize("size", SIZES)
def test_flips_are_exact(name, axis, size):
    images = noise(size=size)
    np.testing.assert_array_equal(vary(images, {name: 1.0}).images, np.flip(images, axis))


def test_flips_happen_with_the_stated_probability():
    images = np.repeat(noise(1, (2, 2)), 4000, axis=0)
    flipped = (vary(images, {"hflip": 0.3}).images != images).any(axis=(1, 2, 3)).sum()
    assert stats.binomtest(int(flipped), 4000, 0.3).pvalue > 0.001


@pytest.mark.parametrize("side", [5, 8])
def test_quarter_turns_are_exact_and_equally_likely(side):
    images = np.repeat(noise(1, (side, side)), 3000, axis=0)
    got = vary(images, {"rot90": 1.0}).images
    turns = [(got == np.rot90(images, k, (1, 2))).all(axis=(1, 2, 3)).sum() for k in (1, 2, 3)]
    assert sum(turns) == 3000
    assert stats.chisquare(turns).pvalue > 0.001


def test_places_of_a_quarter_turn_equal_rot90():
    images, side = noise(2, (6, 6)), 6
    places = np.array([[0, 65536, 0, -65536, 0, (side - 1) * 65536], [0, -65536, (side - 1) * 65536, 65536, 0, 0]])
    got = move_rows(images, np.arange(2), places, False)
    np.testing.assert_array_equal(got[0], np.rot90(images[0], -1))
    np.testing.assert_array_equal(got[1], np.rot90(images[1], 1))


@pytest.mark.long
@pytest.mark.parametrize("size", [(10, 20), (20, 10)])
def test_crops_are_whole_shifts_of_every_amount_within_reach(size):
    images = noise(1, size).repeat(2000, axis=0)
    found = set()
    for picture in vary(images, {"crop": 0.2}).images:
        padded = np.pad(images[0], ((2 * size[0] // 10,) * 2, (2 * size[1] // 10,) * 2, (0, 0)), mode="edge")
        found.add(next(
            (y, x) for y in range(4 * size[0] // 10 + 1) for x in range(4 * size[1] // 10 + 1)
            if (padded[y : y + size[0], x : x + size[1]] == picture).all()
        ))  # fmt: skip
    assert len(found) == (4 * size[0] // 10 + 1) * (4 * size[1] // 10 + 1)


@pytest.mark.parametrize(("fill", "mode"), [("edge", "nearest"), ("reflect", "mirror")])
def test_shifts_by_whole_pixels_are_exact(fill, mode):
    images = noise(3, (7, 9), 1)
    for x, y in ((2, 0), (0, -3), (-4, 5), (30, -41)):
        places = np.array([[65536, 0, x * 65536, 0, 65536, y * 65536]] * 3)
        got = move_rows(images, np.arange(3), places, fill == "reflect")
        expected = [ndimage.shift(p[..., 0], (-y, -x), order=0, mode=mode) for p in images]
        np.testing.assert_array_equal(got[..., 0], expected)


@pytest.mark.parametrize(("fill", "mode"), [("edge", "nearest"), ("reflect", "mirror")])
@pytest.mark.parametrize("size", [(24, 24), (17, 30)])
@pytest.mark.parametrize("name", ["rotate", "shear", "zoom", "shift"])
def test_moves_are_those_of_an_independent_library(name, size, fill, mode):
    images, strength = noise(30, size, 1), STRENGTHS[name]
    got = vary(images, {name: strength, "fill": fill}).images[..., 0]
    keys = draw_keys(np.arange(30), seed=3, epoch=2)
    for k, (a, b, c, d, e, f) in enumerate(build_places(keys, Augmentation(**{name: strength}), *size) / 65536):
        middle = (np.array(size) - 1) / 2
        matrix, offset = np.eye(2), np.zeros(2)
        if name == "rotate":
            angle = np.arctan2(d, a)
            assert abs(np.rad2deg(angle)) <= strength
            matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        elif name == "shear":
            assert max(abs(b), abs(d)) <= np.tan(np.deg2rad(strength)) + 1e-4
            assert 0 in (b, d)
            matrix = np.array([[1, d], [b, 1]])
        elif name == "zoom":
            assert 1 - strength <= 1 / a <= 1 + strength
            matrix = np.eye(2) * a
        else:
            assert abs(c) <= strength * size[1]
            assert abs(f) <= strength * size[0]
            offset = np.array([f, c])
        offset = middle - matrix @ middle + offset
        expected = ndimage.affine_transform(images[k, ..., 0].astype(float), matrix, offset, order=1, mode=mode)
        assert np.abs(got[k] - expected).max() <= 2 + 1e-6, (k, e)


DRAWN = {"rotate": lambda p: np.rad2deg(np.arctan2(p[:, 3], p[:, 0])) / 40, "zoom": lambda p: (1 / p[:, 0] - 1) / 0.4,
         "shift": lambda p: p[:, 2] / (0.3 * 20)}  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_strengths_are_uniform_between_their_ends(name):
    keys = draw_keys(np.arange(3000), seed=0, epoch=0)
    drawn = DRAWN[name](build_places(keys, Augmentation(**{name: STRENGTHS[name]}), 16, 20) / 65536)
    assert stats.kstest(drawn, stats.uniform(-1, 2).cdf).pvalue > 0.001


@pytest.mark.parametrize("name", ["brightness", "contrast", "color", "noise"])
def test_values_are_changed_without_bias(name):
    images = noise(1, (6, 6), high=64).repeat(6000, axis=0) + np.uint8(96)
    strength = {"brightness": 0.2, "noise": 0.05}.get(name, 0.6)
    got = vary(images, {name: strength}).images.astype(float)
    change = (got - images).mean(axis=(2, 3))[:, 0] if name == "brightness" else (got - images)[:, 2, 3, 1]
    assert change.std() > 0.3
    assert abs(change.mean()) < 4 * change.std() / np.sqrt(len(change)) + 0.02


def test_brightness_and_noise_have_the_stated_spread():
    grey = np.full((4000, 6, 6, 1), 128, np.uint8)
    moved = vary(grey, {"brightness": 0.2}).images.astype(float) - 128
    assert (np.ptp(moved, axis=(1, 2, 3)) == 0).all()
    assert (
        stats.kstest(
            moved[:, 0, 0, 0] + np.random.default_rng(0).uniform(-0.5, 0.5, 4000), stats.uniform(-51, 102).cdf
        ).pvalue
        > 0.001
    )
    for pictures, high in ((grey, 255.0), (np.full((4000, 6, 6, 1), 0.5, np.float32), 1.0)):
        got = vary(pictures, {"noise": 0.1}, high=high).images.astype(float)
        deviation = (got - got.mean()).std(axis=(1, 2, 3)) / high
        assert np.sqrt((deviation**2).mean()) == pytest.approx(
            0.1 / np.sqrt(3), rel=0.04
        )  # the root mean square of U(0, 0.1)
        assert 0.09 < deviation.max() < 0.16


def test_brightness_moves_floats_as_it_moves_bytes():
    images = noise(200, high=128) // 2 + np.uint8(64)
    whole = vary(images, {"brightness": 0.2}).images / 255
    floats = vary((images / 255).astype(np.float32), {"brightness": 0.2}, high=1.0).images
    np.testing.assert_allclose(floats, whole, atol=1.01 / 255)


def test_blur_is_a_share_of_the_stated_gaussian():
    images = np.zeros((300, 31, 31, 1), np.uint8)
    images[:, 15, 15] = 255
    got = vary(images.astype(np.float32) / 255, {"blur": 1.5}, high=1.0).images[..., 0].astype(float)
    np.testing.assert_allclose(got.sum(axis=(1, 2)), 1, rtol=1e-4)
    away = (np.arange(31) - 15.0) ** 2
    variance = (got.sum(axis=1) * away).sum(axis=1)
    assert variance.max() == pytest.approx(1.5**2, rel=0.12)
    assert stats.kstest(variance / variance.max(), "uniform").pvalue > 0.001


def test_cutout_covers_the_stated_square_with_the_mean():
    images = noise(2000, (20, 20), 3)
    got = vary(images, {"cutout": 0.4}).images
    changed = (got != images).any(axis=3)
    tall, wide = changed.any(axis=2).sum(axis=1), changed.any(axis=1).sum(axis=1)
    assert tall.max() == wide.max() == 8
    inside = (tall == 8) & (wide == 8)
    assert stats.binomtest(int(inside.sum()), 2000, (13 / 28) ** 2).pvalue > 0.001  # corners lie in [-8, 20) alike
    assert abs(changed.mean() - (8 / 28) ** 2) < 0.01  # a pixel is covered by 8 of 28 places each way
    for k in np.flatnonzero(inside)[:50]:
        assert np.abs(got[k][changed[k]] - images[k].mean()).max() <= 1


def test_mixup_is_the_stated_blend():
    images = noise(3000, (3, 3), 1)
    got = vary(images, {"mixup": 0.4})
    blend = np.rint(got.shares * 256).astype(int)
    np.testing.assert_array_equal(blend / 256, got.shares)
    own, other = images.astype(int), images[got.partners].astype(int)
    np.testing.assert_array_equal(got.images, other + (((own - other) * blend[:, None, None, None] + 128) >> 8))


def test_cutmix_shares_are_the_areas_pasted():
    images = np.zeros((2000, 11, 7, 1), np.uint8)
    images[1::2] = 255
    got = vary(images, {"cutmix": 1.0})
    differs = images[got.partners, 0, 0, 0] != images[:, 0, 0, 0]
    pasted = (got.images == images[got.partners])[..., 0]
    np.testing.assert_allclose(1 - pasted.mean(axis=(1, 2))[differs], got.shares[differs], atol=1e-12)
    box = pasted.any(axis=1).sum(axis=1) * pasted.any(axis=2).sum(axis=1)
    np.testing.assert_array_equal(pasted.sum(axis=(1, 2))[differs], box[differs])
    np.testing.assert_array_equal(got.images[~differs], images[~differs])


@pytest.mark.long
@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0, 100.0])
@pytest.mark.parametrize("name", MIXES)
def test_shares_follow_their_beta_distribution(name, alpha):
    images = np.zeros((3000, 50, 50, 1), np.uint8) if name == "cutmix" else np.zeros((3000, 1, 1, 1), np.uint8)
    shares = np.sort(vary(images, {name: alpha}).shares)
    step = 1 / 256 if name == "mixup" else 0.02  # what rounding to levels, or to sides of whole pixels, may move
    ends = np.linspace(0, 1, 129)
    below, expected = np.searchsorted(shares, ends, side="right") / 3000, stats.beta(alpha, alpha).cdf
    assert (below >= expected(np.clip(ends - step, 0, 1)) - 1.95 / np.sqrt(3000)).all()  # Kolmogorov-Smirnov, p = 0.001
    assert (np.searchsorted(shares, ends) / 3000 <= expected(np.clip(ends + step, 0, 1)) + 1.95 / np.sqrt(3000)).all()


def test_both_ways_of_mixing_each_happen_half_the_time():
    images = np.zeros((4000, 2, 2, 1), np.uint8)
    images[1::2] = 200
    got = vary(images, {"mixup": 50.0, "cutmix": 1.0}).images
    blended = ((got > 0) & (got < 200)).any(axis=(1, 2, 3)).sum()
    assert stats.binomtest(int(blended), 4000, 0.25).pvalue > 0.001  # half have an equal partner


def test_partners_come_from_the_pool_alone_and_are_varied_too():
    images, pool = noise(50), np.arange(10, 20)
    got = vary(images, {"mixup": 1.0, "hflip": 1.0}, np.arange(30, 50), pool=pool)
    assert np.isin(got.partners, pool).all()
    assert (
        stats.chisquare(
            np.bincount(
                vary(
                    images, {"cutmix": 1.0}, np.arange(50).repeat(40), pool=pool, uses=np.tile(np.arange(40), 50)
                ).partners,
                minlength=20,
            )[10:]
        ).pvalue
        > 0.001
    )
    plain = vary(images[:, :, ::-1], {"mixup": 1.0}, np.arange(30, 50), pool=pool)
    assert got.images.tobytes() == plain.images.tobytes()
