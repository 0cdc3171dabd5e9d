"""Whether stated confidence is true: temperature, calibration error with its interval, what abstaining brings, conformal sets.

It must not know models or files.
"""

from dataclasses import asdict, dataclass
from math import ceil, exp, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.core.numerics import log_softmax, softmax

BINS = 15
_PRIOR, _LOWEST, _HIGHEST = 0.5, 0.05, 20.0
_DRAWS = 1000
LEAST_ROWS = 30  # below, an interval would promise more than so few rows can tell
LEVELS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Bin:
    """Answers of like confidence: how many, their mean confidence, and the share of right ones."""

    n: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Covered:
    """What is left where answers below a confidence are withheld: the share that is answered, and right among it."""

    threshold: float
    coverage: float
    accuracy: float | None
    n: int


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy are apart.

    Args:
        n: rows. error: expected calibration error, 15 bins of equal width (Guo et al. 2017, eq. 3).
        chance: the error that a perfectly calibrated model would show on so few rows, for its bins are never even.
        low, high: 95 % interval of what the error would be on endless rows, where chance has no part, by draws of the answers of
            each bin; 0 at the lower end if chance alone could show the error; None for fewer than 30 rows.
        temperature: by which logits were divided. fitted_here: on these very rows. before: the error without it.
        bins: those that hold rows. curve: what abstaining brings.
    """

    n: int
    error: float
    low: float | None
    high: float | None
    chance: float
    temperature: float
    before: float
    bins: tuple[Bin, ...]
    curve: tuple[Covered, ...]
    fitted_here: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found = asdict(self)
        return {
            "n": found.pop("n"),
            "error": found.pop("error"),
            "interval": [found.pop("low"), found.pop("high")],
            **found,
        }


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    """The T for which softmax(logits / T) has the least loss on held-out rows (Guo et al. 2017, section 4.2).

    A weak prior, log T normal with deviation 0.5, keeps T near 1 where there are few rows or no wrong answers; with wrong ones
    among some hundred it no longer matters.

    Args:
        logits: (n, K). labels: (n,) class indices.

    Returns:
        T in 0.05 to 20; 1 for logits that are not finite.
    """
    from scipy.optimize import minimize_scalar

    if not np.isfinite(logits).all():
        return 1.0
    values, rows = logits.astype(np.float64), np.arange(len(labels))

    def loss(log_t: float) -> float:
        likelihood = log_softmax(values / exp(log_t))[rows, labels].sum()
        return float(0.5 * (log_t / _PRIOR) ** 2 - likelihood)

    found = minimize_scalar(loss, bounds=(log(_LOWEST), log(_HIGHEST)), method="bounded", options={"xatol": 1e-4})
    return float(exp(found.x))


def measure_calibration(
    logits: NDArray[np.floating], labels: NDArray[np.int64], *, temperature: float = 1.0, fitted_here: bool = False
) -> Calibration:
    """Calibration of answers softmax(logits / temperature) on n >= 1 rows; logits (n, K), labels (n,)."""
    probabilities = softmax(logits.astype(np.float64) / temperature)
    confidence = probabilities.max(axis=1)
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    bins = _fill_bins(confidence, right)
    counts, stated, accuracy = _columns(bins)
    n, error = len(labels), float(_error(counts, stated, accuracy))
    rng = np.random.default_rng(0)
    by_chance = _error(counts, stated, rng.binomial(counts, stated, (_DRAWS, len(bins))) / counts)
    rates = (accuracy * counts + 0.5) / (counts + 1)  # not 0 or 1, where nothing would vary
    again = _rest(counts, stated, rng.binomial(counts, rates, (_DRAWS, len(bins))) / counts)
    low, high = None, None
    if n >= LEAST_ROWS:
        rest = float(_rest(counts, stated, accuracy))
        reach = 1.96 * float(np.std(again)) + abs(
            float(np.mean(again)) - rest
        )  # the second for what taking off does not reach
        surely = error > float(np.quantile(by_chance, 0.975))
        low, high = (max(0.0, rest - reach) if surely else 0.0), rest + reach
    plain = softmax(logits.astype(np.float64)).max(axis=1)
    before = error if temperature == 1 else float(_error(*_columns(_fill_bins(plain, right))))
    return Calibration(
        n,
        error,
        low,
        high,
        float(np.mean(by_chance)),
        temperature,
        before,
        bins,
        measure_coverage(confidence, right > 0),
        fitted_here and temperature != 1,
    )


def _columns(bins: tuple[Bin, ...]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    counts, stated, accuracy = zip(*((one.n, one.confidence, one.accuracy) for one in bins), strict=True)
    return np.array(counts), np.array(stated), np.array(accuracy)


def _error(counts: NDArray[Any], stated: NDArray[Any], accuracy: NDArray[Any]) -> Any:
    """Expected calibration error: the mean |accuracy - confidence| of bins by their rows; accuracies are (..., bins)."""
    return (counts * np.abs(accuracy - stated)).sum(axis=-1) / counts.sum()


def _rest(counts: NDArray[Any], stated: NDArray[Any], accuracy: NDArray[Any]) -> Any:
    """The error without what chance brings into each bin, whose square adds to that of its true gap."""
    rates = (accuracy * counts + 0.5) / (counts + 1)
    noise = rates * (1 - rates) / counts
    return (counts * np.sqrt(np.maximum((accuracy - stated) ** 2 - noise, 0))).sum(axis=-1) / counts.sum()


def _place(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.minimum((confidence * BINS).astype(np.int64), BINS - 1)


def _fill_bins(confidence: NDArray[np.float64], right: NDArray[np.float64]) -> tuple[Bin, ...]:
    places = _place(confidence)
    return tuple(
        Bin(int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean()))
        for inside in (places == k for k in range(BINS))
        if inside.any()
    )


def measure_coverage(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[Covered, ...]:
    """What is answered, and how well, where answers below each of some confidences are withheld."""
    found = []
    for level in LEVELS:
        kept = confidence >= level
        count = int(kept.sum())
        found.append(Covered(level, count / len(kept), float(right[kept].mean()) if count else None, count))
    return tuple(found)


def conformal_scores(
    logits: NDArray[np.floating], labels: NDArray[np.int64], *, temperature: float
) -> NDArray[np.float32]:
    """1 - p(true class) of held-out rows, sorted, (n,): how strange the truth looked (Sadinle et al. 2019)."""
    probabilities = softmax(logits.astype(np.float64) / temperature)
    return np.sort(1 - probabilities[np.arange(len(labels)), labels]).astype(np.float32)


def conformal_sets(
    probabilities: NDArray[np.floating], scores: NDArray[np.floating], *, level: float
) -> NDArray[np.bool_] | None:
    """Which classes belong to a set that holds the true one with probability `level` or more, (n, K).

    The promise holds on average over new pictures from where the held-out ones came. The likeliest class is always in.

    Args:
        probabilities: (n, K). scores: of held-out rows, sorted, see `conformal_scores`. level: in (0, 1).

    Returns:
        None where there are too few scores for the level: fewer than level / (1 - level).
    """
    place = ceil(round((len(scores) + 1) * level, 9))  # 100 * 0.55 is 55, and 55.00000000000001 in floating point
    if place > len(scores):
        return None
    inside = 1 - probabilities <= scores[place - 1]
    inside[np.arange(len(inside)), probabilities.argmax(axis=1)] = True
    return np.asarray(inside)
