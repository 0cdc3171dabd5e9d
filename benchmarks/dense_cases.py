"""The networks of `benchmarks.dense`, the data that they learn, and the pictures made where the real ones are not at hand."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.data.dataset import TRAIN, Dataset, build_dataset
from clearsight.data.preprocess import fit_preprocess
from clearsight.data.read.load import load_data
from clearsight.errors import DataError

SEPARABLE = "separable"  # made here: a bright stripe a class, the lower half dark


@dataclass(frozen=True, slots=True)
class Case:
    """One network, the data it learns and how. `density` is the share of pixels that are not 0 in the real pictures."""

    key: str
    sizes: tuple[int, ...]
    activation: str
    batch_size: int
    lr: float
    optimizer: str
    momentum: float
    data: str
    density: float
    scaling: str
    rows: int
    epochs: int  # in one measurement

    @property
    def remembers(self) -> bool:
        """Whether the optimiser carries something from step to step over several epochs, which may become tiny."""
        return self.optimizer != "sgd" and self.epochs > 1

    @property
    def num_flops(self) -> int:
        """Floating point operations of an epoch's matrix products: forward, dW, and dX of all layers but the first."""
        pairs = list(zip(self.sizes[:-1], self.sizes[1:], strict=True))
        return 2 * self.rows * (2 * sum(m * n for m, n in pairs) + sum(m * n for m, n in pairs[1:]))


CASES = (
    Case("a", (64, 32, 16, 10), "relu", 25, 0.01, "sgd", 0.0, "digits", 0.51, "unit", 1540, 20),
    Case("b", (784, 128, 10), "sigmoid", 32, 0.32, "momentum", 0.5, "mnist", 0.19, "unit", 60_000, 1),
    Case("c", (784, 50, 10), "relu", 100, 0.07, "sgd", 0.0, "fashion-mnist", 0.50, "symmetric", 44_800, 2),
    Case("d", (784, 128, 10), "relu", 32, 0.001, "adam", 0.0, "mnist", 0.19, "unit", 60_000, 5),
    Case("e", (784, 128, 10), "relu", 32, 0.05, "momentum", 0.9, "mnist", 0.19, "unit", 60_000, 5),
    Case("f", (784, 128, 10), "relu", 32, 0.001, "adam", 0.0, "fashion-mnist", 0.50, "unit", 60_000, 5),
    Case("g", (784, 128, 10), "relu", 32, 0.05, "momentum", 0.9, "fashion-mnist", 0.50, "unit", 60_000, 5),
    Case("h", (784, 128, 10), "relu", 32, 0.001, "adam", 0.0, SEPARABLE, 0.25, "unit", 20_000, 5),
    Case("i", (784, 128, 10), "relu", 32, 0.05, "momentum", 0.9, SEPARABLE, 0.25, "unit", 20_000, 5),
)


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pixels (N, inputs) as stored with their scaling, the same as float32 `inputs` for the peers, and labels (N,)."""

    source: str
    pixels: NDArray[Any]
    labels: NDArray[np.int64]
    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    inputs: NDArray[np.float32]


def make_pictures(case: Case) -> Dataset:
    """Random pictures of the case's number, size and density."""
    rng = np.random.default_rng(0)
    values = rng.integers(1, 256, (case.rows, case.sizes[0]), np.uint8)
    values[rng.random(values.shape, np.float32) >= case.density] = 0
    labels = np.arange(case.rows) % case.sizes[-1]
    return build_dataset({"train": (values, labels)}, name=f"synthetic, {case.density:.0%} of pixels not 0")


def make_separable(case: Case) -> Dataset:
    """Pictures with a bright stripe for their class; the lower half is always dark, so that its weights get no gradient."""
    rng, labels = np.random.default_rng(0), np.arange(case.rows) % case.sizes[-1]
    values = rng.integers(0, 40, (case.rows, case.sizes[0]), np.uint8)
    values[:, case.sizes[0] // 2 :] = 0
    for k in range(case.sizes[-1]):
        values[labels == k, 20 * k : 20 * (k + 1)] += 200
    return build_dataset({"train": (values, labels)}, name="separable synthetic data")


def load_pictures(case: Case) -> Pictures:
    """The real training pictures where this machine has enough of them, else synthetic ones; `source` says which."""
    if case.data == SEPARABLE:
        return _scale(case, make_separable(case), np.arange(case.rows))
    try:
        dataset = load_data(case.data)
        rows = np.flatnonzero(dataset.given == TRAIN)
        if case.data == "digits":  # the study's split: the file's first 154 of each digit, see recipe D2
            rows = np.concatenate([np.flatnonzero(dataset.labels == k)[:154] for k in range(10)])
        if len(rows) < case.rows or dataset.images[0].size != case.sizes[0]:
            raise DataError(f"{case.data} must be complete, got {len(rows)} rows. Fetch it anew.")
    except DataError:
        dataset, rows = make_pictures(case), np.arange(case.rows)
    return _scale(case, dataset, rows[: case.rows])


def _scale(case: Case, dataset: Dataset, rows: NDArray[np.int64]) -> Pictures:
    preprocess = fit_preprocess(dataset, rows, scaling=case.scaling)
    images = dataset.images[rows]
    return Pictures(
        source=dataset.name,
        pixels=images.reshape(len(rows), -1),
        labels=dataset.labels[rows],
        scale=preprocess.scale,
        offset=preprocess.offset,
        inputs=np.ascontiguousarray(preprocess.apply(images)),
    )
