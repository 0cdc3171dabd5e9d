"""No model file can run code, take memory or pass as sound when it is not: each is refused in one sentence."""

import json
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import zipfile
from io import BytesIO

import numpy as np
import pytest
from conftest import run

import clearsight
from clearsight.bundle.archive import DESCRIPTION, MEMBERS, TENSORS, pack_zip
from clearsight.bundle.load import load
from clearsight.errors import ModelFileError

WEIGHT = "layers.0.weight"


class Model:
    """The parts of a good model, to be bent."""

    def __init__(self, path):
        with zipfile.ZipFile(path) as archive:
            self.tensors, self.text = archive.read(TENSORS), archive.read(DESCRIPTION)
        length = struct.unpack("<Q", self.tensors[:8])[0]
        self.header, self.body = json.loads(self.tensors[8 : 8 + length]), self.tensors[8 + length :]

    def with_header(self, header, body=None):
        raw = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(raw)) + raw + (self.body if body is None else body)

    def with_entry(self, **change):
        return self.with_header({**self.header, WEIGHT: {**self.header[WEIGHT], **change}})

    def with_values(self, **values):
        body = bytearray(self.body)
        for name, value in values.items():
            entry = self.header[name.replace("__", ".")]
            start, stop = entry["data_offsets"]
            body[start:stop] = np.full(entry["shape"], value, "<f4").tobytes()
        return self.with_header(self.header, bytes(body))

    def with_setting(self, key, value):
        description = json.loads(self.text)
        *path, last = key.split(".")
        place = description
        for name in path:
            place = place[name]
        place[last] = value
        return json.dumps(description).encode()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    out = tmp_path_factory.mktemp("good") / "run"
    clearsight.train(images, np.arange(40) % 3, out=out, epochs=1, hidden=(4,), calibrate=False)
    return Model(out / "model.clearsight")


def write(folder, form, tensors, text):
    path = folder / ("model.zip" if form == "zip" else "model")
    if form == "zip":
        path.write_bytes(pack_zip({TENSORS: tensors, DESCRIPTION: text}))
        return path
    path.mkdir()
    (path / TENSORS).write_bytes(tensors)
    (path / DESCRIPTION).write_bytes(text)
    return path


def refuse(path, message):
    with pytest.raises(ModelFileError, match=re.escape(message)) as caught:
        load(path)
    assert re.fullmatch(r"[^\n]+ must .+\. [A-Z][^\n]*\.", str(caught.value)), str(caught.value)
    assert str(path) in str(caught.value)


forms = pytest.mark.parametrize("form", ["zip", "folder"])
LENGTH = "must have a header of 2 to 10,485,760 bytes within the file, got {:,} in a file of "
WRONG = f"tensor {WEIGHT!r} of {TENSORS} of "
HEADERS = {
    "length 0": (lambda m: struct.pack("<Q", 0) + m.tensors[8:], LENGTH.format(0)),
    "length past the end": (lambda m: struct.pack("<Q", len(m.tensors)) + m.tensors[8:], LENGTH.split(",")[0]),
    "length 2^64-1": (lambda m: struct.pack("<Q", 2**64 - 1) + m.tensors[8:], LENGTH.format(2**64 - 1)),
    "length over 100 MB": (lambda m: struct.pack("<Q", 101 * 2**20) + m.tensors[8:], LENGTH.format(101 * 2**20)),
    "0 bytes": (lambda m: b"", "must start with its header's length, got 0 bytes."),
    "7 bytes": (lambda m: m.tensors[:7], "must start with its header's length, got 7 bytes."),
    "not UTF-8": (lambda m: m.with_header(b'{"\xff": 1}'), "must be UTF-8, got other bytes."),
    "not JSON": (lambda m: m.with_header(b"{nope"), "must be JSON, got damage ("),
    "a list": (lambda m: m.with_header(b"[]"), "must be a JSON object, got list."),
    "a key twice": (lambda m: m.with_header(b'{"a":1,"a":2}'), "must name each key once, got 'a' twice."),
    "10,000 deep": (
        lambda m: m.with_header(b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
        "must be flat JSON, got one nested too deeply.",
    ),
    "unknown type": (lambda m: m.with_entry(dtype="X9"), "must have a dtype among F32, U8, got "),
    "wrong type": (lambda m: m.with_entry(dtype=["F32"]), "must have a dtype among F32, U8, got "),
    "overlapping": (
        lambda m: m.with_entry(data_offsets=[n - 4 for n in m.header[WEIGHT]["data_offsets"]]),
        "must follow each other without gap or overlap, got 'layers.0.weight' at 12, not 16.",
    ),
    "reversed": (
        lambda m: m.with_entry(data_offsets=m.header[WEIGHT]["data_offsets"][::-1]),
        "must have a range in order, got ",
    ),
    "negative": (lambda m: m.with_entry(data_offsets=[-1028, -4]), "must have a range in order, got "),
    "no range": (
        lambda m: m.with_header({**m.header, WEIGHT: {"dtype": "F32", "shape": [64, 4]}}),
        "must have dtype, shape and data_offsets, got ",
    ),
    "trailing bytes": (lambda m: m.tensors + b"x", "bytes of tensors, got "),
    "shape too large": (lambda m: m.with_entry(shape=[64, 5]), "must have as many bytes as its shape needs, got "),
    "shape overflow": (
        lambda m: m.with_entry(shape=[2**32, 2**32]),
        "must have as many bytes as its shape needs, got ",
    ),
    "shape beyond 2^48": (lambda m: m.with_entry(shape=[2**62, 4]), "must have a shape of whole numbers, got "),
    "negative shape": (lambda m: m.with_entry(shape=[-64, -4]), "must have a shape of whole numbers, got "),
    "wrong shape": (lambda m: m.with_entry(shape=[4, 64]), "must be float32 (64, 4), got float32 (4, 64)."),
    "missing tensor": (
        lambda m: m.with_header({k: v for k, v in m.header.items() if k != "selftest.inputs"}, m.body[:-192]),
        "must hold exactly the tensors of its architecture, got a difference: ['selftest.inputs'].",
    ),
    "extra tensor": (
        lambda m: m.with_header({**m.header, "z": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}),
        "must hold exactly the tensors of its architecture, got a difference: ['z'].",
    ),
    "climbing name": (
        lambda m: m.with_header({("../../x" if k == WEIGHT else k): v for k, v in m.header.items()}),
        "must hold exactly the tensors of its architecture, got a difference: ['../../x', 'layers.0.weight'].",
    ),
    "a pickle": (lambda m: pickle.dumps(Canary()), LENGTH.split(",")[0]),
    "one weight flipped": (
        lambda m: m.with_values(layers__1__bias=7.0),
        "must pass its self-test, got outputs that differ by ",
    ),
    "NaN weights, outputs finite": (
        lambda m: m.with_values(layers__1__bias=np.nan),
        "must pass its self-test, got outputs that differ in being finite.",
    ),
    "outputs infinite": (
        lambda m: m.with_values(selftest__outputs=np.inf),
        "must pass its self-test, got outputs that differ by inf.",
    ),
}


class Canary:
    def __reduce__(self):
        return os.mkdir, ("canary",)


@pytest.mark.long
@forms
@pytest.mark.parametrize("name", HEADERS)
def test_a_bad_tensor_file_is_refused(tmp_path, monkeypatch, good, form, name):
    monkeypatch.chdir(tmp_path)
    bend, message = HEADERS[name]
    refuse(write(tmp_path, form, bend(good), good.text), message)
    assert not (tmp_path / "canary").exists()


DESCRIPTIONS = {
    "newer version": ("version", 5, "must have format version 4 or less, got '5'. Update clearsight"),
    "version as text": ("version", "1", "must have format version 4 or less, got '1'."),
    "another format": ("format", "other", "must be valid at format (Input should be 'clearsight-model'), got other."),
    "unknown family": (
        "architecture.family",
        "resnet",
        "must be valid at architecture.conv.family (Input should be 'mlp', 'cnn', 'vgg', ",
    ),
    "unknown activation": ("architecture.activations", ["../../x"], "activation must be one of relu, "),
    "other output": ("architecture.output", "identity", "must fit together, got output identity for 3 outputs"),
    "other sizes": ("architecture.sizes", [64, 5, 3], "must be float32 (64, 5), got float32 (64, 4)."),
    "huge sizes": ("architecture.sizes", [64, 2**40, 3], "sizes must be at most 16777216, got 1099511627776"),
    "fewer classes": ("class_names", ["a", "b"], "must be 3 different names, one an output, got ['a', 'b']."),
    "a class twice": ("class_names", ["a", "a", "b"], "must be 3 different names, one an output, got ['a', 'a', 'b']."),
    "huge picture": ("preprocess.height", 2**40, "the first layer must take "),
    "unknown scaling": ("preprocess.scaling", "evil", "must be valid at preprocess.scaling ("),
    "white below black": ("preprocess.low", 300.0, "must fit together, got output softmax for 3 outputs and pixels of"),
    "temperature 0": ("temperature", 0.0, "must be valid at temperature ("),
    "temperature NaN": ("temperature", float("nan"), "must be valid at temperature (Input should be a finite number)"),
    "unknown key": ("evil", 1, "must be valid at evil (Extra inputs are not permitted), got 1."),
}


@forms
@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_bad_description_is_refused(tmp_path, good, form, name):
    key, value, message = DESCRIPTIONS[name]
    path = write(tmp_path, form, good.tensors, good.with_setting(key, value))
    with pytest.raises(ModelFileError, match=re.escape(message)) as caught:
        load(path)
    assert str(path) in str(caught.value)


@forms
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "must be JSON, got damage ("),
        (b"\xff\xfe{}", "must be UTF-8, got other bytes."),
        (b"[]", "must be a JSON object, got list."),
        (b'{"a":1,"a":1}', "must name each key once, got 'a' twice."),
        (b"[" * 10_000 + b"]" * 10_000, "must be flat JSON, got one nested too deeply."),
        (b'{"version":' + b"9" * 5000 + b"}", "must be JSON, got damage (Exceeds the limit"),
        (b" " * (2**24 + 1), "must be at most 16,777,216 bytes, got 16,777,217"),
    ],
)
def test_text_that_is_no_description_is_refused(tmp_path, good, form, text, message):
    refuse(write(tmp_path, form, good.tensors, text), message)


@forms
def test_a_cut_tensor_file_is_refused_wherever_it_is_cut(tmp_path, good, form):
    for size in range(0, len(good.tensors), 64):
        folder = tmp_path / str(size)
        folder.mkdir()
        refuse(write(folder, form, good.tensors[:size], good.text), " must ")


def test_a_cut_zip_is_refused_wherever_it_is_cut(tmp_path, good):
    whole, path = pack_zip({TENSORS: good.tensors, DESCRIPTION: good.text}), tmp_path / "cut.clearsight"
    for size in range(0, len(whole), 64):
        path.write_bytes(whole[:size])
        refuse(path, " must be a")


@pytest.mark.long
@forms
def test_nan_weights_load_with_a_note_that_the_command_prints(tmp_path, good, form):
    tensors = good.with_values(layers__1__bias=np.nan, selftest__outputs=np.nan)
    path = write(tmp_path, form, tensors, good.text)
    note = f"{path} has weights that are not finite; its predictions mean nothing"
    assert load(path).notes == (note,)
    np.save(tmp_path / "a.npy", np.zeros((8, 8), np.uint8))
    assert run("predict", path, "a.npy", cwd=tmp_path).stderr == f"note: {note}\n"


def pack(*members, compression=zipfile.ZIP_STORED):
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def link_to(target):
    info = zipfile.ZipInfo(DESCRIPTION)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return info, target


def patched(content, offset, value):
    """A zip with bytes of its first directory entry overwritten."""
    at = content.find(b"PK\x01\x02") + offset
    return content[:at] + value + content[at + len(value) :]


def million(admitted, with_64_bit_record):
    """A zip of a million directory entries; where its 64-bit record is honest, `zipfile` believes that one."""
    count = 10**6
    entry = struct.pack("<I6H3I5H2I", 0x02014B50, 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    start = struct.pack("<I5H3I2H", 0x04034B50, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0) + b"a"
    size, end64 = len(entry) * count, b""
    if with_64_bit_record:
        end64 = struct.pack("<IQ2H2I4Q", 0x06064B50, 44, 45, 45, 0, 0, count, count, size, len(start))
        end64 += struct.pack("<IIQI", 0x07064B50, 0, len(start) + size, 1)
    length = 100 if with_64_bit_record else size
    return start + entry * count + end64 + struct.pack("<I4H2IH", 0x06054B50, 0, 0, admitted, admitted, length, 0, 0)


JUST = "must hold just model.safetensors and model.json, got "
ZIPS = {
    "bomb": (
        lambda m: pack((TENSORS, bytes(2**24)), (DESCRIPTION, m.text), compression=zipfile.ZIP_DEFLATED),
        "must store model.safetensors uncompressed, got it packed.",
    ),
    "claims to be large": (
        lambda m: patched(pack((TENSORS, m.tensors), (DESCRIPTION, m.text)), 24, struct.pack("<I", 2**31)),
        "must say one size for model.safetensors, got 2,147,483,648 and 2,440.",
    ),
    "climbing path": (lambda m: pack((TENSORS, m.tensors), ("../model.json", m.text)), JUST + "['../model.json', "),
    "absolute path": (lambda m: pack((TENSORS, m.tensors), ("/model.json", m.text)), JUST + "['/model.json', "),
    "other case": (lambda m: pack((TENSORS, m.tensors), ("MODEL.JSON", m.text)), JUST + "['MODEL.JSON', "),
    "case collision": (
        lambda m: pack((TENSORS, m.tensors), (DESCRIPTION, m.text), ("MODEL.json", m.text)),
        JUST + "3 entries.",
    ),
    "extra file": (lambda m: pack((TENSORS, m.tensors), (DESCRIPTION, m.text), ("x.py", "")), JUST + "3 entries."),
    "missing file": (lambda m: pack((TENSORS, m.tensors)), JUST + "1 entries."),
    "link": (
        lambda m: pack((TENSORS, m.tensors), link_to("/etc/passwd")),
        "must hold plain files, got a link for model.json.",
    ),
    "encrypted": (
        lambda m: patched(pack((TENSORS, m.tensors), (DESCRIPTION, m.text)), 8, b"\1"),
        "must not be encrypted, got model.safetensors encrypted.",
    ),
    "a million": (lambda m: million(0xFFFF, True), JUST + "1000000 entries."),
    "a million, two admitted": (lambda m: million(2, False), JUST + "2 entries."),
    "a million, 64-bit record": (lambda m: million(2, True), JUST + "1000000 entries."),
    "torch": (
        lambda m: pack(("archive/data.pkl", pickle.dumps(Canary())), ("archive/version", "3")),
        JUST + "['archive/",
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", ZIPS)
def test_a_bad_zip_is_refused(tmp_path, good, name):
    make, message = ZIPS[name]
    path = tmp_path / "model.clearsight"
    path.write_bytes(make(good))
    refuse(path, message)


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "h5", "keras", "joblib", "pkl", "npy", "clearsight"])
@pytest.mark.parametrize("protocol", [0, 4])
def test_a_pickle_is_refused_and_never_run_whatever_its_name(tmp_path, monkeypatch, suffix, protocol):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(pickle.dumps(Canary(), protocol))
    kind = "a Python pickle, which can run code" if protocol else "something else (b'cposix\\nm')"
    refuse(path, f"{path} must be a .clearsight model, got {kind}. Export the model again.")
    assert not (tmp_path / "canary").exists()


def test_foreign_and_odd_paths_are_refused(tmp_path, good):
    (tmp_path / "h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    (tmp_path / "bare").write_bytes(good.tensors)
    (tmp_path / "empty").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    for name, message in (
        ("h5", "must be a .clearsight model, got an HDF5 file (Keras)."),
        ("bare", "must be a .clearsight model, got something else ("),
        ("empty", "must be a .clearsight model, got something else (b'')."),
        ("pipe", "must be a file or a folder, got a pipe or device."),
        ("none", "must exist, got nothing there."),
    ):
        refuse(tmp_path / name, message)


@pytest.mark.parametrize("member", MEMBERS)
def test_a_folder_must_hold_plain_files(tmp_path, good, member):
    path = write(tmp_path, "folder", good.tensors, good.text)
    (path / member).rename(tmp_path / "real")
    refuse(path, f"must hold a plain file {member}, got none.")
    (path / member).symlink_to(tmp_path / "real")
    refuse(path, f"must hold a plain file {member}, got a link.")
    (path / member).unlink()
    (path / member).mkdir()
    refuse(path, f"must hold a plain file {member}, got none.")


def test_a_huge_file_is_refused_before_it_is_read(tmp_path, good):
    path = write(tmp_path, "folder", good.tensors, good.text)
    os.truncate(path / TENSORS, 2**40)
    refuse(path, "model.safetensors must be at most 8,589,934,592 bytes, got 1,099,511,627,776 in ")


@forms
def test_a_good_file_loads_and_predicts(tmp_path, good, form):
    bundle = load(write(tmp_path, form, good.tensors, good.text))
    assert (bundle.net.sizes, bundle.class_names, bundle.notes) == ((64, 4, 3), ("0", "1", "2"), ())
    assert bundle.predict_proba(np.zeros((2, 8, 8), np.uint8)).sum(axis=1) == pytest.approx(1)


def test_300_mutations_are_refused_or_sound(tmp_path, good):
    rng, path = random.Random(0), tmp_path / "mutant.clearsight"
    whole = pack_zip({TENSORS: good.tensors, DESCRIPTION: good.text})
    loaded = 0
    for number in range(300):
        part = bytearray((whole, good.tensors, good.text)[number % 3])
        for _ in range(rng.choice((1, 2, 8))):
            part[rng.randrange(len(part))] = rng.randrange(256)
        members = {TENSORS: good.tensors, DESCRIPTION: good.text, ("", TENSORS, DESCRIPTION)[number % 3]: bytes(part)}
        path.write_bytes(bytes(part) if number % 3 == 0 else pack_zip(members))
        try:
            bundle = load(path)
        except ModelFileError:
            continue
        loaded += 1
        assert bundle.predict_proba(np.zeros((2, 8, 8), np.uint8)).shape == (2, 3)
    assert 0 < loaded < 150


@pytest.mark.long
@pytest.mark.parametrize("name", ["one weight flipped", "not JSON", "10,000 deep"])
def test_the_command_ends_with_1_and_one_line(tmp_path, good, name):
    write(tmp_path, "zip", HEADERS[name][0](good), good.text)
    done = run("predict", "model.zip", "a.png", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: ")
    assert HEADERS[name][1] in done.stderr


@pytest.mark.long
def test_names_from_a_model_cannot_steer_the_terminal(tmp_path, good):
    text = good.with_setting("class_names", ["a\nb\x1b[31m", "\ud800", "<script>"])
    write(tmp_path, "zip", good.tensors, text)
    np.save(tmp_path / "a.npy", np.zeros((8, 8), np.uint8))
    command = [sys.executable, "-m", "clearsight", "predict", "model.zip", "a.npy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert "a\\nb\\x1b[31m" in done.stdout
    assert "\\ud800" in done.stdout


@pytest.mark.long
def test_a_file_of_the_first_format_still_loads_and_keeps_black_under_transparency(tmp_path):
    run = clearsight.train("digits", epochs=1, out=tmp_path / "run")
    run.bundle.save(tmp_path / "model", examples=clearsight.load_data("digits").images[:3])
    path = tmp_path / "model" / "model.json"
    description = json.loads(path.read_text())
    assert description["version"] == 4
    description["version"] = 1
    del description["preprocess"]["resize"], description["preprocess"]["background"]
    path.write_text(json.dumps(description))
    old = clearsight.load(tmp_path / "model")
    assert (old.preprocess.resize, old.preprocess.background) == ("squash", (0, 0, 0))


def load_flipped(path, place, raw, bit=0xFF):
    content = bytearray(raw)
    content[place] ^= bit
    path.write_bytes(content)
    return load(path)


@pytest.mark.parametrize(
    ("member", "part"), [(TENSORS, "model.safetensors (the weights)"), (DESCRIPTION, "model.json (the description)")]
)
def test_a_flipped_byte_is_named_as_damage_of_the_part_that_it_is_in(good, tmp_path, member, part):
    raw = pack_zip({TENSORS: good.tensors, DESCRIPTION: good.text})
    place = raw.index({TENSORS: good.tensors, DESCRIPTION: good.text}[member]) + 100
    with pytest.raises(ModelFileError) as error:
        load_flipped(tmp_path / "m.clearsight", place, raw)
    assert f"must be as it was written, got damaged bytes in its part {part}: Bad CRC-32" in str(error.value)
    assert str(error.value).endswith("Copy the file again.")


@pytest.mark.long
def test_no_flipped_byte_of_the_table_of_contents_is_taken_for_missing_permissions(good, tmp_path):
    raw = pack_zip({TENSORS: good.tensors, DESCRIPTION: good.text})
    told = set()
    for place in range(raw.index(b"PK\x01\x02"), len(raw)):
        for bit in (0x01, 0xFF):
            try:
                load_flipped(tmp_path / "m.clearsight", place, raw, bit)
            except ModelFileError as error:
                told.add(str(error))
    assert not [text for text in told if "permissions" in text]
    assert any(
        "got damaged bytes in the zip's table of contents: it names a place outside the file" in text for text in told
    )
