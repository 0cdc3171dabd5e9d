"""The cache of decoded pictures: never a wrong pixel, never in the way, never larger than it may be."""

import errno
import json
import mmap
import os
import re
import shutil
import sys
import time
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pytest
from PIL import Image
from processes import LIMIT_SECONDS

from clearsight.data.read import cache, folder
from clearsight.data.read.cache import cache_folder, cache_limit, clear_cache, list_entries, load_entry, save_entry
from clearsight.data.read.load import load_data
from clearsight.errors import UsageError


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CLEARSIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CLEARSIGHT_CACHE_BYTES", raising=False)


@pytest.fixture
def pictures_in(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(12):
        path = tmp_path / "d" / "ab"[k % 2] / f"{k:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 6)).astype(np.uint8)).save(path)
    return tmp_path / "d"


@pytest.fixture
def decodings(monkeypatch):
    """Names of the files that were decoded, as they come."""
    seen, decode = [], folder.decode_picture

    def spy(content, what, wanted, **options):
        seen.append(what)
        return decode(content, what, wanted, **options)

    monkeypatch.setattr(folder, "decode_picture", spy)
    return seen


def images_entries():
    return [entry for entry in list_entries() if (entry.path / "images.npy").is_file()]


def is_mapped(array):
    while isinstance(array, np.ndarray) and not isinstance(array, np.memmap):
        array = array.base
    return isinstance(array, np.memmap | mmap.mmap)


def same(a, b):
    return a.fingerprint == b.fingerprint and a.files == b.files and a.facts == b.facts and a.notes == b.notes


def test_the_second_load_decodes_nothing_and_is_the_same(pictures_in, decodings, monkeypatch):
    first = load_data(pictures_in)
    assert len(decodings) == 12
    monkeypatch.setattr(folder, "read_facts", None)
    monkeypatch.setattr(folder, "decode_picture", None)
    assert same(load_data(pictures_in), first)


def test_pictures_are_mapped_and_not_in_memory(pictures_in):
    for _ in range(2):
        found = load_data(pictures_in)
        assert is_mapped(found.images)
        assert not found.images.flags.writeable


def test_a_changed_file_is_decoded_anew(pictures_in, decodings):
    first = load_data(pictures_in)
    decodings.clear()
    path = pictures_in / "a" / "00.png"
    before = path.stat()
    Image.fromarray(np.full((8, 6), 7, np.uint8)).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as a careless copy would leave it
    second = load_data(pictures_in)
    assert len(decodings) == 12
    assert (second.images[0] == 7).all()
    assert (second.images[1:] == first.images[1:]).all()


@pytest.mark.parametrize("change", ["add", "remove", "rename"])
def test_another_set_of_files_is_another_entry(change, pictures_in, decodings):
    load_data(pictures_in)
    decodings.clear()
    path = pictures_in / "a" / "00.png"
    if change == "add":
        shutil.copy(path, pictures_in / "b" / "new.png")
    elif change == "remove":
        path.unlink()
    else:
        path.rename(pictures_in / "b" / "zz.png")
    found = load_data(pictures_in)
    assert len(found) == {"add": 13, "remove": 11, "rename": 12}[change] == len(decodings)


def damage(path, kind):
    images, facts = path / "images.npy", path / "facts.json"
    content = images.read_bytes()
    if kind in ("cut", "empty", "header", "junk", "type", "shape", "pickle"):
        whole = np.array(np.load(images))
        images.unlink()  # a file that is mapped must not change under its map
    if kind == "cut":
        images.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        images.write_bytes(b"")
    elif kind == "header":
        images.write_bytes(b"\x93NUMPY\1\0\xff\xff" + content[10:])
    elif kind == "junk":
        images.write_bytes(os.urandom(len(content)))
    elif kind == "gone":
        images.unlink()
    elif kind == "pickle":
        np.save(images, np.array([{}], object), allow_pickle=True)
    elif kind == "type":
        np.save(images, whole.astype(np.float32))
    elif kind == "shape":
        np.save(images, whole[1:])
    elif kind == "json":
        facts.write_text("{")
    elif kind == "list":
        facts.write_text("[]")
    elif kind == "nothing":
        facts.write_text("{}")
    elif kind == "no-facts":
        facts.unlink()
    elif kind == "null":
        facts.write_text("null")
    elif kind == "bytes":
        facts.write_bytes(b"\xff\xfe")
    else:
        found = json.loads(facts.read_text())
        del found[kind]
        facts.write_text(json.dumps(found))


DAMAGES = (
    "cut", "empty", "header", "junk", "gone", "pickle", "type", "shape", "json", "list", "nothing", "no-facts", "null", "bytes", "rows",
    "bad",
)  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_entry_is_decoded_anew_and_replaced(kind, pictures_in, decodings):
    first = load_data(pictures_in)
    damage(images_entries()[0].path, kind)
    decodings.clear()
    assert same(load_data(pictures_in), first)
    assert len(decodings) == 12
    decodings.clear()
    assert same(load_data(pictures_in), first)
    assert decodings == []


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"shape": null, "facts": [], "of": []}',
        '{"shape": null, "facts": [[1]], "of": [0], "bad": []}',
    ],
)
def test_damaged_headers_are_read_anew(content, pictures_in):
    first = load_data(pictures_in)
    entry = next(e for e in list_entries() if not (e.path / "images.npy").exists())
    (entry.path / "facts.json").write_text(content)
    assert same(load_data(pictures_in), first)


def test_rows_that_do_not_fit_the_pictures_are_damage(pictures_in):
    first = load_data(pictures_in)
    path = images_entries()[0].path / "facts.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rows": [0, 1, 99]}))
    assert same(load_data(pictures_in), first)


def test_the_entries_used_longest_ago_go_first(monkeypatch):
    images = np.zeros((1, 100, 100, 1), np.uint8)
    for k, key in enumerate("abc"):
        assert save_entry(key * 32, {}, images, source=key) == ""
        os.utime(cache_folder() / (key * 32), (1000 + k, 1000 + k))
    os.utime(cache_folder() / ("a" * 32), (5000, 5000))  # used again
    monkeypatch.setenv("CLEARSIGHT_CACHE_BYTES", "32000")
    assert save_entry("d" * 32, {}, images, source="d") == ""
    assert sorted(entry.source for entry in list_entries()) == ["a", "c", "d"]
    assert sum(entry.size_bytes for entry in list_entries()) <= 32000


def test_loading_counts_as_use():
    for k, key in enumerate("ab"):
        save_entry(key * 32, {}, np.zeros((1, 2, 2, 1), np.uint8), source=key)
        os.utime(cache_folder() / (key * 32), (1000 + k, 1000 + k))
    load_entry("a" * 32)
    assert [entry.source for entry in list_entries()] == ["b", "a"]


def test_the_cache_never_exceeds_its_bound(monkeypatch, pictures_in):
    monkeypatch.setenv("CLEARSIGHT_CACHE_BYTES", "9000")
    for side in (8, 9, 10, 11, 12):
        load_data(pictures_in, image_size=side)
        on_disk = sum(path.stat().st_size for path in cache_folder().rglob("*") if path.is_file())
        assert on_disk <= 9000
    assert len(list_entries()) > 1


def test_pictures_larger_than_the_bound_are_used_without_being_kept(monkeypatch, pictures_in, decodings):
    monkeypatch.setenv("CLEARSIGHT_CACHE_BYTES", "500")
    found = load_data(pictures_in)
    assert len(found) == 12
    assert found.notes[-1].startswith("decoded pictures are not kept for the next time: ")
    assert found.notes[-1].endswith("(set CLEARSIGHT_CACHE_BYTES)")
    load_data(pictures_in)
    assert len(decodings) == 24


def test_zero_bytes_turns_the_cache_off(monkeypatch, pictures_in, decodings):
    monkeypatch.setenv("CLEARSIGHT_CACHE_BYTES", "0")
    first = load_data(pictures_in)
    assert first.notes == ()
    assert same(load_data(pictures_in), first)
    assert len(decodings) == 24
    assert not cache_folder().exists()


@pytest.mark.parametrize("text", ["10GB", "-1", "1.5", "1e9", " ", "²"])
def test_a_bound_that_is_no_number_is_refused(text, monkeypatch, pictures_in):
    monkeypatch.setenv("CLEARSIGHT_CACHE_BYTES", text)
    message = f"CLEARSIGHT_CACHE_BYTES must be a whole number of 0 or more, got {text!r}. Use 0 for no cache."
    for call in (cache_limit, lambda: load_data(pictures_in)):
        with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
            call()


def test_the_place_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "cache" / "pictures"
    monkeypatch.delenv("CLEARSIGHT_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "clearsight" / "pictures"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "clearsight" / "pictures"


@pytest.mark.parametrize("number", [28, 30, 13])  # ENOSPC, EROFS, EACCES
@pytest.mark.parametrize("step", ["mkdtemp", "save", "fsync", "rename"])
def test_a_cache_that_cannot_be_written_is_a_note_and_no_more(step, number, monkeypatch, pictures_in):
    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    place = {
        "mkdtemp": (cache.tempfile, "mkdtemp"),
        "save": (np, "save"),
        "fsync": (os, "fsync"),
        "rename": (Path, "rename"),
    }[step]
    monkeypatch.setattr(*place, fail)
    found = load_data(pictures_in)
    assert len(found) == 12
    assert found.notes == (
        f"decoded pictures are not kept for the next time: {os.strerror(number)} at {cache_folder()}",
    )
    assert not list(cache_folder().glob(".pending-*"))


def test_a_cache_at_a_place_that_is_a_file_is_a_note(monkeypatch, pictures_in, tmp_path):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("CLEARSIGHT_CACHE", str(tmp_path / "file"))
    found = load_data(pictures_in)
    assert len(found) == 12
    assert found.notes[-1].startswith("decoded pictures are not kept for the next time: ")


def test_a_cache_that_can_be_read_alone_still_serves(monkeypatch, pictures_in, decodings):
    load_data(pictures_in)
    decodings.clear()

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "utime", refuse)
    load_data(pictures_in)
    assert decodings == []


@pytest.mark.long
def test_two_processes_at_once_read_the_same(pictures_in, processes):
    code = (
        "import sys; from clearsight.data.read.load import load_data; found = load_data(sys.argv[1]); "
        "print(found.fingerprint, found.notes, len(found))"
    )
    started = [
        processes.start([sys.executable, "-W", "error", "-c", code, pictures_in], stdout=PIPE, stderr=PIPE)
        for _ in range(4)
    ]  # fmt: skip
    answers = [process.communicate(timeout=LIMIT_SECONDS) for process in started]
    assert [process.returncode for process in started] == [0] * 4, answers
    assert len({out for out, _ in answers}) == 1
    assert answers[0][0].split()[0] == load_data(pictures_in).fingerprint
    assert len(images_entries()) == 1
    assert not list(cache_folder().glob(".pending-*"))


def test_another_process_that_was_faster_wins_without_a_note(pictures_in, monkeypatch):
    first = load_data(pictures_in)
    monkeypatch.setattr(folder, "load_entry", lambda key: None)  # as if it had come between look and save
    again = load_data(pictures_in)
    assert (again.notes, again.fingerprint) == ((), first.fingerprint)


def test_an_entry_that_comes_just_before_the_rename_is_no_failure(pictures_in, monkeypatch):
    rename = Path.rename

    def overtake(path, target):
        shutil.copytree(path, target)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", overtake)
    assert load_data(pictures_in).notes == ()


def test_an_entry_removed_while_it_is_mapped_can_be_read_to_the_end(pictures_in):
    load_data(pictures_in)
    found = load_data(pictures_in)
    before = found.images.copy()
    assert clear_cache()[0] == 2
    assert not cache_folder().exists()
    assert (found.images == before).all()
    assert same(load_data(pictures_in), found)


def test_an_entry_whose_file_is_cut_while_it_is_being_opened_is_decoded_anew(pictures_in, monkeypatch):
    first = load_data(pictures_in)
    real = np.load

    def vanish(path, *arguments, **options):
        shutil.rmtree(Path(path).parent)
        return real(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(np, "load", vanish)
        found = load_data(pictures_in)
    assert found.fingerprint == first.fingerprint


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(pictures_in):
    old, new = cache_folder() / ".pending-old", cache_folder() / ".pending-new"
    for path in (old, new):
        path.mkdir(parents=True)
        (path / "images.npy").write_bytes(bytes(1000))
    os.utime(old, (time.time() - 7200,) * 2)
    load_data(pictures_in)
    assert not old.exists()
    assert new.exists()
    assert len(list_entries()) == 2


@pytest.mark.parametrize(
    "words",
    [{"resize": "crop"}, {"resize": "pad"}, {"image_size": [8, 7]}, {"background": "black"}, {"channels": "rgb"}],
    ids=lambda words: next(iter(words)) + str(next(iter(words.values()))),
)
def test_another_request_is_another_entry(words, pictures_in, decodings):
    load_data(pictures_in, image_size=8)
    decodings.clear()
    found = load_data(pictures_in, **{"image_size": 8} | words)
    assert len(decodings) == 12
    assert found.images.shape[1:] == (8, 7 if "image_size" in words else 8, 3 if "channels" in words else 1)
    assert len(images_entries()) == 2


def test_bad_files_are_told_from_the_cache_as_from_the_files(pictures_in, decodings):
    (pictures_in / "a" / "bad.png").write_text("text")
    (pictures_in / "b" / "cut.png").write_bytes((pictures_in / "b" / "01.png").read_bytes()[:70])
    words = {"skip_bad": True}
    first, second = (load_data(pictures_in, **words) for _ in range(2))
    assert first.bad == second.bad
    assert {b.path for b in second.bad} == {"a/bad.png", "b/cut.png"}
    assert same(first, second)


def test_a_file_that_could_not_be_read_once_is_tried_again(pictures_in, monkeypatch):
    read = Path.read_bytes

    def refuse(path):
        if path.name == "00.png":
            raise OSError(5, "Input/output error")
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        assert len(load_data(pictures_in, skip_bad=True)) == 11
    assert len(load_data(pictures_in, skip_bad=True)) == 12


def test_clearing_says_how_much_and_nothing_is_nothing():
    assert clear_cache() == (0, 0)
    save_entry("a" * 32, {}, np.zeros((1, 10, 10, 1), np.uint8), source="s")
    count, size = clear_cache()
    assert count == 1
    assert size > 100
    assert list_entries() == []


def test_clearing_removes_what_is_the_caches_alone():
    own = cache_folder() / "holiday.jpg"
    save_entry("a" * 32, {}, np.zeros((1, 10, 10, 1), np.uint8), source="s")
    own.write_text("a picture of somebody who set CLEARSIGHT_CACHE to a folder in use")
    clear_cache()
    assert own.exists()
    assert [path.name for path in cache_folder().iterdir()] == ["holiday.jpg"]


def test_entries_that_cannot_be_read_count_and_go_too(monkeypatch):
    save_entry("a" * 32, {}, np.zeros((1, 100, 100, 1), np.uint8), source="s")
    (cache_folder() / ("a" * 32) / "facts.json").write_text("{")
    monkeypatch.setenv("CLEARSIGHT_CACHE_BYTES", "15000")
    assert save_entry("b" * 32, {}, np.zeros((1, 100, 100, 1), np.uint8), source="s") == ""
    assert not (cache_folder() / ("a" * 32)).exists()


def test_labels_are_never_taken_from_the_cache(pictures_in, decodings):
    load_data(pictures_in)
    table = "file_name,label\n" + "".join(f"{'ab'[k % 2]}/{k:02}.png,{'xyz'[k % 3]}\n" for k in range(12))
    (pictures_in / "metadata.csv").write_text(table)
    found = load_data(pictures_in)
    assert found.class_names == ("x", "y", "z")
    for k, name in enumerate(found.files):
        assert found.class_names[found.labels[k]] == "xyz"[int(name[2:4]) % 3]
        assert (found.images[k, ..., 0] == np.asarray(Image.open(pictures_in / name))).all()
