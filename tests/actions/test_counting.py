"""Counting pictures hold exactly as many separate discs as they say, are the same everywhere, and are written whole or not."""

import io
import re
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label

from clearsight.core.progress import SilentMeter
from clearsight.data.named.counting import draw_counting, find_largest_count, make_counting, parse_counts
from clearsight.errors import ClearsightError, UsageError

BLUE = (0x1F, 0x77, 0xB4)
SMALL = {"counts": (3, 10, 0), "per_class": 4, "width": 48, "height": 40}


def count_discs(image, *, diagonals):
    return label((image != 255).any(-1), np.ones((3, 3)) if diagonals else None)[1]


def read_png(content):
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"))


def read_files(path):
    """{name: bytes} of a folder or zip."""
    if path.is_dir():
        return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in sorted(archive.namelist())}


def drawn(*, repeats):
    return draw_counting(np.tile([0, 3, 10], repeats), width=48, height=40)


@pytest.mark.long
@pytest.mark.parametrize("sizes", ["fixed", "various"])
@pytest.mark.parametrize(
    ("width", "height", "counts"),
    [
        (432, 288, [0, 1, 2, 3, 4, 5, 45, 46, 47, 48, 49, 65]),
        (224, 224, [0, 1, 2, 3, 4, 5, 45, 46, 47, 48, 49, 65]),
        (64, 64, [0, 1, 2, 3, 4, 5, 25]),
        (32, 32, [1, 5, 12]),
        (40, 300, [1, 20]),
        (300, 40, [1, 20]),
    ],
)
def test_every_picture_has_as_many_separate_blobs_as_it_says(width, height, counts, sizes):
    counts = np.repeat(counts, 4)
    for image, count in zip(
        draw_counting(counts, width=width, height=height, sizes=sizes, seed=3), counts, strict=True
    ):
        assert count_discs(image, diagonals=False) == count_discs(image, diagonals=True) == count


@pytest.mark.long
@pytest.mark.parametrize("sizes", ["fixed", "various"])
@pytest.mark.parametrize(("width", "height"), [(432, 288), (224, 224), (32, 32), (32, 200), (200, 32)])
def test_discs_are_wholly_inside_around_the_central_half(width, height, sizes):
    images = draw_counting(np.full(200, 12), width=width, height=height, sizes=sizes)
    rows, columns = np.nonzero((images != 255).any((0, 3)))
    reach = 16 / 288 / 2 * min(width, height) + 1
    assert height / 4 - reach <= rows.min() < rows.max() <= height * 3 / 4 + reach
    assert width / 4 - reach <= columns.min() < columns.max() <= width * 3 / 4 + reach
    border = np.concatenate([images[:, [0, -1]].ravel(), images[:, :, [0, -1]].ravel()])
    assert (border == 255).all()


@pytest.mark.long
def test_a_disc_has_the_area_of_a_scatter_mark_and_its_blue():
    images = draw_counting(np.ones(50, int))
    cover = (255.0 - images[..., 0]).sum((1, 2)) / (255 - BLUE[0])
    assert np.abs(cover - np.pi / 4 * 200).max() < 3
    assert {tuple(color) for color in images[0].reshape(-1, 3)} >= {BLUE, (255, 255, 255)}
    various = (255.0 - draw_counting(np.ones(400, int), sizes="various")[..., 0]).sum((1, 2)) / (255 - BLUE[0])
    assert np.pi / 4 * 25 - 2 < various.min() < np.pi / 4 * 45
    assert np.pi / 4 * 230 < various.max() < np.pi / 4 * 250 + 2


@pytest.mark.long
def test_centres_are_uniform_and_a_fifth_of_the_unit_apart():
    images = draw_counting(np.full(400, 2), seed=1)
    centres = []
    for image in images:
        blobs, _ = label(image[..., 0] != 255)
        centres.append([np.argwhere(blobs == k).mean(0) for k in (1, 2)])
    places = (np.array(centres) + 0.5 - [144, 216]) / [72, 108]
    assert np.abs(places).max() <= 1
    assert np.linalg.norm(places[:, 0] - places[:, 1], axis=1).min() >= 0.2
    assert np.abs(places.mean((0, 1))).max() < 0.1
    assert np.abs(places.std((0, 1)) - 3**-0.5).max() < 0.05


def test_same_seed_gives_same_bytes_and_another_seed_others():
    counts = np.array([5, 9, 30])
    first = draw_counting(counts, sizes="various", seed=1)
    assert (first == draw_counting(counts, sizes="various", seed=1)).all()
    assert (first != draw_counting(counts, sizes="various", seed=2)).any((1, 2, 3)).all()


@pytest.mark.long
def test_a_picture_depends_on_its_own_place_and_count_alone():
    counts = np.random.default_rng(0).integers(0, 30, 300)
    many = draw_counting(counts, width=224, height=224)
    assert (many[:100] == draw_counting(counts[:100], width=224, height=224)).all()
    assert (many[7] == draw_counting(np.where(np.arange(9) == 7, counts[7], 1), width=224, height=224)[7]).all()
    assert draw_counting(np.array([], int)).shape == (0, 288, 432, 3)


@pytest.mark.parametrize("form", ["", ".zip"])
@pytest.mark.parametrize("test", [0, 2])
def test_class_folders_hold_the_drawn_pixels_in_the_order_of_numbers(tmp_path, form, test):
    found = make_counting(tmp_path / f"data{form}", **SMALL, test_per_class=test)
    assert (found["format"], found["train"], found["test"]) == (form[1:] or "folder", 12, 3 * test)
    files = read_files(tmp_path / f"data{form}")
    top = "train/" if test else ""
    expected = drawn(repeats=4)
    assert list(files)[-12:] == [f"{top}{name}/{k:05d}.png" for name in ("00", "03", "10") for k in range(1, 5)]
    for row, name in enumerate(["00", "03", "10"] * 4):
        assert (read_png(files[f"{top}{name}/{row // 3 + 1:05d}.png"]) == expected[row]).all()
    for name, content in files.items():
        assert count_discs(read_png(content), diagonals=True) == int(name.split("/")[-2])
    assert len(set(files.values())) == len(files) - 4 - test + 1, "no two pictures are equal but the empty ones"


def test_one_figure_names_need_no_padding(tmp_path):
    make_counting(tmp_path / "data", counts=(1, 5), per_class=1, width=32, height=32)
    assert list(read_files(tmp_path / "data")) == ["1/00001.png", "5/00001.png"]


@pytest.mark.parametrize("form", ["", ".zip"])
@pytest.mark.parametrize("test", [0, 1])
def test_numbers_stand_in_a_table_beside_the_pictures(tmp_path, form, test):
    make_counting(tmp_path / f"data{form}", **SMALL, target="number", test_per_class=test)
    files = read_files(tmp_path / f"data{form}")
    header, *lines = files.pop("metadata.csv").decode().splitlines()
    top = "train" if test else "pictures"
    assert header == "file_name,count"
    assert lines[:2] == [f"{top}/00001.png,0", f"{top}/00002.png,3"]
    assert sorted(line.split(",")[0] for line in lines) == sorted(files)
    for line in lines:
        name, count = line.split(",")
        assert count_discs(read_png(files[name]), diagonals=True) == int(count)
    assert (read_png(files[f"{top}/00012.png"]) == drawn(repeats=4)[11]).all()


@pytest.mark.parametrize("target", ["class", "number"])
@pytest.mark.parametrize("test", [0, 2])
def test_an_npz_holds_the_same_pixels(tmp_path, target, test):
    make_counting(tmp_path / "data.npz", **SMALL, target=target, test_per_class=test)
    with np.load(tmp_path / "data.npz", allow_pickle=False) as file:
        arrays = dict(file)
    prefix = "train_" if test else ""
    assert set(arrays) == {f"{p}{k}" for p in ([prefix, "test_"] if test else [""]) for k in ("images", "labels")}
    assert (arrays[f"{prefix}images"] == drawn(repeats=4)).all()
    labels = arrays[f"{prefix}labels"]
    assert labels.tolist() == ([0.0, 3.0, 10.0] if target == "number" else ["00", "03", "10"]) * 4
    assert labels.dtype.kind == ("f" if target == "number" else "U")
    for image, count in zip(arrays.get("test_images", ()), arrays.get("test_labels", ()), strict=True):
        assert count_discs(image, diagonals=True) == float(count)


def test_more_per_class_keeps_the_first_pictures_and_all_test_pictures(tmp_path):
    make_counting(tmp_path / "few", **SMALL, test_per_class=2)
    make_counting(tmp_path / "many", **(SMALL | {"per_class": 9}), test_per_class=2)
    few, many = read_files(tmp_path / "few"), read_files(tmp_path / "many")
    assert few.items() < many.items()


@pytest.mark.parametrize("name", ["a.zip", "a.npz"])
def test_same_seed_gives_the_same_file(tmp_path, name):
    contents = []
    for folder in ("one", "two"):
        make_counting(tmp_path / folder / name, **SMALL)
        contents.append((tmp_path / folder / name).read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("text", "counts"),
    [("1-5", (1, 2, 3, 4, 5)), ("1,3,7", (1, 3, 7)), (" 7, 0 ,45 - 47", (0, 7, 45, 46, 47)), ("65", (65,))],
)
def test_counts_are_read_from_numbers_and_ranges(text, counts):
    assert parse_counts(text) == counts


FORM = "counts must be numbers or ranges such as 1-5,9, got {!r}. Correct it."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", FORM.format("")),
        ("1,,2", FORM.format("")),
        ("1-", FORM.format("1-")),
        ("-3", FORM.format("-3")),
        ("2.5", FORM.format("2.5")),
        ("1-x", FORM.format("1-x")),
        ("٣", FORM.format("٣")),
        ("12345", FORM.format("12345")),
        ("5-1", "counts must have ranges that run upwards, got '5-1'. Write 1-5."),
        ("1-5,3", "counts must name each number once, got 3 twice in '1-5,3'. Remove one."),
    ],
)
def test_wrong_counts_are_refused(text, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        parse_counts(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_class": 0}, "per_class must be 1 or more, got 0. Correct it."),
        ({"test_per_class": -1}, "test_per_class must be 0 or more, got -1. Correct it."),
        ({"target": "name"}, "target must be class or number, got 'name'. Choose one of them."),
        ({"sizes": "odd"}, "sizes must be fixed or various, got 'odd'. Choose one of them."),
        ({"seed": -1}, "seed must be 0 or more, got -1. Choose another."),
        ({"width": 31}, "width must be from 32 to 8192 pixels, got 31. Choose, for example, 224."),
        ({"height": 8193}, "height must be from 32 to 8192 pixels, got 8193. Choose, for example, 224."),
        ({"counts": ()}, "counts must name each number once, and at least one, got (). Correct them."),
        ({"counts": (2, 2)}, "counts must name each number once, and at least one, got (2, 2). Correct them."),
        ({"counts": (-2, 2)}, "counts must be 0 or more, got -2. Correct it."),
    ],
)
def test_wrong_settings_are_refused_and_leave_nothing(tmp_path, change, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        make_counting(tmp_path / "deep" / "data", **(SMALL | change))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize(("width", "height"), [(432, 288), (32, 32)])
@pytest.mark.parametrize("sizes", ["fixed", "various"])
def test_the_largest_count_that_fits_is_drawn_and_one_more_refused_with_it(width, height, sizes):
    most = find_largest_count(width, height, sizes)
    for image in draw_counting(np.full(5, most), width=width, height=height, sizes=sizes):
        assert count_discs(image, diagonals=True) == most
    limit = f"{most}, the most {sizes} discs that fit into {width}x{height} pixels"
    message = f"counts must be at most {limit}, got {most + 1}. Choose fewer discs or longer sides."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        draw_counting(np.array([1, most + 1]), width=width, height=height, sizes=sizes)


def test_counts_that_are_no_whole_numbers_are_refused():
    message = "counts must be a list of whole numbers, got float64 (2,). Correct it."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        draw_counting(np.array([1.0, 2.0]))


@pytest.mark.parametrize("name", ["data", "data.zip", "data.npz"])
def test_what_exists_is_kept_unless_overwritten(tmp_path, name):
    out = tmp_path / name
    make_counting(out, **SMALL)
    before = read_files(out)
    message = f"out must be a new path, got {out}, which exists. Choose another, or set overwrite."
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        make_counting(out, **SMALL, seed=1)
    assert read_files(out) == before
    make_counting(out, **SMALL, seed=1, overwrite=True)
    assert read_files(out) != before
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_overwriting_spares_what_is_no_counting_pictures(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    (tmp_path / "data.npz").mkdir()
    for out, message in (
        (tmp_path, f"out must hold counting pictures alone, got {tmp_path / 'data.npz'}. Choose another path to write to."),
        (tmp_path / "mine.txt", f"out must be of the asked kind to be overwritten, got {tmp_path / 'mine.txt'}. Choose another path."),
        (tmp_path / "data.npz", f"out must be of the asked kind to be overwritten, got {tmp_path / 'data.npz'}. Choose another path."),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
            make_counting(out, **SMALL, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def failing_meter(error):
    class Failing(SilentMeter):
        def __call__(self, count=1):
            raise error

    return Failing


@pytest.mark.parametrize("name", ["new/data", "new/data.zip", "new/data.npz"])
def test_ctrl_c_leaves_nothing_new_and_everything_old(tmp_path, name):
    with pytest.raises(KeyboardInterrupt):
        make_counting(tmp_path / name, **SMALL, meter=failing_meter(KeyboardInterrupt()))
    assert list(tmp_path.iterdir()) == []
    make_counting(tmp_path / name, **SMALL)
    before = read_files(tmp_path / name)
    with pytest.raises(KeyboardInterrupt):
        make_counting(tmp_path / name, **SMALL, seed=1, meter=failing_meter(KeyboardInterrupt()), overwrite=True)
    assert read_files(tmp_path / name) == before
    assert len(list((tmp_path / "new").iterdir())) == 1


@pytest.mark.long
@pytest.mark.parametrize("name", ["new/data", "new/data.zip", "new/data.npz"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, name):
    code = (
        "import resource, sys, pathlib; from clearsight.data.named.counting import make_counting; from clearsight.errors import ClearsightError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        "try: make_counting(pathlib.Path(sys.argv[1]), counts=(1, 2), per_class=9)\n"
        "except ClearsightError as error: print(error.exit_code, error)"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, str(tmp_path / name)], capture_output=True, text=True, check=True
    )
    words = "must be writable, got File too large. Free space or choose another."
    assert (done.stdout, done.stderr) == (f"1 {tmp_path / name} {words}\n", "")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "deep" / "data"
    message = f"{out} must be writable, got Not a directory. Free space or choose another."
    with pytest.raises(ClearsightError, match=f"^{re.escape(message)}$"):
        make_counting(out, **SMALL)


@pytest.mark.long
@pytest.mark.parametrize("name", ["data", "data.zip", "data.npz"])
def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path, name):
    tracemalloc.start()
    try:
        make_counting(tmp_path / name, counts=(1, 9), per_class=500, width=224, height=224)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40e6 < 1000 * 224 * 224 * 3


def test_the_meter_hears_of_every_picture(tmp_path):
    heard = []

    class Counting(SilentMeter):
        def __init__(self, label="", total=0, *, unit="pictures"):
            heard.append(-total)

        def __call__(self, count=1):
            heard.append(count)

    draw_counting(np.ones(200, int), meter=Counting)
    make_counting(tmp_path / "data.zip", **SMALL, test_per_class=1, meter=Counting)
    assert heard[0] == -200
    assert -15 in heard
    assert sum(heard) == 0


def test_a_folder_with_other_pictures_is_not_overwritten(tmp_path):
    mine = tmp_path / "mine" / "train" / "cat" / "photo.png"
    mine.parent.mkdir(parents=True)
    Image.new("L", (4, 4)).save(mine)
    with pytest.raises(UsageError, match=r"^out must hold counting pictures alone, got .*photo\.png\."):
        make_counting(tmp_path / "mine", counts=(1, 2), per_class=1, width=64, height=64, overwrite=True)
    assert mine.is_file()
