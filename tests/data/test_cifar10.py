"""CIFAR-10's binary archive becomes one NPZ of pictures and class names; a wrong archive is refused by name. No network."""

import hashlib
import io
import tarfile

import numpy as np
import pytest
from file_server import names, refuse

from clearsight.core.progress import SilentMeter
from clearsight.data.named.cifar10 import read_cifar10
from clearsight.data.named.download import RemoteFile
from clearsight.data.named.fetch import REMOTE, RemoteData, fetch_data
from clearsight.errors import ClearsightError, DataError

ARCHIVE = "cifar-10-binary.tar.gz"

CLASSES = ("airplane", "automobile", "bird")
MEMBERS = ["batches.meta.txt", *(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]


def build_cifar10(**changes):
    """A small archive of the binary form: two records a batch, pixel (y, x) of channel c is 100 c + 3 y + x mod 256."""
    c, y, x = np.mgrid[:3, :32, :32]
    planes = ((100 * c + 3 * y + x) % 256).astype(np.uint8).tobytes()
    content = {name: bytes([k % 3]) + planes + b"\2" + planes for k, name in enumerate(MEMBERS)}
    content["batches.meta.txt"] = ("\n".join(CLASSES) + "\n\n").encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, raw in (content | {"../../evil": b"x"} | changes).items():
            if raw is None:
                continue
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}" if name in MEMBERS else name)
            member.size = len(raw)
            if raw == b"link":
                member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 0
            tar.addfile(member, io.BytesIO(raw))
    return buffer.getvalue()


def publish(monkeypatch, folder, body=None):
    """Make `body` the published archive, and put it where it belongs by hand."""
    body = build_cifar10() if body is None else body
    file = RemoteFile(ARCHIVE, len(body), hashlib.sha256(body).hexdigest())
    monkeypatch.setitem(REMOTE, "cifar10", RemoteData((file,), ("http://127.0.0.1:9",)))
    (folder / "cifar10").mkdir()
    (folder / "cifar10" / ARCHIVE).write_bytes(body)


def test_cifar10_becomes_one_npz(tmp_path, monkeypatch):
    publish(monkeypatch, tmp_path)
    assert fetch_data("cifar10", folder=tmp_path, meter=SilentMeter) == tmp_path / "cifar10"
    assert names(tmp_path) == [".cifar10.lock", "cifar10/cifar10.npz"]
    with np.load(tmp_path / "cifar10" / "cifar10.npz", allow_pickle=False) as arrays:
        images, labels = arrays["train_images"], arrays["train_labels"]
        assert (images.dtype, images.shape, arrays["test_images"].shape) == (np.uint8, (10, 32, 32, 3), (2, 32, 32, 3))
        assert images[0, 5, 7].tolist() == [22, 122, 222]
        assert labels[:4].tolist() == ["automobile", "bird", "bird", "bird"]
        assert arrays["test_labels"].tolist() == ["airplane", "bird"]
    fetch_data("cifar10", folder=tmp_path, meter=SilentMeter)


def test_cifar10_loads_as_a_data_set(tmp_path, monkeypatch):
    from clearsight.data.read.load import load_data

    publish(monkeypatch, tmp_path)
    dataset = load_data(fetch_data("cifar10", folder=tmp_path, meter=SilentMeter) / "cifar10.npz")
    assert (dataset.images.shape, dataset.class_names) == ((12, 32, 32, 3), CLASSES)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"no archive", "{archive} must be a whole tar.gz file, got damage (not a gzip file)."),
        (
            build_cifar10(**{"test_batch.bin": None}),
            "{archive} must hold cifar-10-batches-bin/test_batch.bin, got none.",
        ),
        (
            build_cifar10(**{"test_batch.bin": b"link"}),
            "cifar-10-batches-bin/test_batch.bin of {archive} must be a plain file, got another.",
        ),
        (
            build_cifar10(**{"test_batch.bin": bytes(3072)}),
            "cifar-10-batches-bin/test_batch.bin of {archive} must hold records of 3073 bytes, got 3072 bytes.",
        ),
        (
            build_cifar10(**{"test_batch.bin": b"\3" + bytes(3072)}),
            "cifar-10-batches-bin/test_batch.bin of {archive} must have labels below 3, got 3.",
        ),
    ],
    ids=["damage", "missing", "link", "short", "label"],
)
def test_a_wrong_archive_is_refused_by_name(tmp_path, body, message):
    archive = tmp_path / "cifar-10-binary.tar.gz"
    archive.write_bytes(body)
    refuse(
        DataError,
        f"{message.format(archive=archive)} Delete it and fetch again.",
        read_cifar10,
        archive,
        meter=SilentMeter,
    )
    assert names(tmp_path) == ["cifar-10-binary.tar.gz"]


def test_a_damaged_cifar10_is_not_overwritten(tmp_path, monkeypatch):
    publish(monkeypatch, tmp_path)
    path = fetch_data("cifar10", folder=tmp_path, meter=SilentMeter) / "cifar10.npz"
    whole = path.read_bytes()
    message = (
        f"{path} must be a whole NPZ file with train_images, train_labels, test_images, test_labels, "
        "got something else or damage. Delete it or move it, and fetch again."
    )
    for content in (b"PK\3\4 broken", whole[:-1], whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:]):
        path.write_bytes(content)
        refuse(DataError, message, fetch_data, "cifar10", folder=tmp_path, meter=SilentMeter)
        assert path.read_bytes() == content


def test_a_failed_save_keeps_the_archive_and_nothing_half(tmp_path, monkeypatch):
    publish(monkeypatch, tmp_path)

    def fill(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fill)
    with pytest.raises(ClearsightError, match=r"^disk must have room for cifar10 in "):
        fetch_data("cifar10", folder=tmp_path, meter=SilentMeter)
    assert names(tmp_path / "cifar10") == [ARCHIVE]
