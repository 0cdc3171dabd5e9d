"""The dense network as in a textbook: one equation a line, in NumPy. `kernel` is the same, compiled; tests compare them.

Notation. A batch of B rows is a matrix X = A_0 of shape (B, n_0). Layer l has weights W_l (n_{l-1}, n_l) and biases b_l:

    Z_l = A_{l-1} W_l + b_l        A_l = f_l(Z_l)        l = 1 .. L                                   (1)

The last layer has no f: its Z_L are the logits.

**Softmax and cross-entropy.** For one row, the softmax is a_k = exp(z_k) / sum_j exp(z_j), the target q sums to 1, and the
loss is C = - sum_k q_k log a_k. Write log a_k = z_k - log sum_j exp(z_j). Then

    C = - sum_k q_k z_k + log sum_j exp(z_j)                        because sum_k q_k = 1
    dC/dz_i = - q_i + exp(z_i) / sum_j exp(z_j) = a_i - q_i                                           (2)

The exponentials of the softmax and the logarithm of the loss cancel: the error signal of the last layer is just "what the
network said minus what is true". Squared error C = 1/2 sum_k (a_k - t_k)^2 with a = z gives the same form, a_k - t_k.
Subtracting max_j z_j from every z changes neither a nor C, and keeps exp from overflowing.

**Backpropagation** (Rumelhart, Hinton & Williams 1986). Let D_l = dC/dZ_l, of shape (B, n_l). From (1) and the chain rule

    dC/dW_l = A_{l-1}^T D_l        dC/db_l = sum over rows of D_l                                     (3)
    D_{l-1} = (D_l W_l^T) * f'_{l-1}(Z_{l-1})                                                         (4)

so one pass from the last layer to the first yields every derivative at about twice the cost of the forward pass. With a
shared bias all units of a layer add the same number b_l, so its derivative is the sum of D_l over rows and units.

**Dropout** (Srivastava et al. 2014) multiplies A_l by a mask M_l of 0 and 1 / (1 - p). M_l is a constant of the step, so (4)
gains the same factor. The mask is a hash of (seed, step, layer, place): the same on every machine, nothing to store.

It must not know files, data sets or epochs. Source of (1)-(4): Nielsen, Neural Networks and Deep Learning, chapter 2.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from clearsight.core.denormals import flush_denormals
from clearsight.core.hashing import mix
from clearsight.core.numerics import allow_infinities, log_softmax, softmax
from clearsight.engines.objective import Objective
from clearsight.models.mlp import LEAK, MLP

Array = NDArray[np.floating]


def _sigmoid(z: Array) -> Array:
    with np.errstate(over="ignore"):  # exp(-z) may reach inf, and 1 / (1 + inf) is the right 0
        return 1 / (1 + np.exp(-z))


# Each activation returns f(z) and f'(z). At a kink the derivative is that from the left.
def _relu(z: Array) -> tuple[Array, Array]:
    return np.where(z < 0, 0, z).astype(z.dtype), (z > 0).astype(z.dtype)


def _leaky_relu(z: Array) -> tuple[Array, Array]:
    slope = np.where(z > 0, 1, LEAK).astype(z.dtype)
    return z * slope, slope


def _sigmoid_pair(z: Array) -> tuple[Array, Array]:
    a = _sigmoid(z)
    return a, a * (1 - a)


def _tanh(z: Array) -> tuple[Array, Array]:
    a = np.tanh(z)
    return a, 1 - a * a


def _gelu(z: Array) -> tuple[Array, Array]:
    """z Phi(z), with Phi the normal distribution function (Hendrycks & Gimpel 2016)."""
    phi = 0.5 * (1 + erf(z * np.sqrt(0.5).astype(z.dtype)))
    return z * phi, phi + z * np.exp(-0.5 * z * z) * z.dtype.type(1 / np.sqrt(2 * np.pi))


def _identity(z: Array) -> tuple[Array, Array]:
    return z.copy(), np.ones_like(z)


ACTIVATE: dict[str, Callable[[Array], tuple[Array, Array]]] = {
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "sigmoid": _sigmoid_pair,
    "tanh": _tanh,
    "gelu": _gelu,
    "identity": _identity,
}


def layer_sums(net: MLP, params: Array, x: Array) -> Iterator[Array]:
    """Equation (1) without dropout: Z_1 .. Z_L, (B, n_l) each, one at a time, for rows `x` of shape (B, n_0)."""
    a = x
    for layer, (w, b) in enumerate(net.layers(params)):
        with allow_infinities():  # not around the `yield`: who takes the sums has warnings of their own
            z = a @ w + b if b.size else a @ w
            a = ACTIVATE[net.activations[layer]](z)[0] if layer < net.num_layers - 1 else z
        yield z


def logits(net: MLP, params: Array, x: Array) -> Array:
    """The last of `layer_sums`, (B, n_L)."""
    for z in layer_sums(net, params, x):
        last = z
    return last


def dropout_mask(shape: tuple[int, int], p: float, *, seed: int, step: int, layer: int, dtype: np.dtype) -> Array:
    """0 with probability `p`, else 1 / (1 - p); a function of its arguments alone."""
    key = mix(mix(np.array([seed], dtype=np.uint64)) ^ np.uint64(step * 64 + layer))
    bits = mix(key + np.arange(shape[0] * shape[1], dtype=np.uint64)) >> np.uint64(40)  # 24 random bits
    return np.where(bits < p * 2**24, 0, 1 / (1 - p)).astype(dtype).reshape(shape)


def forward(
    net: MLP, params: Array, x: Array, *, dropout: float = 0.0, seed: int = 0, step: int = 0, sums: list[Array] | None = None,
) -> tuple[list[Array], list[Array]]:  # fmt: skip
    """Equation (1) for one training batch.

    Args:
        sums: a list that gets Z_1 .. Z_L too.

    Returns:
        Outputs A_0 .. A_L (the last one holds the logits), and the slopes f'(Z_l) * M_l of layers 1 .. L-1.
    """
    outputs, slopes = [x], []
    for layer, (w, b) in enumerate(net.layers(params)):
        z = outputs[-1] @ w
        if b.size:
            z = z + b
        if sums is not None:
            sums.append(z)
        if layer < net.num_layers - 1:
            a, slope = ACTIVATE[net.activations[layer]](z)
            if dropout > 0:
                mask = dropout_mask(a.shape, dropout, seed=seed, step=step, layer=layer, dtype=a.dtype)
                a, slope = a * mask, slope * mask
            outputs.append(a)
            slopes.append(slope)
        else:
            outputs.append(z)
    return outputs, slopes


Mixed = tuple[NDArray[np.int64], NDArray[np.float64]]
"""(others, shares): second classes (n,) and the share of the first class (n,), for rows that were mixed of two."""


def loss_and_delta(
    z: Array, labels: NDArray[np.int64], targets: Array, objective: Objective, mixed: Mixed | None = None
) -> tuple[float, Array]:
    """Mean loss of a batch and D_L, equation (2).

    Args:
        z: logits (B, K). labels: (B,), used by cross-entropy. targets: (B, K), used by the others.
        mixed: the loss is then share * C(label) + (1 - share) * C(other), each with its class's weight (Zhang et al. 2018).
    """
    rows, classes = z.shape
    weights = np.ones(rows, z.dtype)
    if objective.is_regression:
        delta = z - targets
        if objective.loss == "huber":  # beyond d the slope stays at d: quadratic to there, linear from there
            inner = np.clip(delta, -objective.huber_delta, objective.huber_delta)
            losses = (inner * (delta - 0.5 * inner)).sum(axis=1)
            delta = inner
        else:
            losses = 0.5 * (delta * delta).sum(axis=1)
    else:
        by_class = np.asarray(objective.class_weights or np.ones(classes), z.dtype)
        others, shares = mixed if mixed is not None else (labels, np.ones(rows))
        first = shares.astype(z.dtype) * by_class[labels]
        weights = first + (1 - shares).astype(z.dtype) * by_class[others]
        share = np.where(weights > 0, first / np.where(weights > 0, weights, 1), shares).astype(z.dtype)
        q = np.full_like(z, objective.label_smoothing / classes)
        np.add.at(q, (np.arange(rows), labels), (1 - objective.label_smoothing) * share)
        np.add.at(q, (np.arange(rows), others), (1 - objective.label_smoothing) * (1 - share))
        delta = softmax(z) - q
        losses = -(q * log_softmax(z)).sum(axis=1)
    total = max(float(weights.sum()), 1e-30)
    delta = delta * weights[:, None]
    if objective.reduction == "mean":
        delta = delta / total
    return float((losses * weights).sum() / total), delta.astype(z.dtype)


def backward(net: MLP, params: Array, outputs: list[Array], slopes: list[Array], delta: Array) -> Array:
    """Equations (3) and (4): the gradient of the batch's loss, in the layout of `params`."""
    grad = np.zeros_like(params)
    layers, grads = net.layers(params), net.layers(grad)
    for layer in reversed(range(net.num_layers)):
        w, (grad_w, grad_b) = layers[layer][0], grads[layer]
        grad_w[:] = outputs[layer].T @ delta
        if net.bias == "unit":
            grad_b[:] = delta.sum(axis=0)
        elif net.bias == "shared":
            grad_b[:] = delta.sum()
        if layer > 0:
            delta = (delta @ w.T) * slopes[layer - 1]
    return grad


def gradient(
    net: MLP,
    params: Array,
    x: Array,
    labels: NDArray[np.int64],
    targets: Array,
    objective: Objective,
    *,
    mixed: Mixed | None = None,
    seed: int = 0,
    step: int = 0,
) -> tuple[float, Array, Array]:
    """Loss of one batch (without penalties), gradient with penalties and clipping, and the logits."""
    outputs, slopes = forward(net, params, x, dropout=objective.dropout, seed=seed, step=step)
    loss, delta = loss_and_delta(outputs[-1], labels, targets, objective, mixed)
    grad = backward(net, params, outputs, slopes, delta)
    for (w, _), (grad_w, _) in zip(net.layers(params), net.layers(grad), strict=True):
        grad_w += objective.l1 * np.sign(w) + objective.l2 * w
    if objective.clip_norm > 0:
        norm = float(np.sqrt((grad.astype(np.float64) ** 2).sum()))
        if norm > objective.clip_norm:
            grad *= objective.clip_norm / norm
    return loss, grad, outputs[-1]


def update(net: MLP, params: Array, grad: Array, slots: Array, objective: Objective, *, lr: float, step: int) -> None:
    """One step of the optimiser, in place. `slots` is (num_slots, P); `step` counts from 0."""
    if objective.decay > 0:
        for w, _ in net.layers(params):
            w *= 1 - lr * objective.decay
    if objective.optimizer == "sgd":
        params -= lr * grad
    elif objective.optimizer == "momentum":
        slots[0] = objective.momentum * slots[0] + grad
        params -= lr * slots[0]
    elif objective.optimizer == "nesterov":
        slots[0] = objective.momentum * slots[0] + grad
        params -= lr * (grad + objective.momentum * slots[0])
    elif objective.optimizer == "rmsprop":
        slots[0] = objective.rho * slots[0] + (1 - objective.rho) * grad * grad
        params -= lr * grad / (np.sqrt(slots[0]) + objective.eps)
    else:  # adam, adamw
        slots[0] = objective.beta1 * slots[0] + (1 - objective.beta1) * grad
        slots[1] = objective.beta2 * slots[1] + (1 - objective.beta2) * grad * grad
        mean = slots[0] / (1 - objective.beta1 ** (step + 1))
        square = slots[1] / (1 - objective.beta2 ** (step + 1))
        params -= lr * mean / (np.sqrt(square) + objective.eps)


@flush_denormals()
@allow_infinities()
def train_steps(
    net: MLP,
    objective: Objective,
    *,
    inputs: NDArray[np.generic],
    labels: NDArray[np.int64],
    targets: Array,
    order: NDArray[np.int64],
    batch_size: int,
    scale: Array,
    offset: Array,
    params: Array,
    slots: Array,
    lrs: NDArray[np.float64],
    first_batch: int,
    first_step: int,
    seed: int,
    mixed: Mixed | None = None,
) -> tuple[NDArray[np.float64], int]:
    """Train on batches `first_batch ..` of one epoch, one for each learning rate; `params` and `slots` change in place.

    Args:
        inputs: (N, n_0), any dtype; a batch is `inputs[rows] * scale + offset`.
        labels: (N,) classes; targets: (N, K) for squared error, (0, K) otherwise.
        order: the rows of this epoch in their order; the last batch may be short.
        scale, offset: (n_0,), from the preprocessing.
        lrs: one learning rate for each batch to train.
        first_step: number of steps taken before, since the start of the run.
        seed: of the dropout masks.
        mixed: second classes and shares, (N,) each, of rows that were mixed of two pictures.

    Numbers below a float's normal form count as zero (`denormals`), here as in the kernel.

    Returns:
        Mean loss of each batch, before its update, and how many rows were classified rightly. Stops after the first
        batch whose loss is not finite, without its update; the array ends with that loss.
    """
    losses, hits = np.zeros(len(lrs)), 0
    for i, lr in enumerate(lrs):
        rows = order[(first_batch + i) * batch_size : (first_batch + i + 1) * batch_size]
        x = inputs[rows].astype(params.dtype) * scale + offset
        t = targets[rows] if len(targets) else targets
        pair = None if mixed is None else (mixed[0][rows], mixed[1][rows])
        losses[i], grad, z = gradient(
            net, params, x, labels[rows], t, objective, mixed=pair, seed=seed, step=first_step + i
        )
        if not np.isfinite(losses[i]):
            return losses[: i + 1], hits
        hits += int((z.argmax(axis=1) == labels[rows]).sum())
        update(net, params, grad, slots, objective, lr=float(lr), step=first_step + i)
    return losses, hits
