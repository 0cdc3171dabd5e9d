"""Where in a picture an answer comes from: Grad-CAM of convolutional nets, and occlusion, which works for every model.

It must not know files, nor how the maps are drawn.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.data.preprocess import Preprocess
from clearsight.engines.predictor import rows_at_once
from clearsight.engines.torch_tools import Inputs, as_tensor, build_bound
from clearsight.models.convnet import ConvNet

PARTS = 7  # squares along a side that are covered in turn, each over more than half of its neighbours


def grad_cam(
    net: ConvNet, params: NDArray[np.float32], preprocess: Preprocess, images: NDArray[Any], classes: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Where the maps before the last pool speak for a class, (n, H, W) in 0..1.

    Args:
        net, params: the network and its numbers. images: (n, H, W, C) as stored. classes: (n,) outputs to explain.

    Source: Selvaraju et al. 2017, equations 1 and 2.
    """
    import torch

    module: Any = build_bound(net, params)
    place = _find_last_maps(module)
    found = np.empty(images.shape[:3], np.float32)
    size = rows_at_once(net)
    for start in range(0, len(images), size):
        kept: list[torch.Tensor] = []
        pool, into = place
        if into:
            hook = pool.register_forward_pre_hook(lambda _, inputs, kept=kept: kept.append(inputs[0]))
        else:
            hook = pool.register_forward_hook(lambda _, inputs, output, kept=kept: kept.append(output))
        part = slice(start, start + size)
        with torch.enable_grad():
            logits = module(Inputs(preprocess)(as_tensor(images[part])).requires_grad_(True))
            hook.remove()
            wanted = logits.gather(1, torch.from_numpy(classes[part])[:, None]).sum()
            (gradient,) = torch.autograd.grad(wanted, kept[0])
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        maps = (weights * kept[0].detach()).sum(dim=1, keepdim=True).clamp(min=0)
        wide = torch.nn.functional.interpolate(maps, images.shape[1:3], mode="bilinear", align_corners=False)[:, 0]
        found[part] = wide.numpy()
    return _scale(found)


def _find_last_maps(module: Any) -> tuple[Any, bool]:
    """The layer whose outputs (n, C, h, w) are pooled or flattened at the end; or, True, the pool that takes them."""
    if hasattr(module, "pool"):
        return module.pool, True
    return (module.features if hasattr(module, "features") else module.groups), False


def occlude(
    predict: Callable[[NDArray[Any]], NDArray[np.floating]], images: NDArray[Any], classes: NDArray[np.int64]
) -> NDArray[np.float32]:
    """How much a class loses where a square of the picture is covered by its mean, (n, H, W) in 0..1.

    Args:
        predict: pictures (m, H, W, C) to probabilities (m, K). images: (n, H, W, C). classes: (n,) to explain.

    Source: Zeiler & Fergus 2014, section 4.2.
    """
    height, width = images.shape[1:3]
    found = np.zeros(images.shape[:3], np.float32)
    squares = [
        (
            slice(int(top), int(np.ceil(top + 2 * height / PARTS))),
            slice(int(left), int(np.ceil(left + 2 * width / PARTS))),
        )
        for top in np.linspace(0, height - 2 * height / PARTS, PARTS)
        for left in np.linspace(0, width - 2 * width / PARTS, PARTS)
    ]
    for k, (image, wanted) in enumerate(zip(images, classes, strict=True)):
        covered = np.repeat(image[None], len(squares) + 1, axis=0)
        for one, square in zip(covered, squares, strict=False):
            one[square] = image.mean(axis=(0, 1)).astype(image.dtype)
        shares = predict(covered)[:, wanted]
        times = np.zeros((height, width))
        for square, share in zip(squares, shares, strict=False):
            found[k][square] += max(float(shares[-1] - share), 0.0)
            times[square] += 1
        found[k] /= np.maximum(times, 1)
    return _scale(found)


def _scale(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each map divided by its largest value; zeros stay."""
    most = maps.max(axis=(1, 2), keepdims=True)
    return np.asarray(np.divide(maps, most, out=np.zeros_like(maps), where=most > 0))
