"""Intervals for what was counted. It must not know of what."""

import math


def wilson_interval(hits: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
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
