"""The gallery of mistakes as one HTML page. It must not know how they were found."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clearsight.data.dataset import Dataset
from clearsight.data.preprocess import Preprocess
from clearsight.diagnose.mistakes import Mistake
from clearsight.report import page, pictures, words
from clearsight.report.text import find_confused_pairs

_PAIRS, _OF_A_PAIR = 5, 12
_HOW = {
    "grad-cam": "The second picture shows which parts support the answer (Grad-CAM), in orange.",
    "occlusion": "The second picture shows which parts support the answer: covering the orange ones lowers its probability most.",
    "": "",
}
_NEAR = " Then come the training pictures that the network finds most similar."


def render_mistakes(
    worst: Sequence[Mistake],
    *,
    how: str,
    dataset: Dataset,
    split: str,
    rows: NDArray[np.int64],
    truth: NDArray[np.int64],
    answers: NDArray[np.int64],
    confusion: NDArray[np.int64],
    class_names: Sequence[str],
    scaling: Preprocess,
) -> str:
    """The page: a card a mistake, then the pairs of classes that are confused most, with their pictures.

    Args:
        worst: the mistakes to show. how: what their saliency is, "" for none.
        rows, truth, answers: (n,) judged rows of the data set, their classes, and those answered. confusion: (K, K), rows true.
        class_names, scaling: of the model.
    """
    n, wrong = int(confusion.sum()), int(confusion.sum() - np.trace(confusion))
    near = _NEAR if worst and worst[0].neighbours else ""
    head = page.section(
        f"{wrong:,} of {n:,} answers of {dataset.name} ({split}) are wrong",
        page.paragraph(
            f"The worst mistakes come first: the model gave the true class the least probability. {_HOW[how]}{near}"
        )
        if worst
        else "",
    )
    cards = [_render_mistake(one, dataset, scaling) for one in worst]
    pairs = []
    for true, answer, count, of in find_confused_pairs(confusion, count=_PAIRS) if scaling.height > 1 else ():
        chosen = rows[(truth == true) & (answers == answer)][:_OF_A_PAIR]
        items = [_picture(dataset.images[row], scaling, (dataset.row_name(int(row)),)) for row in chosen]
        title = f"{class_names[true]} taken for {class_names[answer]}: {count:,} of {of:,}"
        pairs.append(page.section(title, page.pictures(items, cell="5.5rem", shape=_shape(scaling))))
    return page.render_page(f"Mistakes on {dataset.name} – clearsight", [head, *cards, *pairs])


def _shape(scaling: Preprocess) -> str:
    return f"{scaling.width}/{scaling.height}"


def _picture(pixels: object, scaling: Preprocess, lines: tuple[str, ...]) -> tuple[bytes, str, tuple[str, ...]]:
    return pictures.draw_picture(np.asarray(pixels), low=scaling.low, high=scaling.high), lines[0], lines


def _render_mistake(one: Mistake, dataset: Dataset, scaling: Preprocess) -> str:
    title = f"{one.true} taken for {one.answer}"
    lines = (f"{one.confidence:.1%} confident", one.name, f"loss {words.number(one.loss)}")
    if scaling.height == 1:
        return page.section(title, *(page.paragraph(line) for line in lines), half=True)
    pixels = dataset.images[one.row]
    items = [_picture(pixels, scaling, lines)]
    if one.saliency is not None:
        overlay = pictures.draw_overlay(pixels, one.saliency, low=scaling.low, high=scaling.high)
        items.append((overlay, f"what the answer {one.answer} rests on", (f"for {one.answer}",)))
    items += [
        _picture(near.pixels, scaling, (near.label, near.name, f"distance {near.distance:.2f}"))
        for near in one.neighbours
    ]
    return page.section(title, page.pictures(items, cell="5.5rem", shape=_shape(scaling)), half=True)
