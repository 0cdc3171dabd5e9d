"""First values of a dense network's parameters, by name. It must not know how they are trained."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clearsight.errors import UsageError
from clearsight.models.mlp import MLP

Draw = Callable[[np.random.Generator, int, int, float], NDArray[np.float64]]


def _normal(rng: np.random.Generator, fan_in: int, fan_out: int, std: float) -> NDArray[np.float64]:
    return rng.normal(0.0, std, (fan_in, fan_out))


def _uniform(rng: np.random.Generator, fan_in: int, fan_out: int, std: float) -> NDArray[np.float64]:
    limit = np.sqrt(3.0) * std  # a uniform on [-limit, limit] has this standard deviation
    return rng.uniform(-limit, limit, (fan_in, fan_out))


def _xavier(rng: np.random.Generator, fan_in: int, fan_out: int, std: float) -> NDArray[np.float64]:
    limit = np.sqrt(6.0 / (fan_in + fan_out))
    return rng.uniform(-limit, limit, (fan_in, fan_out))


def _he(rng: np.random.Generator, fan_in: int, fan_out: int, std: float) -> NDArray[np.float64]:
    return rng.normal(0.0, np.sqrt(2.0 / fan_in), (fan_in, fan_out))


def _orthogonal(rng: np.random.Generator, fan_in: int, fan_out: int, std: float) -> NDArray[np.float64]:
    tall = rng.normal(size=(max(fan_in, fan_out), min(fan_in, fan_out)))
    q, r = np.linalg.qr(tall)
    q = q * np.sign(np.diag(r))  # makes the draw uniform over orthogonal matrices
    return q if fan_in >= fan_out else q.T


def _zeros(rng: np.random.Generator, fan_in: int, fan_out: int, std: float) -> NDArray[np.float64]:
    return np.zeros((fan_in, fan_out))


INITIALIZERS: dict[str, Draw] = {
    "normal": _normal,
    "uniform": _uniform,
    "xavier": _xavier,
    "he": _he,
    "orthogonal": _orthogonal,
    "zeros": _zeros,
}


def initialize(
    net: MLP, *, init: str, seed: int, init_std: float = 0.1, bias_init: str = "zeros", dtype: type = np.float32
) -> NDArray[np.floating]:
    """First parameters of `net` as one flat vector.

    Args:
        net: the architecture.
        init: `normal` and `uniform` use `init_std`; `xavier` is Glorot & Bengio 2010, eq. 16 (uniform); `he` is
            He et al. 2015, eq. 10 (normal, fan-in); `orthogonal` is Saxe et al. 2014; `zeros`.
        seed: equal seeds give equal vectors. Drawn in float64 and rounded once, so dtypes agree.
        init_std: standard deviation of `normal`, `uniform` and of `bias_init="normal"`.
        bias_init: `zeros`, or `normal` with `init_std`.
        dtype: float32 or float64.

    Returns:
        Array of shape (net.num_parameters,).

    Raises:
        UsageError: an unknown name, or a negative or non-finite `init_std`.
    """
    if init not in INITIALIZERS:
        raise UsageError(f"init must be one of {', '.join(INITIALIZERS)}, got {init!r}. Choose one of them.")
    if bias_init not in ("zeros", "normal"):
        raise UsageError(f"bias_init must be zeros or normal, got {bias_init!r}. Choose one of them.")
    if not (np.isfinite(init_std) and init_std >= 0):
        raise UsageError(f"init_std must be a number of 0 or more, got {init_std}. Try 0.1.")
    rng = np.random.default_rng([seed, 0x1417])
    params: NDArray[np.floating] = np.zeros(net.num_parameters, dtype)
    for (weights, biases), fan_in, fan_out in zip(net.layers(params), net.sizes[:-1], net.sizes[1:], strict=True):
        weights[:] = INITIALIZERS[init](rng, fan_in, fan_out, init_std)
        if bias_init == "normal":
            biases[:] = rng.normal(0.0, init_std, biases.shape)
    return params
