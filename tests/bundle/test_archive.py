"""The two parts of a model file by themselves: every limit from both sides, without a network."""

import errno
import io
import json
import re
import stat
import struct
import zipfile

import numpy as np
import pytest

from clearsight.bundle import archive
from clearsight.bundle.archive import (
    DESCRIPTION,
    TENSORS,
    pack_tensors,
    pack_zip,
    parse_json,
    parse_tensors,
    read_members,
)
from clearsight.errors import ModelFileError

PARTS = {TENSORS: pack_tensors({"a": np.zeros(2, np.float32)}), DESCRIPTION: b"{}"}


def refuses(message):
    return pytest.raises(ModelFileError, match=re.escape(message))


def zipped(members=PARTS, change=lambda entry: None, comment=b""):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name)
            entry.comment, comment = comment, b""
            change(entry)
            file.writestr(entry, content)
    return buffer.getvalue()


def read(tmp_path, content):
    (tmp_path / "m.clearsight").write_bytes(content)
    return read_members(tmp_path / "m.clearsight")


def tensors(header, body=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(shape, offsets, dtype="U8"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(("name", "limit"), [(DESCRIPTION, 16 * 2**20), (TENSORS, 8 * 2**30)])
def test_each_part_may_be_so_large_and_no_larger(name, limit, tmp_path):
    archive._check_size(name, limit, tmp_path)
    with refuses(f"{name} must be at most {limit:,} bytes, got {limit + 1:,} in {tmp_path}."):
        archive._check_size(name, limit + 1, tmp_path)


def test_the_size_is_checked_before_a_part_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_MAX_JSON_BYTES", 2)
    assert read(tmp_path, pack_zip(PARTS)) == PARTS
    with refuses(f"{DESCRIPTION} must be at most 2 bytes, got 3 in "):
        read(tmp_path, pack_zip({**PARTS, DESCRIPTION: b"{ }"}))


def test_a_zip_without_its_end_is_cut_off_and_one_without_entries_is_not(tmp_path):
    with refuses("m.clearsight must be a whole file, got one that is cut off or damaged at its end. Copy it again."):
        read(tmp_path, pack_zip(PARTS)[:-30])
    with refuses(f"must hold just {TENSORS} and {DESCRIPTION}, got 0 entries."):
        read(tmp_path, b"PK\x05\x06" + bytes(18))


def test_a_zip_has_two_entries_and_a_small_table_of_contents(tmp_path):
    with refuses("got 3 entries. Get it again."):
        read(tmp_path, zipped({**PARTS, "extra": b""}))
    room = 4096 - sum(46 + len(name) for name in PARTS)  # 46 bytes an entry beside its name and comment
    assert read(tmp_path, zipped(comment=b"c" * room)) == PARTS
    with refuses("got 2 entries. Get it again."):
        read(tmp_path, zipped(comment=b"c" * (room + 1)))
    with refuses("got ['model.json', 'other']. Get it again."):
        read(tmp_path, zipped({DESCRIPTION: b"{}", "other": b""}))


def test_a_link_an_encrypted_and_a_packed_part_are_refused(tmp_path):
    def link(entry):
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16

    def pack(entry):
        entry.compress_type = zipfile.ZIP_DEFLATED

    for kind in (stat.S_IFREG, stat.S_IFIFO):  # only links lead elsewhere
        assert (
            read(tmp_path, zipped(change=lambda entry, kind=kind: setattr(entry, "external_attr", kind << 16))) == PARTS
        )
    with refuses(f"must hold plain files, got a link for {TENSORS}. Get it again."):
        read(tmp_path, zipped(change=link))
    with refuses(f"must store {TENSORS} uncompressed, got it packed. Get it again."):
        read(tmp_path, zipped(change=pack))
    flagged = bytearray(zipped())
    flagged[flagged.index(b"PK\x01\x02") + 8] |= 1  # the bit of encryption, in the table of contents
    with refuses(f"must not be encrypted, got {TENSORS} encrypted. Unpack it first."):
        read(tmp_path, bytes(flagged))


def test_damage_is_told_in_eighty_letters(tmp_path):
    told = str(archive._describe_damage(tmp_path, "x " * 100))
    assert f": {('x ' * 100)[:80].rstrip()}. Copy the file again." in told.replace("x .", "x.")
    assert told.count("x") == 40 + str(tmp_path).count("x")


def test_a_key_that_stands_twice_is_named():
    with refuses("d must name each key once, got 'b' twice. Get the model again."):
        parse_json(b'{"a": 1, "b": 2, "c": 3, "b": 4}', what="d")
    assert parse_json(b'{"a": {"a": 1}}', what="d") == {"a": {"a": 1}}


def test_a_header_ends_within_the_file(monkeypatch):
    assert parse_tensors(tensors({})) == {}
    for length in (0, 1, 3, 10):
        with refuses(f"must have a header of 2 to 10,485,760 bytes within the file, got {length} in a file of 10. "):
            parse_tensors(struct.pack("<Q", length) + b"{}")
    monkeypatch.setattr(archive, "_MAX_HEADER_BYTES", 2)
    assert parse_tensors(tensors({})) == {}
    with refuses("must have a header of 2 to 2 bytes within the file, got 60 in a file of 69."):
        parse_tensors(tensors({"a": entry([1], [0, 1])}, b"x"))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (entry([1] * 8, [0, 1]), ""),
        (entry([1] * 9, [0, 1]), "a shape of whole numbers"),
        (entry([1.0], [0, 1]), "a shape of whole numbers"),
        (entry([True], [0, 1]), "a shape of whole numbers"),
        (entry([2**48], [0, 1]), "a shape of whole numbers"),
        (entry(1, [0, 1]), "a shape of whole numbers"),
        (entry([1], [0]), "a range in order"),
        (entry([1], [0, 1, 2]), "a range in order"),
        (entry([1], [1, 0]), "a range in order"),
        (entry([1], [-1, 0]), "a range in order"),
        (entry([0], [0, 1]), "as many bytes as its shape needs"),
        (entry([1], [0, 1], "F32"), "as many bytes as its shape needs"),
        (entry([1], [0, 1], "F64"), "a dtype among F32, U8"),
        (entry([1], [0, 1]) | {"more": 1}, "dtype, shape and data_offsets"),
        ([], "dtype, shape and data_offsets"),
    ],
)
def test_an_entry_is_taken_only_as_it_must_be(header, message):
    if not message:
        assert parse_tensors(tensors({"a": header}, b"x"))["a"].shape == (1,) * 8
        return
    with refuses(f"tensor 'a' of {TENSORS} must have {message}, got "):
        parse_tensors(tensors({"a": header}, b"x"))


def test_tensors_follow_each_other_and_fill_the_file():
    two = {"b": entry([1], [0, 1]), "a": entry([2], [1, 3])}
    assert {name: list(values) for name, values in parse_tensors(tensors(two, b"\1\2\3")).items()} == {
        "b": [1],
        "a": [2, 3],
    }
    with refuses("without gap or overlap, got 'a' at 2, not 1."):
        parse_tensors(tensors(two | {"a": entry([2], [2, 4])}, b"1234"))
    with refuses("must hold 3 bytes of tensors, got 4."):
        parse_tensors(tensors(two, b"1234"))


def test_what_is_packed_is_read_back_and_has_no_date_of_its_own(tmp_path):
    values = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.arange(3, dtype=np.uint8)}
    members = {TENSORS: pack_tensors(values), DESCRIPTION: b"{}"}
    found = parse_tensors(read(tmp_path, pack_zip(members))[TENSORS])
    assert {name: (one.dtype.name, one.tolist()) for name, one in found.items()} == {
        name: (one.dtype.name, one.tolist()) for name, one in values.items()
    }
    with zipfile.ZipFile(io.BytesIO(pack_zip(members))) as file:
        assert [(one.filename, one.date_time) for one in file.infolist()] == [
            (name, (1980, 1, 1, 0, 0, 0)) for name in (TENSORS, DESCRIPTION)
        ]


def test_a_folder_holds_two_plain_files_of_bounded_size(tmp_path, monkeypatch):
    for name, content in PARTS.items():
        (tmp_path / name).write_bytes(content)
    assert read_members(tmp_path) == PARTS
    monkeypatch.setattr(archive, "_MAX_JSON_BYTES", 1)
    with refuses(f"{DESCRIPTION} must be at most 1 bytes, got 2 in {tmp_path}. Get the model again."):
        read_members(tmp_path)
    (tmp_path / TENSORS).rename(tmp_path / "elsewhere")
    with refuses(f"{tmp_path} must hold a plain file {TENSORS}, got none. Copy the whole model folder."):
        read_members(tmp_path)
    (tmp_path / TENSORS).symlink_to(tmp_path / "elsewhere")
    with refuses(f"{tmp_path} must hold a plain file {TENSORS}, got a link. Copy the whole model folder."):
        read_members(tmp_path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x80\x04", "a Python pickle, which can run code"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras)"),
        (b"\x93NUMPY\x01\x00", "a NumPy array"),
        (b"\x1f\x8b\x08", "a gzip file"),
        (b"0123456789", "something else (b'01234567')"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, content, kind):
    with refuses(f"m.clearsight must be a .clearsight model, got {kind}. Export the model again."):
        read(tmp_path, content)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def forbid(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    whole = pack_zip(PARTS)
    outside = whole[:-6] + struct.pack("<I", len(whole) + 9) + whole[-2:]  # where its table is said to begin
    with refuses("must be as it was written, got damaged bytes in the zip's table of contents"):
        read(tmp_path, outside)
    monkeypatch.setattr(type(tmp_path), "open", forbid)
    with refuses("m.clearsight must be readable, got Permission denied. Check its permissions."):
        read_members(tmp_path / "m.clearsight")


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (TENSORS, "its part model.safetensors (the weights): Bad CRC-32"),
        (DESCRIPTION, "its part model.json (the description): Bad CRC-32"),
    ],
)
def test_a_changed_byte_is_told_with_its_part(tmp_path, part, told):
    content = bytearray(pack_zip(PARTS))
    content[content.index(PARTS[part])] ^= 1
    with refuses(f"must be as it was written, got damaged bytes in {told}"):
        read(tmp_path, bytes(content))
    assert "in the zip's table of contents. Copy" in str(archive._describe_damage(tmp_path, ""))


def test_tensors_may_be_empty_and_carry_notes_and_start_with_eight_bytes():
    header = {"__metadata__": {"by": "someone"}, "a": entry([0], [0, 0]), "b": entry([1], [0, 1])}
    assert {name: len(values) for name, values in parse_tensors(tensors(header, b"x")).items()} == {"a": 0, "b": 1}
    with refuses("must start with its header's length, got 7 bytes."):
        parse_tensors(bytes(7))
    with refuses("must have a header of 2 to 10,485,760 bytes within the file, got 0 in a file of 8."):
        parse_tensors(bytes(8))
