"""Which labels are likely wrong, from out-of-fold probabilities: confident learning.

Source: Northcutt, Jiang & Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels", equations 1 and 2. It must
not know models or files.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Suspects:
    """Rows whose labels are likely wrong, worst first.

    Args:
        rows: (m,) places among the judged rows. labels, suggested: (m,) their classes, and those that they seem to be of.
        quality: (n,) for every judged row the probability of its own label, by which suspects are ranked.
        joint: (K, K) how many rows labelled i are surely of class j; off the diagonal are the suspects.
        thresholds: (K,) from which probability on a row is surely of a class: the mean over rows so labelled.
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    suggested: NDArray[np.int64]
    quality: NDArray[np.float64]
    joint: NDArray[np.int64]
    thresholds: NDArray[np.float64]


def find_suspects(probabilities: NDArray[np.floating], labels: NDArray[np.int64]) -> Suspects:
    """Suspects among n rows.

    A row is surely of a class if its probability there reaches what rows with that label have on average; of several such
    classes the likeliest counts. Rows that are surely of another class than their label, and are not answered by it, are
    suspects. Averages over each class make up for classes that a model is shy or bold about.

    Args:
        probabilities: (n, K) for each row by a model that had not seen it. labels: (n,) given classes.
    """
    shares = probabilities.astype(np.float64)
    n, classes = shares.shape
    own = shares[np.arange(n), labels]
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=own, minlength=classes)
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    reached = shares >= thresholds - 1e-6
    sure = np.where(reached, shares, -1.0).argmax(axis=1)
    any_sure = reached.any(axis=1)
    joint = np.zeros((classes, classes), np.int64)
    np.add.at(joint, (labels[any_sure], sure[any_sure]), 1)
    wrong = np.flatnonzero(any_sure & (sure != labels) & (shares.argmax(axis=1) != labels))
    rows = wrong[np.argsort(own[wrong], kind="stable")]
    return Suspects(rows, labels[rows], sure[rows], own, joint, thresholds)
