"""The loss and accuracy of outputs, as training states them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.core.numerics import log_softmax


def mean_loss(
    logits: NDArray[np.floating],
    labels: NDArray[Any],
    *,
    mean: float = 0.0,
    std: float = 1.0,
    huber: float | None = None,
) -> float:
    """Mean cross-entropy of logits (n, K) under int64 classes; or, for float targets, 1/2 squared error in units of `std`.

    Beyond an error of `huber` the latter grows linearly, as in training (see `Objective`).
    """
    if labels.dtype.kind == "f":
        error = logits[:, 0].astype(np.float64) - (labels.astype(np.float64) - mean) / std
        inner = error if huber is None else np.clip(error, -huber, huber)
        return float(np.mean(inner * (error - 0.5 * inner)))
    rows = np.arange(len(labels))
    return float(-np.mean(log_softmax(logits.astype(np.float64))[rows, labels]))


def accuracy(logits: NDArray[np.floating], labels: NDArray[Any]) -> float | None:
    """Share of rows whose largest logit is their class; None for regression."""
    return None if labels.dtype.kind == "f" else float(np.mean(logits.argmax(axis=1) == labels))
