"""How unusual a statistic is among healthy trainings: the bank that ships with the package, and p-values from it.

`python -m benchmarks.healthy` builds it anew. A p-value is conformal (Vovk et al. 2005, Algorithmic learning in a random world):
with k of n healthy values as extreme as the one at hand, it is (k + 1) / (n + 1), whatever the values' distribution.
"""

import json
from dataclasses import dataclass, replace
from functools import cache
from math import exp
from pathlib import Path
from statistics import fmean

from clearsight.diagnose.finding import Evidence
from clearsight.diagnose.statistics import STATISTICS

BANK = Path(__file__).parent / "healthy.json"
KEPT = 25  # values at each end


@dataclass(frozen=True)
class Healthy:
    """A statistic of healthy trainings.

    Args:
        n: trainings in which it could be measured. low, high: its smallest and largest values, rising. middle: 5 %, 50 %, 95 %.
    """

    n: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    middle: tuple[float, float, float]

    def find_p(self, value: float, side: str) -> float:
        """The p-value of a value that is bad on a `side`: low, high or both; an upper bound where it is not extreme.

        Above all healthy values it may be smaller than a bank of n can say: the excess over the 25th largest is then taken to
        fall off exponentially, as that of many distributions does (Pickands 1975, shape 0).
        """
        below, above = sum(one <= value for one in self.low), sum(one >= value for one in self.high)
        counts = {"low": below, "high": above, "both": min(below, above)}
        if value != value:
            return 1 / (self.n + 1)
        p = 1.0 if counts[side] >= KEPT else (counts[side] + 1) / (self.n + 1)
        if side == "high" and not above and (excess := fmean(self.high) - self.high[0]) > 0:
            p = min(p, len(self.high) / self.n * exp(-(value - self.high[0]) / excess))
        return min(1.0, 2 * p if side == "both" else p)


@cache
def read_bank() -> dict[str, Healthy]:
    """All statistics by name."""
    found = json.loads(BANK.read_text(encoding="utf-8"))["statistics"]
    return {
        name: Healthy(one["n"], tuple(one["low"]), tuple(one["high"]), tuple(one["middle"]))
        for name, one in found.items()
    }


def weigh(evidence: Evidence) -> Evidence:
    """The same with what the bank knows of it."""
    healthy = read_bank().get(evidence.statistic)
    if healthy is None or isinstance(evidence.value, str):
        return evidence
    p = healthy.find_p(evidence.value, STATISTICS[evidence.statistic][1])
    return replace(evidence, healthy=(healthy.low[0], healthy.high[-1]), p=p)
