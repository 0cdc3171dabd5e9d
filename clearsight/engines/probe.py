"""What goes on inside a network at one moment of its training: typed numbers of each layer, the same from every engine.

It must not know how a network is trained, nor what the numbers mean for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from clearsight.core.numerics import log_softmax, softmax
from clearsight.models.convnet import ConvNet, Tail
from clearsight.models.mlp import MLP

Array = NDArray[np.floating]
ROWS, PARTS = 256, 4  # pictures of a probe; parts of them whose gradients are told apart
_BINS, _MOST_VALUES, _MOST_UNITS = 41, 2**16, 512  # of a histogram; values and units that are looked at
_MAP_VALUES = 2**22  # of the largest layer, over all pictures of a probe
SURE = 0.99


@dataclass(frozen=True)
class LayerProbe:
    """A layer with weights, on some pictures without dropout. z is what it gives before its activation, x what enters it.

    Args:
        name, units: as in the network; units are channels of a convolution.
        mean, std, low, high: of all z; None where none is finite. counts: of 41 equal bins from low to high.
        spread: deviation of z from picture to picture, the root of its mean square over units and places. Where it dies,
            pictures can no longer be told apart.
        silent: share of the units of x that are 0 for every picture and place: dead ones, where x comes from a ReLU.
        x_mean, x_std: of all x. x_limit: share of x beyond 0.99 of its largest magnitude, as a saturated tanh has it.
        rank: effective rank of z over pictures, exp of the entropy of its squared singular values (Roy & Vetterli 2007).
        weight, gradient: root mean square of the weights and of the gradient of the mean loss in them.
        update: root mean square of what the next step adds to the weights, as a share of `weight`; about 0.001 is usual.
    """

    name: str
    units: int
    mean: float | None
    std: float | None
    low: float | None
    high: float | None
    counts: tuple[int, ...]
    spread: float
    silent: float
    x_mean: float
    x_std: float
    x_limit: float
    rank: float
    weight: float
    gradient: float
    update: float | None = None


@dataclass(frozen=True)
class Probe:
    """A network at one moment.

    Args:
        n: pictures. loss, accuracy: over them without dropout or augmentation; the accuracy of a regression is None.
        answers: how many pictures are given each class; empty for a regression. largest: counts of their largest
            probabilities in 20 bins from 0 to 1; sure: the share above 0.99; None for a regression.
        logit_std: deviation of all outputs.
        noise: gradient noise scale, tr(S) / |G|^2, the batch size up to which larger batches pay (McCandlish et al. 2018,
            appendix A.1); None where the parts' gradients cannot tell.
        trial: loss of one batch as it is trained on, and of the same pictures plainly; None without a trial step.
        layers: in order.
    """

    n: int
    loss: float
    accuracy: float | None
    answers: tuple[int, ...]
    largest: tuple[int, ...] | None
    sure: float | None
    logit_std: float
    noise: float | None
    layers: tuple[LayerProbe, ...]
    trial: tuple[float, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def choose_rows(net: MLP | ConvNet | Tail, rows: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """The training rows of all probes of a run: 256, or as many as a convolutional net takes without much work, 32 at least."""
    count = ROWS
    if not isinstance(net, MLP):
        count = max(32, min(ROWS, len(rows) // 100, _MAP_VALUES // net.largest_map))
    return np.random.default_rng([seed, 0x9A0BE]).permutation(rows)[:count]


def probe_layer(
    name: str, *, z: Array, x: Array, weight: Array, gradient: Array, step: Array | None = None
) -> LayerProbe:
    """The numbers of a layer.

    Args:
        z, x: (n, units) or (n, places, units), what it gives and what enters it.
        weight, gradient: of it, and of the mean loss in it. step: what a trial step added to the weight; None without one.
    """
    flat = z.reshape(-1).astype(np.float64)
    finite = flat[np.isfinite(flat)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    counts = np.histogram(finite, bins=_BINS, range=(low, high if high > low else low + 1.0))[0]
    shape: dict[str, Any] = dict.fromkeys(("mean", "std", "low", "high")) | {"counts": ()}
    if finite.size:
        shape = {
            "mean": float(finite.mean()), "std": float(finite.std()), "low": low, "high": high, "counts": tuple(counts.tolist()),
        }  # fmt: skip
    entering, rms = np.abs(_thin(x)), _rms(weight)
    limit = float(entering.max(initial=0.0))
    with np.errstate(all="ignore"):
        return LayerProbe(
            name=name, units=int(z.shape[-1]), **shape, spread=_rms(z - z.mean(axis=0)),
            silent=float((np.abs(x).max(axis=tuple(range(x.ndim - 1))) == 0).mean()),
            x_mean=float(x.mean()), x_std=float(x.std()),
            x_limit=float((entering > 0.99 * limit).mean()) if limit > 0 else 1.0,
            rank=effective_rank(z if z.ndim == 2 else z.mean(axis=1)), weight=rms, gradient=_rms(gradient),
            update=_rms(step) / rms if step is not None and rms > 0 else None,
        )  # fmt: skip


def probe_network(
    logits: Array, labels: NDArray[Any], *, losses: Array, layers: Sequence[LayerProbe], noise: float | None,
    trial: tuple[float, float] | None = None,
) -> Probe:  # fmt: skip
    """The numbers of a whole network.

    Args:
        logits: (n, K). labels: (n,) classes, or float targets. losses: (n,) of the pictures.
    """
    classes = labels.dtype.kind != "f"
    answers = logits.argmax(axis=1)
    finite = bool(np.isfinite(logits).all())
    shares = softmax(logits.astype(np.float64)).max(axis=1) if classes and finite else None
    return Probe(
        n=len(labels), loss=float(losses.mean()), accuracy=float((answers == labels).mean()) if classes else None,
        answers=tuple(np.bincount(answers, minlength=logits.shape[1]).tolist()) if classes else (),
        largest=None if shares is None else tuple(np.histogram(shares, bins=20, range=(0, 1))[0].tolist()),
        sure=None if shares is None else float((shares > SURE).mean()),
        logit_std=float(logits.std()), noise=noise, layers=tuple(layers), trial=trial,
    )  # fmt: skip


def noise_scale(parts: float, whole: float, *, n: int, size: int) -> float | None:
    """tr(S) / |G|^2 from gradients of parts of n pictures, unbiased in both; None where |G|^2 does not come out above 0.

    With |g_b|^2 the mean square norm of the gradients of parts of b pictures, and |g|^2 that of their mean:
    |G|^2 = (n |g|^2 - b |g_b|^2) / (n - b) and tr(S) = (|g_b|^2 - |g|^2) / (1 / b - 1 / n).

    Args:
        parts: |g_b|^2. whole: |g|^2. size: b.
    """
    if size >= n:
        return None
    signal, noise = (n * whole - size * parts) / (n - size), (parts - whole) / (1 / size - 1 / n)
    return noise / signal if np.isfinite(noise) and signal > 0 else None


class Trainer(Protocol):
    """What can take a step and go back."""

    def train_steps(
        self, order: NDArray[np.int64], *, epoch: int, first_batch: int, first_step: int, lrs: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], int]:
        """See `Engine`."""

    def state(self) -> dict[str, NDArray[Any]]:
        """See `Engine`."""

    def load_state(self, state: dict[str, NDArray[Any]]) -> None:
        """See `Engine`."""


class Tried(NamedTuple):
    """A step that was taken back: its loss, and what it added to the flat vector of trained numbers."""

    loss: float
    moved: Array


def try_step(engine: Trainer, rows: NDArray[np.int64], read: Callable[[], Array], trial: tuple[int, float]) -> Tried:
    """Take a step on some rows, see what it does, and take it back.

    Args:
        read: the trained numbers as they are. trial: (steps done, learning rate).
    """
    (step, lr), before = trial, np.array(read())
    state = engine.state()
    try:
        losses, _ = engine.train_steps(rows, epoch=0, first_batch=0, first_step=step, lrs=np.array([lr]))
        moved = read() - before
    finally:
        engine.load_state(state)
    return Tried(float(losses[0]), moved)


def split_rows(n: int) -> list[slice]:
    """n pictures in equal parts, a rest left out."""
    size = max(1, n // PARTS)
    return [slice(k * size, (k + 1) * size) for k in range(min(PARTS, n))]


def effective_rank(values: Array) -> float:
    """exp of the entropy of the squared singular values of centred rows, as shares; 0 where all rows are alike.

    Source: Roy & Vetterli 2007, "The effective rank", equation 3, with squares, so that it is that of the covariance.
    """
    values = values[:, :: -(-values.shape[1] // _MOST_UNITS)].astype(np.float64)
    if not np.isfinite(values).all():
        return 0.0
    centred = values - values.mean(axis=0)
    gram = centred @ centred.T if len(centred) <= centred.shape[1] else centred.T @ centred
    shares = np.linalg.eigvalsh(gram).clip(min=0)
    if shares.sum() <= 1e-12 * max(float((values**2).sum()), 1e-300):
        return 0.0
    shares = shares[shares > 0] / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def row_losses(logits: Array, labels: NDArray[Any], *, loss: str, huber_delta: float) -> Array:
    """(n,) plain losses under classes or standardised targets: see `Objective`."""
    if labels.dtype.kind != "f":
        losses: Array = -log_softmax(logits.astype(np.float64))[np.arange(len(labels)), labels]
        return losses
    delta = logits[:, 0] - labels
    inner = np.clip(delta, -huber_delta, huber_delta) if loss == "huber" else delta
    return np.asarray(inner * (delta - 0.5 * inner))


def _thin(values: Array) -> Array:
    flat = values.reshape(-1)
    return flat[:: -(-flat.size // _MOST_VALUES)].astype(np.float64)


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0
