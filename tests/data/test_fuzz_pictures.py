"""A thousand damaged picture files: each is decoded or refused in one sentence, soon, in little memory, without a warning."""

import io
import random
import resource
import signal
import time
import warnings

import numpy as np
import pytest
from PIL import Image

from clearsight.data.read.folder import PictureRequest
from clearsight.data.read.load import read_data
from clearsight.data.read.pictures import PictureFormat, calm_decoder, decode_picture, read_facts
from clearsight.errors import DataError

COUNT = 1000
GUARD_SECONDS = 5
MEMORY_KB = 600 * 1024  # ru_maxrss is in kilobytes on Linux
WANTED = PictureFormat(8, 8, 3)


pytestmark = pytest.mark.usefixtures("own_cache")


def pack(picture, format_, **options):
    buffer = io.BytesIO()
    picture.save(buffer, format_, **options)
    return buffer.getvalue()


def build_seeds():
    rng = np.random.default_rng(1)
    smooth = np.add.outer(np.arange(24) * 5, np.arange(40) * 3).astype(np.uint8)
    colour = Image.fromarray(np.dstack([smooth, smooth[::-1], rng.integers(0, 256, (24, 40)).astype(np.uint8)]))
    grey, alpha = colour.convert("L"), colour.copy()
    alpha.putalpha(grey)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [grey.convert("P"), grey.rotate(90).convert("P"), grey.rotate(180).convert("P")]
    seeds = {
        "jpg": [
            pack(colour, "JPEG", exif=exif), pack(grey, "JPEG", quality=30), pack(colour, "JPEG", progressive=True),
            pack(colour.convert("CMYK"), "JPEG"), pack(colour, "MPO", save_all=True, append_images=[colour]),
        ],
        "png": [
            pack(colour, "PNG", exif=exif), pack(alpha, "PNG"), pack(colour.convert("P"), "PNG", transparency=3),
            pack(Image.fromarray(rng.integers(0, 65536, (24, 40)).astype(np.uint16)), "PNG"),
            pack(colour, "PNG", save_all=True, append_images=[alpha.convert("RGB")]), pack(grey.convert("1"), "PNG"),
        ],
        "gif": [pack(frames[0], "GIF"), pack(frames[0], "GIF", save_all=True, append_images=frames[1:])],
        "bmp": [pack(colour, "BMP"), pack(colour.convert("P"), "BMP"), pack(alpha, "BMP")],
        "webp": [
            pack(colour, "WEBP", exif=exif), pack(alpha, "WEBP", lossless=True),
            pack(colour, "WEBP", save_all=True, append_images=[alpha.convert("RGB")]),
        ],
        "tif": [
            pack(colour, "TIFF", exif=exif), pack(grey, "TIFF", compression="tiff_lzw"),
            pack(colour, "TIFF", compression="jpeg"), pack(grey.convert("F"), "TIFF"),
            pack(grey.convert("1"), "TIFF", compression="group4"),
            pack(colour, "TIFF", compression="tiff_adobe_deflate", save_all=True, append_images=[grey]),
        ],
        "ppm": [pack(colour, "PPM"), pack(grey, "PPM"), b"P2\n3 2\n255\n0 1 2 3 4 255\n", b"Pf\n2 1\n-1.0\n" + bytes(8)],
    }  # fmt: skip
    shares = {"jpg": 6, "png": 6, "gif": 4, "bmp": 3, "webp": 4, "tif": 4, "ppm": 2}
    return seeds, [ending for ending, share in shares.items() for _ in range(share)]


def mutate(content, rng):
    """A copy with one to four flaws."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(max(len(data), 1))
        kind = rng.choice(("flip", "flips", "cut", "insert", "repeat", "ones", "zeros", "head", "drop", "swap"))
        if kind == "flip":
            data[at : at + 1] = bytes([rng.randrange(256)])
        elif kind == "flips":
            for _ in range(20):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del data[max(at, 1) :]
        elif kind == "insert":
            data[at:at] = rng.randbytes(rng.choice((1, 4, 300)))
        elif kind == "repeat":
            data[at:at] = data[at : at + 64] * rng.choice((1, 50))
        elif kind in ("ones", "zeros"):
            data[at : at + 4] = (b"\xff" if kind == "ones" else b"\0") * 4
        elif kind == "head":
            start, size = rng.randrange(min(64, len(data))), rng.choice((1, 2, 4))
            data[start : start + size] = rng.choice((b"\xff", b"\x7f", b"\0")) * size
        elif kind == "drop":
            del data[at : at + rng.choice((1, 2, 40))]
        else:
            other = rng.randrange(len(data))
            data[at], data[other] = data[other], data[at]
        data = data or bytearray(b"\0")
    return bytes(data)


def build_files():
    seeds, endings = build_seeds()
    rng = random.Random(20240601)
    found = []
    for k in range(COUNT):
        ending = rng.choice(endings)
        found.append((f"{k:04}.{ending}", mutate(rng.choice(seeds[ending]), rng)))
    return found


@pytest.fixture(scope="module")
def files():
    return build_files()


def attempt(name, content):
    """Pixels, or the DataError; whatever else is raised leaves it."""
    try:
        read_facts(content, name, suffix=name[-4:])
        return decode_picture(content, name, WANTED)
    except DataError as error:
        return error


@pytest.fixture
def guard():
    def strike(signum, frame):
        raise TimeoutError(f"a file took over {GUARD_SECONDS} s")

    before = signal.signal(signal.SIGALRM, strike)
    yield lambda: signal.setitimer(signal.ITIMER_REAL, GUARD_SECONDS)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_seeds_decode():
    with calm_decoder():
        for ending, contents in build_seeds()[0].items():
            for content in contents:
                assert attempt(f"x.{ending}", content).shape == (8, 8, 3)


@pytest.mark.long
def test_each_is_decoded_or_refused_in_one_sentence(files, guard):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = {"good": 0, "bad": 0}
    with warnings.catch_warnings(record=True) as leaked, calm_decoder():
        for name, content in files:
            guard()
            found = attempt(name, content)
            if isinstance(found, DataError):
                text = str(found)
                assert text.startswith(f"{name} must "), text
                assert ", got " in text
                assert text.endswith(".")
                assert "\n" not in text
                assert len(text) < 400, text
                assert "<_io.BytesIO" not in text, text
            else:
                assert (found.shape, found.dtype) == ((8, 8, 3), np.uint8)
            counts["bad" if isinstance(found, DataError) else "good"] += 1
    assert leaked == []
    assert min(counts.values()) > 100, counts
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY_KB


def test_nothing_is_printed_by_the_decoders(files, capfd):
    with calm_decoder():
        for file in files:
            if not file[0].endswith(".tif"):  # libtiff writes its own complaints to standard error
                attempt(*file)
    assert capfd.readouterr() == ("", "")


def test_headers_and_pixels_do_not_depend_on_what_came_before(files):
    with calm_decoder():
        first = [attempt(*file) for file in files[:200]]
        again = [attempt(*file) for file in reversed(files[:200])][::-1]
    for a, b in zip(first, again, strict=True):
        assert str(a) == str(b) if isinstance(a, DataError) else (a == b).all()


@pytest.mark.long
def test_a_folder_of_them_counts_the_bad_ones_right(files, tmp_path, recwarn):
    for k, (name, content) in enumerate(files):
        (tmp_path / "ab"[k % 2]).mkdir(exist_ok=True)
        (tmp_path / "ab"[k % 2] / name).write_bytes(content)
    with calm_decoder():
        bad = {f"{'ab'[k % 2]}/{file[0]}" for k, file in enumerate(files) if isinstance(attempt(*file), DataError)}
    dataset = read_data(tmp_path, request=PictureRequest(WANTED, skip_bad=True))
    assert {b.path for b in dataset.bad} == bad
    assert len(dataset) == COUNT - len(bad) == len(dataset.files)
    assert f"{len(bad)} bad files were left out (`clearsight data check` lists them)" in dataset.notes
    assert list(recwarn) == []
    with pytest.raises(DataError, match=rf"got {len(bad)} bad files: .*; and {len(bad) - 20} more \(") as caught:
        read_data(tmp_path, request=PictureRequest(WANTED))
    assert "\n" not in str(caught.value)


if __name__ == "__main__":  # the slowest and the largest, for a person
    slowest, start = [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with calm_decoder():
        for name, content in build_files():
            began = time.perf_counter()
            result = attempt(name, content)
            slowest.append((time.perf_counter() - began, name, str(result)[:100].replace("\n", " ")))
    print(*sorted(slowest)[-5:], sep="\n")
    print(
        "bad",
        sum("must" in s[2] for s in slowest),
        "growth MB",
        (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024,
    )
