"""The mathematics of `reference`, compiled: one call trains many steps, without the GIL, without allocating in a step.

Matrix products are `product.multiply`; everything else is a plain loop that LLVM turns into vector instructions. No BLAS takes
part, so the bits depend neither on its build nor on its threads. Symbols as in `reference`. It must not know files, data sets
or epochs. Numba keeps the machine code beside this file (or in NUMBA_CACHE_DIR), so only the first run compiles.

LLVM may not fuse or reorder anything here, so that the bits do not depend on what it makes of a function: code that was just
compiled calls other copies of the functions below than the same code from the cache.
"""

import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from clearsight.core.denormals import flush_denormals
from clearsight.engines.dense.primitives import exp, mix, penalise, scale_by, square_sum, transpose
from clearsight.engines.dense.product import LANES, multiply
from clearsight.engines.dense.reference import Mixed
from clearsight.engines.objective import DENSE_OPTIMIZERS, Objective
from clearsight.models.mlp import ACTIVATIONS, BIASES, LEAK, MLP

RELU, LEAKY_RELU, SIGMOID, TANH, GELU, IDENTITY = range(len(ACTIVATIONS))
UNIT, SHARED, NONE = range(len(BIASES))
SGD, MOMENTUM, NESTEROV, RMSPROP, ADAM, ADAMW = range(len(DENSE_OPTIMIZERS))


class Net(NamedTuple):
    """`MLP` as arrays: units, activation codes, bias code, and where weights and biases start in the flat vector."""

    sizes: NDArray[np.int64]
    activations: NDArray[np.int64]
    bias: int
    weights_at: NDArray[np.int64]
    biases_at: NDArray[np.int64]


class Rule(NamedTuple):
    """`Objective` as numbers."""

    regression: bool
    huber_delta: float  # infinite for squared error, which it then is
    reduce_mean: bool
    smoothing: float
    dropout: float
    l1: float
    l2: float
    clip_norm: float
    optimizer: int
    momentum: float
    rho: float
    beta1: float
    beta2: float
    eps: float
    decay: float


@njit(nogil=True)
def _gather(inputs, rows, scale, offset, x):  # type: ignore[no-untyped-def]
    """x = inputs[rows] * scale + offset, exactly as NumPy rounds it."""
    real = x.dtype.type
    for i in range(len(rows)):
        row = inputs[rows[i]]
        for j in range(x.shape[1]):
            x[i, j] = real(row[j]) * scale[j] + offset[j]


@njit(nogil=True, error_model="numpy")
def _activate(z, b, bias, activation, slope, dropout, seed, step, layer):  # type: ignore[no-untyped-def]
    """A = f(Z + b) in place of Z, and slope = f'(Z + b); both times the dropout mask."""
    real = z.dtype.type
    zero, one, half, leak = real(0), real(1), real(0.5), real(LEAK)
    rows, units = z.shape
    if bias == UNIT:
        for i in range(rows):
            for j in range(units):
                z[i, j] += b[j]
    elif bias == SHARED:
        for i in range(rows):
            for j in range(units):
                z[i, j] += b[0]
    z, slope = z.reshape(z.size), slope[:rows].reshape(rows * units)
    if activation == RELU:
        for i in range(z.size):
            slope[i] = one if z[i] > zero else zero
            z[i] = zero if z[i] < zero else z[i]
    elif activation == LEAKY_RELU:
        for i in range(z.size):
            slope[i] = one if z[i] > zero else leak
            z[i] *= slope[i]
    elif activation == SIGMOID:
        for i in range(z.size):
            a = one / (one + exp(-z[i]))
            z[i] = a
            slope[i] = a * (one - a)
    elif activation == TANH:
        for i in range(z.size):
            a = one - real(2) / (one + exp(real(2) * z[i]))
            square = z[i] * z[i]
            near = z[i] * (one - square * (real(1 / 3) - square * real(2 / 15)))  # where the difference above cancels
            a = near if square < real(4e-4) else a
            z[i] = a
            slope[i] = one - a * a
    elif activation == GELU:
        for i in range(z.size):
            phi = half * (one + real(math.erf(z[i] * real(math.sqrt(0.5)))))
            slope[i] = phi + z[i] * exp(-half * z[i] * z[i]) * real(1 / math.sqrt(2 * math.pi))
            z[i] *= phi
    else:
        slope[:] = one
    if dropout > 0:
        key = mix(mix(np.uint64(seed)) ^ np.uint64(step * 64 + layer))
        keep = real(1 / (1 - dropout))
        silent = dropout * 2.0**24
        for i in range(z.size):
            mask = zero if np.float64(mix(key + np.uint64(i)) >> np.uint64(40)) < silent else keep
            z[i] *= mask
            slope[i] *= mask


@njit(nogil=True, error_model="numpy")
def _loss_and_delta(z, b, bias, labels, targets, rows, others, shares, class_weights, rule):  # type: ignore[no-untyped-def]
    """D_L in place of the logits; returns the mean loss and how many rows are right."""
    real = z.dtype.type
    half = real(0.5)
    count, classes = z.shape
    loss, total, hits = 0.0, 0.0, 0
    for i in range(count):
        weight = real(1)
        if bias != NONE:
            for k in range(classes):
                z[i, k] += b[k if bias == UNIT else 0]
        if rule.regression:
            for k in range(classes):
                error = z[i, k] - targets[rows[i], k]
                inner = min(max(error, real(-rule.huber_delta)), real(rule.huber_delta))
                loss += np.float64(inner * (error - half * inner))
                z[i, k] = inner
        else:
            label = labels[rows[i]]
            other, share = label, real(1)
            if len(shares):
                other, share = others[rows[i]], real(shares[rows[i]])
            if len(class_weights):
                first = share * class_weights[label]
                weight = first + (real(1) - share) * class_weights[other]
                share = first / weight if weight > 0 else share
            best = 0
            for k in range(1, classes):
                if z[i, k] > z[i, best]:
                    best = k
            hits += best == label
            top, sum_z, total_exp = z[i, best], 0.0, real(0)
            for k in range(classes):
                z[i, k] -= top
            right = np.float64(share * z[i, label] + (real(1) - share) * z[i, other])
            for k in range(classes):
                sum_z += z[i, k]
            for k in range(classes):  # by itself: an ordered sum inside would stop vectorisation
                z[i, k] = exp(z[i, k])
            for k in range(classes):
                total_exp += z[i, k]
            smooth = rule.smoothing / classes
            log_total = math.log(np.float64(total_exp))
            loss += weight * (log_total - (1 - rule.smoothing) * right - smooth * sum_z)
            for k in range(classes):
                z[i, k] = z[i, k] / total_exp - real(smooth)
            z[i, label] -= real(1 - rule.smoothing) * share
            z[i, other] -= real(1 - rule.smoothing) * (real(1) - share)
        total += weight
        for k in range(classes):
            z[i, k] *= weight
    total = max(total, 1e-30)
    if rule.reduce_mean:
        share = real(1 / total)
        for i in range(count):
            for k in range(classes):
                z[i, k] *= share
    return loss / total, hits


@njit(nogil=True, error_model="numpy")
def _update(w, g, slots, at, rule, decay, lr, step):  # type: ignore[no-untyped-def]
    """One optimiser step on a run of parameters that starts at `at` of the flat vector."""
    real = w.dtype.type
    rate, mu, eps = real(lr), real(rule.momentum), real(rule.eps)
    end = at + w.size
    if decay > 0:
        keep = real(1 - lr * decay)
        for i in range(w.size):
            w[i] *= keep
    if rule.optimizer == SGD:
        for i in range(w.size):
            w[i] -= rate * g[i]
    elif rule.optimizer == MOMENTUM:
        v = slots[0, at:end]
        for i in range(w.size):
            v[i] = mu * v[i] + g[i]
            w[i] -= rate * v[i]
    elif rule.optimizer == NESTEROV:
        v = slots[0, at:end]
        for i in range(w.size):
            v[i] = mu * v[i] + g[i]
            w[i] -= rate * (g[i] + mu * v[i])
    elif rule.optimizer == RMSPROP:
        v, rho, fresh = slots[0, at:end], real(rule.rho), real(1 - rule.rho)
        for i in range(w.size):
            v[i] = rho * v[i] + fresh * g[i] * g[i]
            w[i] -= rate * g[i] / (math.sqrt(v[i]) + eps)
    else:
        m, v = slots[0, at:end], slots[1, at:end]
        beta1, beta2, fresh1, fresh2 = real(rule.beta1), real(rule.beta2), real(1 - rule.beta1), real(1 - rule.beta2)
        grow1, grow2 = real(1 / (1 - rule.beta1 ** (step + 1))), real(1 / (1 - rule.beta2 ** (step + 1)))
        for i in range(w.size):
            m[i] = beta1 * m[i] + fresh1 * g[i]
            v[i] = beta2 * v[i] + fresh2 * g[i] * g[i]
            w[i] -= rate * (m[i] * grow1) / (math.sqrt(v[i] * grow2) + eps)


@njit(nogil=True)
def _sum_biases(delta, g, bias):  # type: ignore[no-untyped-def]
    """dC/db: over the rows, and over the units too where they share one number."""
    rows, units = delta.shape
    g[:] = 0
    if bias == UNIT:
        for i in range(rows):
            for j in range(units):
                g[j] += delta[i, j]
    else:
        for i in range(rows):
            for j in range(units):
                g[0] += delta[i, j]


def _build_train(sources: int) -> Any:
    """`train` for one state of the sources: Numba's cache watches this file alone, but also what a function closes over."""

    @njit(cache=True, nogil=True, error_model="numpy")
    def train(
        net, rule, inputs, labels, targets, others, shares, order, batch_size, scale, offset, class_weights,
        weights, slots, lrs, first_batch, first_step, seed, losses,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        if sources < 0:  # never: it is here so that the cache's key holds it
            return 0, 0
        layers = len(net.sizes) - 1
        room_at = np.zeros(layers + 2, np.int64)  # where each layer's outputs start in the workspace
        widest = 0
        for layer in range(layers + 1):
            room_at[layer + 1] = room_at[layer] + net.sizes[layer] * min(batch_size, len(order))
        for layer in range(1, layers):
            widest = max(widest, net.sizes[layer] * net.sizes[layer + 1])
        size = room_at[layers + 1] + LANES  # products read whole vectors, so every array has some room behind it
        room, slopes, deltas = (
            np.zeros(size, weights.dtype),
            np.zeros(size, weights.dtype),
            np.zeros(size, weights.dtype),
        )
        turned = np.zeros(widest + LANES, weights.dtype)
        params, grad = np.zeros(len(weights) + LANES, weights.dtype), np.zeros_like(weights)
        params[: len(weights)] = weights
        hits, done = 0, len(lrs)
        for i in range(len(lrs)):
            step = first_step + i
            rows = order[(first_batch + i) * batch_size : (first_batch + i + 1) * batch_size]
            count = len(rows)
            _gather(inputs, rows, scale, offset, room[: count * net.sizes[0]].reshape((count, net.sizes[0])))
            for layer in range(layers):  # equation (1)
                fan_in, units = net.sizes[layer], net.sizes[layer + 1]
                b = params[net.biases_at[layer] : net.weights_at[layer + 1]]
                target = room if layer < layers - 1 else deltas
                flat = target[room_at[layer + 1] : room_at[layer + 1] + count * units]
                multiply(
                    room[room_at[layer] :], fan_in, 1, params[net.weights_at[layer] :], units, flat, units,
                    count,
                    fan_in,
                    units,
                )  # fmt: skip
                z = flat.reshape((count, units))
                if layer < layers - 1:
                    slope = slopes[room_at[layer + 1] : room_at[layer + 1] + count * units].reshape((count, units))
                    _activate(z, b, net.bias, net.activations[layer], slope, rule.dropout, seed, step, layer)
                else:
                    losses[i], right = _loss_and_delta(
                        z, b, net.bias, labels, targets, rows, others, shares, class_weights, rule
                    )
            if not np.isfinite(losses[i]):
                done = i + 1
                break
            hits += right
            norm = 0.0
            for layer in range(layers - 1, -1, -1):  # equations (3) and (4)
                fan_in, units = net.sizes[layer], net.sizes[layer + 1]
                at, biases_at, end = net.weights_at[layer], net.biases_at[layer], net.weights_at[layer + 1]
                delta = deltas[room_at[layer + 1] :]
                w, g = params[at:biases_at], grad[at:biases_at]
                multiply(room[room_at[layer] :], 1, fan_in, delta, units, g, units, fan_in, count, units)
                if net.bias != NONE:
                    _sum_biases(delta[: count * units].reshape((count, units)), grad[biases_at:end], net.bias)
                if layer > 0:
                    before = deltas[room_at[layer] : room_at[layer] + count * fan_in]
                    transpose(w, fan_in, units, turned)
                    multiply(delta, units, 1, turned, fan_in, before, fan_in, count, units, fan_in)
                    scale_by(before, slopes[room_at[layer] : room_at[layer] + count * fan_in])
                if rule.l1 > 0 or rule.l2 > 0:
                    penalise(w, g, rule.l1, rule.l2)
                if rule.clip_norm > 0:
                    norm += square_sum(grad[at:end])
            if rule.clip_norm > 0 and norm > rule.clip_norm * rule.clip_norm:
                grad *= params.dtype.type(rule.clip_norm / math.sqrt(norm))
            for layer in range(layers):
                at, biases_at, end = net.weights_at[layer], net.biases_at[layer], net.weights_at[layer + 1]
                _update(params[at:biases_at], grad[at:biases_at], slots, at, rule, rule.decay, lrs[i], step)
                if end > biases_at:
                    _update(params[biases_at:end], grad[biases_at:end], slots, biases_at, rule, 0.0, lrs[i], step)
        weights[:] = params[: len(weights)]
        return done, hits

    return train


def _hash_sources() -> int:
    """A number that changes with any source the compiled code comes from."""
    texts = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    texts.append(repr((ACTIVATIONS, BIASES, DENSE_OPTIMIZERS)).encode())  # their order gives the codes
    return int.from_bytes(hashlib.sha256(b"".join(texts)).digest()[:6], "big")


_train = _build_train(_hash_sources())


def _compile_net(net: MLP) -> Net:
    slices = net.slices()
    return Net(
        sizes=np.array(net.sizes, np.int64),
        activations=np.array([ACTIVATIONS.index(a) for a in net.activations], np.int64),
        bias=BIASES.index(net.bias),
        weights_at=np.array([w.start for w, _ in slices] + [net.num_parameters], np.int64),
        biases_at=np.array([b.start for _, b in slices], np.int64),
    )


_NUMBERS = ("dropout", "l1", "l2", "clip_norm", "momentum", "rho", "beta1", "beta2", "eps", "decay")


def _compile_rule(objective: Objective) -> Rule:
    return Rule(
        regression=objective.is_regression,
        huber_delta=float(objective.huber_delta) if objective.loss == "huber" else math.inf,
        reduce_mean=objective.reduction == "mean",
        smoothing=float(objective.label_smoothing),
        optimizer=DENSE_OPTIMIZERS.index(objective.optimizer),
        **{key: float(getattr(objective, key)) for key in _NUMBERS},
    )


@flush_denormals()
def train_steps(
    net: MLP,
    objective: Objective,
    *,
    inputs: NDArray[Any],
    labels: NDArray[np.int64],
    targets: NDArray[np.floating],
    order: NDArray[np.int64],
    batch_size: int,
    scale: NDArray[np.floating],
    offset: NDArray[np.floating],
    params: NDArray[np.floating],
    slots: NDArray[np.floating],
    lrs: NDArray[np.float64],
    first_batch: int,
    first_step: int,
    seed: int,
    mixed: Mixed | None = None,
) -> tuple[NDArray[np.float64], int]:
    """The same as `reference.train_steps`: same arguments, same meaning, same results to float tolerance."""
    losses = np.zeros(len(lrs))
    others, shares = mixed or (np.zeros(0, np.int64), np.zeros(0))
    done, hits = _train(
        _compile_net(net), _compile_rule(objective), _lock(inputs), _lock(labels), _lock(targets), _lock(others), _lock(shares),
        _lock(order), batch_size,
        _lock(scale), _lock(offset), np.array(objective.class_weights, params.dtype), params, slots, _lock(lrs), first_batch,
        first_step, seed, losses,
    )  # fmt: skip
    return losses[:done], hits


def _lock(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only contiguous view: Numba compiles anew for each kind of array, so all come as the same kind."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def warm_up(inputs_dtype: np.dtype[Any]) -> None:
    """Compile, or load from the disk cache, the kernel for stored pixels of this type, before it is timed or needed."""
    net = MLP((1, 2), ())
    train_steps(
        net, Objective(), inputs=np.zeros((1, 1), inputs_dtype), labels=np.zeros(1, np.int64),
        targets=np.zeros((0, 2), np.float32), order=np.zeros(1, np.int64), batch_size=1, scale=np.ones(1, np.float32),
        offset=np.zeros(1, np.float32), params=np.zeros(net.num_parameters, np.float32),
        slots=np.zeros((0, net.num_parameters), np.float32), lrs=np.zeros(1), first_batch=0, first_step=0, seed=0,
    )  # fmt: skip
