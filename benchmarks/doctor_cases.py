"""Trainings for the doctor's bench: healthy ones drawn at random, known traps, and faults planted into healthy ones."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from clearsight.config.build import build_config
from clearsight.config.files import merge
from clearsight.data.dataset import TEST, Dataset
from clearsight.pipeline.data import load_dataset

Settings = dict[str, Any]
Planted = tuple[Settings, Dataset]
Draw = np.random.Generator
_ROWS = 6000  # of a larger data set


@dataclass(frozen=True)
class Fault:
    """A fault that can be planted.

    Args:
        plant: (settings, data, strength from 1 to 3, generator) to the same with the fault.
        causes: codes that name it rightly. curable: whether settings can cure it.
    """

    plant: Callable[[Settings, Dataset, int, Draw], Planted]
    causes: frozenset[str]
    curable: bool = True


@cache
def load_rows(name: str) -> Dataset:
    """A data set by name, a part of it where it is large."""
    dataset = load_dataset(build_config({"data": {"source": name}}))
    rows = np.random.default_rng(0).permutation(len(dataset))[:_ROWS]
    return dataset if len(dataset) <= _ROWS else dataset.select(np.sort(rows))


def draw_healthy(source: str, rng: Draw) -> Settings:
    """Settings as a person who knows the trade may choose them, for a dense net or a small convolutional one."""
    pick = lambda *values: values[int(rng.integers(len(values)))]
    optimizer = pick("sgd", "momentum", "adam", "adam", "adamw", "rmsprop")
    batch = pick(16, 32, 32, 64)
    rate = {"sgd": 0.1, "momentum": 0.03, "adam": 0.002, "adamw": 0.002, "rmsprop": 0.001}[optimizer] * pick(
        0.7, 1.0, 1.4
    )
    train = {
        "optimizer": optimizer, "lr": float(f"{rate:.3g}"), "batch_size": batch, "epochs": pick(20, 25, 30),
        "dropout": pick(0.0, 0.0, 0.2), "label_smoothing": pick(0.0, 0.0, 0.1), "l2": pick(0.0, 0.0, 1e-4),
        "schedule": pick("constant", "constant", "cosine", "one-cycle"), "seed": int(rng.integers(10_000)),
    }  # fmt: skip
    model: Settings = {
        "hidden": pick((32,), (64,), (64, 32), (128, 64), (64, 48, 32)),
        "activation": pick("relu", "relu", "tanh", "gelu"),
    }
    if source == "digits convolved":
        model = {"family": "cnn", "widths": (8, 16), "depths": (1, 1), "norm": pick("batch", "none"), "hidden": (32,)}
        train |= {"epochs": 8, "dropout": 0.0}
    data = {"source": source.split()[0], "split_seed": int(rng.integers(10_000)), "check": False}
    return {
        "data": data,
        "model": model,
        "train": train,
        "preprocess": {"scale": pick("unit", "unit", "standardize", "symmetric")},
    }


def traps() -> dict[str, Settings]:
    """Healthy trainings on digits that other tools cry wolf at."""
    base = {"data": {"source": "digits", "check": False}, "model": {"hidden": (64,)}, "train": {"epochs": 20}}
    changes: dict[str, Settings] = {
        "standardised input": {"preprocess": {"scale": "standardize"}},
        "sparse ReLU": {"model": {"hidden": (512,)}, "train": {"l1": 3e-5}},
        "SGD at 0.1": {"train": {"optimizer": "sgd", "lr": 0.1}},
        "validation above training": {"train": {"dropout": 0.4, "epochs": 40}},
        "label smoothing": {"train": {"label_smoothing": 0.2}},
        "one-cycle": {"train": {"schedule": "one-cycle", "lr": 0.02}},
        "one epoch": {"train": {"epochs": 1}},
        "forty pictures": {"data": {"train_per_class": 4, "valid_per_class": 2, "test_per_class": 2}, "train": {"epochs": 60}},
        "EMA": {"train": {"ema": 0.99}},
        "mixup": {"augment": {"mixup": 0.4, "unsafe": "ignore"}, "train": {"epochs": 40}},
        "batch normalisation everywhere": {"model": {"family": "cnn", "widths": (8, 16), "depths": (1, 1), "hidden": ()}},
        "residual branches that begin at 0": {
            "model": {"family": "resnet18", "widths": (8,) * 4, "hidden": ()}, "train": {"epochs": 8}
        },
        "no hidden layer": {"model": {"hidden": ()}},
        "large weights, small rate": {"model": {"init": "normal", "init_std": 0.25}, "train": {"epochs": 40}},
        "values of 0 to 16": {"preprocess": {"scale": "none"}},
        "tanh and SGD": {"model": {"hidden": (64, 32), "activation": "tanh"}, "train": {"optimizer": "sgd", "epochs": 30}},
        "balanced sampling": {"train": {"sampling": "balanced"}},
        "patience": {"train": {"patience": 5, "epochs": 60}},
    }  # fmt: skip
    return {name: merge(base, change) for name, change in changes.items()}


def _set(**sections: Settings) -> Callable[[Settings, Dataset, int, Draw], Planted]:
    """Sets the value of a strength: a tuple of three for each setting."""

    def plant(settings: Settings, data: Dataset, strength: int, rng: Draw) -> Planted:
        chosen = {s: {name: values[strength - 1] for name, values in inner.items()} for s, inner in sections.items()}
        return merge(settings, chosen), data

    return plant


def _scale_rate(factors: tuple[float, float, float]) -> Callable[[Settings, Dataset, int, Draw], Planted]:
    def plant(settings: Settings, data: Dataset, strength: int, rng: Draw) -> Planted:
        rate = settings["train"]["lr"] * factors[strength - 1]
        return merge(settings, {"train": {"lr": rate, "schedule": "constant"}}), data

    return plant


def _deepen(depths: tuple[int, int, int], **model: Any) -> Callable[[Settings, Dataset, int, Draw], Planted]:
    def plant(settings: Settings, data: Dataset, strength: int, rng: Draw) -> Planted:
        return merge(settings, {"model": {"hidden": (32,) * depths[strength - 1], **model}}), data

    return plant


def _relabel(change: Callable[[Dataset, int, Draw], np.ndarray]) -> Callable[[Settings, Dataset, int, Draw], Planted]:
    def plant(settings: Settings, data: Dataset, strength: int, rng: Draw) -> Planted:
        return settings, replace(data, labels=change(data, strength, rng))

    return plant


def _shuffle_labels(data: Dataset, strength: int, rng: Draw) -> np.ndarray:
    labels, share = data.labels.copy(), (0.9, 0.97, 1.0)[strength - 1]
    rows = rng.permutation(len(labels))[: round(share * len(labels))]
    labels[rows] = labels[rng.permutation(rows)]
    return labels


def _add_noise(data: Dataset, strength: int, rng: Draw) -> np.ndarray:
    labels, share = data.labels.copy(), (0.1, 0.25, 0.4)[strength - 1]
    rows = rng.permutation(len(labels))[: round(share * len(labels))]
    labels[rows] = (labels[rows] + rng.integers(1, len(data.class_names), len(rows))) % len(data.class_names)
    return labels


def _flip_pair(data: Dataset, strength: int, rng: Draw) -> np.ndarray:
    labels, share = data.labels.copy(), (0.2, 0.35, 0.5)[strength - 1]
    a, b = rng.permutation(len(data.class_names))[:2]
    rows = np.flatnonzero((data.labels == a) | (data.labels == b))
    rows = rng.permutation(rows)[: round(share * len(rows))]
    labels[rows] = np.where(data.labels[rows] == a, b, a)
    return labels


def _plant_renamed(settings: Settings, data: Dataset, strength: int, rng: Draw) -> Planted:
    given, labels, classes = data.given.copy(), data.labels.copy(), len(data.class_names)
    if not (given == TEST).any():
        given[rng.permutation(len(given))[: len(given) // 5]] = TEST
    some = rng.permutation(classes)[: (classes // 2, classes - 2, classes)[strength - 1]]
    names = np.arange(classes)
    names[some] = np.roll(some, 1)
    labels[given == TEST] = names[labels[given == TEST]]
    return settings, replace(data, given=given, labels=labels)


def _plant_sorted(settings: Settings, data: Dataset, strength: int, rng: Draw) -> Planted:
    order = np.argsort(data.labels, kind="stable")
    if strength == 1:  # a tenth of the rows out of order
        some = rng.permutation(len(order))[: len(order) // 10]
        order[np.sort(some)] = order[some]
    batch = (16, 32, 64)[strength - 1]
    return merge(settings, {"train": {"shuffle": False, "batch_size": batch}}), data.select(order)


def _plant_imbalance(settings: Settings, data: Dataset, strength: int, rng: Draw) -> Planted:
    rare, share = int(rng.integers(len(data.class_names))), (0.15, 0.08, 0.04)[strength - 1]
    rows = np.flatnonzero(data.labels == rare)
    lost = rng.permutation(rows)[round(share * len(rows)) :]
    return merge(settings, {"train": {"epochs": 6}}), data.select(np.setdiff1d(np.arange(len(data)), lost))


def _dim(factors: tuple[float, float, float]) -> Callable[[Settings, Dataset, int, Draw], Planted]:
    """Pixels times a factor, as stored: floats that nothing scales any more."""

    def plant(settings: Settings, data: Dataset, strength: int, rng: Draw) -> Planted:
        low, high = data.value_range or (0.0, float(data.images.max()))
        pixels = (data.images.astype(np.float32) - low) / (high - low) * factors[strength - 1]
        changed = replace(data, images=pixels, value_range=(0.0, float(pixels.max())), source_hashes=None)
        return merge(settings, {"preprocess": {"scale": "none"}}), changed

    return plant


def _plant_constant(settings: Settings, data: Dataset, strength: int, rng: Draw) -> Planted:
    images = np.repeat(data.images[:1], len(data), axis=0)
    return merge(settings, {"preprocess": {"scale": "unit"}}), replace(data, images=images, source_hashes=None)


def _plant_few(settings: Settings, data: Dataset, strength: int, rng: Draw) -> Planted:
    changes = {
        "data": {"train_fraction": (0.1, 0.06, 0.04)[strength - 1]},
        "train": {"epochs": 80, "batch_size": 16, "dropout": 0.0, "l2": 0.0},
    }
    return merge(settings, {**changes, "model": {"hidden": (256,), "activation": "relu"}}), data


SIGNAL = frozenset({"vanishing-signal", "vanishing-gradient"})
_RELU = {"activation": ("relu",) * 3}
_NORMAL = {"init": ("normal",) * 3}
_SLOW = {"schedule": ("constant",) * 3}
FAULTS: dict[str, Fault] = {
    "rate too high": Fault(_scale_rate((30.0, 100.0, 1000.0)), frozenset({"rate-too-high"})),
    "rate too low": Fault(_scale_rate((0.02, 0.003, 0.0003)), frozenset({"rate-too-low"})),
    "momentum too high": Fault(
        _set(train={"optimizer": ("momentum",) * 3, "momentum": (0.98, 0.99, 0.998), "lr": (0.1,) * 3, **_SLOW}),
        frozenset({"momentum-too-high", "rate-too-high"}),
    ),
    "weights too large": Fault(
        _set(model={**_NORMAL, "init_std": (0.4, 1.0, 3.0), "hidden": ((64, 48, 32),) * 3, **_RELU}),
        frozenset({"exploding-signal"}),
    ),
    "weights too small": Fault(
        _set(model={**_NORMAL, "init_std": (0.01, 0.003, 0.0003), "hidden": ((48, 48, 32, 32),) * 3, **_RELU}), SIGNAL
    ),
    "weights all 0": Fault(
        _set(model={"init": ("zeros",) * 3, "hidden": ((32,), (64,), (64, 32)), **_RELU}),
        frozenset({"symmetric-weights"}),
    ),
    "deep sigmoids": Fault(_deepen((4, 6, 9), activation="sigmoid"), SIGNAL),
    "saturated tanh": Fault(
        _set(model={**_NORMAL, "init_std": (1.0, 2.0, 5.0), "hidden": ((64, 32),) * 3, "activation": ("tanh",) * 3}),
        frozenset({"saturated-units", "exploding-signal"}),
    ),
    "bottleneck": Fault(_set(model={"hidden": ((64, 3), (64, 2), (64, 1))}), frozenset({"bottleneck"})),
    "no activation": Fault(
        _set(model={"hidden": ((32,), (64, 32), (64, 48, 32)), "activation": ("identity",) * 3}),
        frozenset({"missing-nonlinearity"}),
    ),
    "pixels unscaled": Fault(_dim((64.0, 255.0, 1000.0)), frozenset({"unscaled-inputs"})),
    "pixels scaled twice": Fault(_dim((1 / 64, 1 / 255, 1 / 65025)), frozenset({"faint-inputs"})),
    "penalty too strong": Fault(_set(train={"l2": (0.1, 0.5, 3.0)}), frozenset({"penalty-too-strong"})),
    "dropout too strong": Fault(_set(train={"dropout": (0.8, 0.95, 0.98)}), frozenset({"dropout-too-strong"})),
    "trained too short": Fault(
        _set(train={"epochs": (3, 2, 1), "batch_size": (64,) * 3, **_SLOW}),
        frozenset({"trained-too-short", "batch-too-large", "rate-too-low"}),
    ),
    "batch too large": Fault(
        _set(train={"batch_size": (512, 1024, 4096), **_SLOW}), frozenset({"batch-too-large", "trained-too-short"})
    ),
    "rows not shuffled": Fault(_plant_sorted, frozenset({"not-shuffled"})),
    "labels shuffled": Fault(_relabel(_shuffle_labels), frozenset({"labels-unrelated"}), curable=False),
    "labels noisy": Fault(_relabel(_add_noise), frozenset({"labels-noisy"}), curable=False),
    "a pair flipped": Fault(_relabel(_flip_pair), frozenset({"pair-flipped"}), curable=False),
    "test classes renamed": Fault(_plant_renamed, frozenset({"labels-renamed"}), curable=False),
    "a rare class": Fault(_plant_imbalance, frozenset({"imbalance"})),
    "pictures all alike": Fault(_plant_constant, frozenset({"constant-inputs"}), curable=False),
    "few pictures": Fault(_plant_few, frozenset({"overfitting", "overtrained"})),
}
