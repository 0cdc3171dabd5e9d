"""Whether splits look alike: a two-sample test of brightness and contrast, with the size of the difference.

It must not know labels or files.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from clearsight.data.duplicates import rows_at_once

ALPHA = 0.001
SMALL_EFFECT = 0.2
_MIN_ROWS = 8
_MOST_ROWS = 20_000


def measure_pictures(images: NDArray[np.generic], rows: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Brightness (mean) and contrast (standard deviation) of each picture, (n,) each; of at most 20,000 rows, drawn by lot."""
    chosen = np.sort(np.random.default_rng(0).permutation(rows)[:_MOST_ROWS])
    means, deviations = np.empty(len(chosen)), np.empty(len(chosen))
    step = rows_at_once(images)
    dtype = np.float64 if images.dtype.kind == "f" else np.float32  # float pictures may have squares beyond float32
    for start in range(0, len(chosen), step):
        block = images[chosen[start : start + step]].reshape(-1, images[0].size)
        means[start : start + step] = block.mean(axis=1, dtype=dtype)
        deviations[start : start + step] = block.std(axis=1, dtype=dtype)
    return {"brightness": means, "contrast": deviations}


def compare_samples(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """p of the two-sample Kolmogorov-Smirnov test (Smirnov 1939), by its limit with Stephens' correction for few rows (1970).

    Written out, as `scipy.stats` takes half a second to load.
    """
    from scipy.special import kolmogorov

    both = np.concatenate([a, b])
    shares = [np.searchsorted(np.sort(part), both, side="right") / len(part) for part in (a, b)]
    most = np.abs(shares[0] - shares[1]).max()
    root = np.sqrt(len(a) * len(b) / len(both))
    return float(kolmogorov(most * (root + 0.12 + 0.11 / root)))


def find_shift(images: NDArray[np.generic], parts: Mapping[str, NDArray[np.int64]]) -> list[str]:
    """Sentences about splits that differ.

    For every two splits of 8 rows or more, brightness and contrast are compared by `compare_samples`. A difference is told
    where p, times the number of tests made (Bonferroni), is below 0.001 and Cohen's d (difference of means over the pooled
    deviation) or the difference of the logarithms of the deviations is at least 0.2, so that large data sets are not accused of
    differences that do not matter.
    """
    large = {name: measure_pictures(images, rows) for name, rows in parts.items() if len(rows) >= _MIN_ROWS}
    pairs = list(combinations(large, 2))
    found = []
    for first, second in pairs:
        for what in ("brightness", "contrast"):
            a, b = large[first][what], large[second][what]
            p = min(1.0, compare_samples(a, b) * 2 * len(pairs))
            pooled = np.sqrt((a.var() + b.var()) / 2)
            d = (b.mean() - a.mean()) / max(pooled, 1e-12)
            spread = np.log(b.std() / a.std()) if min(a.std(), b.std()) > 0 else 0.0
            if p >= ALPHA or max(abs(d), abs(spread)) < SMALL_EFFECT:
                continue
            found.append(
                f"{second} differs from {first} in {what}: mean {b.mean():.4g} (n={len(b):,}) against {a.mean():.4g} "
                f"(n={len(a):,}), d={d:+.2f}, Kolmogorov-Smirnov p={p:.1g}. Find out why. To replace "
                "the splits that came with the data by new ones, use --set data.pool=true."
            )
    return found
