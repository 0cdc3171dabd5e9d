"""What benchmarks claim: runs stop at their target, and the peer over batches trains the same net as this project's engine."""

import numpy as np
import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import run_to_target
from benchmarks.peers import BatchLoop, vary_affine, vary_flip_and_crop
from clearsight.augment.presets import PRESETS
from clearsight.config.build import build_config
from clearsight.data.read.load import load_data
from clearsight.pipeline.prepare import prepare
from clearsight.training.order import epoch_order


@pytest.mark.parametrize(("target", "epochs", "accuracy"), [(0.5, 2, 0.6), (0.95, 3, 0.9)])
def test_a_run_stops_at_the_first_epoch_that_reaches_its_target(target, epochs, accuracy):
    drawn = []

    def train():
        for reached in (0.2, 0.6, 0.9):
            drawn.append(reached)
            yield lambda reached=reached: reached

    found = run_to_target(train(), target=target, device="cpu")
    assert (found.epochs, found.accuracy, len(drawn)) == (epochs, accuracy, epochs)


@pytest.mark.parametrize("contestant", gpu.CONTESTANTS)
def test_nothing_is_built_while_epochs_are_timed(contestant, monkeypatch):
    task = gpu.Task(
        "fashion-mnist",
        0.94,
        {"model": {"widths": [4, 4, 4]}, "augment": gpu.FASHION_AUGMENT, "train": {"epochs": 1, "batch_size": 8}},
    )
    rng = np.random.default_rng(0)
    dataset = load_data(rng.integers(0, 256, (80, 32, 32, 3)).astype(np.uint8), np.arange(80) % 4)
    built, prepare_task = [], gpu.prepare_task
    monkeypatch.setattr(gpu, "prepare_task", lambda *a, **k: built.append(1) or prepare_task(*a, **k))
    epochs = gpu.CONTESTANTS[contestant](task, dataset, seed=0, device="cpu")
    assert built == [1]
    assert run_to_target(epochs, target=1.1, device="cpu").epochs == 1
    assert built == [1]


def test_the_loop_over_batches_trains_as_the_engine_does():
    rng = np.random.default_rng(0)
    dataset = load_data(rng.integers(0, 256, (40, 8, 8, 1)).astype(np.uint8), np.arange(40) % 4)
    train = {"optimizer": "nesterov", "momentum": 0.9, "lr": 0.05, "batch_size": 8, "epochs": 1}
    model = {"family": "cnn", "widths": (4,), "depths": (1,)}
    split = {"valid_fraction": 0.0, "test_fraction": 0.0}
    prepared = prepare(build_config({"data": split, "model": model, "train": train}), dataset)
    loop, order = BatchLoop(prepared, vary=None, lr=0.05), epoch_order(prepared.split.train, seed=0, epoch=0)
    losses, _ = prepared.engine.train_steps(order, epoch=0, first_batch=0, first_step=0, lrs=prepared.lrs)
    assert loop.train_epoch(order) == pytest.approx(losses.mean(), rel=1e-4)


def test_varied_batches_keep_their_pictures():
    picture = torch.zeros(50, 28, 28, 1)
    picture[:, 10:18, 8:16] = 255
    moved = vary_affine(PRESETS["digits"], picture)
    assert moved.shape == picture.shape
    assert (moved.sum((1, 2, 3)) / picture[0].sum() - 1).abs().max() < 0.3  # zoom of 12 %, which counts twice
    numbered = torch.arange(36.0).view(1, 6, 6, 1).repeat(50, 1, 1, 1)
    cropped = vary_flip_and_crop(1, "constant", numbered)
    assert {tuple(row.tolist()) for row in cropped[:, 3, 2:4, 0]} >= {(20.0, 21.0), (21.0, 20.0)}
    steps = cropped[:, 2:4, 2:4, 0].diff(dim=2).abs()
    assert (steps == 1).all()  # neighbours stay neighbours
