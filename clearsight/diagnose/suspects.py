"""Which labels are likely wrong, from out-of-fold probabilities: confident learning.

Source: Northcutt, Jiang & Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels", sections 3.1, 3.2. It must
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
        joint: (K, K) how many rows labelled i are surely of class j.
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
    classes the likeliest counts. Averages over each class make up for classes that a model is shy or bold about. How many rows
    labelled i are surely of class j tells the share of such errors; as many rows of label i as that are suspects, those whose
    probability of j lies farthest above that of i, unless they are answered by their label ("prune by noise rate").

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
    joint = np.zeros((classes, classes), np.int64)
    np.add.at(joint, (labels[reached.any(axis=1)], sure[reached.any(axis=1)]), 1)
    expected = (
        joint / np.maximum(joint.sum(axis=1, keepdims=True), 1) * counts[:, None]
    )  # of all rows, not the sure alone
    suspect, suggested = np.zeros(n, np.bool_), shares.argmax(axis=1)
    for label in range(classes):
        rows = np.flatnonzero(labels == label)
        for other in range(classes):
            count = round(expected[label, other]) if other != label else 0
            margin = shares[rows, other] - shares[rows, label]
            suspect[rows[np.argsort(-margin, kind="stable")[:count]]] = True
    wrong = np.flatnonzero(suspect & (suggested != labels))
    found = wrong[np.argsort(own[wrong], kind="stable")]
    return Suspects(found, labels[found], suggested[found], own, joint, thresholds)
