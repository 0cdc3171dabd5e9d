"""First values of a network's parameters, by name, for every kind of layer. It must not know how they are trained.

Everything is drawn by NumPy in float64 and rounded once, so a seed gives the same weights on every device and engine; but for
networks of timm's, which draw by PyTorch's generator.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clearsight.config.families import find_family
from clearsight.core.numerics import allow_infinities
from clearsight.errors import UsageError
from clearsight.models.convnet import ConvNet
from clearsight.models.mlp import MLP, TRAINED

Draw = Callable[[np.random.Generator, int, int, int, float], NDArray[np.float64]]
"""(rng, fan_in, units, fan_out, std) to weights (fan_in, units)."""


def _normal(rng: np.random.Generator, fan_in: int, units: int, fan_out: int, std: float) -> NDArray[np.float64]:
    return rng.normal(0.0, std, (fan_in, units))


def _uniform(rng: np.random.Generator, fan_in: int, units: int, fan_out: int, std: float) -> NDArray[np.float64]:
    limit = np.sqrt(3.0) * std  # a uniform on [-limit, limit] has this standard deviation
    return rng.uniform(-limit, limit, (fan_in, units))


def _xavier(rng: np.random.Generator, fan_in: int, units: int, fan_out: int, std: float) -> NDArray[np.float64]:
    limit = np.sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, (fan_in, units))


def _he(rng: np.random.Generator, fan_in: int, units: int, fan_out: int, std: float) -> NDArray[np.float64]:
    return rng.normal(0.0, np.sqrt(2.0 / fan_in), (fan_in, units))


def _orthogonal(rng: np.random.Generator, fan_in: int, units: int, fan_out: int, std: float) -> NDArray[np.float64]:
    tall = rng.normal(size=(max(fan_in, units), min(fan_in, units)))
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))  # makes the draw uniform over orthogonal matrices
    return q if fan_in >= units else q.T


def _zeros(rng: np.random.Generator, fan_in: int, units: int, fan_out: int, std: float) -> NDArray[np.float64]:
    return np.zeros((fan_in, units))


_WHITENED_BLOCK = 16  # pictures whose patches are in memory together
INITIALIZERS: dict[str, Draw] = {
    "normal": _normal,
    "uniform": _uniform,
    "xavier": _xavier,
    "he": _he,
    "orthogonal": _orthogonal,
    "zeros": _zeros,
}


@allow_infinities()
def initialize(
    net: MLP | ConvNet,
    *,
    init: str,
    seed: int,
    init_std: float = 0.1,
    bias_init: str = "zeros",
    dtype: type = np.float32,
) -> NDArray[np.floating]:
    """First parameters of `net` as one flat vector.

    Args:
        net: the architecture.
        init: `normal` and `uniform` use `init_std`; `xavier` is Glorot & Bengio 2010, eq. 16 (uniform); `he` is
            He et al. 2015, eq. 10 (normal, fan-in); `orthogonal` is Saxe et al. 2014; `zeros`; `auto` is he or xavier by
            the activation, xavier for the last layer of a convolutional net, and 0 for the scale of the last normalisation
            of a residual block. A convolution's fans are its channels
            times the area of its kernel. A network of timm's begins as that library has it.
        seed: equal seeds give equal vectors. Drawn in float64 and rounded once, so dtypes agree.
        init_std: standard deviation of `normal`, `uniform` and of `bias_init="normal"`.
        bias_init: `zeros`, or `normal` with `init_std`.
        dtype: float32 or float64.

    Returns:
        Array of shape (net.num_values,): weights, biases, and for normalisation the scale 1, mean 0 and variance 1.

    Raises:
        UsageError: an unknown name, or a negative or non-finite `init_std`.
    """
    if init not in (*INITIALIZERS, "auto"):
        raise UsageError(f"init must be one of auto, {', '.join(INITIALIZERS)}, got {init!r}. Choose one of them.")
    if bias_init not in ("zeros", "normal"):
        raise UsageError(f"bias_init must be zeros or normal, got {bias_init!r}. Choose one of them.")
    if not (np.isfinite(init_std) and init_std >= 0):
        raise UsageError(f"init_std must be a number of 0 or more, got {init_std}. Try 0.1.")
    if isinstance(net, ConvNet) and find_family(net.family).library is not None:
        from clearsight.models.timm_net import draw_values

        return draw_values(net, seed=seed).astype(dtype)
    rng = np.random.default_rng([seed, 0x1417])
    params: NDArray[np.floating] = np.zeros(net.num_values, dtype)
    hidden = _choose(net.activations[0] if isinstance(net, MLP) and net.activations else "identity")
    if isinstance(net, MLP):
        draw = INITIALIZERS[hidden if init == "auto" else init]
        for (weights, biases), fan_in, units in zip(net.layers(params), net.sizes[:-1], net.sizes[1:], strict=True):
            weights[:] = draw(rng, fan_in, units, units, init_std)
            if bias_init == "normal":
                biases[:] = rng.normal(0.0, init_std, biases.shape)
        return params
    _fill(net, params, rng, init=init, init_std=init_std, bias_init=bias_init)
    return params


def _choose(activation: str) -> str:
    """The initialiser that keeps the size of signals under an activation."""
    return "he" if activation in ("relu", "leaky_relu", "gelu") else "xavier"


def _fill(
    net: ConvNet, params: NDArray[np.floating], rng: np.random.Generator, *, init: str, init_std: float, bias_init: str
) -> None:
    """The first values of a convolutional net, tensor by tensor."""
    tensors, family = net.tensors(params), find_family(net.family)
    last = [name for name, values in tensors.items() if values.ndim > 1 and net.layout()[name][1] == TRAINED][-1]
    for name, values in tensors.items():
        if name.endswith(("running_var", "weight")) and values.ndim == 1:
            values[:] = 0 if init == "auto" and name.endswith(f".{family.zero_norm or '-'}.weight") else 1
        elif values.ndim == 1:
            if bias_init == "normal" and name.endswith("bias"):
                values[:] = rng.normal(0.0, init_std, values.shape)
        else:
            area = int(np.prod(values.shape[2:]))
            fan_in, units = values.shape[1] * area, values.shape[0]
            chosen = "xavier" if name == last else _choose(net.activation)
            draw = INITIALIZERS[chosen if init == "auto" else init]
            values[:] = draw(rng, fan_in, units, units * area, init_std).T.reshape(values.shape)
            if init == "auto" and family.whitened and values.ndim == 4:
                _pass_through(values)


def _pass_through(values: NDArray[np.floating]) -> None:
    """Let the first filters of a convolution copy their channel (Zagoruyko & Komodakis 2017; Jordan 2024, section 3.2)."""
    count, middle = min(values.shape[:2]), values.shape[2] // 2
    values[:count] = 0
    values[np.arange(count), np.arange(count), middle, middle] = 1


def whiten(net: ConvNet, params: NDArray[np.floating], inputs: NDArray[np.float32]) -> None:
    """Fit the first filters: the principal directions of 2x2 patches, scaled to deviation 1, and their negatives.

    Args:
        params: flat vector, changed in place. inputs: network inputs of training pictures, (n, H, W, C).

    Source: Jordan 2024, section 3.1.
    """
    filters = net.tensors(params)["whiten"]
    size = int(np.prod(filters.shape[1:]))
    moments, count = np.zeros((size, size)), 0
    for start in range(0, len(inputs), _WHITENED_BLOCK):
        block = inputs[start : start + _WHITENED_BLOCK]
        flat = np.lib.stride_tricks.sliding_window_view(block, (2, 2), axis=(1, 2)).reshape(-1, size).astype(np.float64)
        moments, count = moments + flat.T @ flat, count + len(flat)
    values, vectors = np.linalg.eigh(moments / count)
    scaled = (vectors / np.sqrt(values + 1e-2 * values.mean() + 1e-12)).T[::-1].reshape(-1, *filters.shape[1:])
    filters[:] = np.concatenate([scaled, -scaled])
