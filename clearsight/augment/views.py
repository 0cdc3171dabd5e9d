"""Views: probes on one description of pictures, and what each says of a picture after a transform.

It must not know transforms.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clearsight.augment.probe import Floats, Probe, fit_probe

FOLDS = 3
_LIKE_QUANTILE = 0.99
_STILL_QUANTILE = 0.05
_NEARER = 0.8  # of the way that clean pictures of a class are from another one
_NEARER_THAN_OWN = 0.9
_METRIC = ("shape and colour", "figure")  # whose numbers are alike, so that plain distances mean something


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a view says of pictures.

    Args:
        answers: (members, n) classes. sure: all members name one and the same other class. turned: so, and rightly so.
        still: all members name the picture's own class, as clearly as on clean pictures. All (n,).
    """

    answers: NDArray[np.int64]
    sure: NDArray[np.bool_]
    turned: NDArray[np.bool_]
    still: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Fold:
    """A probe, which judged pictures it may judge, and the pictures (by features and class) that it was trained on."""

    probe: Probe
    places: NDArray[np.int64]
    features: Floats
    classes: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class View:
    """Probes on one description of pictures, each judging rows it has not seen.

    Args:
        accuracy: on rows not seen. clean: (members, n) answers for the judged rows.
        limit: how far from its class's centre a clear picture may be to be like it.
        calm: (K,) margins that all but a twentieth of the clear pictures of a class exceed.
        apart: (K, K) how far clear pictures of a class are from the nearest of another, the median.
    """

    kind: str
    accuracy: float
    folds: tuple[_Fold, ...]
    clean: NDArray[np.int64]
    limit: float
    calm: Floats
    apart: Floats

    def answer(self, features: Floats, classes: NDArray[np.int64], *, strict: bool) -> Evidence:
        """Evidence on varied pictures, (n, F), of known classes (n,). Where `strict`, being sure is enough to have turned."""
        answers = np.empty_like(self.clean)
        like, still = np.empty(len(classes), bool), np.empty(len(classes), bool)
        for fold in self.folds:
            own, rows = classes[fold.places], features[fold.places]
            found = fold.probe.answers(rows)
            answers[:, fold.places] = found
            close = fold.probe.distances(rows, found[0]) <= self.limit
            if self.kind in _METRIC:
                nearest = find_nearest(rows, fold.features, fold.classes, len(self.calm))
                to, at = nearest[np.arange(len(own)), found[0]], nearest[np.arange(len(own)), own]
                close |= (to <= _NEARER * self.apart[own, found[0]]) & (to <= _NEARER_THAN_OWN * at)
            like[fold.places] = close
            still[fold.places] = fold.probe.margins(rows, own) >= self.calm[own]
        unanimous = (answers == answers[0]).all(axis=0)
        sure = unanimous & (answers[0] != classes)
        return Evidence(answers, sure, sure & (like | strict), unanimous & (answers[0] == classes) & still)


def find_nearest(rows: Floats, known: Floats, classes: NDArray[np.int64], num_classes: int) -> Floats:
    """Distances from each row to the nearest known one of each class, (n, K); infinite where there is none."""
    squares = (rows * rows).sum(axis=1)[:, None] - 2 * rows @ known.T + (known * known).sum(axis=1)
    found = np.full((len(rows), num_classes), np.inf, np.float32)
    for k in np.unique(classes):
        found[:, k] = np.sqrt(np.maximum(squares[:, classes == k].min(axis=1), 0))
    return found


def build_view(
    kind: str, features: Floats, classes: NDArray[np.int64], fold: NDArray[np.int64], judged: NDArray[np.int64], num_classes: int,
    rng: np.random.Generator,
) -> View:  # fmt: skip
    """Train probes, each on the rows outside its fold."""
    others = [np.flatnonzero(fold != k) for k in range(FOLDS)]
    others = [rows if len(rows) else np.arange(len(fold)) for rows in others]  # of a single picture
    probes = [fit_probe(features[rows], classes[rows], num_classes=num_classes, rng=rng) for rows in others]
    answers, distances = np.empty((len(probes[0].weights), len(classes)), np.int64), np.empty(len(classes))
    margins, nearest = np.empty(len(classes)), np.zeros((len(classes), num_classes), np.float32)
    for k, probe in enumerate(probes):
        own = fold == k
        answers[:, own] = probe.answers(features[own])
        distances[own] = probe.distances(features[own], classes[own])
        margins[own] = probe.margins(features[own], classes[own])
        if kind in _METRIC:
            nearest[own] = find_nearest(features[own], features[others[k]], classes[others[k]], num_classes)
    clear = (answers == classes).all(axis=0)
    calm, apart = np.full(num_classes, np.inf, np.float32), np.zeros((num_classes, num_classes), np.float32)
    for k in np.unique(classes[clear]):
        calm[k] = np.quantile(margins[clear & (classes == k)], _STILL_QUANTILE)
        apart[k] = np.median(nearest[clear & (classes == k)], axis=0)
    accuracy = float((majority_of(answers, num_classes) == classes).mean())
    limit = float(np.quantile(distances[clear], _LIKE_QUANTILE)) if clear.any() else 0.0
    folds = tuple(
        _Fold(probe, np.flatnonzero(fold[judged] == k), features[others[k]], classes[others[k]])
        for k, probe in enumerate(probes)
    )
    return View(kind, accuracy, folds, answers[:, judged], limit, calm, apart)


def majority_of(answers: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """The class that most members name, (n,)."""
    votes = np.stack([(answers == k).sum(axis=0) for k in range(num_classes)])
    return np.asarray(votes.argmax(axis=0))
