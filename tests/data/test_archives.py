"""Links, names, archives and tables that lie or are damaged are refused by name; --skip-bad goes on without them."""

import json
import os
import re
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import run
from picture_trees import PAIR, bad_of, make, many, pack_tar, pack_zip, refuse
from PIL import Image

import clearsight
from clearsight.config.resolve import resolve_config
from clearsight.data.read.load import load_data
from clearsight.errors import DataError
from clearsight.pipeline.data import find_flaws, load_dataset

pytestmark = pytest.mark.usefixtures("own_cache")


# links, names, permissions


@pytest.mark.parametrize("follow", [False, True])
def test_broken_links_are_bad_files(follow, tmp_path):
    root = make(tmp_path / "d", *PAIR)
    (root / "a" / "gone.png").symlink_to("nowhere.png")
    (root / "a" / "self.png").symlink_to("self.png")
    found = bad_of(root, follow_links=follow)
    assert found.pop("a/self.png").startswith("must be a file, got a broken link (")
    assert found == {"a/gone.png": "must be a file, got a broken link (No such file or directory)"}


def test_links_within_the_folder_and_to_the_folder_are_followed(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    (root / "a" / "again.png").symlink_to("../b/1.png")
    (tmp_path / "link").symlink_to(root)
    found = load_data(tmp_path / "link")
    assert set(found.files) == {*PAIR, "a/again.png"}
    assert (found.images[found.files.index("a/again.png")] == found.images[found.files.index("b/1.png")]).all()


def test_a_pipe_is_a_bad_file(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    os.mkfifo(root / "a" / "pipe.png")
    assert bad_of(root) == {"a/pipe.png": "must be a file, got a pipe or device"}


def test_names_not_in_utf8_are_bad_files(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    place = os.fsencode(root) + b"/a/\xff\xfe.png"
    shutil.copy(root / "a" / "1.png", place)
    assert bad_of(root) == {"a/\\udcff\\udcfe.png": "must have a name in UTF-8, got other bytes"}


def test_a_class_named_not_in_utf8_is_a_bad_file_and_no_class(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    os.mkdir(os.fsencode(root) + b"/\xff")  # noqa: PTH102
    shutil.copy(root / "a" / "1.png", os.fsencode(root) + b"/\xff/1.png")
    assert bad_of(root) == {"\\udcff/1.png": "must have a name in UTF-8, got other bytes"}
    os.unlink(os.fsencode(root) + b"/\xff/1.png")  # noqa: PTH108
    assert bad_of(root) == {"\\udcff": "must have a name in UTF-8, got other bytes"}  # empty, it is told too


ODD = ("<script>alert(1)<", "line\nbreak", "\N{PILE OF POO}", "'; drop table", 'q"uote', "a" * 200, " spaced ", "-rf")


def test_odd_names_are_taken_as_they_are(tmp_path):
    root = make(tmp_path / "d", *(f"{name}/{name}.png" for name in ODD))
    found = load_data(root)
    assert found.class_names == tuple(sorted(ODD))
    assert set(found.files) == {f"{name}/{name}.png" for name in ODD}


@pytest.mark.long
@pytest.mark.report
def test_odd_names_do_no_harm_in_the_report_and_on_the_terminal(tmp_path):
    root = make(tmp_path / "d", *many("<script>alert(1)<", "line\nbreak\x1b[31m"))
    done = run("train", root, "--epochs", "1", "--hidden", "2", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "<script>alert" not in (tmp_path / "run" / "report.html").read_text()


def test_a_file_without_permission_is_a_bad_file(tmp_path, monkeypatch):
    root = make(tmp_path / "d", *PAIR)
    read = Path.read_bytes

    def refuse_one(path):
        if path.name == "1.png" and path.parent.name == "a":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse_one)
    assert bad_of(root) == {"a/1.png": "a/1.png must be readable, got Permission denied. Check its permissions."}


# archives that lie or are damaged


def zip_with(path, root, *extra):
    """A zip of good pictures, and `extra` (ZipInfo or name, content)."""
    pack_zip(root, path)
    with zipfile.ZipFile(path, "a") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *a, **k: None)
        for info, content in extra:
            file.writestr(info, content)
    return path


@pytest.mark.parametrize(
    "name", ["../x.png", "/x.png", "a/../../x.png", "\\x.png", "..\\x.png", "C:\\x.png", "a/\\..\\..\\x.png"]
)
def test_names_that_leave_a_zip_are_bad_files(name, tmp_path):
    root = make(tmp_path / "d", *PAIR)
    found = bad_of(zip_with(tmp_path / "d.zip", root, (name, (root / "a/1.png").read_bytes())))
    assert found == {name: "must have a path inside the archive, got one that leaves it"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "d.zip"]


def test_links_encrypted_files_and_names_that_come_twice_in_a_zip_are_bad_files(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    link, png = zipfile.ZipInfo("a/link.png"), (root / "a/1.png").read_bytes()
    link.external_attr = 0o120777 << 16
    path = zip_with(tmp_path / "d.zip", root, (link, "/etc/passwd"), ("a/secret.png", png), ("a/1.png", png))
    content = bytearray(path.read_bytes())
    at = content.rfind(b"a/secret.png")
    content[at - 46 + 8] |= 1
    path.write_bytes(content)
    assert bad_of(path) == {
        "a/link.png": "must be a file, got a link", "a/1.png": "must be in the zip once, got it twice",
        "a/secret.png": "must not be encrypted, got a file with a password",
    }  # fmt: skip


def test_names_that_leave_a_tar_links_and_twice_the_same_are_bad_files(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    path = pack_tar(root, tmp_path / "d.tar")
    with tarfile.open(path, "a") as file:
        for name in ("../x.png", "/abs.png", "a/1.png"):
            info = tarfile.TarInfo(name)
            info.size = 0
            file.addfile(info)
        for name, kind in (
            ("a/link.png", tarfile.SYMTYPE),
            ("a/hard.png", tarfile.LNKTYPE),
            ("a/pipe", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            file.addfile(info)
    leaves, link = "must have a path inside the archive, got one that leaves it", "must be a file, got a link or device"
    assert bad_of(path) == {
        "../x.png": leaves, "/abs.png": leaves, "a/1.png": "must be in the tar once, got it twice",
        "a/link.png": link, "a/hard.png": link, "a/pipe": link,
    }  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
@pytest.mark.parametrize("percent", [1, 30, 60, 95])
def test_archives_cut_short_are_refused(suffix, percent, tmp_path):
    root = make(tmp_path / "d", *many("a", "b", n=40))
    path = (pack_zip if suffix == ".zip" else pack_tar)(root, tmp_path / f"d{suffix}")
    content = path.read_bytes()
    end = len(content.rstrip(b"\0")) if suffix == ".tar" else len(content)  # zeros alone can be missed
    path.write_bytes(content[: end * percent // 100])
    with pytest.raises(
        DataError, match=r"^.*/d\.[a-z0-9.]+ must be a whole (zip|tar), got damage \(.+\)\. Get it again\.$"
    ):
        load_data(path)


@pytest.mark.long
@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
@pytest.mark.parametrize("seed", range(8))
def test_archives_with_flipped_bytes_are_refused_or_their_bad_files_told(suffix, seed, tmp_path):
    root = make(tmp_path / "d", *many("a", "b", n=10))
    whole = set(load_data(root).files)
    path = (pack_zip if suffix == ".zip" else pack_tar)(root, tmp_path / f"d{suffix}")
    content, rng = bytearray(path.read_bytes()), np.random.default_rng(seed)
    for at in rng.integers(0, len(content), 12):
        content[at] ^= 0xFF
    path.write_bytes(content)
    try:
        found = load_data(path, skip_bad=True)
    except DataError as error:
        assert "\n" not in str(error)
        return
    told = sum(int(re.match(r"\d+", note)[0]) for note in found.notes if re.match(r"\d+ .* left out", note))
    assert len(found) + max(len(found.bad), told) >= len(whole) - 12
    assert len(found) + len(found.bad) + told >= len(whole)


def test_a_tar_with_a_damaged_header_in_the_middle_does_not_end_there_in_silence(tmp_path):
    root = make(tmp_path / "d", *many("a", "b"))
    path = pack_tar(root, tmp_path / "d.tar")
    content = bytearray(path.read_bytes())
    at = content.index(b"./b/03.png")
    content[at + 148] ^= 0xFF  # its checksum
    path.write_bytes(content)
    refuse_damage = pytest.raises(
        DataError, match=r"^.*/d\.tar must be a whole tar, got damage \(.+\)\. Get it again\.$"
    )
    with refuse_damage:
        load_data(path)


def test_a_tar_cut_between_two_files_is_refused(tmp_path):
    root = make(tmp_path / "d", *many("a", "b"))
    path = pack_tar(root, tmp_path / "d.tar")
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"./b/03.png")])
    with pytest.raises(DataError, match=r"^.*/d\.tar must be a whole tar, got damage \(.+\)\. Get it again\.$"):
        load_data(path)


@pytest.mark.long
@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_compressed_tar_damaged_in_the_middle_is_refused_whole(suffix, share, tmp_path):
    root = make(tmp_path / "d", *many("a", "b", n=20))
    for k, place in enumerate(sorted(root.rglob("*.png"))):
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (60, 60)).astype(np.uint8)).save(place)
    path = pack_tar(root, tmp_path / f"d{suffix}")
    content = bytearray(path.read_bytes())
    at = int(len(content) * share)
    content[at : at + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"^[^\n]*/d\.tar\.[a-z0-9]+ must be a whole tar, got damage \([^\n]+\)\. Get it again\.$"
    ):
        load_data(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_file_of_a_zip_is_a_bad_file(method, tmp_path):
    root = make(tmp_path / "d", *PAIR)
    path = tmp_path / "d.zip"
    with zipfile.ZipFile(path, "w", method) as file:
        for name in PAIR:
            file.write(root / name, name)
        info = file.getinfo("a/2.png")
    content = bytearray(path.read_bytes())
    start = info.header_offset + 30 + len("a/2.png")
    content[start + 12 : start + 60] = b"\xff" * 48
    path.write_bytes(content)
    assert list(bad_of(path)) == ["a/2.png"]


def test_a_zip_that_claims_two_million_files_is_refused(tmp_path):
    path = tmp_path / "d.zip"
    large = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 2_000_000, 2_000_000, 92_000_000, 0)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
    path.write_bytes(
        b"PK\3\4"
        + bytes(30)
        + large
        + locator
        + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    )
    refuse(path, "{root} must hold at most 1,000,000 files, got 2,000,000 or more. Split it.")


def test_a_member_that_claims_300_mb_is_a_bad_file(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    path = pack_zip(root, tmp_path / "d.zip")
    content = bytearray(path.read_bytes())
    at = content.rfind(b"a/2.png") - 46
    content[at + 24 : at + 28] = struct.pack("<I", 300 * 2**20)
    path.write_bytes(content)
    assert bad_of(path) == {"a/2.png": "a/2.png must be at most 256 MB, got 300 MB. Shrink it."}


def test_a_member_that_swells_beyond_its_claim_is_a_bad_file(tmp_path):
    root = make(tmp_path / "d", *PAIR)
    path = tmp_path / "d.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in PAIR:
            file.write(root / name, name)
        file.writestr("a/bomb.png", bytes(50 * 2**20))
    content = bytearray(path.read_bytes())
    at = content.rfind(b"a/bomb.png") - 46
    content[at + 24 : at + 28] = struct.pack("<I", 1000)
    path.write_bytes(content)
    assert list(bad_of(path)) == ["a/bomb.png"]


@pytest.mark.parametrize("name", ["d.zip", "d.tar", "d.tar.gz"])
@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\0" * 2000, b"PK\3\4", b"PK\5\6" + bytes(18), b"\x1f\x8b\x08\0"], ids=repr
)
def test_what_is_no_archive_is_refused(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_data(path)
    assert re.fullmatch(r"[^\n]* must [^\n]*, got [^\n]*\.", str(caught.value))


# going on without bad files


def spoil(tmp_path):
    root = make(tmp_path / "d", *many("a", "b"), text={"a/bad1.png": "text", "b/bad2.png": b""})
    (root / "b" / "bad3.png").write_bytes((root / "b" / "00.png").read_bytes()[:60])
    return root


@pytest.mark.long
def test_bad_files_are_all_listed_with_exit_code_3_and_no_run(tmp_path):
    root = spoil(tmp_path)
    done = run("train", root, "--out", tmp_path / "run")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert done.stderr.startswith(f"error: {root} must hold pictures that can be read, got 3 bad files: ")
    for name, reason in (("a/bad1.png", "got text"), ("b/bad2.png", "got an empty file"), ("b/bad3.png", "got damage")):
        assert re.search(rf"{name}: must [^;]*{reason}", done.stderr)
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_skip_bad_goes_on_and_the_run_records_how_many(tmp_path):
    root = spoil(tmp_path)
    done = run("train", root, "--skip-bad", "--epochs", "1", "--hidden", "2", "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note: 3 bad files were left out" in done.stderr
    record = json.dumps([json.loads((tmp_path / "run" / name).read_text()) for name in ("run.json", "metrics.json")])
    assert "3 bad files" in record or '"bad": 3' in record or '"bad_files": 3' in record, record[:600]


def test_a_folder_of_bad_files_alone_is_refused(tmp_path):
    root = make(tmp_path / "d", text={"a/1.png": "x", "b/1.png": "y"})
    refuse(root, "{root} must hold pictures that can be read, got none of 2. Check the files.", skip_bad=True)


def test_the_configuration_brings_skip_bad_to_the_reader(tmp_path):
    config = resolve_config(None, {"source": str(spoil(tmp_path)), "skip_bad": True})
    dataset = load_dataset(config)
    assert len(dataset.bad) == 3
    assert [f.kind for f in find_flaws(config, dataset) if f.level == "error"] == []


@pytest.mark.long
@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_a_run_on_an_archive_is_evaluated_and_resumed_like_one_on_a_folder(suffix, tmp_path):
    root = make(tmp_path / "d", *many("a", "b", n=30))
    packed = (pack_zip if suffix == ".zip" else pack_tar)(root, tmp_path / f"d{suffix}")
    first = clearsight.train(root, out=tmp_path / "one", epochs=2, hidden=(4,))
    second = clearsight.train(packed, out=tmp_path / "two", epochs=2, hidden=(4,))
    assert (first.bundle.params == second.bundle.params).all()
    assert clearsight.evaluate(tmp_path / "two").as_dict() == clearsight.evaluate(tmp_path / "one").as_dict()


def test_a_tar_with_the_same_names_sizes_and_times_is_not_taken_for_another(tmp_path):
    found = []
    for level in (10, 200):
        root = tmp_path / str(level)
        for name in ("a", "b"):
            (root / name).mkdir(parents=True)
            Image.new("L", (8, 8), level).save(root / name / "1.bmp")
        path = pack_tar(root, tmp_path / f"{level}.tar")
        os.utime(path, (1, 1))
        found.append(int(load_data(path).images[0, 0, 0, 0]))
    assert found == [10, 200]
