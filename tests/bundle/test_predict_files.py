"""Picture files for `predict`: every odd one gives exact pixels or one sentence, and fails only itself."""

import csv
import io
import json
import os
import re
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import run
from PIL import Image

import clearsight
from clearsight.bundle.bundle import read_picture
from clearsight.bundle.predict import predict_files
from clearsight.errors import DataError

GREYS = np.random.default_rng(1).integers(0, 256, (8, 8), dtype=np.uint8)
GREY, COLOUR = Image.fromarray(GREYS), Image.fromarray(np.stack([GREYS, GREYS.T, GREYS[::-1]], axis=2))
LUMA = np.asarray(COLOUR.convert("L"))
NONE = "{path} must be a picture (JPEG, PNG, GIF, BMP, WEBP, TIFF, PPM), got %s."
TEXT = NONE % "text. Remove it"
BROKEN = "{path} must be a whole picture, got damage (%s). Save it again."
PIXELS = "{path} must have at most 50 megapixels, got far more. Shrink it, or raise --max-megapixels."


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    out = tmp_path_factory.mktemp("model") / "run"
    return clearsight.train(images, np.arange(40) % 3, out=out, epochs=1, hidden=(4,))


def encode(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def one_colour_png(side):
    """A 1-bit PNG of `side` x `side`: the same hundred packed rows again and again, as to pack them all takes seconds."""
    packer, size = zlib.compressobj(9, zlib.DEFLATED, -15), side * (1 + side // 8)
    rows = packer.compress(bytes(100 * size // side)) + packer.flush(zlib.Z_FULL_FLUSH)
    check = struct.pack(">I", (size % 65521) << 16 | 1)  # what Adler-32 makes of so many zeros
    body = b"\x78\xda" + rows * (side // 100) + packer.flush() + check
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", body) + chunk(b"IEND", b"")


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
JPEG = encode(NOISE, "JPEG")


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"", NONE % "an empty file. Save it again"),
        ("a.png", b"hello, this is text\n" * 5, TEXT),
        ("a.svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', NONE % "an SVG. Export it as PNG"),
        ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", NONE % "an EPS. Export it as PNG"),
        ("a.pdf", b"%PDF-1.4\n", NONE % "a PDF. Export it as PNG"),
        ("a.png", one_colour_png(50_000), PIXELS),
        ("a.png", encode(GREY, "PNG")[:60], BROKEN % "image file is truncated"),
        ("a.tif", encode(Image.new("LAB", (8, 8)), "TIFF"), BROKEN % "conversion from LAB to RGB not supported"),
        (
            "a.tif",
            encode(Image.fromarray(np.full((8, 8), -5, np.int32)), "TIFF"),
            "{path} must have greys of 0 to 65535, got -5. Scale it, or pass a .npy array.",
        ),
        (
            "a.tif",
            encode(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"),
            "{path} must have greys of 0 to 255, got nan. Scale it, or pass a .npy array.",
        ),
    ],
)
def test_bad_pictures_are_refused_by_name(tmp_path, model, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"^{re.escape(message.format(path=path))}$"):
        read_picture(path, model.bundle.preprocess)


@pytest.mark.parametrize("percent", [10, 50, 99])
def test_a_cut_jpeg_is_refused(tmp_path, model, percent):
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG[: len(JPEG) * percent // 100])
    with pytest.raises(DataError, match=f"^{re.escape(str(path))} must be a whole picture, got damage"):
        read_picture(path, model.bundle.preprocess)


def test_what_is_no_file_is_refused(tmp_path, model):
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("none.png", "{path} must exist, got nothing there. Check the path."),
        ("none.npy", "{path} must exist, got nothing there. Check the path."),
        ("pipe", "{path} must be a file, got a pipe or device. Save its content to a file first."),
    ):
        path = tmp_path / name
        answers, problems = predict_files(model.bundle, [path])
        assert answers == [{"name": str(path), "error": message.format(path=path)}]
        assert [type(problem) for problem in problems] == [DataError]
    with pytest.raises(DataError, match=r" must be a file, got a folder\. Name the files in it\.$"):
        model.bundle.predict(tmp_path)


def half(picture):
    picture = picture.convert("RGBA")
    picture.putalpha(128)
    return picture


@pytest.mark.parametrize(
    ("picture", "kind", "expected"),
    [
        (GREY, "PNG", GREYS),
        (GREY.convert("P"), "PNG", GREYS),
        (Image.merge("LA", (GREY, Image.new("L", (8, 8), 255))), "PNG", GREYS),
        (Image.merge("LA", (GREY, Image.new("L", (8, 8), 0))), "PNG", GREYS * 0 + 255),
        (half(GREY), "PNG", np.round(GREYS * (128 / 255) + 127)),
        (COLOUR, "PNG", LUMA),
        (COLOUR.convert("CMYK"), "TIFF", LUMA),
        (Image.fromarray(GREYS > 127), "PNG", (GREYS > 127) * 255),
        (Image.fromarray(GREYS.astype(np.uint16) * 257), "PNG", GREYS),
        (Image.fromarray(GREYS.astype(np.int32) * 257), "TIFF", GREYS),
        (Image.fromarray(GREYS.astype(np.float32)), "TIFF", GREYS),
        (GREY, "BMP", GREYS),
        (GREY, "PPM", GREYS),
    ],
    ids=["L", "P", "LA", "LA clear", "RGBA", "RGB", "CMYK", "1", "I;16", "I", "F", "BMP", "PGM"],
)
def test_every_mode_gives_its_exact_greys(tmp_path, model, picture, kind, expected):
    path = tmp_path / "a.jpg"  # the name does not matter: content decides
    path.write_bytes(encode(picture, kind))
    found = read_picture(path, model.bundle.preprocess)
    assert (found.dtype, found.shape) == (np.dtype(np.uint8), (8, 8, 1))
    assert np.abs(found[..., 0].astype(int) - expected).max() <= (1 if picture.mode == "RGBA" else 0)


@pytest.mark.parametrize("picture", [GREY, GREY.convert("P")], ids=["L", "P"])
def test_a_transparent_colour_becomes_white(tmp_path, model, picture):
    clear = int(np.asarray(picture)[0, 0])
    path = tmp_path / "a.png"
    path.write_bytes(encode(picture, "PNG", transparency=clear))
    found = read_picture(path, model.bundle.preprocess)[..., 0]
    assert (found == np.where(np.asarray(picture) == clear, 255, GREYS)).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_pixels_upright(tmp_path, model, kind, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / "a"
    path.write_bytes(encode(GREY, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {})))
    upright = {
        1: GREYS, 2: GREYS[:, ::-1], 3: np.rot90(GREYS, 2), 4: GREYS[::-1],
        5: GREYS.T, 6: np.rot90(GREYS, -1), 7: np.rot90(GREYS, 2).T, 8: np.rot90(GREYS, 1),
    }[orientation]  # fmt: skip
    assert (read_picture(path, model.bundle.preprocess)[..., 0] == upright).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1)])
def test_thin_pictures_are_squashed_to_size(tmp_path, model, size):
    path = tmp_path / "a.png"
    path.write_bytes(encode(Image.new("L", size, 77), "PNG"))
    assert (read_picture(path, model.bundle.preprocess) == 77).all()


def test_the_first_frame_of_a_gif_counts(tmp_path, model):
    path = tmp_path / "a.gif"
    path.write_bytes(encode(GREY, "GIF", save_all=True, append_images=[Image.new("L", (8, 8), k) for k in range(50)]))
    assert (read_picture(path, model.bundle.preprocess)[..., 0] == GREYS).all()


def test_broken_exif_data_does_not_matter(tmp_path, model):
    path = tmp_path / "a.png"
    path.write_bytes(encode(GREY, "PNG", exif=b"Exif\0\0MM\0*junkjunkjunk"))
    assert (read_picture(path, model.bundle.preprocess)[..., 0] == GREYS).all()


def header_of(shape):
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


BYTES = "{path} must hold as many bytes as its shape %s of uint8 needs, got %d. Save it again."
SHAPES = "images in {path} must have shape (n, height, width), (n, height, width, channels) or (n, features), got ()."
SIZE = "pictures in {path} must be 8x8 with 1 channels, as in training, got 4x4x1. Resize them."
MAGIC = (
    "{path} must be a plain .npy array, got damage (EOF: reading magic string, expected 8 bytes got 5). Save it again."
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header_of((2**40, 8, 8)) + bytes(64), BYTES % ("(1099511627776, 8, 8)", 64)),
        (header_of((1, 8, 8)) + bytes(65), BYTES % ("(1, 8, 8)", 65)),
        (header_of((4, 4, 4)) + bytes(64), SIZE),
        (header_of((0, 8, 8)), "images in {path} must hold at least one row, got shape (0, 8, 8). Check the source."),
        (header_of(()) + b"x", SHAPES + " Reshape it."),
        (b"\x80\x04K\x01.", MAGIC),
    ],
    ids=["lies", "long", "other size", "no rows", "scalar", "pickle"],
)
def test_bad_arrays_are_refused_by_name(tmp_path, model, content, message):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    answers, problems = predict_files(model.bundle, [path])
    assert [answer["error"] for answer in answers] == [message.format(path=path)]
    assert [str(problem) for problem in problems] == [message.format(path=path)]


class Canary:
    def __reduce__(self):
        return os.mkdir, ("canary",)


def test_an_object_array_is_refused_and_never_run(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.npy"
    np.save(path, np.array([Canary()], object), allow_pickle=True)
    message = f"{path} must be a plain array, got Python objects, which could run code. Save it as uint8 or float32."
    assert predict_files(model.bundle, [path])[0] == [{"name": str(path), "error": message}]
    assert not (tmp_path / "canary").exists()


def test_one_picture_with_or_without_batch_axis_is_the_same(tmp_path, model):
    answers = []
    for number, shape in enumerate([(8, 8), (1, 8, 8), (8, 8, 1), (1, 8, 8, 1), (64,), (1, 64)]):
        np.save(tmp_path / f"{number}.npy", GREYS.reshape(shape))
        answers += predict_files(model.bundle, [tmp_path / f"{number}.npy"])[0]
    assert len({json.dumps(answer["probabilities"]) for answer in answers}) == 1


@pytest.mark.long
def test_the_command_fails_only_the_bad_picture_and_ends_with_3(tmp_path, model):
    (tmp_path / "a.png").write_bytes(encode(GREY, "PNG"))
    (tmp_path / "b.png").write_bytes(b"text")
    done = run("predict", model.path, "a.png", "b.png", "a.png", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (3, f"error: {TEXT.format(path='b.png')}\n")
    first, second, third = json.loads(done.stdout)["predictions"]
    assert set(second) == {"name", "error"}
    assert first == third
    assert sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_an_odd_file_is_answered_with_a_note(tmp_path, model):
    frames = [GREY.convert("P"), GREY.rotate(90).convert("P")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "b.jpg").write_bytes(encode(GREY, "PNG"))
    (tmp_path / "c.png").write_bytes(encode(GREY, "PNG"))
    answers, problems = predict_files(model.bundle, [tmp_path / name for name in ("a.gif", "b.jpg", "c.png")])
    assert not problems
    assert answers[0]["notes"] == ["has several frames; only the first is used"]
    assert answers[1]["notes"] == ["is a PNG file named .jpg"]
    assert "notes" not in answers[2]


@pytest.fixture
def photos(tmp_path):
    """Five pictures in two folders, a broken one among them, and the same as a zip and a tar."""
    place = tmp_path / "photos"
    for k, name in enumerate(("b/one.png", "a/two.png", "a/three.PNG", "four.png")):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(GREYS, k)).save(place / name)
    (place / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for kind in ("zip", "tar"):
        shutil.make_archive(str(tmp_path / "photos"), kind, place)
    return place


def test_folders_archives_and_patterns_give_what_their_files_give(model, photos, tmp_path):
    names = ["a/broken.png", "a/three.PNG", "a/two.png", "b/one.png", "four.png"]
    alone = {name: predict_files(model.bundle, [photos / name])[0][0] for name in names}
    for place in (photos, tmp_path / "photos.zip", tmp_path / "photos.tar"):
        answers, problems = predict_files(model.bundle, [place])
        assert {answer["name"] for answer in answers} == {f"{place}/{name}" for name in names}
        assert len(problems) == 1
        for answer in answers:
            expected = alone[answer["name"].removeprefix(f"{place}/")]
            assert answer.get("label") == expected.get("label")
            assert ("error" in answer) == ("error" in expected)
            assert answer.get("probabilities") == pytest.approx(expected.get("probabilities"), abs=1e-6)
    answers, problems = predict_files(model.bundle, [photos / "*" / "[to]*.png"])
    assert [answer["name"] for answer in answers] == [f"{photos}/a/two.png", f"{photos}/b/one.png"]
    assert not problems


def test_many_pictures_are_answered_in_the_order_of_their_names(model, tmp_path):
    pictures = np.random.default_rng(2).integers(0, 256, (300, 8, 8), dtype=np.uint8)
    for k, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{k:03}.png")
    (tmp_path / "200.png").write_bytes(b"")
    answers, problems = predict_files(model.bundle, [tmp_path])
    assert [answer["name"] for answer in answers] == [f"{tmp_path}/{k:03}.png" for k in range(300)]
    assert ["error" in answer for answer in answers] == [k == 200 for k in range(300)]
    assert len(problems) == 1
    shares = [list(answer["probabilities"].values()) for answer in answers if "error" not in answer]
    np.testing.assert_allclose(shares, model.bundle.predict_proba(np.delete(pictures, 200, axis=0)), atol=1e-6)


def test_an_empty_folder_and_a_pattern_without_a_file_are_named(model, tmp_path):
    (tmp_path / "empty").mkdir()
    answers, _ = predict_files(model.bundle, [tmp_path / "empty", tmp_path / "*.jpg"])
    assert [answer["error"] for answer in answers] == [
        f"{tmp_path}/empty must hold pictures, got none. Check the path.",
        f"{tmp_path}/*.jpg must exist, got nothing there. Check the path.",
    ]


def test_paths_and_pillow_pictures_are_predicted_as_arrays_are(model, photos):
    path = photos / "b" / "one.png"
    picture = Image.open(path)
    expected = model.bundle.predict_proba(GREYS[None])
    for given in (path, str(path), picture, [str(path), picture.convert("RGBA")], GREYS[None]):
        shares = model.bundle.predict_proba(given)
        assert shares.shape == (2 if isinstance(given, list) else 1, 3)
        np.testing.assert_allclose(shares, np.repeat(expected, len(shares), axis=0), atol=1e-6)
    assert list(model.bundle.predict(str(path))) == list(model.bundle.predict(GREYS[None]))
    with pytest.raises(DataError, match=r"nothing\.png must exist, got nothing there"):
        model.bundle.predict(str(path.with_name("nothing.png")))


def test_a_home_is_found_also_where_no_shell_names_it(model, photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos))
    (found,), problems = predict_files(model.bundle, [Path("~/four.png")])
    assert not problems
    (same,), _ = predict_files(model.bundle, [photos / "four.png"])
    assert found["label"] == same["label"]


def test_answers_are_written_as_a_table(model, photos, tmp_path, call, capsys):
    table = tmp_path / "new" / "answers.csv"
    for _ in range(2):  # an earlier table is replaced
        assert call("predict", model.path, photos, "--out", table, "--abstain-below", "1", "--quiet") == 3
        assert capsys.readouterr().out == f"{table}\n"
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["name"] for row in rows] == [
        f"{photos}/{name}" for name in ("a/broken.png", "a/three.PNG", "a/two.png", "b/one.png", "four.png")
    ]
    assert [bool(row["error"]) for row in rows] == [True, False, False, False, False]
    names = model.bundle.class_names
    expected = model.bundle.predict_proba(photos / "four.png")[0]
    assert [float(rows[4][f"share of {name}"]) for name in names] == pytest.approx(expected, abs=1e-6)
    assert float(rows[4]["confidence"]) == pytest.approx(expected.max(), abs=1e-6)
    assert rows[4]["answer"] == ""  # it abstained
    (tmp_path / "mine.csv").write_text("name,score\n")
    assert call("predict", model.path, photos, "--out", tmp_path / "mine.csv") == 2
    assert "--out must name a new CSV or one of predictions, got " in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert call("predict", model.path, photos / "four.png", "--out", tmp_path / "file" / "x.csv") == 1
    assert "must be writable, got: " in capsys.readouterr().err


def test_dark_pictures_are_answered_whatever_lies_beside_them(tmp_path):
    """Of a model of values 0..16: as numbers, these would pass for values within 0..1."""
    bundle = clearsight.train("digits", epochs=1, hidden=(4,), out=tmp_path / "run").bundle
    (tmp_path / "dark").mkdir()
    for k in range(5):
        Image.fromarray(GREYS % 5 + k).save(tmp_path / "dark" / f"{k}.png")
    paths = sorted((tmp_path / "dark").iterdir())
    answers, problems = predict_files(bundle, [tmp_path / "dark"])
    assert not problems
    assert [answer["label"] for answer in answers] == [predict_files(bundle, [path])[0][0]["label"] for path in paths]
    assert [answer["label"] for answer in answers] == list(bundle.predict(paths))
    with pytest.raises(DataError, match=r"must have values in 0\.\.16, as in training"):
        bundle.predict(bundle.read_pictures(paths))


def test_an_array_in_other_units_is_one_error_by_the_name_of_its_file(model, tmp_path):
    np.save(tmp_path / "small.npy", (GREYS[None].repeat(3, 0) / 255).astype(np.float32))
    answers, problems = predict_files(model.bundle, [tmp_path / "small.npy"])
    assert [answer["name"] for answer in answers] == [str(tmp_path / "small.npy")]
    assert len(problems) == 1


def test_links_out_of_a_folder_are_told_and_hidden_files_left_out(model, photos, tmp_path):
    place = tmp_path / "more"
    (place / ".ipynb_checkpoints").mkdir(parents=True)
    Image.fromarray(GREYS).save(place / "one.png")
    Image.fromarray(GREYS).save(place / ".ipynb_checkpoints" / "one.png")
    Image.fromarray(GREYS).save(place / "._one.png")
    (place / "away").symlink_to(photos)
    answers, problems = predict_files(model.bundle, [place])
    text = f"{place}/away must be a file in {place}, got a link to elsewhere. Name what it leads to."
    assert [answer["name"] for answer in answers] == [f"{place}/away", f"{place}/one.png"]
    assert [str(problem) for problem in problems] == [text]


def test_a_folder_of_hidden_files_holds_no_pictures(model, tmp_path):
    (tmp_path / "d" / ".cache").mkdir(parents=True)
    Image.fromarray(GREYS).save(tmp_path / "d" / ".cache" / "one.png")
    answers, _ = predict_files(model.bundle, [tmp_path / "d"])
    assert [answer["error"] for answer in answers] == [f"{tmp_path}/d must hold pictures, got none. Check the path."]


def test_a_pattern_of_folders_takes_each_file_once(model, photos):
    for pattern in ("**", "*", "."):
        names = [answer["name"] for answer in predict_files(model.bundle, [photos / pattern])[0]]
        assert len(names) == len(set(names)) == 5, pattern


def test_a_table_may_lie_in_the_folder_that_it_is_about(model, photos, call):
    (photos / "a" / "broken.png").unlink()
    for _ in range(2):
        assert call("predict", model.path, photos, "--out", photos / "answers.csv", "--quiet") == 0
    assert len((photos / "answers.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize("place", ["/dev/null", "pipe", "folder", "dangling"])
def test_a_table_replaces_no_device_folder_or_link(model, photos, tmp_path, place, call, capsys):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    assert call("predict", model.path, photos, "--out", tmp_path / place) == 2
    assert "--out must name a new CSV or one of predictions, got " in capsys.readouterr().err


def test_a_picture_without_pixels_is_refused(model):
    with pytest.raises(DataError, match=r"the picture must have pixels, got 0x0\. Save it again\."):
        model.bundle.predict(Image.new("L", (0, 0)))
