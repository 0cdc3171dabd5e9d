"""Trees of small pictures for tests, in folders and archives, and how their data sets compare."""

import re
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from clearsight.data.read.load import load_data
from clearsight.errors import DataError

PAIR = ("a/1.png", "a/2.png", "b/1.png", "b/2.png")


def make(root, *paths, table=None, text=None):
    """Pictures of noise at `paths`, each unlike the others; `table` as metadata.csv."""
    for path in paths:
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        seed = sum(ord(c) * 31**k for k, c in enumerate(path)) % 2**31
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8)).astype(np.uint8)).save(place, "PNG")
    root.mkdir(exist_ok=True)
    for name, content in {**({"metadata.csv": table} if table else {}), **(text or {})}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def many(*folders, n=12):
    return [f"{folder}/{k:02}.png" for folder in folders for k in range(n)]


def pack_zip(folder, path):
    with zipfile.ZipFile(path, "w") as file:
        for place in sorted(folder.rglob("*")):
            file.write(place, place.relative_to(folder))
    return path


def pack_tar(folder, path, *, backwards=False):
    mode = "w" if path.suffix == ".tar" else f"w:{path.suffix[1:]}"
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT) as file:  # as GNU tar writes by default
        for place in sorted(folder.rglob("*"), reverse=backwards):
            file.add(place, f"./{place.relative_to(folder)}", recursive=False)
    return path


def assert_same(found, wanted):
    assert found.class_names == wanted.class_names
    assert found.files == wanted.files
    for key in ("images", "labels", "given"):
        assert np.array_equal(getattr(found, key), getattr(wanted, key)), key
    assert (found.empty, found.fingerprint) == (wanted.empty, wanted.fingerprint)


def summary(dataset):
    """(split, class or number) of each file."""
    names = dataset.class_names or tuple(dataset.labels.tolist())
    label = (lambda k: names[dataset.labels[k]]) if dataset.class_names else (lambda k: names[k])
    return {file: (int(dataset.given[k]), label(k)) for k, file in enumerate(dataset.files)}


def refuse(path, message, **options):
    with pytest.raises(DataError, match=f"^{re.escape(message.format(root=path))}$"):
        load_data(path, **options)


def bad_of(path, **options):
    """Bad files by path; they must be told without skip_bad, too."""
    dataset = load_data(path, skip_bad=True, **options)
    found = {b.path: b.reason for b in dataset.bad}
    with pytest.raises(DataError, match=r"must hold pictures that can be read, got ") as caught:
        load_data(path, **options)
    for name, reason in found.items():
        assert f"{name}: {reason.removeprefix(name + ' ')}" in str(caught.value)
    assert str(caught.value).endswith(" Fix or remove them, or go on without them with --skip-bad.")
    return found
