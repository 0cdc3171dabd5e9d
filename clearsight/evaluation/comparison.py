"""Is one better than the other, or is it luck? Two models on one test set, and two recipes over many paired runs.

The two questions are kept apart. The first takes both models as they are: would other pictures rank them alike? The second asks
of recipes: would other runs? It must not know models, files or how anything was trained.
"""

from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.core.intervals import LEVEL, mean_interval
from clearsight.errors import UsageError

LEAST_PAIRS = 10
FEW_DISAGREEMENTS = 10  # below this the bootstrap has little to draw from
_RESAMPLES = 10_000
_MOST_PAIRS = 100_000
POWER = 0.8


@dataclass(frozen=True)
class AnswersCompared:
    """Two models, A and B, on the same n rows.

    Args:
        only_a, only_b: rows that only A, or only B, answers rightly.
        difference: accuracy of A minus that of B. low, high: its 95 % interval from the paired bootstrap.
        p_value: of the exact McNemar test, two-sided: how often chance alone would split the disagreements so unevenly.
    """

    n: int
    accuracy_a: float
    accuracy_b: float
    only_a: int
    only_b: int
    difference: float
    low: float
    high: float
    p_value: float

    @property
    def shown(self) -> bool:
        """Whether a difference is shown at the 5 % level."""
        return self.p_value < LEVEL

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"shown": self.shown}


@dataclass(frozen=True)
class RunsCompared:
    """Two recipes, A and B, over n pairs of runs with equal seeds and splits.

    Args:
        differences: metric of A minus that of B, one a pair. difference: their mean.
        low, high: interval of the mean; None where the pairs do not vary. 95 % for one comparison; where several are made, they
            all hold together with 95 % (Bonferroni).
        p_value: of the corrected paired t-test (Nadeau & Bengio 2003), None where the pairs do not vary; multiplied by the
            number of comparisons (Bonferroni), so that it is below 0.05 exactly where the interval leaves 0 out.
        wins, ties: pairs in which A is better, or equal.
        probability: that A is better in one more pair, from the predictive t distribution; None likewise.
        needed: pairs in all that would show a difference of this size four times in five; None where no number would, or the
            difference is nil.
        ratio: judged rows by training rows where pairs draw their splits anew and so share rows, 0 where the split is fixed.
    """

    differences: tuple[float, ...]
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    wins: int
    ties: int
    probability: float | None
    needed: int | None
    ratio: float

    @property
    def shown(self) -> bool:
        """Whether a difference is shown at the 5 % level."""
        return self.p_value is not None and self.p_value < LEVEL

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"n": len(self.differences), "shown": self.shown}


def compare_answers(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_], *, seed: int = 0) -> AnswersCompared:
    """Compare two models by which rows each answers rightly, (n,) each, in the same order.

    Sources: McNemar 1947 with the exact binomial distribution; Efron & Tibshirani 1993, section 13.3, for percentiles of the
    bootstrap, here drawn as counts: resampling n rows of three kinds is one draw from a multinomial distribution.

    Raises:
        UsageError: not as many rows, or none.
    """
    if right_a.shape != right_b.shape or right_a.ndim != 1 or len(right_a) == 0:
        raise UsageError(
            f"answers must be of the same rows, one or more, got {right_a.shape} and {right_b.shape}. Use one test set."
        )
    from scipy.special import bdtr

    n = len(right_a)
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    apart = only_a + only_b
    p_value = min(1.0, 2 * float(bdtr(min(only_a, only_b), apart, 0.5))) if apart else 1.0
    shares = np.array([only_a, only_b, n - apart]) / n
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=_RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, [LEVEL / 2, 1 - LEVEL / 2])
    return AnswersCompared(
        n, float(right_a.mean()), float(right_b.mean()), only_a, only_b, (only_a - only_b) / n, float(low), float(high), p_value
    )  # fmt: skip


def compare_runs(
    a: NDArray[np.floating], b: NDArray[np.floating], *, ratio: float = 0.0, better: int = 1, comparisons: int = 1
) -> RunsCompared:
    """Compare two recipes by a metric of paired runs, (n,) each.

    Runs on splits drawn anew share most of their training rows, so they vary less among themselves than recipes do from sample
    to sample. The variance of the mean is therefore taken as s^2 (1/n + ratio) and not s^2 / n (Nadeau & Bengio 2003, eq. 10).

    Args:
        ratio: judged rows by training rows where splits are drawn anew; 0 where all pairs have one split.
        better: 1 where more is better, -1 where less is.
        comparisons: how many are made in all. The p-value, the interval and `needed` are corrected for them, all by Bonferroni's
            inequality: Holm's steps would find a little more, but there are no intervals that always agree with them and hold
            together with 95 %.

    Raises:
        UsageError: fewer than ten pairs, which show next to nothing, or not as many of each.
    """
    if a.shape != b.shape or a.ndim != 1 or len(a) < LEAST_PAIRS:
        raise UsageError(
            f"pairs of runs must be {LEAST_PAIRS} or more, got {len(a)} and {len(b)}. Run more seeds: fewer show next to nothing."
        )
    from scipy.special import stdtr

    differences = a.astype(np.float64) - b.astype(np.float64)
    n, mean, spread = len(differences), float(differences.mean()), float(differences.std(ddof=1))
    values = tuple(differences.tolist())
    wins, ties = int((better * differences > 0).sum()), int((differences == 0).sum())
    if spread <= 1e-12 * max(abs(mean), 1e-12):
        same = None if mean else 1.0
        return RunsCompared(values, mean, None, None, same, wins, ties, None, None, ratio)
    t = mean / (spread * sqrt(1 / n + ratio))
    level = LEVEL / comparisons
    low, high = mean_interval(values, confidence=1 - level, least=-np.inf, most=np.inf, ratio=ratio)
    return RunsCompared(
        values, mean, low, high, p_value=min(1.0, comparisons * 2 * float(stdtr(n - 1, -abs(t)))), wins=wins, ties=ties,
        probability=float(stdtr(n - 1, better * mean / (spread * sqrt(1 + 1 / n)))),
        needed=find_needed(mean / spread, ratio=ratio, level=level), ratio=ratio,
    )  # fmt: skip


def find_power(effect: float, n: int, *, ratio: float = 0.0, level: float = LEVEL) -> float:
    """How often n pairs would show a difference of `effect` standard deviations at a level, two-sided."""
    from scipy.special import nctdtr, stdtrit

    edge = float(stdtrit(n - 1, 1 - level / 2))
    shift = abs(effect) / sqrt(1 / n + ratio)
    other_way = float(nctdtr(n - 1, shift, -edge)) if shift < 5 else 0.0  # beyond, it underflows into NaN
    return float(1 - nctdtr(n - 1, shift, edge)) + other_way


def find_needed(effect: float, *, ratio: float = 0.0, level: float = LEVEL) -> int | None:
    """Pairs in all that would show such a difference four times in five; None if 100,000 would not."""
    effect = abs(effect)
    low, high = 1, _MOST_PAIRS
    if effect == 0 or find_power(effect, high, ratio=ratio, level=level) < POWER:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if find_power(effect, middle, ratio=ratio, level=level) >= POWER else (middle, high)
    return max(high, 2)
