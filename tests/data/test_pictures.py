"""Picture files become exact pixels, whatever their mode, format or orientation; what is no picture is refused at once."""

import io
import re
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

import clearsight
from clearsight.bundle.predict import predict_files
from clearsight.config.build import build_config
from clearsight.data.read import pictures
from clearsight.data.read.load import build_request, load_data, parse_background
from clearsight.data.read.pictures import PictureFormat, calm_decoder, decode_picture, read_facts, resize_images
from clearsight.errors import DataError, UsageError
from clearsight.pipeline.data import load_dataset

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (4, 6)).astype(np.uint8)
COLOUR = RNG.integers(0, 256, (4, 6, 3)).astype(np.uint8)
ALPHA = np.tile(np.array([0, 255, 128], np.uint8), (4, 2))
HOLES = np.tile(np.array([0, 255], np.uint8), (4, 3))  # transparent or not, nothing between
WHITE, BLACK, OTHER = (255, 255, 255), (0, 0, 0), (16, 32, 200)


pytestmark = pytest.mark.usefixtures("own_cache")


def pack(picture, format_="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, format_, **options)
    return buffer.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour, rows, *extra, late=()):
    """A PNG by hand: `rows` are its raw scanlines without filter bytes, `extra` chunks go before the pixels, `late` after."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", body) + b"".join(late) + chunk(b"IEND", b"")


def decode(content, *, what="p.png", **wanted):
    with calm_decoder():
        return decode_picture(content, what, PictureFormat(**wanted))


def facts(content, suffix=""):
    with calm_decoder():
        return read_facts(content, "p.png", suffix=suffix)


def grey3(array):
    return np.repeat(np.asarray(array, np.uint8)[..., None], 3, axis=2)


def over(colour, alpha, background):
    share = alpha[..., None] / 255
    return np.rint(colour * share + np.array(background) * (1 - share)).astype(np.uint8)


def palette_picture():
    picture = Image.fromarray(GREY % 8)
    picture.putpalette(COLOUR.reshape(-1)[:24].tolist())
    return picture, COLOUR.reshape(-1, 3)[:8][GREY % 8]


# exact pixels of every mode


def test_one_bit_pixels_are_black_and_white():
    content = pack(Image.fromarray(GREY > 99))
    assert Image.open(io.BytesIO(content)).mode == "1"
    assert (decode(content, channels=1)[..., 0] == (GREY > 99) * 255).all()


@pytest.mark.parametrize("format_", ["PNG", "BMP", "TIFF", "PPM"])
def test_grey_pixels_stay_as_they_are(format_):
    content = pack(Image.fromarray(GREY), format_)
    assert (decode(content, channels=1)[..., 0] == GREY).all()
    assert (decode(content) == grey3(GREY)).all()
    assert facts(content).is_grey


@pytest.mark.parametrize("format_", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_coloured_pixels_stay_as_they_are(format_):
    content = pack(Image.fromarray(COLOUR), format_, **({"lossless": True} if format_ == "WEBP" else {}))
    assert (decode(content) == COLOUR).all()
    assert not facts(content).is_grey


def test_grey_of_colour_is_the_weighted_mean_of_itu_601():
    mean = (COLOUR @ np.array([0.299, 0.587, 0.114])).round()
    assert np.abs(decode(pack(Image.fromarray(COLOUR)), channels=1)[..., 0] - mean).max() <= 1


@pytest.mark.parametrize("background", [WHITE, BLACK, OTHER])
def test_transparency_is_laid_on_the_background(background):
    coloured = np.dstack([COLOUR, ALPHA])
    found = decode(pack(Image.fromarray(coloured)), background=background).astype(int)
    assert np.abs(found - over(COLOUR, ALPHA, background)).max() <= 1
    assert (found[ALPHA == 0] == background).all()
    assert (found[ALPHA == 255] == COLOUR[ALPHA == 255]).all()


@pytest.mark.parametrize("background", [WHITE, BLACK, OTHER])
def test_grey_with_transparency_is_laid_on_the_background(background):
    content = pack(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)]))
    assert Image.open(io.BytesIO(content)).mode == "LA"
    assert np.abs(decode(content, background=background).astype(int) - over(grey3(GREY), ALPHA, background)).max() <= 1


def test_palettes_are_looked_up():
    picture, expected = palette_picture()
    assert picture.mode == "P"
    for format_ in ("PNG", "GIF", "BMP", "TIFF"):
        assert (decode(pack(picture, format_)) == expected).all(), format_


@pytest.mark.parametrize("background", [WHITE, OTHER])
def test_palettes_with_transparency_are_laid_on_the_background(background):
    picture, expected = palette_picture()
    levels = bytes([0, 255, 128, 255, 255, 255, 255, 0])
    alpha = np.frombuffer(levels, np.uint8)[GREY % 8]
    found = decode(pack(picture, transparency=levels), background=background).astype(int)
    assert np.abs(found - over(expected, alpha, background)).max() <= 1
    one = decode(pack(picture, "GIF", transparency=3), background=background)
    assert (one == np.where((GREY % 8 == 3)[..., None], np.uint8(background), expected)).all()


def test_a_palette_with_an_alpha_channel_is_laid_on_the_background():
    picture, expected = palette_picture()
    both = picture.convert("PA")
    both.putalpha(Image.fromarray(HOLES))
    content = pack(both, "TIFF")
    assert Image.open(io.BytesIO(content)).mode == "PA"
    assert (decode(content, background=OTHER) == over(expected, HOLES, OTHER)).all()


def test_cmyk_becomes_rgb():
    inks = RNG.integers(0, 256, (4, 6, 4)).astype(np.uint8)
    expected = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255
    found = decode(pack(Image.merge("CMYK", [Image.fromarray(inks[..., k]) for k in range(4)]), "TIFF"))
    assert np.abs(found - expected).max() <= 1


def test_cmyk_of_jpeg_becomes_rgb():
    picture = Image.merge("CMYK", [Image.new("L", (16, 16), value) for value in (0, 128, 255, 0)])
    found = decode(pack(picture, "JPEG", quality=95)).reshape(-1, 3).astype(int)
    assert np.abs(found - (255, 127, 0)).max() <= 3


def test_sixteen_bits_are_rounded_to_eight():
    greys = np.array([[0, 1, 128, 129, 257, 32767, 32768, 65278, 65406, 65407, 65534, 65535]], np.uint16)
    expected = np.rint(greys / 257)
    for format_ in ("PNG", "TIFF"):
        content = pack(Image.fromarray(greys), format_)
        assert Image.open(io.BytesIO(content)).mode.startswith("I;16")
        assert (decode(content, channels=1)[0, :, 0] == expected[0]).all(), format_
    assert facts(content).is_grey


def test_sixteen_bit_greys_of_ppm_and_of_32_bit_tiff_are_scaled_alike():
    greys = np.array([[0, 257, 32896, 65535]], np.uint16)
    text = b"P5 4 1 65535\n" + greys.astype(">u2").tobytes()
    wide = pack(Image.fromarray(greys.astype(np.int32)), "TIFF")
    for content in (text, wide):
        assert decode(content, channels=1)[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("value", [-1, 65536])
def test_greys_beyond_sixteen_bits_are_refused(value):
    content = pack(Image.fromarray(np.array([[0, value]], np.int32)), "TIFF")
    message = f"p.png must have greys of 0 to 65535, got {value}. Scale it, or pass a .npy array."
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        decode(content)


def test_float_greys_of_0_to_255_are_rounded():
    content = pack(Image.fromarray(np.array([[0, 0.4, 0.6, 254.6, 255]], np.float32)), "TIFF")
    assert Image.open(io.BytesIO(content)).mode == "F"
    assert decode(content, channels=1)[0, :, 0].tolist() == [0, 0, 1, 255, 255]


@pytest.mark.parametrize(
    ("greys", "message"),
    [
        ([0, 0.5, 1], "p.png must have greys of 0 to 255, got 0 to 1. Multiply them by 255."),
        ([0, 256], "p.png must have greys of 0 to 255, got 256.0. Scale it, or pass a .npy array."),
        ([-0.5, 9], "p.png must have greys of 0 to 255, got -0.5. Scale it, or pass a .npy array."),
        ([np.nan, 9], "p.png must have greys of 0 to 255, got nan. Scale it, or pass a .npy array."),
        ([np.inf, 9], "p.png must have greys of 0 to 255, got inf. Scale it, or pass a .npy array."),
    ],
)
def test_float_greys_of_another_range_are_refused(greys, message):
    content = pack(Image.fromarray(np.array([greys], np.float32)), "TIFF")
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        decode(content)


def test_a_transparent_grey_of_png_is_laid_on_the_background():
    rows = [row.tobytes() for row in GREY]
    content = png(6, 4, 8, 0, rows, chunk(b"tRNS", struct.pack(">H", int(GREY[1, 2]))))
    expected = np.where((GREY[1, 2] == GREY)[..., None], np.uint8(OTHER), grey3(GREY))
    assert (decode(content, background=OTHER) == expected).all()


def test_a_transparent_colour_of_png_is_laid_on_the_background():
    rows = [row.tobytes() for row in COLOUR]
    content = png(6, 4, 8, 2, rows, chunk(b"tRNS", struct.pack(">HHH", *COLOUR[1, 2].tolist())))
    expected = COLOUR.copy()
    expected[(COLOUR[1, 2] == COLOUR).all(axis=2)] = OTHER
    assert (decode(content, background=OTHER) == expected).all()


def test_a_transparent_grey_of_a_sixteen_bit_png_is_laid_on_the_background():
    greys = np.array([[0, 1000, 65535]], ">u2")
    content = png(3, 1, 16, 0, [greys.tobytes()], chunk(b"tRNS", struct.pack(">H", 1000)))
    assert decode(content, background=BLACK, channels=1)[0, :, 0].tolist() == [0, 0, 255]
    assert decode(content, background=WHITE, channels=1)[0, :, 0].tolist() == [0, 255, 255]


def test_a_transparent_colour_of_a_sixteen_bit_png_is_laid_on_the_background():
    pixels = np.array([[(0, 0, 0), (1000, 2000, 60000), (65535, 65535, 65535)]], ">u2")
    content = png(3, 1, 16, 2, [pixels.tobytes()], chunk(b"tRNS", struct.pack(">HHH", 1000, 2000, 60000)))
    assert decode(content, background=OTHER)[0].tolist() == [[0, 0, 0], list(OTHER), [255, 255, 255]]


def test_backgrounds_are_words_or_hexadecimal():
    assert [parse_background(t) for t in ("white", "black", "#1020c8")] == [WHITE, BLACK, OTHER]
    with pytest.raises(
        UsageError, match=r"^background must be white, black, grey or #rrggbb, got '#12'\. For example #ffffff\.$"
    ):
        parse_background("#12")


# orientation


def turned(pixels, orientation):
    """The stored pixels that `orientation` (EXIF, 2.3, tag 0x0112) turns upright into `pixels`."""
    inverse = {
        1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1), 6: lambda p: np.rot90(p, 1), 7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
        8: lambda p: np.rot90(p, -1),
    }  # fmt: skip
    return np.ascontiguousarray(inverse[orientation](pixels))


def oriented(pixels, orientation, format_):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(format_, {})
    return pack(Image.fromarray(turned(pixels, orientation)), format_, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF"])
def test_every_orientation_is_turned_upright_to_the_pixel(format_, orientation):
    content = oriented(COLOUR, orientation, format_)
    assert (decode(content) == COLOUR).all()
    assert (facts(content).height, facts(content).width) == (4, 6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_a_jpeg_is_turned_upright(orientation):
    smooth = np.add.outer(np.arange(32) * 4, np.arange(48) * 2)[..., None].repeat(3, axis=2).astype(np.uint8)
    content = oriented(smooth, orientation, "JPEG")
    stored = np.asarray(Image.open(io.BytesIO(content)))
    assert (turned(decode(content), orientation) == stored).all()
    assert np.abs(decode(content).astype(int) - smooth).max() <= 3
    assert (facts(content).height, facts(content).width) == (32, 48)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_orientation_comes_before_resizing(resize, orientation):
    big = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    wanted = {"height": 5, "width": 9, "resize": resize}
    assert (decode(oriented(big, orientation, "PNG"), **wanted) == decode(pack(Image.fromarray(big)), **wanted)).all()


@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_after_the_pixels_of_a_png_counts_in_pixels_and_in_facts(orientation):
    stored = turned(COLOUR, orientation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    late = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    content = png(stored.shape[1], stored.shape[0], 8, 2, [row.tobytes() for row in stored], late=[late])
    found = decode(content)
    assert (facts(content).height, facts(content).width) == found.shape[:2]
    assert found.shape == COLOUR.shape
    assert (found == COLOUR).all()


def test_orientation_in_xmp_counts_in_pixels_and_in_facts_alike():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    content = png(6, 4, 8, 2, [row.tobytes() for row in COLOUR], text)
    assert (facts(content).height, facts(content).width) == decode(content).shape[:2]


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_none(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (decode(pack(Image.fromarray(COLOUR), exif=exif)) == COLOUR).all()


def test_damaged_exif_data_is_no_matter():
    for junk in (b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff", b"junk" * 50):
        content = pack(Image.fromarray(COLOUR), exif=junk)
        assert (decode(content) == COLOUR).all(), junk
        assert facts(content).height == 4


# resizing


def test_squash_stretches_both_sides():
    halves = np.zeros((10, 40), np.uint8)
    halves[:, 20:] = 200
    found = decode(pack(Image.fromarray(halves)), height=8, width=8, channels=1)[..., 0]
    assert (found[:, :3] == 0).all()
    assert (found[:, 5:] == 200).all()
    assert (found == found[:1]).all()


@pytest.mark.parametrize("tall", [False, True])
def test_crop_takes_the_middle(tall):
    thirds = np.repeat(np.array([[10, 100, 250]], np.uint8), 20, axis=1).repeat(20, axis=0)
    picture = Image.fromarray(thirds.T if tall else thirds)
    found = decode(pack(picture), height=8, width=8, channels=1, resize="crop")[..., 0]
    found = found.T if tall else found
    assert (found[:, 1:-1] == 100).all()  # the filter takes a little of the neighbours into the outermost columns
    assert (found[:, 0] < 100).all()
    assert (found[:, -1] > 100).all()


def test_crop_of_the_right_proportions_is_squash():
    big = Image.fromarray(RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8))
    found = [decode(pack(big), height=8, width=12, resize=how) for how in ("squash", "crop", "pad")]
    assert (found[0] == found[1]).all()
    assert (found[0] == found[2]).all()


@pytest.mark.parametrize("tall", [False, True])
@pytest.mark.parametrize("background", [WHITE, BLACK, OTHER])
def test_pad_keeps_the_whole_picture_between_borders_of_the_background(tall, background):
    wide = np.full((10, 40, 3), 77, np.uint8)
    content = pack(Image.fromarray(wide.swapaxes(0, 1) if tall else wide))
    found = decode(content, height=16, width=16, resize="pad", background=background)
    found = found.swapaxes(0, 1) if tall else found
    assert (found[6:10] == 77).all()
    assert (found[:6] == background).all()
    assert (found[10:] == background).all()


def test_pad_of_grey_has_the_grey_of_the_background():
    content = pack(Image.fromarray(np.full((4, 16), 9, np.uint8)))
    found = decode(content, height=8, width=8, channels=1, resize="pad", background=OTHER)[..., 0]
    assert (found[0] == round(16 * 0.299 + 32 * 0.587 + 200 * 0.114)).all()
    assert (found[4] == 9).all()


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (2, 3)])
def test_extreme_proportions_resize_without_harm(resize, size):
    content = pack(Image.new("RGB", size, (10, 20, 30)))
    found = decode(content, height=7, width=5, resize=resize, background=BLACK)
    assert found.shape == (7, 5, 3)
    shown = found.reshape(-1, 3)[found.reshape(-1, 3).any(axis=1)]
    assert (shown == (10, 20, 30)).all()
    assert len(shown) == 35 if resize != "pad" else len(shown) >= 5


def test_without_a_size_pictures_stay_as_large_as_they_are():
    assert decode(pack(Image.new("L", (1, 300)))).shape == (300, 1, 3)


def test_a_jpeg_decoded_at_a_fraction_is_close_to_the_whole():
    picture = Image.effect_mandelbrot((2000, 1500), (-2, -1.2, 1, 1.2), 60).convert("RGB")
    ImageDraw.Draw(picture).ellipse((300, 200, 1500, 1300), (200, 40, 90))
    content = pack(picture, "JPEG", quality=92)
    whole = Image.open(io.BytesIO(content)).convert("RGB")
    for resize, box in (("squash", None), ("crop", (250, 0, 1750, 1500))):
        expected = np.asarray(whole.resize((64, 64), Image.Resampling.BILINEAR, box=box)).astype(int)
        off = np.abs(decode(content, height=64, width=64, resize=resize) - expected)
        assert off.mean() < 1.5
        assert np.quantile(off, 0.99) <= 16


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_decoded_at_a_fraction_keeps_both_sides_of_an_oblong(orientation):
    stripes = (np.arange(1600) // 50 % 2 * 255).astype(np.uint8)[None].repeat(200, axis=0)
    content = oriented(stripes[..., None].repeat(3, axis=2), orientation, "JPEG")
    expected = np.asarray(Image.fromarray(stripes).resize((160, 20), Image.Resampling.BILINEAR)).astype(int)
    found = decode(content, height=20, width=160, channels=1)[..., 0]
    assert np.abs(found - expected).mean() < 6


# what is no picture, or only half of one


def refuse(content, message, **wanted):
    for call in (lambda: decode(content, **wanted), lambda: facts(content)):
        with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
            call()


KINDS = "p.png must be a picture (JPEG, PNG, GIF, BMP, WEBP, TIFF, PPM), got "


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"", "an empty file. Save it again."),
        (b"hello there\n", "text. Remove it."),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG. Export it as PNG."),
        (b"<?xml version='1.0'?>\n<svg/>", "an SVG. Export it as PNG."),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "an EPS. Export it as PNG."),
        (b"%PDF-1.7\n%\xe2\xe3\n", "a PDF. Export it as PNG."),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 99, "an HEIC, AVIF or video file. Export it as JPEG."),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif" + b"\0" * 99, "an HEIC, AVIF or video file. Export it as JPEG."),
        (bytes(range(256)), "something else. Convert it."),
        (b"\x00", "something else. Convert it."),
        ("\N{GREEK SMALL LETTER PI} r\N{SUPERSCRIPT TWO} is text, too".encode(), "text. Remove it."),
    ],
    ids=["empty", "text", "svg", "xml", "eps", "pdf", "heic", "avif", "bytes", "null", "utf8"],
)
def test_what_is_no_picture_is_refused_and_named(content, got):
    refuse(content, KINDS + got)


def test_a_binary_eps_is_named():
    refuse(
        b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, 100) + b"\0" * 20 + b"%!PS-Adobe-3.0 EPSF-3.0\n",
        KINDS + "an EPS. Export it as PNG.",
    )


@pytest.mark.parametrize("format_", ["JPEG", "PNG"])
@pytest.mark.parametrize("percent", [10, 50, 99])
def test_a_picture_cut_short_is_refused(format_, percent):
    content = pack(Image.fromarray(RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8)), format_)
    with pytest.raises(DataError, match=r"^p\.png must be a .*, got .*\. [A-Z][a-z ]+\.$"):
        decode(content[: len(content) * percent // 100])


@pytest.mark.long
def test_a_huge_picture_of_one_colour_is_refused_fast():
    packer = zlib.compressobj(9)
    block = b"".join(packer.compress(bytes(50_001)) for _ in range(2000)) + packer.flush()
    content = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", block)
    )
    assert len(content) < 10**6
    began = time.process_time()
    with pytest.raises(
        DataError, match=r"^p\.png must have at most 50 megapixels, got .*\. Shrink it, or raise --max-megapixels\.$"
    ):
        decode(content, height=8, width=8)
    with pytest.raises(
        DataError, match=r"^p\.png must have at most 50 megapixels, got .*\. Shrink it, or raise --max-megapixels\.$"
    ):
        facts(content)
    assert time.process_time() - began < 5  # decoding it would take a minute


def test_a_large_picture_below_pillows_bound_is_refused_with_its_size():
    content = png(10_000, 6_000, 8, 0, [])
    refuse(content, "p.png must have at most 50 megapixels, got 60 (10000x6000). Shrink it, or raise --max-megapixels.")


@pytest.mark.long
@pytest.mark.parametrize(
    ("size", "bound"), [((10_000, 6_000), 60), ((20_000, 10_000), 200)]
)  # Pillow's own bound is 179
def test_larger_pictures_are_read_if_allowed_and_only_as_far(size, bound):
    content, usual = pack(Image.new("L", size, 50), "JPEG"), Image.MAX_IMAGE_PIXELS
    with calm_decoder():
        read_facts(content, "p", max_pixels=bound * 10**6)
        assert decode_picture(content, "p", PictureFormat(2, 2, 1), max_pixels=bound * 10**6).max() == 50
        with pytest.raises(
            DataError, match=r"^p must have at most .* megapixels, got .*\. Shrink it, or raise --max-megapixels\.$"
        ):
            decode_picture(content, "p", PictureFormat(2, 2, 1), max_pixels=bound * 10**6 - 1)
    assert usual == Image.MAX_IMAGE_PIXELS  # the guard of the process is as before
    assert not pictures._large.locked()


@pytest.mark.long
def test_large_pictures_are_decoded_one_at_a_time(monkeypatch):
    content, busy, most, lock = pack(Image.new("L", (10_000, 6_000)), "JPEG"), [0], [0], threading.Lock()
    load = pictures.fit_picture

    def watch(*arguments):
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        found = load(*arguments)
        with lock:
            busy[0] -= 1
        return found

    monkeypatch.setattr(pictures, "fit_picture", watch)
    with calm_decoder(), ThreadPoolExecutor(4) as pool:
        sizes = [pool.submit(decode_picture, content, "p", PictureFormat(2, 2, 1), max_pixels=10**8) for _ in range(8)]
        assert {one.result().shape for one in sizes} == {(2, 2, 1)}
    assert most == [1]


@pytest.mark.long
def test_a_photograph_too_large_is_read_by_every_step_that_allows_it(tmp_path, call, capsys):
    for label, grey in (("a", 10), ("b", 200)):
        (tmp_path / "d" / label).mkdir(parents=True)
        for k in range(6):
            Image.fromarray((RNG.integers(0, 40, (8, 8)) + grey).astype(np.uint8)).save(
                tmp_path / "d" / label / f"{k}.png"
            )
    Image.new("L", (9_000, 6_000), 90).save(tmp_path / "d" / "a" / "large.jpg")
    train = ("train", tmp_path / "d", "--out", tmp_path / "run", "--hidden", "2", "--epochs", "1", "--image-size", "8")
    assert call(*train) == 3
    assert "got 54 (9000x6000). Shrink it, or raise --max-megapixels" in capsys.readouterr().err
    assert call(*train, "--max-megapixels", "54") == 0
    assert call("evaluate", tmp_path / "run", "--split", "train") == 0
    assert call("evaluate", tmp_path / "run", tmp_path / "d", "--split", "all") == 0
    assert call("predict", tmp_path / "run", tmp_path / "d" / "a" / "large.jpg") == 0
    (tmp_path / "alone.clearsight").write_bytes((tmp_path / "run" / "model.clearsight").read_bytes())
    assert call("predict", tmp_path / "alone.clearsight", tmp_path / "d" / "a" / "large.jpg") == 3
    assert (
        call("predict", tmp_path / "alone.clearsight", tmp_path / "d" / "a" / "large.jpg", "--max-megapixels", "54")
        == 0
    )


def test_a_picture_of_another_format_than_its_name_says_is_taken_with_a_note():
    content = pack(Image.fromarray(COLOUR))
    assert facts(content, ".jpg").notes == ("is a PNG file named .jpg",)
    assert facts(content, ".PNG").notes == ()
    assert facts(pack(Image.fromarray(COLOUR), "JPEG"), ".JPEG").notes == ()
    assert (decode(content, what="p.jpg") == COLOUR).all()


def test_the_first_of_two_hundred_frames_is_taken_with_a_note():
    frames = [Image.fromarray(np.full((8, 8), k, np.uint8)) for k in range(200)]
    content = pack(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(content)).n_frames == 200
    assert (decode(content) == 0).all()
    assert facts(content, ".gif").notes == ("has several frames; only the first is used",)


def test_the_first_page_of_a_tiff_and_the_first_picture_of_an_mpo_are_taken():
    first, second = Image.new("RGB", (16, 16), (200, 0, 0)), Image.new("RGB", (16, 16), (0, 0, 200))
    for format_, suffix in (("TIFF", ".tif"), ("MPO", ".jpg"), ("WEBP", ".webp")):
        content = pack(first, format_, save_all=True, append_images=[second])
        assert (decode(content)[..., 0] > 190).all(), format_
        assert (decode(content, height=4, width=4)[..., 0] > 190).all(), format_
        assert facts(content, suffix).notes == ("has several frames; only the first is used",), format_


@pytest.mark.long
def test_no_warning_leaves_the_decoder():
    content = pack(Image.fromarray(COLOUR), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with calm_decoder():
        assert read_facts(content, "p").height == 4
        assert decode_picture(pack(Image.new("L", (9500, 5200))), "p", PictureFormat(2, 2, 1)).shape == (2, 2, 1)


# the same pixels in training, prediction and evaluation


def every_kind(rng):
    """One file of each mode and of each format and orientation, all 6x4 upright, by name."""

    def grey():
        return rng.integers(0, 256, (4, 6)).astype(np.uint8)

    def colour():
        return rng.integers(0, 256, (4, 6, 3)).astype(np.uint8)

    palette = Image.fromarray(grey() % 8)
    palette.putpalette(colour().reshape(-1)[:24].tolist())
    both = palette.convert("PA")
    both.putalpha(Image.fromarray(grey()))
    found = {
        "one.png": pack(Image.fromarray(grey() > 99)), "l.png": pack(Image.fromarray(grey())),
        "la.png": pack(Image.merge("LA", [Image.fromarray(grey()), Image.fromarray(grey())])),
        "p.gif": pack(palette, "GIF"), "pt.png": pack(palette, transparency=bytes([0, 128, 255, 9])),
        "pa.tif": pack(both, "TIFF"), "rgb.bmp": pack(Image.fromarray(colour()), "BMP"),
        "rgba.webp": pack(Image.fromarray(np.dstack([colour(), grey()])), "WEBP", lossless=True),
        "cmyk.tif": pack(Image.fromarray(colour()).convert("CMYK"), "TIFF"),
        "i16.png": pack(Image.fromarray(rng.integers(0, 65536, (4, 6)).astype(np.uint16))),
        "i.tif": pack(Image.fromarray(rng.integers(0, 65536, (4, 6)).astype(np.int32)), "TIFF"),
        "f.tif": pack(Image.fromarray(rng.uniform(0, 255, (4, 6)).astype(np.float32)), "TIFF"),
        "x.ppm": pack(Image.fromarray(colour()), "PPM"),
    }  # fmt: skip
    for format_, ending in (("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tif"), ("JPEG", "jpg")):
        found |= {f"o{k}.{ending}": oriented(colour(), k, format_) for k in range(1, 9)}
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("kinds"), np.random.default_rng(3)
    for label in ("a", "b"):
        (root / label).mkdir()
        for name, content in every_kind(rng).items():
            (root / label / name).write_bytes(content)
    return root


@pytest.mark.long
@pytest.mark.parametrize(
    "settings",
    [
        {}, {"image_size": [5, 3]}, {"image_size": 8, "resize": "crop", "background": "black"},
        {"image_size": 8, "resize": "pad", "background": "#1020c8"},
        {"image_size": 8, "channels": "grey", "resize": "pad"}, {"image_size": 2, "channels": "rgb"},
    ],
    ids=["as-they-are", "squash", "crop", "pad", "grey", "tiny"],
)  # fmt: skip
def test_training_prediction_and_evaluation_see_the_same_pixels(folder, tmp_path, settings):
    run = clearsight.train(folder, out=tmp_path / "run", epochs=1, hidden=(4,), check=False, **settings)
    bundle = clearsight.load(tmp_path / "run")
    dataset = load_dataset(run.config)
    assert len(dataset) == 2 * (13 + 32)
    paths = [folder / name for name in dataset.files]
    assert (bundle.read_pictures(paths) == dataset.images).all()
    trained = bundle.predict_proba(dataset.images)
    answers, problems = predict_files(bundle, paths)
    assert not problems
    assert (np.array([list(a["probabilities"].values()) for a in answers], np.float32) == trained).all()
    for split, evaluation in run.evaluations().items():
        again = clearsight.evaluate(tmp_path / "run", folder, split=split)
        assert replace(again, calibration=None).as_dict() == replace(evaluation, calibration=None).as_dict()


@pytest.mark.long
def test_another_folder_is_evaluated_in_the_size_of_the_model(folder, tmp_path):
    clearsight.train(folder, out=tmp_path / "run", epochs=1, hidden=(4,), check=False, image_size=[5, 3], resize="pad")
    bundle = clearsight.load(tmp_path / "run")
    other = tmp_path / "other"
    for label, name in (("a", "o6.jpg"), ("a", "cmyk.tif"), ("b", "la.png")):
        (other / label).mkdir(parents=True, exist_ok=True)
        (other / label / name).write_bytes((folder / label / name).read_bytes())
    found = clearsight.evaluate(tmp_path / "run", other)
    proba = bundle.predict_proba(bundle.read_pictures([other / "a/cmyk.tif", other / "a/o6.jpg", other / "b/la.png"]))
    assert (found.n, found.split) == (3, "all")
    assert found.loss == pytest.approx(-np.log(proba[[0, 1, 2], [0, 0, 1]]).mean(), rel=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"image_size": 0}, "image_size must be one or two whole numbers of 2 to 4096, got 0. For example 64."),
        ({"image_size": [3, 4, 5]}, "image_size must be one or two whole numbers of 2 to 4096, got [3, 4, 5]. For example 64."),
        ({"max_megapixels": 0}, "max_megapixels must lie above 0 and up to 1000, got 0. For example 108."),
        ({"max_megapixels": 1001}, "max_megapixels must lie above 0 and up to 1000, got 1001. For example 108."),
        ({"resize": "stretch"}, "resize must be one of squash, crop, pad, got 'stretch'. Choose one of them."),
        ({"channels": "two"}, "channels must be one of auto, grey, rgb, got 'two'. Choose one of them."),
    ],
)  # fmt: skip
def test_wrong_words_are_refused(words, message):
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        build_request(**words)


def test_arrays_are_resized_as_files_are(tmp_path):
    images = RNG.integers(0, 256, (12, 9, 7)).astype(np.uint8)
    labels = np.arange(12) % 2
    words = {"image_size": [5, 6], "resize": "pad", "background": "black"}
    for k in range(12):
        (tmp_path / str(labels[k])).mkdir(exist_ok=True)
        (tmp_path / str(labels[k]) / f"{k:02}.png").write_bytes(pack(Image.fromarray(images[k])))
    from_files = load_data(tmp_path, **words)
    from_arrays = load_data(images, labels, **words)
    order = np.argsort(labels, kind="stable")
    assert (from_files.images == from_arrays.images[order]).all()
    assert build_config({}).preprocess.resize == "squash"


@pytest.mark.parametrize(
    ("dtype", "value_range", "background", "level"),
    [
        (np.float32, (0.0, 65535.0), "white", 65535),
        (np.float32, (0.0, 1.0), "grey", 128 / 255),
        (np.float32, (-1.0, 1.0), "black", -1),
    ],
)
def test_the_border_of_padded_arrays_is_the_background_in_their_range(dtype, value_range, background, level):
    wanted = PictureFormat(8, 4, 1, "pad", parse_background(background))
    framed = resize_images(np.full((1, 4, 4, 1), level / 2, dtype), wanted, value_range)
    assert framed[0, 0, 0, 0] == pytest.approx(level)
    assert framed[0, 4, 2, 0] == pytest.approx(level / 2)
