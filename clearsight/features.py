"""What the frozen part of a pretrained network makes of every picture: computed once, kept on disk, found again by content.

It must not know what is trained on them.
"""

import threading
import time
from collections import OrderedDict
from hashlib import sha256
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.data.cache import build_key, drop_entry, load_entry, save_entry
from clearsight.data.dataset import Dataset
from clearsight.data.preprocess import Preprocess
from clearsight.errors import UsageError
from clearsight.meter import MeterBuilder, SilentMeter
from clearsight.models.convnet import ConvNet, Tail
from clearsight.models.pretrained import HEAD
from clearsight.training.logits import Inputs, as_tensor, build_bound, rows_at_once, telling_memory

_VERSION = "1"  # of how they are computed
_MOST_BYTES = 16 * 2**30
_AT_ONCE = 16  # pictures: more are no faster on a CPU
_KEPT = 2  # of the last ones in memory
_lock = threading.Lock()
_last: OrderedDict[str, tuple[NDArray[np.float32], dict[str, float]]] = OrderedDict()


def find_features(
    net: ConvNet,
    params: NDArray[np.float32],
    preprocess: Preprocess,
    dataset: Dataset,
    *,
    part: str,
    meter: MeterBuilder = SilentMeter,
) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Features of all pictures of a data set, from the cache where they are, else computed and kept.

    Args:
        net, params: the network and its numbers, of which the head is not used.
        part: `head` for what enters the head, (N, 1, 1, F); `last` for the maps that enter the last stages, (N, C, h, w).
        meter: shows progress while they are computed.

    Returns:
        The features, float32, and `early` and `late`: seconds that a picture took before and after the last stages began.

    Raises:
        UsageError: they would take more than 16 GiB.
    """
    shape = Tail(net).input_shape
    size = 4 * len(dataset) * (prod(shape) if part == "last" else 1)
    if size > _MOST_BYTES:
        raise UsageError(f"features for tune last must take 16 GiB or less, got {size:,} bytes. Use tune head or all.")
    key = _build_key(net, params, preprocess, dataset, part)
    with _lock:  # of several threads, one computes
        found = _last.get(key) or _load(key)
        if found is None:
            found = _compute(net, params, preprocess, dataset, part, meter)
            what = f"features of {dataset.name}"
            save_entry(key, {"seconds": found[1]}, found[0], source=what, what=what)
        _last[key] = found
        _last.move_to_end(key)
        while len(_last) > _KEPT:
            _last.popitem(last=False)
    return found


def _build_key(net: ConvNet, params: NDArray[np.float32], preprocess: Preprocess, dataset: Dataset, part: str) -> str:
    digest = sha256()
    for name, values in net.tensors(params).items():
        if name not in HEAD:
            digest.update(name.encode() + np.ascontiguousarray(values).data)
    for values in (preprocess.scale, preprocess.offset):
        digest.update(values.data)
    body = {key: value for key, value in net.describe().items() if key not in ("outputs", "output")}
    return build_key(
        ["features", _VERSION, part, dataset.pictures_fingerprint, digest.hexdigest(), repr(sorted(body.items()))]
    )


def _load(key: str) -> tuple[NDArray[np.float32], dict[str, float]] | None:
    entry = load_entry(key)
    if entry is None or entry[0] is None or entry[0].dtype != np.float32:
        return None
    seconds = entry[1].get("seconds")
    if not isinstance(seconds, dict) or not all(isinstance(seconds.get(part), float) for part in ("early", "late")):
        drop_entry(key)
        return None
    return entry[0], {part: seconds[part] for part in ("early", "late")}


def _compute(
    net: ConvNet, params: NDArray[np.float32], preprocess: Preprocess, dataset: Dataset, part: str, meter: MeterBuilder
) -> tuple[NDArray[np.float32], dict[str, float]]:
    import torch

    module: Any = build_bound(net, params)
    inputs, at_once = Inputs(preprocess), min(_AT_ONCE, rows_at_once(net))
    found: NDArray[np.float32] | None = None
    seconds = {"early": 0.0, "late": 0.0}
    with torch.no_grad(), telling_memory(), meter("computing features", len(dataset), unit="pictures") as advance:
        for start in range(0, len(dataset), at_once):
            pictures = inputs(as_tensor(dataset.images[start : start + at_once]))
            began = time.perf_counter()
            maps = module.early(pictures)
            middle = time.perf_counter()
            values = (module.late(maps) if part == "head" else maps).numpy()
            seconds["early"] += middle - began
            seconds["late"] += time.perf_counter() - middle
            if found is None:
                found = np.empty((len(dataset), *values.shape[1:]), np.float32)
            found[start : start + len(values)] = values
            advance(len(values))
    assert found is not None
    kept = found.reshape(len(found), 1, 1, -1) if part == "head" else found
    return kept, {name: value / len(dataset) for name, value in seconds.items()}
