"""Intervals for what was counted or measured. It must not know of what."""

import math

LEVEL = 0.05
"""How rare a false alarm should be: intervals hold 95 % of the time."""


def wilson_interval(hits: int, n: int, *, confidence: float = 1 - LEVEL) -> tuple[float, float]:
    """Interval for a share of `hits` in `n` (Wilson 1927); sound near 0 and 1 and for small n.

    Raises:
        ValueError: n is 0.
    """
    from scipy.special import ndtri

    if n < 1:
        raise ValueError("n must be 1 or more, got 0. Evaluate at least one row.")
    z = float(ndtri(0.5 + confidence / 2))
    share = hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (max(0.0, centre - half) if hits else 0.0), (min(1.0, centre + half) if hits < n else 1.0)


def mean_interval(
    values: tuple[float, ...],
    *,
    confidence: float = 1 - LEVEL,
    least: float = 0.0,
    most: float = 1.0,
    ratio: float = 0.0,
) -> tuple[float | None, float | None]:
    """Interval for the mean of what was measured several times (Student's t), within `least` to `most`; None for one value.

    Args:
        ratio: judged rows by training rows where the measurements share training rows, as the folds of a cross-validation do. The
            variance of the mean is then s^2 (1/n + ratio) and not s^2 / n (Nadeau & Bengio 2003, eq. 10).
    """
    import numpy as np
    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        return None, None
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * float(np.std(values, ddof=1)) * math.sqrt(1 / n + ratio)
    return max(least, float(np.mean(values)) - half), min(most, float(np.mean(values)) + half)
