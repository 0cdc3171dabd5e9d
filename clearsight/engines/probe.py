"""What goes on inside a network at one moment of its training: typed numbers of each layer, the same from every engine.

It must not know how a network is trained, nor what the numbers mean for it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from clearsight.core.numerics import softmax
from clearsight.evaluation.losses import accuracy, mean_loss

Array = NDArray[np.floating]
Seen = TypeVar("Seen")
PARTS = 4  # of the pictures, whose gradients are told apart
_BINS, _DRAWN = 41, 64  # of a histogram, and pictures in it
_MOST_UNITS, _MOST_ROWS = 512, 128  # that a rank is taken of
_SURE = 0.99


@dataclass(frozen=True)
class LayerProbe:
    """A layer with weights, on some pictures without dropout. z is what it gives before its activation, x what enters it.

    Both are looked at on 16 places of a map, always the same ones, but for `silent`, which counts every place.

    Args:
        name, units: as in the network; units are channels of a convolution.
        mean, std, low, high: of z; None where none is finite. counts: of 41 equal bins from low to high, for 64 of the pictures.
        spread: deviation of z from picture to picture, the root of its mean square over units and places. Near 0, the layer
            gives nearly the same for every picture.
        silent: share of the units of x that are 0 for every picture at every place: dead ones, where x comes from a ReLU.
        x_mean, x_std: of x. x_limit: share of x beyond 0.99 of its largest magnitude, as a saturated tanh has it.
        rank: effective rank of z over up to 128 pictures, of a map's means over places: see `effective_rank`.
        weight, gradient: root mean square of the weights, and of the gradient of the plain mean loss in them.
        update: root mean square of what a trial step adds to the weights, as a share of `weight`; None without such a step.
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
        n: pictures. loss, accuracy: over them, plain: without dropout, augmentation, label smoothing or class weights. The loss
            of a regression is of standardised targets, and its accuracy None.
        answers: how many pictures are given each class; empty for a regression. largest: counts of their largest
            probabilities in 20 bins from 0 to 1; sure: the share above 0.99; None for a regression.
        logit_std: deviation of all outputs.
        noise: gradient noise scale, tr(S) / |G|^2, the batch size up to which larger batches pay (McCandlish et al. 2018,
            appendix A.1); None where the parts' gradients cannot tell.
        trial: the loss of a batch of these pictures as it is trained on, with all of that, and their plain loss; None without a
            trial step.
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

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Probe":
        """From plain values as they come back from JSON, which has lists for tuples and null for what is not finite.

        Raises:
            ValueError: they are no such values.
        """
        try:
            layers = tuple(LayerProbe(**_revive(LayerProbe, layer)) for layer in values["layers"])
            return cls(**_revive(cls, values), layers=layers)
        except (KeyError, TypeError) as error:
            raise ValueError(f"a probe must have numbers for all of its values, got {error!r}") from None


def _revive(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """Values of a dataclass's fields but `layers`: NaN for null where a number must stand, tuples for lists."""
    found: dict[str, Any] = {}
    for item in fields(kind):
        if item.name == "layers" or (item.name not in values and item.default is not MISSING):
            continue
        value = values[item.name]
        many = str(item.type).startswith("tuple") and isinstance(value, list | tuple)
        numbers = value if many else [value]
        if not all(isinstance(one, str if item.type is str else int | float | None) for one in numbers):
            raise TypeError(item.name)
        if many:
            value = tuple(math.nan if one is None else one for one in value)
        found[item.name] = math.nan if value is None and item.type is float else value
    return found


def probe_layer(
    name: str, *, z: Array, x: Array, silent: float, weight: float, gradient: float, step: float | None = None
) -> LayerProbe:
    """The numbers of a layer.

    Args:
        z, x: (n, units) or (n, places, units), what it gives and what enters it. silent: see `LayerProbe`.
        weight, gradient, step: root mean squares of its weights, of the gradient in them, and of what a trial step added.
    """
    sound = np.isfinite(z)
    finite = z if sound.all() else z[sound]
    shape: dict[str, Any] = dict.fromkeys(("mean", "std", "low", "high")) | {"counts": ()}
    if finite.size:
        low, high = float(finite.min()), float(finite.max())
        drawn = z[:: max(1, len(z) // _DRAWN)].astype(np.float64)
        counts = np.histogram(drawn[np.isfinite(drawn)], bins=_BINS, range=(low, high if high > low else low + 1.0))[0]
        mean, std = float(finite.mean(dtype=np.float64)), float(finite.std(dtype=np.float64))
        shape = {"mean": mean, "std": std, "low": low, "high": high, "counts": tuple(counts.tolist())}
    entering = np.abs(x)
    limit = float(entering.max(initial=0.0))
    with np.errstate(all="ignore"):
        return LayerProbe(
            name=name, units=int(z.shape[-1]), **shape, spread=rms(z - z.mean(axis=0)), silent=silent,
            x_mean=float(x.mean(dtype=np.float64)), x_std=float(x.std(dtype=np.float64)),
            x_limit=float((entering > 0.99 * limit).mean()) if limit > 0 else 1.0,
            rank=effective_rank(z if z.ndim == 2 else z.mean(axis=1)), weight=weight, gradient=gradient,
            update=step / weight if step is not None and weight > 0 else None,
        )  # fmt: skip


def probe_network(
    logits: Array, labels: NDArray[Any], *, huber: float | None, layers: Sequence[LayerProbe], noise: float | None,
    trial: tuple[float, int] | None,
) -> Probe:  # fmt: skip
    """The numbers of a whole network.

    Args:
        logits: (n, K). labels: (n,) classes, or standardised targets. huber: see `mean_loss`.
        trial: the loss of a trial step, and how many of the pictures it took; None without one.
    """
    classes = labels.dtype.kind != "f"
    shares = softmax(logits.astype(np.float64)).max(axis=1) if classes and np.isfinite(logits).all() else None
    return Probe(
        n=len(labels), loss=mean_loss(logits, labels, huber=huber), accuracy=accuracy(logits, labels),
        answers=tuple(np.bincount(logits.argmax(axis=1), minlength=logits.shape[1]).tolist()) if classes else (),
        largest=None if shares is None else tuple(np.histogram(shares, bins=20, range=(0, 1))[0].tolist()),
        sure=None if shares is None else float((shares > _SURE).mean()), logit_std=float(logits.std()), noise=noise,
        layers=tuple(layers),
        trial=trial and (trial[0], mean_loss(logits[: trial[1]], labels[: trial[1]], huber=huber)),
    )  # fmt: skip


def noise_scale(part_square: float, whole_square: float, *, n: int, size: int) -> float | None:
    """tr(S) / |G|^2 from gradients of parts of n pictures, unbiased in both; None where |G|^2 does not come out above 0.

    With |g_b|^2 the mean square norm of the gradients of parts of b pictures, and |g|^2 that of their mean:
    |G|^2 = (n |g|^2 - b |g_b|^2) / (n - b) and tr(S) = (|g_b|^2 - |g|^2) / (1 / b - 1 / n).

    Args:
        part_square: |g_b|^2. whole_square: |g|^2. size: b.
    """
    if size >= n:
        return None
    signal = (n * whole_square - size * part_square) / (n - size)
    noise = (part_square - whole_square) / (1 / size - 1 / n)
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


def try_step(
    engine: Trainer, rows: NDArray[np.int64], *, step: int, lr: float, look: Callable[[], Seen]
) -> tuple[float, Seen]:
    """Take a step on some rows after `step` others at rate `lr`, look at what it did, and take it back.

    Returns:
        The loss before the step, and what `look` saw after it.
    """
    state = engine.state()
    try:
        losses, _ = engine.train_steps(rows, epoch=0, first_batch=0, first_step=step, lrs=np.array([lr]))
        return float(losses[0]), look()
    finally:
        engine.load_state(state)


def split_rows(n: int) -> list[slice]:
    """n pictures in equal parts, a rest left out."""
    size = max(1, n // PARTS)
    return [slice(k * size, (k + 1) * size) for k in range(min(PARTS, n))]


def effective_rank(values: Array) -> float:
    """exp of the entropy of the squared singular values of centred rows, as shares; 0 where all rows are alike.

    Source: Roy & Vetterli 2007, "The effective rank", equation 3, with squares, so that it is that of the covariance.
    """
    values = values[:_MOST_ROWS, :: -(-values.shape[1] // _MOST_UNITS)].astype(np.float64)
    if not np.isfinite(values).all():
        return 0.0
    centred = values - values.mean(axis=0)
    gram = centred @ centred.T if len(centred) <= centred.shape[1] else centred.T @ centred
    shares = np.linalg.eigvalsh(gram).clip(min=0)
    if shares.sum() <= 1e-12 * max(float((values**2).sum()), 1e-300):
        return 0.0
    shares = shares[shares > 0] / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def rms(values: Array) -> float:
    """Root mean square; 0 of none."""
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0
