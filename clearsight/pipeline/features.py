"""What the frozen part of a pretrained network makes of every picture: computed once, kept on disk, found again by content.

It must not know what is trained on them.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from hashlib import sha256
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.config.families import find_family
from clearsight.core.progress import MeterBuilder, SilentMeter
from clearsight.data.dataset import Dataset
from clearsight.data.preprocess import Preprocess
from clearsight.data.read.cache import build_key, cache_folder, cache_limit, drop_entry, load_entry, save_entry
from clearsight.engines.predictor import rows_at_once
from clearsight.engines.torch_tools import Inputs, as_memory_error, as_tensor, build_bound
from clearsight.errors import DataError, UsageError
from clearsight.models.convnet import ConvNet, Tail
from clearsight.models.pretrained import HEAD, find_weights, load_weights

_VERSION = "2"  # of how they are computed and kept
_BLOCK = 2048  # pictures that are computed and kept together
_MOST_BYTES = 16 * 2**30
AT_ONCE = 16  # pictures: more are no faster on a CPU
_LOOKS, _LOOK_SIDE = "efficientnet_lite0", 96  # a network that sees much in little time, and the side of its pictures
_KEPT = 2  # of the last ones in memory
_lock = threading.Lock()
Found = tuple[NDArray[np.float32], dict[str, float]]
_last: OrderedDict[str, Found] = OrderedDict()


def find_features(
    net: ConvNet,
    params: NDArray[np.float32],
    preprocess: Preprocess,
    dataset: Dataset,
    *,
    part: str,
    meter: MeterBuilder = SilentMeter,
    note: Callable[[str], None] = lambda text: None,
) -> Found:
    """Features of all pictures of a data set, from the cache where they are, else computed and kept.

    Args:
        net, params: the network and its numbers, of which the head is not used.
        part: `head` for what enters the head, (N, 1, 1, F); `last` for the maps that enter the last stages, (N, C, h, w).
        meter: shows progress while they are computed. note: is told where they cannot be kept.

    Returns:
        The features, float32, and `early` and `late`: seconds that a picture took before and after the last stages began.

    Raises:
        UsageError: they would take more than 16 GiB.
    """
    size = 4 * len(dataset) * (prod(Tail(net).input_shape) if part == "last" else 1)
    if size > _MOST_BYTES:
        raise UsageError(
            f"features for finetune last must take 16 GiB or less, got {size:,} bytes. Use a smaller preprocess.image_size."
        )
    key = _build_key(net, params, preprocess, dataset, part)
    with _lock:  # of several threads, one computes
        found = _last.get(key)
        if found is None:
            found = _collect(key, net, params, preprocess, dataset, part, meter, note)
        _last[key] = found
        _last.move_to_end(key)
        while len(_last) > _KEPT:
            _last.popitem(last=False)
    return found


def recall_features(
    net: ConvNet, params: NDArray[np.float32], preprocess: Preprocess, dataset: Dataset
) -> NDArray[np.float32] | None:
    """What enters the head, (N, F), if it was computed and kept before."""
    key = _build_key(net, params, preprocess, dataset, "head")
    with _lock:
        if key in _last:
            return _last[key][0].reshape(len(dataset), -1)
        blocks = [_load(own, len(dataset.images[rows])) for own, rows in _name_blocks(key, dataset)]
    whole = [block[0] for block in blocks if block is not None]
    return np.concatenate(whole).reshape(len(dataset), -1) if len(whole) == len(blocks) else None


def are_kept(net: ConvNet, params: NDArray[np.float32], preprocess: Preprocess, dataset: Dataset, *, part: str) -> bool:
    """Whether `find_features` would find them, without a look into them."""
    key = _build_key(net, params, preprocess, dataset, part)
    if key in _last:
        return True
    return cache_limit() > 0 and all((cache_folder() / own).is_dir() for own, _ in _name_blocks(key, dataset))


def _name_blocks(key: str, dataset: Dataset) -> list[tuple[str, slice]]:
    """Of each block its key and its rows."""
    starts = range(0, len(dataset), _BLOCK)
    return [(build_key([key, str(start), str(_BLOCK)]), slice(start, start + _BLOCK)) for start in starts]


def _build_key(net: ConvNet, params: NDArray[np.float32], preprocess: Preprocess, dataset: Dataset, part: str) -> str:
    digest = sha256()
    for name, values in net.tensors(params).items():
        if name not in HEAD:
            digest.update(name.encode() + np.ascontiguousarray(values).data)
    for values in (preprocess.scale, preprocess.offset):
        digest.update(values.data)
    library = find_family(net.family).library
    version = library(net.family).__version__ if library else ""
    body = {key: value for key, value in net.describe().items() if key not in ("outputs", "output")}
    about = [version, part, dataset.pictures_fingerprint, digest.hexdigest(), repr(sorted(body.items()))]
    return build_key(["features", _VERSION, *about])


def _collect(
    key: str, net: ConvNet, params: NDArray[np.float32], preprocess: Preprocess, dataset: Dataset, part: str,
    meter: MeterBuilder, note: Callable[[str], None],
) -> Found:  # fmt: skip
    """Block after block, each kept as soon as it is there, so that little is lost when the work is broken off."""
    at_once, what, problem = min(AT_ONCE, rows_at_once(net)), f"features of {dataset.name}", ""
    whole: NDArray[np.float32] | None = None
    total, done, module = {"early": 0.0, "late": 0.0}, 0, None
    with ExitStack() as stack, as_memory_error():
        for own, rows in _name_blocks(key, dataset):
            images = dataset.images[rows]
            block = _load(own, len(images))
            if block is None:
                if module is None:
                    module = build_bound(net, params)
                    advance = stack.enter_context(meter("computing features", len(dataset), unit="pictures"))
                    advance(done)
                block = _compute(module, images, preprocess, part, at_once, advance)
                size = block[0].nbytes // len(images) * len(dataset)
                if 0 < cache_limit() < size:  # a part of them would be of no use
                    problem = f"{what} are not kept for the next time: {size:,} bytes are more than the cache may hold"
                else:
                    problem = save_entry(own, {"seconds": block[1]}, block[0], source=what, what=what) or problem
            elif module is not None:
                advance(len(images))
            done += len(images)
            total = {name: seconds + block[1][name] * len(images) for name, seconds in total.items()}
            if whole is None:
                whole = block[0] if done == len(dataset) else np.empty((len(dataset), *block[0].shape[1:]), np.float32)
            if whole is not block[0]:
                whole[rows] = block[0]
    if problem:
        note(problem)
    assert whole is not None
    return whole, {name: seconds / len(dataset) for name, seconds in total.items()}


def _load(key: str, count: int) -> Found | None:
    entry = load_entry(key)
    if entry is None or entry[0] is None or entry[0].dtype != np.float32 or len(entry[0]) != count:
        return None
    seconds = entry[1].get("seconds")
    if not isinstance(seconds, dict) or not all(isinstance(seconds.get(part), float) for part in ("early", "late")):
        drop_entry(key)
        return None
    return entry[0], {part: seconds[part] for part in ("early", "late")}


def _compute(
    module: Any, images: NDArray[Any], preprocess: Preprocess, part: str, at_once: int, advance: Callable[[int], None]
) -> Found:
    import torch

    inputs, parts = Inputs(preprocess), []
    seconds = {"early": 0.0, "late": 0.0}
    with torch.no_grad():
        for start in range(0, len(images), at_once):
            pictures = inputs(as_tensor(images[start : start + at_once]))
            began = time.perf_counter()
            maps = module.early(pictures)
            middle = time.perf_counter()
            parts.append((module.late(maps) if part == "head" else maps).numpy())
            seconds["early"] += middle - began
            seconds["late"] += time.perf_counter() - middle
            advance(len(pictures))
    found = np.concatenate(parts)
    kept = found.reshape(len(found), 1, 1, -1) if part == "head" else found
    return kept, {name: value / len(images) for name, value in seconds.items()}


def build_look(*, low: float, high: float) -> Callable[[NDArray[Any]], NDArray[np.float32]] | None:
    """What enters EfficientNet-Lite0's head for pictures (n, H, W, C): (n, 1280); None where PyTorch or weights are missing.

    Args:
        low, high: values of black and white.
    """
    try:
        weights = find_weights(_LOOKS)
        net = ConvNet(_LOOKS, (_LOOK_SIDE, _LOOK_SIDE, 3), 2, "softmax")
        tensors = load_weights(net, weights)
    except (UsageError, DataError):
        return None
    params = np.zeros(net.num_values, np.float32)
    for name, values in net.tensors(params).items():
        if name not in HEAD:
            values[:] = tensors[name]
    module: Any = build_bound(net, params)
    sides = _LOOK_SIDE, _LOOK_SIDE

    def look(images: NDArray[Any]) -> NDArray[np.float32]:
        import torch
        from torch.nn.functional import interpolate

        parts, threads = [], torch.get_num_threads()
        torch.set_num_threads(1)  # on small pictures several would wait for one another
        try:
            with torch.no_grad(), as_memory_error():
                for start in range(0, len(images), AT_ONCE):
                    some = torch.from_numpy(images[start : start + AT_ONCE].astype(np.float32)).permute(0, 3, 1, 2)
                    some = some if some.shape[1] == 3 else some.mean(1, keepdim=True).expand(-1, 3, -1, -1)
                    some = interpolate(some, sides, mode="bilinear", antialias=True, align_corners=False)
                    inputs = ((some - low) * (2 / ((high - low) or 1.0)) - 1).permute(0, 2, 3, 1)
                    parts.append(module.late(module.early(inputs)).numpy())
        finally:
            torch.set_num_threads(threads)
        return np.concatenate(parts).reshape(len(images), -1)

    return look
