"""What goes through a network: the spread of each layer's outputs, and how sure it is. It must not know runs or files."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.core.numerics import softmax

_BINS = 41
_MAX_LAYERS = 12
SURE = 0.99


def describe_activations(
    outputs: dict[str, NDArray[np.float32]], labels: NDArray[Any], *, loss: float
) -> dict[str, Any]:
    """Each layer's outputs before its activation, and for classes the probabilities of the answers, as plain values.

    Args:
        outputs: of each layer for some rows, by name; the last ones are the logits. labels: of these rows.
        loss: mean over them.

    Returns:
        `n`, `loss`; `layers`: for up to 12, evenly spread, `name`, `mean`, `std`, `low`, `high`, `counts` of 41 equal
        bins from low to high; `largest`, `counts` of the largest probability of each row in 20 bins from 0 to 1, and
        `sure`, the share of rows where it is above 0.99; both None for a regression.
    """
    names = list(outputs)
    shown = np.unique(np.linspace(0, len(names) - 1, min(len(names), _MAX_LAYERS)).round().astype(int))
    found: dict[str, Any] = {
        "n": len(labels), "loss": loss, "layers": [_describe(names[i], outputs[names[i]]) for i in shown],
        "largest": None, "sure": None,
    }  # fmt: skip
    logits = outputs[names[-1]]
    if labels.dtype.kind != "f" and np.isfinite(logits).all():
        largest = softmax(logits.astype(np.float64)).max(axis=1)
        found["largest"] = np.histogram(largest, bins=20, range=(0, 1))[0].tolist()
        found["sure"] = float((largest > SURE).mean())
    return found


def _describe(name: str, values: NDArray[np.float32]) -> dict[str, Any]:
    flat = values.reshape(-1).astype(np.float64)
    finite = flat[np.isfinite(flat)]
    if len(finite) == 0:
        return {"name": name, "mean": None, "std": None, "low": None, "high": None, "counts": []}
    low, high = float(finite.min()), float(finite.max())
    counts = np.histogram(finite, bins=_BINS, range=(low, high if high > low else low + 1.0))[0]
    return {
        "name": name, "mean": float(finite.mean()), "std": float(finite.std()), "low": low, "high": high,
        "counts": counts.tolist(),
    }  # fmt: skip
