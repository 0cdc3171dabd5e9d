"""The mistakes of a model that cost most: where they come from, and which training pictures are like them.

What `clearsight mistakes` and `clearsight.find_mistakes` call. It must not know how they are drawn.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.actions.evaluate import Predictions, count_test_use, own_config, predict_data
from clearsight.bundle.bundle import Bundle
from clearsight.bundle.load import load
from clearsight.config.families import find_family
from clearsight.config.files import check_count
from clearsight.core.numerics import softmax
from clearsight.core.progress import MeterBuilder, Note, SilentMeter
from clearsight.data.dataset import Dataset
from clearsight.diagnose.mistakes import Mistake, Neighbour
from clearsight.diagnose.saliency import grad_cam, occlude
from clearsight.errors import ClearsightError, UsageError
from clearsight.evaluation.metrics import confusion_matrix, worst_mistakes
from clearsight.evaluation.novelty import find_neighbours, normalise
from clearsight.models.convnet import ConvNet
from clearsight.pipeline.data import build_split, load_dataset
from clearsight.pipeline.features import recall_features
from clearsight.report.mistakes import render_mistakes

SALIENCY = ("auto", "grad-cam", "occlusion", "none")
_MOST_TRAINING = 5000  # training pictures among which neighbours are looked for
_COPIES = 5  # of a picture, itself among them, that are passed over


@dataclass(frozen=True, eq=False)
class Mistakes:
    """What a model gets wrong on a split.

    Args:
        answered: its answers and the truth. worst: those that cost most, worst first. how: what saliency is, "" for none.
        confusion: (K, K) counts, rows true.
    """

    answered: Predictions
    worst: tuple[Mistake, ...]
    how: str
    confusion: NDArray[np.int64]

    def render(self) -> str:
        """All of it as one HTML page."""
        answered = self.answered
        return render_mistakes(
            self.worst, how=self.how, dataset=answered.dataset, split=answered.split, rows=answered.rows, truth=answered.truth,
            answers=answered.outputs.argmax(axis=1), confusion=self.confusion, class_names=answered.bundle.class_names,
            scaling=answered.bundle.preprocess,
        )  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """The object that `mistakes --json` prints; its keys are a contract."""
        n = int(self.confusion.sum())
        return {
            "split": self.answered.split, "n": n, "wrong": n - int(np.trace(self.confusion)), "saliency": self.how,
            "mistakes": [one.as_dict() for one in self.worst],
        }  # fmt: skip


def find_mistakes(
    model: Bundle | str | Path,
    data: Any = None,
    labels: Any = None,
    *,
    split: str | None = None,
    count: int = 24,
    saliency: str = "auto",
    neighbours: int = 3,
    skip_bad: bool = False,
    follow_links: bool = False,
    max_megapixels: float | None = None,
    note: Note = lambda text: None,
    meter: MeterBuilder = SilentMeter,
) -> Mistakes:
    """Look at a model's worst mistakes.

    Args:
        model, data, labels, split, skip_bad, follow_links, max_megapixels, note, meter: as for `evaluate`; on a test split it
            counts as a look at it.
        count: how many. neighbours: how many training pictures to each.
        saliency: `grad-cam` (convolutional nets), `occlusion`, `none`, or `auto` for the first that fits.

    Raises:
        UsageError, DataError: see `evaluate`; a model of numbers, or Grad-CAM of a dense net.
    """
    if saliency not in SALIENCY:
        raise UsageError(f"--saliency must be one of {', '.join(SALIENCY)}, got {saliency!r}. Choose one of them.")
    check_count("--count", count)
    check_count("--neighbours", neighbours, least=0)
    bundle = model if isinstance(model, Bundle) else load(model)
    if not bundle.class_names:
        raise UsageError("mistakes must be those of a classifier, got a regression model. See its report instead.")
    answered = predict_data(
        bundle, data, labels, split=split, skip_bad=skip_bad, follow_links=follow_links, max_megapixels=max_megapixels,
        note=note, meter=meter,
    )  # fmt: skip
    dataset = answered.dataset
    if answered.split == "test":
        count_test_use(answered, by="mistakes")
    worst = worst_mistakes(answered.outputs / bundle.temperature, answered.truth, count=count)
    places = np.array([place for place, _, _ in worst], np.int64)
    answers = np.array([answer for _, answer, _ in worst], np.int64)
    rows = answered.rows[places]
    how = _choose_saliency(bundle, saliency)
    maps = _explain(bundle, dataset.images[rows], answers, how) if len(rows) else None
    near = _find_training(answered, rows, neighbours, note, meter) if len(rows) and neighbours else []
    shares = softmax(answered.outputs[places].astype(np.float64) / bundle.temperature)
    found = tuple(
        Mistake(
            int(rows[k]), dataset.row_name(int(rows[k])), bundle.class_names[answered.truth[places[k]]],
            bundle.class_names[answers[k]], worst[k][2], float(shares[k].max()),
            None if maps is None else maps[k], near[k] if near else (),
        )
        for k in range(len(worst))
    )  # fmt: skip
    confusion = confusion_matrix(answered.truth, answered.outputs.argmax(axis=1), num_classes=len(bundle.class_names))
    return Mistakes(answered, found, how, confusion)


def _choose_saliency(bundle: Bundle, wanted: str) -> str:
    ours = find_family(bundle.net.family).library is None  # the last maps of a library's may be tokens
    conv = isinstance(bundle.net, ConvNet) and ours
    if bundle.preprocess.height == 1 or wanted == "none":
        return ""
    if wanted == "grad-cam" and not conv:
        raise UsageError(
            f"--saliency grad-cam must go with a convolutional net of our own, got {bundle.net.label}. Use occlusion."
        )
    return ("grad-cam" if conv else "occlusion") if wanted == "auto" else wanted


def _explain(bundle: Bundle, images: NDArray[Any], answers: NDArray[np.int64], how: str) -> NDArray[np.float32] | None:
    if how == "grad-cam" and isinstance(bundle.net, ConvNet):
        return grad_cam(bundle.net, bundle.params, bundle.preprocess, images, answers)
    return occlude(bundle.predict_proba, np.asarray(images), answers) if how else None


def _find_features(
    bundle: Bundle, dataset: Dataset, rows: NDArray[np.int64], meter: MeterBuilder
) -> NDArray[np.float32]:
    """What enters the last layer, (n, F), kept from the training of a head where that is what was trained."""
    if isinstance(bundle.net, ConvNet):
        kept = recall_features(bundle.net, bundle.params, bundle.preprocess, dataset)
        if kept is not None:
            return kept[rows]
    found = []
    with meter("looking for training pictures", len(rows), unit="pictures") as advance:
        for start in range(0, len(rows), 64):
            found.append(bundle.features(dataset.images, rows=rows[start : start + 64]))
            advance(len(found[-1]))
    return np.concatenate(found)


def _find_training(
    answered: Predictions, chosen: NDArray[np.int64], count: int, note: Note, meter: MeterBuilder
) -> list[tuple[Neighbour, ...]]:
    """Of each picture the nearest training pictures of the model's run, where they are still there."""
    bundle, images = answered.bundle, answered.dataset.images[chosen]
    config, trained_on = own_config(bundle), bundle.data.get("fingerprint")
    if config is None or config.data.source == "arrays":
        note("similar training pictures are not shown, because the data of the model's run cannot be found")
        return []
    try:
        same = answered.dataset.fingerprint == trained_on
        dataset = answered.dataset if same else load_dataset(config, meter=meter)
    except ClearsightError as error:
        note(f"similar training pictures are not shown: {error}")
        return []
    if dataset.fingerprint != trained_on:
        note(f"{config.data.source} has changed since training, so similar training pictures are not shown")
        return []
    rows = np.sort(np.random.default_rng(0).permutation(build_split(config, dataset).train)[:_MOST_TRAINING])
    features = normalise(_find_features(bundle, dataset, rows, meter))
    places, distances = find_neighbours(bundle.features(images), features, count=count + _COPIES)
    found = []
    for image, near, away in zip(images, places, distances, strict=True):
        others = [
            (rows[place], float(distance))
            for place, distance in zip(near, away, strict=True)
            if not np.array_equal(dataset.images[rows[place]], image)
        ]
        found.append(
            tuple(
                Neighbour(
                    dataset.images[row], dataset.class_names[dataset.labels[row]], dataset.row_name(int(row)), distance
                )
                for row, distance in others[:count]
            )
        )
    return found
