"""What is wrong with data is found before training, with its count and its files; what is right is left alone."""

import io
import re
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from conftest import run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

import clearsight
from clearsight.config.resolve import resolve_config
from clearsight.core.flaws import LEVELS, Flaw
from clearsight.data.check import check_dataset
from clearsight.data.clean import drop_flawed
from clearsight.data.dataset import build_dataset
from clearsight.data.duplicates import build_signatures, find_copies, find_near_copies
from clearsight.data.read.load import load_data
from clearsight.data.shift import compare_samples, find_shift
from clearsight.data.split import split_data
from clearsight.errors import DataError
from clearsight.pipeline.data import find_flaws

pytestmark = pytest.mark.usefixtures("own_cache")


def noise(n, seed=0, shape=(12, 12)):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype(np.uint8)


def sound(n=60, **parts):
    """Two classes of noise; `parts` are the rows of given splits by name."""
    images, labels = noise(n), np.array(["cat", "dog"] * (n // 2))
    return build_dataset(
        {k: (images[v], labels[v]) for k, v in parts.items()} or {"train": (images, labels)}, name="sound"
    )


def flaws(dataset, **options):
    found = find_flaws(resolve_config(None, options), dataset)
    for finding in found:
        assert finding.level in LEVELS
        assert re.fullmatch(r"\S.*[.]", finding.message), finding.message
        assert "  " not in finding.message, finding.message
        assert len(finding.rows) == 0 or max(finding.rows) < len(dataset)
    levels = [LEVELS.index(f.level) for f in found]
    assert levels == sorted(levels)
    return found


def only(dataset, kind, **options):
    """The one finding, which must be of this kind."""
    found = flaws(dataset, **options)
    assert [f.kind for f in found] == [kind], [f.message for f in found]
    return found[0]


def one_of(dataset, kind, **options):
    found = [f for f in flaws(dataset, **options) if f.kind == kind]
    assert len(found) == 1
    return found[0]


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    for k, pixels in enumerate(noise(40)):
        save(tmp_path / "d" / "ab"[k % 2] / f"{k:02}.png", pixels)
    return tmp_path / "d"


# what is right


def test_digits_have_no_errors_and_no_warnings():
    assert [f.kind for f in flaws(load_data("digits")) if f.level != "note"] == []


def test_sound_data_has_no_findings(folder):
    assert flaws(sound()) == []
    assert flaws(load_data(folder)) == []


def test_rows_of_features_are_never_copies():
    features = np.zeros((40, 5), np.float32)
    features[:, 0] = np.arange(40) % 4
    assert flaws(load_data(features, np.arange(40) % 2)) == []


# files


def test_bad_files_are_an_error_with_all_names(folder):
    (folder / "a" / "x.png").write_text("text")
    (folder / "b" / "y.png").write_bytes(b"")
    found = one_of(load_data(folder, skip_bad=True), "unreadable")
    assert (found.level, found.rows) == ("error", ())
    assert (
        found.message
        == "2 files cannot be read. Repair or remove them, or leave out what cannot be read with --skip-bad."
    )
    kinds = "must be a picture (JPEG, PNG, GIF, BMP, WEBP, TIFF, PPM), got "
    assert found.files == (f"a/x.png: {kinds}text. Remove it", f"b/y.png: {kinds}an empty file. Save it again")


def test_files_of_another_format_and_of_several_frames_are_warnings(folder):
    save(folder / "a" / "gif.png", noise(1, 5)[0], format="GIF")
    save(folder / "b" / "bmp.jpg", noise(1, 6)[0], format="BMP")
    frames = [Image.fromarray(p) for p in noise(3, 7)]
    frames[0].save(folder / "b" / "film.gif", save_all=True, append_images=frames[1:])
    dataset = load_data(folder)
    found = {f.message: f for f in flaws(dataset) if f.kind == "odd-file"}
    assert {f.level for f in found.values()} == {"warning"}
    name = found["2 files have a name that does not match the format."]
    assert name.files == ("a/gif.png: is a GIF file named .png", "b/bmp.jpg: is a BMP file named .jpg")
    assert [dataset.files[row] for row in name.rows] == ["a/gif.png", "b/bmp.jpg"]
    film = found["1 file has several frames; only the first is used."]
    assert film.files == ("b/film.gif: has several frames; only the first is used",)


# classes


def test_an_empty_class_is_an_error(folder):
    (folder / "c").mkdir()
    found = one_of(load_data(folder), "empty-class")
    assert found.level == "error"
    assert found.message == "class 'c' of train must hold pictures, got none. Add some or remove its folder."


def test_class_names_that_differ_in_case_are_an_error_and_letters_are_not():
    names = np.array(["Cat", "cat", "CAT", "dog", "x", "X"] * 10)
    found = one_of(load_data(noise(60), names), "class-names")
    assert found.level == "error"
    assert found.message == (
        "classes must differ by more than case, got 'CAT' and 'Cat' and 'cat'. Put their pictures together or rename one."
    )


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_class_that_training_lacks_is_an_error(split, tmp_path):
    for k, pixels in enumerate(noise(48)):
        save(tmp_path / ("train/a", "train/b", f"{split}/a", f"{split}/z")[k % 4] / f"{k}.png", pixels)
    found = one_of(load_data(tmp_path), "unknown-class")
    assert found.level == "error"
    assert found.message == (
        f"classes of {split} must have training pictures, got none of 'z'. Add training pictures, or remove the class."
    )


def test_a_class_that_a_split_lacks_is_a_warning():
    dataset = sound(train=np.arange(40), test=np.arange(40, 60, 2))
    found = only(dataset, "missing-class", valid_fraction=0)
    assert (found.level, found.message) == (
        "warning",
        "test has no pictures of 'dog', so it cannot show how well the model recognises it.",
    )


def test_tiny_classes_are_a_warning():
    labels = np.array([0] * 40 + [1] * 40 + [2] * 9)
    found = one_of(load_data(noise(89), labels), "tiny-class")
    assert found.level == "warning"
    assert found.message.startswith("1 class has fewer than 10 pictures: 2 (9). ")


def test_uneven_classes_are_a_warning():
    labels = np.array(["many"] * 100 + ["few"] * 20)
    found = only(load_data(noise(120), labels), "imbalance")
    assert found.level == "warning"
    assert found.message.startswith("classes are uneven: 'many' has 72 training pictures, 'few' 14. ")
    assert flaws(load_data(noise(120), np.array(["many"] * 90 + ["few"] * 30))) == []


def test_targets_that_do_not_differ_are_an_error():
    found = only(load_data(noise(20), np.full(20, 2.5), task="regression"), "constant-target")
    assert found.level == "error"
    assert found.message == "targets must differ, got 2.5 in every training row. Check them."


def kinds(dataset, **options):
    return [f.kind for f in flaws(dataset, valid_fraction=0, test_fraction=0, **options)]


@pytest.mark.parametrize(("rows", "found"), [(9, ["tiny-class"]), (10, [])])
def test_ten_pictures_are_enough_for_a_class(rows, found):
    assert kinds(load_data(noise(40 + rows), np.array([0] * 20 + [1] * 20 + [2] * rows))) == found


def test_tiny_classes_are_counted_and_named():
    labels = np.array([0] * 12 + [1] * 12 + [2] * 4 + [3] * 9)
    found = only(load_data(noise(37), labels), "tiny-class", valid_fraction=0, test_fraction=0)
    assert found.message.startswith("2 classes have fewer than 10 pictures: 2 (4), 3 (9). A class with one picture")


@pytest.mark.parametrize(("most", "found"), [(49, []), (50, ["imbalance"]), (51, ["imbalance"])])
def test_five_times_as_many_pictures_are_uneven(most, found):
    assert kinds(load_data(noise(most + 10), np.array(["few"] * 10 + ["many"] * most))) == found


def test_uneven_classes_are_those_with_training_pictures():
    """`none` has test pictures alone: an error of its own, and not the least of the uneven ones."""
    images = noise(120)
    train, test = np.repeat([0, 1, 3], [11, 66, 20]), np.repeat([2, 0], [12, 11])
    names = ("few", "many", "none", "some")
    dataset = build_dataset({"train": (images[:97], train), "test": (images[97:], test)}, name="d", class_names=names)
    found = {f.kind: f.message for f in flaws(dataset, valid_fraction=0)}
    assert "'many' has 66 training pictures, 'few' 11. Consider" in found["imbalance"]
    assert "classes of test must have training pictures, got none of 'none'." in found["unknown-class"]
    assert found["missing-class"] == (
        "test has no pictures of 'many', 'some', so it cannot show how well the model recognises them."
    )


def test_one_class_is_an_error_and_numbers_have_none():
    two = load_data(noise(20), np.array(["cat", "dog"] * 10))
    one = replace(two, labels=np.zeros(20, np.int64), class_names=("cat",))
    found = flaws(one)
    assert [(f.level, f.kind) for f in found] == [("error", "one-class")]
    assert found[0].message == (
        "a classifier must have two or more classes, got ['cat']. Add pictures of another class."
    )
    assert flaws(load_data(noise(20), np.arange(20.0), task="regression")) == []


def test_targets_are_those_of_training():
    images, targets = noise(30), np.r_[np.full(20, 2.5), np.arange(10)]
    parts = {"train": (images[:20], targets[:20]), "test": (images[20:], targets[20:])}
    found = only(build_dataset(parts, name="d", task="regression"), "constant-target")
    assert found.message == "targets must differ, got 2.5 in every training row. Check them."
    targets[0] = 3
    parts["train"] = images[:20], targets[:20]
    assert flaws(build_dataset(parts, name="d", task="regression")) == []


def rows_of(*counts):
    """Labels of so many training, and then so many test rows of each class."""
    return [np.repeat(np.arange(len(one)), one) for one in counts]


def test_a_class_of_one_picture_counts_in_every_finding():
    """Of five classes: many, one in training alone, one in test alone, none at all, and some."""
    train, test = rows_of([12, 1, 0, 0, 11], [10, 0, 1, 0, 10])
    images = noise(45)
    parts = {"train": (images[:24], train), "test": (images[24:], test)}
    dataset = build_dataset(parts, name="d", class_names=("many", "one", "new", "nothing", "some"))
    found = {f.kind: f.message for f in check_dataset(dataset, split_data(dataset, valid_fraction=0).parts())}
    assert set(found) == {"unknown-class", "missing-class", "tiny-class", "imbalance"}
    assert "got none of 'new'. Add" in found["unknown-class"]
    assert found["missing-class"].startswith("test has no pictures of 'one', so")
    assert found["tiny-class"].startswith("2 classes have fewer than 10 pictures: one (1), new (1). ")
    assert "'many' has 12 training pictures, 'one' 1." in found["imbalance"]


def test_one_training_row_has_nothing_constant():
    numbers = load_data(noise(2), np.array([1.0, 2.0]), task="regression")
    assert check_dataset(numbers, {"train": np.array([0])}) == []


def test_a_finding_is_plain_values():
    found = Flaw("note", "odd", "Text.", ("a", "b"), (1, 2)).as_dict()
    assert found == {"level": "note", "kind": "odd", "message": "Text.", "files": ["a", "b"]}


def test_bad_files_are_an_error_unless_they_are_left_out(folder):
    (folder / "a" / "x.png").write_text("text")
    dataset = load_data(folder, skip_bad=True)
    parts = split_data(dataset).parts()
    assert [f.level for f in check_dataset(dataset, parts) if f.kind == "unreadable"] == ["error"]
    assert [f.level for f in check_dataset(dataset, parts, skip_bad=True) if f.kind == "unreadable"] == ["note"]


# copies


def test_copies_of_rows_that_no_split_uses_are_no_leak():
    images = noise(60)
    images[50], images[21] = images[2], images[4]
    dataset = load_data(images, np.arange(60) // 2 % 2)
    parts = {"train": np.arange(20), "valid": np.arange(20, 40)}  # 2 and 50, 4 and 21
    found = {f.kind: f.rows for f in check_dataset(dataset, parts) if f.level == "error" or f.kind == "copies"}
    assert found.pop("copies") == (2, 50)
    assert found == {"leakage": (4, 21)}


def test_near_copies_are_told_apart_by_label_and_split(monkeypatch):
    """Pairs as found: within a split, across splits, and with two labels, within a split and across."""
    pairs = np.array([[0, 2], [4, 6], [1, 41], [0, 1], [3, 40]])
    monkeypatch.setattr("clearsight.data.check.find_near_copies", lambda images: pairs)
    dataset = load_data(noise(60), np.arange(60) % 2)
    found = {f.kind: f for f in check_dataset(dataset, {"train": np.arange(40), "test": np.arange(40, 60)})}
    assert {kind: one.rows for kind, one in found.items()} == {
        "near-copies": (0, 2, 4, 6), "near-leakage": (1, 41), "near-conflict": (0, 1, 3, 40),
    }  # fmt: skip
    assert found["near-copies"].message == "2 pairs of pictures are nearly equal within a split."
    assert check_dataset(dataset, {"train": np.arange(60)}, near=False) == []


def test_copies_within_a_split_are_a_warning():
    images = noise(60)
    images[8] = images[20] = images[2]
    found = only(load_data(images, np.arange(60) % 2), "copies")
    assert (found.level, found.rows) == ("warning", (2, 8, 20))
    assert found.files == ("row 2 of train = row 8 of train = row 20 of train",)
    assert (
        found.message
        == "1 picture appears more than once within a split, and every copy counts. Use --skip-bad to keep one of each."
    )


def test_copies_in_two_splits_are_an_error():
    images, labels = noise(60), np.arange(60) % 2
    images[[50, 52]] = images[[0, 2]]
    dataset = build_dataset({"train": (images[:40], labels[:40]), "test": (images[40:], labels[40:])}, name="d")
    found = only(dataset, "leakage")
    assert (found.level, found.rows) == ("error", (0, 50, 2, 52))
    assert found.files == ("row 0 of train = row 10 of test", "row 2 of train = row 12 of test")
    assert found.message.startswith(
        "2 pictures appear in more than one of train, valid, test, so results would look better than they are. "
    )


def test_copies_in_several_groups_are_counted_apart():
    """Three within training, two across splits, two with two labels: each told once, in the order of their rows."""
    images, labels = noise(80), np.arange(80) % 2
    images[[8, 20]], images[[12, 14]] = images[2], images[10]
    images[60], images[31] = images[30], images[40]
    dataset = build_dataset({"train": (images[:50], labels[:50]), "test": (images[50:], labels[50:])}, name="d")
    found = {f.kind: f for f in flaws(dataset)}
    assert set(found) == {"copies", "leakage", "label-conflict"}
    assert found["copies"].rows == (2, 8, 20, 10, 12, 14)
    assert found["copies"].message == (
        "2 pictures appear more than once within a split, and every copy counts. Use --skip-bad to keep one of each."
    )
    assert (found["leakage"].rows, found["label-conflict"].rows) == ((30, 60), (31, 40))


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_copies_with_different_labels_are_an_error(task):
    images = noise(60)
    images[5] = images[2]
    found = only(load_data(images, np.arange(60) % 2, task=task), "label-conflict")
    assert (found.level, found.rows, found.files) == ("error", (2, 5), ("row 2 of train = row 5 of train",))
    assert found.message.startswith("1 picture appears more than once with different labels. Correct")


def test_the_same_pixels_in_another_format_are_copies(folder):
    again = Image.open(folder / "a" / "00.png")
    again.save(folder / "a" / "again.bmp")
    assert one_of(load_data(folder), "copies").files == ("a/00.png = a/again.bmp",)


def test_blank_pictures_are_no_copies_but_a_warning():
    images = noise(60)
    images[[3, 4, 9]] = 7
    found = only(load_data(images, np.arange(60) % 2), "blank")
    assert (found.level, found.rows) == ("warning", (3, 4, 9))
    assert found.message == "3 pictures have only one colour. Check whether something went wrong."


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 60), st.integers(1, 8), st.integers(0, 9))
def test_copies_are_found_exactly(n, kinds, seed):
    rng = np.random.default_rng(seed)
    which = rng.integers(0, kinds, n)
    for dtype in (np.uint8, np.float32):
        images = noise(kinds, seed, (5, 5, 3)).astype(dtype)[which]
        expected = [
            np.flatnonzero(which == k).tolist() for k in dict.fromkeys(which.tolist()) if (which == k).sum() > 1
        ]
        assert [group.tolist() for group in find_copies(images)] == expected


def test_one_different_value_makes_no_copy():
    images = np.repeat(noise(1), 145, axis=0)
    for k in range(144):
        images[k].reshape(-1)[k] ^= 1
    assert find_copies(images[..., None]) == []


def scene(seed, side=96):
    """A picture with shapes and texture, RGB."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (side, side), tuple(rng.integers(60, 190, 3).tolist()))
    draw = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y, w, h = rng.integers(0, side, 4).tolist()
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(
            (x, y, x + w // 2, y + h // 2), fill=tuple(rng.integers(0, 256, 3).tolist())
        )
    pixels = np.asarray(picture).astype(int) + rng.integers(-8, 9, (side, side, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def jpeg(pixels, quality):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def shrunk(pixels):
    picture = Image.fromarray(pixels)
    return np.asarray(picture.resize((64, 64), Image.Resampling.LANCZOS).resize(picture.size, Image.Resampling.BICUBIC))


CHANGES = {
    "jpeg-60": lambda p: jpeg(p, 60), "smaller": shrunk, "darker": lambda p: (p * 0.7).astype(np.uint8),
    "brighter": lambda p: np.clip(p * 0.8 + 40, 0, 255).astype(np.uint8),
}  # fmt: skip


def photos(side=142):
    """Squares of two photographs, none overlapping another and none of sky alone, (n, side, side, 3)."""
    from sklearn.datasets import load_sample_images

    squares = np.stack([
        image[y : y + side, x : x + side]
        for image in load_sample_images().images
        for y in range(0, image.shape[0] - side + 1, side)
        for x in range(0, image.shape[1] - side + 1, side)
    ])  # fmt: skip
    return squares[squares.std(axis=(1, 2, 3)) > 30]


def reduced(images, side):
    return np.stack([np.asarray(Image.fromarray(p).resize((side, side), Image.Resampling.BILINEAR)) for p in images])


@pytest.mark.long
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("side", [32, 64, 128])
def test_near_copies_are_found_and_nothing_else(side, change):
    images = photos()
    n, chosen = len(images), np.arange(0, len(images), 3)
    altered = np.stack([CHANGES[change](image) for image in images[chosen]])
    stored = reduced(np.concatenate([images, altered]), side)
    assert find_near_copies(stored[:n]).tolist() == []
    assert find_near_copies(stored).tolist() == [[int(row), n + k] for k, row in enumerate(chosen)]


@pytest.mark.long
def test_near_copies_of_another_size_are_found_in_a_folder(tmp_path):
    images = photos()
    for k, pixels in enumerate(images):
        save(tmp_path / "ab"[k % 2] / f"{k:02}.png", pixels)
    Image.fromarray(images[4]).resize((99, 99), Image.Resampling.LANCZOS).save(tmp_path / "a" / "small.png")
    save(tmp_path / "b" / "again.jpg", images[7], quality=60)
    save(tmp_path / "a" / "other.jpg", images[9], quality=60)
    dataset = load_data(tmp_path, image_size=64)
    found = {
        f.kind: f for f in flaws(dataset, pool=True, valid_fraction=0, test_fraction=0) if f.kind.startswith("near")
    }
    assert found["near-copies"].files == ("a/04.png = a/small.png", "b/07.png = b/again.jpg")
    assert found["near-conflict"].files == ("a/other.jpg = b/09.png",)
    assert {f.level for f in found.values()} == {"warning"}


def test_near_copies_in_two_splits_are_a_warning():
    images, labels = photos(), np.arange(len(photos())) % 2
    images[14] = jpeg(images[0], 60)
    images = reduced(images, 64)
    dataset = build_dataset({"train": (images[:10], labels[:10]), "test": (images[10:], labels[10:])}, name="d")
    found = one_of(dataset, "near-leakage", valid_fraction=0)
    assert (found.level, found.files) == ("warning", ("row 0 of train = row 4 of test",))
    assert (
        found.message
        == "1 pair of pictures is nearly equal but in different splits; results may look better than they are."
    )
    without = check_dataset(dataset, split_data(dataset, valid_fraction=0).parts(), near=False)
    assert [f.kind for f in without if f.kind.startswith("near")] == []


def test_signatures_do_not_change_with_brightness_and_contrast():
    images = np.stack([scene(seed) for seed in range(10)]).astype(np.float32)
    first, second = build_signatures(images), build_signatures(images * 0.5 + 30)
    assert np.allclose((first * second).sum(axis=1), 1, atol=1e-5)
    assert np.allclose((first * first).sum(axis=1), 1, atol=1e-5)
    off = first @ first.T - np.eye(10)
    assert off.max() < 0.9


@pytest.mark.long
def test_many_pictures_that_look_alike_do_not_exhaust_the_memory():
    frames = np.repeat(scene(0, 24)[None], 1000, axis=0)
    frames[np.arange(1000), np.arange(1000) % 24, np.arange(1000) // 24 % 24] ^= 1
    tracemalloc.start()
    found = find_near_copies(frames)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert set(found.ravel().tolist()) == set(range(24 * 24))  # the others are exact copies of these
    assert peak < 500 * 2**20


# sizes and pixels


def test_pictures_of_other_proportions_and_small_ones_are_warnings(folder):
    save(folder / "a" / "long.png", noise(1, 5, (10, 60))[0])
    save(folder / "b" / "tall.png", noise(1, 6, (60, 10))[0])
    save(folder / "b" / "tiny.png", noise(1, 7, (5, 5))[0])
    dataset = load_data(folder, image_size=12)
    long, small = one_of(dataset, "aspect"), one_of(dataset, "small")
    assert (long.level, long.files) == ("warning", ("a/long.png: 60x10", "b/tall.png: 10x60"))
    assert long.message.startswith(
        "2 of 43 pictures have proportions that differ from 12x12 by more than a factor of 2. "
    )
    assert (small.level, small.files) == ("warning", ("b/tiny.png: 5x5",))
    assert [dataset.files[row] for row in (*long.rows, *small.rows)] == ["a/long.png", "b/tall.png", "b/tiny.png"]


def test_pixels_that_never_change_are_a_note():
    images = noise(60)
    images[:, :2] = 9
    found = only(load_data(images, np.arange(60) % 2), "constant-pixels")
    assert (found.level, found.message) == ("note", "24 of 144 pixel values are the same in every training picture.")


def test_sixteen_bit_pictures_that_use_eight_are_a_warning():
    images = noise(60).astype(np.uint16)
    found = only(load_data(images, np.arange(60) % 2), "dark")
    assert found.level == "warning"
    assert (
        found.message
        == "the brightest pixel is 255 on a scale from 0 to 65535, so the pictures are nearly black. Rescale them."
    )


@pytest.mark.parametrize(
    ("height", "width", "found"),
    [
        (12, 24, []),
        (12, 25, ["aspect"]),
        (24, 12, []),
        (25, 12, ["aspect"]),
        (6, 6, []),
        (5, 5, ["small"]),
        (5, 6, []),
        (6, 5, []),
    ],
)
def test_twice_the_proportions_and_half_the_size_are_still_right(folder, height, width, found):
    save(folder / "a" / "odd.png", noise(1, 5, (height, width))[0])
    assert kinds(load_data(folder, image_size=12)) == found


def test_enlarged_pictures_are_counted_against_the_size_of_all(folder):
    for name in ("one", "two"):
        save(folder / "a" / f"{name}.png", noise(1, len(name) + ord(name[0]), (4, 4))[0])
    found = only(load_data(folder, image_size=[12, 16]), "small", valid_fraction=0, test_fraction=0)
    assert (
        found.message
        == "2 of 42 pictures have less than half the width and height of 16x12. Enlarging cannot add detail."
    )
    assert found.files == ("a/one.png: 4x4", "a/two.png: 4x4")


@pytest.mark.parametrize(("same", "found"), [(7, []), (8, ["constant-pixels"])])
def test_a_twentieth_of_the_pixels_may_stand_still(same, found):
    """5 % of 144 is 7.2; what test pictures show does not matter."""
    images, labels = noise(60), np.arange(60) % 2
    images[:40].reshape(40, -1)[:, :same] = 9
    dataset = build_dataset({"train": (images[:40], labels[:40]), "test": (images[40:], labels[40:])}, name="d")
    assert kinds(dataset) == found


@pytest.mark.parametrize(("same", "found"), [(10, []), (11, ["constant-pixels"])])
def test_just_a_twentieth_of_the_pixels_may_stand_still(same, found):
    images = noise(60, shape=(10, 20))
    images.reshape(60, -1)[:, :same] = 9
    assert kinds(load_data(images, np.arange(60) % 2)) == found


@pytest.mark.parametrize(
    ("value_range", "top", "found"), [((0, 16), 1, []), ((16, 32), 17, []), ((16, 32), 16.9, ["dark"])]
)
def test_the_sixteenth_is_of_the_range_and_from_its_lower_end(value_range, top, found):
    images = np.random.default_rng(0).uniform(value_range[0], top, (60, 12, 12)).astype(np.float32)
    images[0, 0, 0] = top
    parts = {"train": (images, np.arange(60) % 2)}
    assert kinds(build_dataset(parts, name="d", value_range=tuple(map(float, value_range)))) == found


def test_proportions_are_those_of_the_size_asked_for(folder):
    save(folder / "a" / "same.png", noise(1, 5, (12, 36))[0])
    save(folder / "a" / "tall.png", noise(1, 6, (36, 12))[0])
    found = one_of(load_data(folder, image_size=[12, 30]), "aspect")
    assert "a/same.png: 36x12" not in found.files
    assert "a/tall.png: 12x36" in found.files


@pytest.mark.parametrize(("top", "found"), [(4095, ["dark"]), (4096, [])])
def test_a_sixteenth_of_the_range_is_dark(top, found):
    images = np.minimum(noise(60).astype(np.uint16) * 17, top)
    images[0, 0, 0] = top
    assert kinds(load_data(images, np.arange(60) % 2)) == found


# shift


def test_a_brighter_test_split_is_a_warning():
    images, labels = noise(400) // 2, np.arange(400) % 2
    images[300:] += 40
    dataset = build_dataset({"train": (images[:300], labels[:300]), "test": (images[300:], labels[300:])}, name="d")
    found = [f for f in flaws(dataset) if f.kind == "shift"]
    assert {f.level for f in found} == {"warning"}
    assert re.match(
        r"test differs from train in brightness: mean 1\d\d\.?\d* \(n=100\) against \d\d\.?\d* \(n=270\), d=\+",
        found[0].message,
    )
    assert all("brightness" in f.message for f in found)


def test_a_test_split_of_less_contrast_is_a_warning():
    images, labels = noise(400), np.arange(400) % 2
    images[300:] = (images[300:] // 2) + 64
    dataset = build_dataset({"train": (images[:300], labels[:300]), "test": (images[300:], labels[300:])}, name="d")
    assert any("test differs from train in contrast" in f.message for f in flaws(dataset))


@pytest.mark.long
def test_random_splits_of_the_same_data_do_not_differ():
    data = load_data("digits")
    for seed in range(50):
        assert find_shift(data.images, split_data(data, seed=seed).parts()) == []


def test_a_difference_too_small_to_matter_is_not_told():
    rng = np.random.default_rng(0)
    bright = rng.normal(100, 20, 20000).clip(0, 255)
    bright[10000:] += 2  # a tenth of the deviation: significant, and of no matter
    images = np.repeat(bright.astype(np.float32), 16).reshape(-1, 4, 4, 1)
    parts = {"train": np.arange(10000), "test": np.arange(10000, 20000)}
    assert find_shift(images, parts) == []
    images[10000:] += 8
    assert len(find_shift(images, parts)) == 1


# splits keep copies together


@pytest.mark.parametrize(("first", "second"), [(30, 200), (200, 30), (1000, 1000)])
def test_the_two_sample_test_is_that_of_scipy(first, second):
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.1, 0.5, 5.0):
        a, b = rng.normal(0, 1, first), rng.normal(shift, 1, second)
        wanted = stats.ks_2samp(a, b, method="exact").pvalue
        assert compare_samples(a, b) == pytest.approx(wanted, rel=0.15, abs=1e-8)


def test_two_splits_of_eight_pictures_can_differ():
    images = np.repeat(np.r_[np.linspace(10, 20, 8), np.linspace(200, 220, 8)].astype(np.float32), 16).reshape(
        -1, 4, 4, 1
    )
    found = find_shift(images, {"train": np.arange(8), "test": np.arange(8, 16)})
    assert "test differs from train in brightness" in found[0]


@pytest.mark.long
@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=8, max_size=80), st.floats(0, 0.5), st.floats(0, 0.5),
    st.integers(0, 9), st.booleans(), st.booleans(),
)  # fmt: skip
def test_no_picture_is_in_two_drawn_parts(rows, valid, test, seed, shuffle, pool):
    which, labels = np.array(rows).T
    if len(set(labels.tolist())) < 2:
        return
    dataset = load_data(noise(31, 1, (4, 5))[which], labels)
    try:
        split = split_data(dataset, valid_fraction=valid, test_fraction=test, seed=seed, shuffle=shuffle, pool=pool)
    except DataError as error:
        assert "training must keep at least one row" in str(error)
        return
    pictures = [set(which[part].tolist()) for part in (split.train, split.valid, split.test)]
    assert not pictures[0] & pictures[1]
    assert not pictures[0] & pictures[2]
    assert not pictures[1] & pictures[2]
    every = np.concatenate([split.train, split.valid, split.test, split.unused])
    assert sorted(every.tolist()) == list(range(len(rows)))
    for part in (split.train, split.valid, split.test):
        assert (np.diff(part) > 0).all()


@pytest.mark.long
@settings(max_examples=60, deadline=None)
@given(st.integers(8, 80), st.floats(0, 0.5), st.floats(0, 0.5), st.integers(0, 9), st.booleans())
def test_without_copies_the_split_is_what_it_is_for_rows_of_features(n, valid, test, seed, shuffle):
    labels = np.arange(n) % 3
    options = {"valid_fraction": valid, "test_fraction": test, "seed": seed, "shuffle": shuffle}
    try:
        features = split_data(load_data(np.arange(n, dtype=np.float32)[:, None], labels), **options)
    except DataError:
        return
    pictures = split_data(load_data(noise(n, 2, (4, 5)), labels), **options)
    for part in ("train", "valid", "test", "unused"):
        assert (getattr(features, part) == getattr(pictures, part)).all()


def test_a_drawn_validation_split_keeps_copies_with_training():
    images, labels = noise(100), np.arange(100) % 2
    images[50:80] = images[:30]
    dataset = build_dataset({"train": (images[:80], labels[:80]), "test": (images[80:], labels[80:])}, name="d")
    for seed in range(10):
        found = flaws(dataset, split_seed=seed, valid_fraction=0.3)
        assert [f.kind for f in found] == ["copies"]


def test_copies_that_counting_rows_drew_apart_are_told():
    images, labels = noise(100), np.arange(100) % 2
    images[50:80] = images[:30]
    found = flaws(load_data(images, labels), train_per_class=20, test_per_class=20)
    assert [f.kind for f in found if f.level == "error"] == ["leakage"]


# training stops, or goes on where asked


def train(data, out, **options):
    told = []
    run = clearsight.train(data, out=out, epochs=1, hidden=(2,), note=told.append, **options)
    return run, told


@pytest.fixture(params=["leakage", "label-conflict"])
def flawed(request, tmp_path):
    """A folder with one flaw, and the words of its error."""
    for k, pixels in enumerate(noise(120)):
        save(tmp_path / "f" / ("train", "train", "test")[k // 2 % 3] / "ab"[k % 2] / f"{k:03}.png", pixels)
    if request.param == "leakage":
        (tmp_path / "f/test/a/same.png").write_bytes((tmp_path / "f/train/a/000.png").read_bytes())
        return tmp_path / "f", "1 picture appears in more than one of"
    (tmp_path / "f/train/b/same.png").write_bytes((tmp_path / "f/train/a/000.png").read_bytes())
    return tmp_path / "f", "1 picture appears more than once with different labels"


def test_an_error_stops_training_and_names_the_files(flawed, tmp_path):
    path, words = flawed
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        train(path, tmp_path / "run")
    assert "train/a/000.png" in str(caught.value)
    assert str(caught.value).endswith(
        "See `clearsight data check` for all of f; --set data.check=false trains regardless."
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_skip_bad_goes_on_and_says_what_was_left_out(flawed, tmp_path):
    path, words = flawed
    run, told = train(path, tmp_path / "run", skip_bad=True)
    rows = sum(e.n for e in run.evaluations().values())
    assert rows == (120 if words.endswith("more than one of") else 119)
    wanted = (
        "1 copies of pictures were left out"
        if words.endswith("more than one of")
        else "2 rows whose pictures have copies of another label were left out"
    )
    assert wanted in told
    assert clearsight.evaluate(tmp_path / "run").n == run.test.n


@pytest.mark.long
def test_without_the_check_training_goes_on_regardless(flawed, tmp_path):
    path, _ = flawed
    run, told = train(path, tmp_path / "run", check=False)
    assert sum(e.n for e in run.evaluations().values()) == 121
    assert told == []


@pytest.mark.long
def test_the_command_ends_with_3_or_goes_on(flawed, tmp_path):
    path, words = flawed
    command = ["train", path, "--epochs", "1", "--hidden", "2", "--out", "run"]
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 3
    assert any(line.startswith(f"error: {words}") for line in done.stderr.splitlines())
    assert not (tmp_path / "run").exists()
    regardless = run(*command, "--set", "data.check=false", cwd=tmp_path)
    assert regardless.returncode == 0, regardless.stderr


@pytest.mark.long
def test_data_check_ends_with_3_for_errors_and_0_for_warnings(flawed, folder, tmp_path):
    path, words = flawed
    done = run("data", "check", path, cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (3, False), done.stderr
    assert words in done.stdout
    assert re.search(r"\n +(test/a/same\.png = train/a/000\.png|train/a/000\.png = train/b/same\.png)\n", done.stdout)
    (folder / "a" / "again.png").write_bytes((folder / "a" / "00.png").read_bytes())
    fine = run("data", "check", folder, cwd=tmp_path)
    assert (fine.returncode, fine.stderr) == (0, "")
    assert "a/00.png = a/again.png" in fine.stdout


@pytest.mark.long
def test_warnings_are_told_before_training(tmp_path):
    images, labels = noise(60), np.arange(60) % 2
    images[[3, 4]] = 7
    _, told = train(load_data(images, labels), tmp_path / "run")
    assert "2 pictures have only one colour. Check whether something went wrong. For example row 3 of train." in told


@pytest.mark.long
def test_data_check_counts_one_error_in_the_singular(folder, tmp_path):
    (folder / "c").mkdir()
    done = run("data", "check", folder, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stdout.splitlines()[-1] == "1 error, 0 warnings, 0 notes"


# leaving flawed rows out


def test_one_of_each_copy_is_kept_and_a_test_row_if_there_is_one():
    images, labels = noise(60), np.arange(60) % 2
    images[[8, 50]] = images[2]
    images[7] = images[4]
    dataset = build_dataset({"train": (images[:40], labels[:40]), "test": (images[40:], labels[40:])}, name="d")
    found = drop_flawed(dataset)
    assert len(found) == 56
    assert found.given.tolist() == [0] * 36 + [2] * 20
    assert found.notes == (
        "2 rows whose pictures have copies of another label were left out",
        "2 copies of pictures were left out",
    )


def test_a_class_left_without_a_picture_goes_and_one_class_alone_is_refused(folder):
    (folder / "c").mkdir()
    found = drop_flawed(load_data(folder))
    assert (found.class_names, found.empty) == (("a", "b"), ())
    assert found.notes[-1] == "classes without a picture were left out: c"
    images = noise(3)
    images[2] = images[1]
    with pytest.raises(
        DataError, match=r"^a classifier must have two or more classes with pictures, got 1\. Add pictures of 2, 3\.$"
    ):
        drop_flawed(load_data(images, np.array([1, 2, 3])))


def test_near_copies_are_found_behind_exact_ones():
    one = scene(0, 24)
    other = one.copy()
    other[0, 0] ^= 1
    frames = np.stack([one] * 10 + [other] * 10)
    assert find_near_copies(frames).tolist() == [[0, 10]]


def test_constant_splits_that_differ_are_a_shift():
    images = np.concatenate([np.full((20, 6, 6, 1), 100, np.uint8), np.full((20, 6, 6, 1), 200, np.uint8)])
    assert len(find_shift(images, {"train": np.arange(20), "test": np.arange(20, 40)})) == 1


def test_pictures_that_are_nearly_black_for_their_type_are_told(folder):
    for place in folder.rglob("*.png"):
        Image.fromarray((np.asarray(Image.open(place).convert("L")) // 32).astype(np.uint16) * 16).save(place)
    assert one_of(load_data(folder), "dark").level == "warning"
