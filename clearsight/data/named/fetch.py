"""Fetch the files of a named data set from its mirrors, one process at a time, and never over what is there.

It must not know how a file comes (`download`), where named data sets are looked for, nor what is trained on them.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path

from clearsight.core.progress import MeterBuilder, Note
from clearsight.data.named.cifar10 import convert_cifar10, has_cifar10
from clearsight.data.named.download import Link, MirrorError, RemoteFile, download, is_address, open_session
from clearsight.errors import ClearsightError, DataError, UsageError

MIRROR_VARIABLE = "CLEARSIGHT_MIRROR"
CIFAR10_NPZ = "cifar10.npz"


@dataclass(frozen=True)
class RemoteData:
    """A published data set: its files, and the base addresses under which they are, best first."""

    files: tuple[RemoteFile, ...]
    mirrors: tuple[str, ...]


_IDX_NAMES = ("train-images", "train-labels", "t10k-images", "t10k-labels")


def _build_idx(*sums: tuple[int, str]) -> tuple[RemoteFile, ...]:
    names = (f"{name}-idx{3 if name.endswith('images') else 1}-ubyte.gz" for name in _IDX_NAMES)
    return tuple(RemoteFile(name, *each) for name, each in zip(names, sums, strict=True))


# SHA-256 as in torchvision's prototype datasets (mnist.py), of CIFAR-10's binary archive as in TensorFlow Datasets.
REMOTE: dict[str, RemoteData] = {
    "mnist": RemoteData(
        files=_build_idx(
            (9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            (28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            (1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            (4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        ),
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "http://yann.lecun.com/exdb/mnist/",
        ),
    ),
    "fashion-mnist": RemoteData(
        files=_build_idx(
            (26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            (29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            (4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
            (5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        ),
        mirrors=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        ),
    ),
    "kmnist": RemoteData(
        files=_build_idx(
            (18165135, "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4"),
            (29497, "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17"),
            (3041136, "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5"),
            (5120, "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c"),
        ),
        mirrors=("https://codh.rois.ac.jp/kmnist/dataset/kmnist/", "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"),
    ),
    "cifar10": RemoteData(
        files=(
            RemoteFile(
                "cifar-10-binary.tar.gz", 170052171, "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
            ),
        ),
        mirrors=("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/"),
    ),
}


def _say_nothing(text: str) -> None:
    pass


def fetch_data(
    name: str,
    *,
    folder: Path,
    meter: MeterBuilder,
    mirrors: Mapping[str, Sequence[str]] | None = None,
    note: Note = _say_nothing,
    timeout_seconds: float = 30.0,
) -> Path:
    """Fetch a named data set into `folder/name`, where `load_data(name)` then finds it.

    What is there already and right is not fetched again; what a broken or stopped call left in `*.part` is continued.

    Args:
        name: `mnist`, `fashion-mnist`, `kmnist` or `cifar10`. The last is decoded into `cifar10.npz`: uint8 pictures
            (n, 32, 32, 3) and class names (n,), as `train_images`, `train_labels`, `test_images`, `test_labels`.
        folder: of all fetched data; made where missing.
        meter: shows the bytes as they come; see `clearsight.core.progress.build_meter`.
        mirrors: base addresses by name, instead of the published ones. The environment variable `CLEARSIGHT_MIRROR` puts
            one before them all: the file is then at `$CLEARSIGHT_MIRROR/<name>/<file>`.
        note: is told of mirrors that failed, of resuming, and of waiting for another process.
        timeout_seconds: longest silence of a server.

    Returns:
        `folder/name`.

    Raises:
        UsageError: the name is unknown, or a mirror is not a web address.
        DataError: a file is there already, and is not the published one.
        ClearsightError: no mirror gave the file; the disk is full, or not writable.
    """
    convert = (lambda raw, out: convert_cifar10(raw, out, meter)) if name == "cifar10" else None
    return fetch_files(
        name, _find_remote(name), folder=folder, meter=meter, mirrors=mirrors, note=note, timeout_seconds=timeout_seconds,
        convert=convert,
    )  # fmt: skip


def fetch_files(
    name: str,
    remote: RemoteData,
    *,
    folder: Path,
    meter: MeterBuilder,
    mirrors: Mapping[str, Sequence[str]] | None = None,
    note: Note = _say_nothing,
    timeout_seconds: float = 30.0,
    convert: Callable[[Path, Path], object] | None = None,
) -> Path:
    """The same for any published files, of data or of weights; see `fetch_data`."""
    bases = _find_bases(name, remote, mirrors)
    target = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _hold(folder / f".{name}.lock", name, note), open_session() as session:
            link = Link(session, meter, note, timeout_seconds)
            target.mkdir(exist_ok=True)
            try:
                if convert is None or not has_cifar10(target / CIFAR10_NPZ):
                    for file in remote.files:
                        _fetch_file(link, file, bases, target, remote)
                    if convert is not None:
                        convert(target / remote.files[0].name, target / CIFAR10_NPZ)
            finally:
                with suppress(OSError):  # leaves a folder that holds anything
                    target.rmdir()
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT, EFBIG):
            raise ClearsightError(
                f"disk must have room for {name} in {target}, got: {error.strerror}. "
                "Free space and fetch again; what came so far is kept."
            ) from None
        raise ClearsightError(
            f"{error.filename or target} must be writable, got: {error.strerror or error}. "
            "Change its permissions, or choose another place."
        ) from None
    return target


def _find_remote(name: str) -> RemoteData:
    if name not in REMOTE:
        near = get_close_matches(name, REMOTE, n=1)
        advice = f"Did you mean {near[0]}?" if near else "Choose one of them."
        raise UsageError(f"name must be one of {', '.join(REMOTE)}, got {name!r}. {advice}")
    return REMOTE[name]


def _find_bases(name: str, remote: RemoteData, mirrors: Mapping[str, Sequence[str]] | None) -> list[str]:
    first = os.environ.get(MIRROR_VARIABLE, "")
    bases = [f"{first.rstrip('/')}/{name}"] if first else []
    bases += (mirrors or {}).get(name, remote.mirrors)
    for base in bases or [""]:
        if not is_address(base):
            what = MIRROR_VARIABLE if first and base == bases[0] else "mirror"
            raise UsageError(f"{what} must be a web address, got {base!r}. Write it like https://host/folder.")
    return list(dict.fromkeys(base.rstrip("/") for base in bases))


@contextmanager
def _hold(path: Path, name: str, note: Note) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        note(f"another process fetches {name}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch_file(link: Link, file: RemoteFile, bases: Sequence[str], target: Path, remote: RemoteData) -> None:
    if _has_file(target / file.name, file):
        return
    failures = []
    for base in bases:
        url = f"{base}/{file.name}"
        try:
            download(link, url, file, target)
            return
        except MirrorError as error:
            failures.append(f"{url} {error}")
            if base != bases[-1]:
                link.note(f"{failures[-1]}; trying the next mirror")
    names = ", ".join(each.name for each in remote.files)
    raise ClearsightError(
        f"{file.name} must come from one of its mirrors, got none that gives it: {'; '.join(failures)}. "
        f"Check the network and fetch again, or put {names} into {target} by hand and fetch again."
    )


def _has_file(path: Path, file: RemoteFile) -> bool:
    import pooch  # type: ignore[import-untyped]

    if not path.exists():
        return False
    got = pooch.file_hash(str(path), alg="sha256") if path.is_file() else "none"
    if got != file.sha256:
        raise DataError(
            f"{path} must be the published file with SHA-256 {file.sha256}, got {got}. Delete it or move it, and fetch again."
        )
    return True
