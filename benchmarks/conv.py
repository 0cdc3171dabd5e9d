"""Seconds an epoch of a convolutional net, beside plain PyTorch loops: over whole batches, and a picture at a time by DataLoader.

    python -m benchmarks.conv [--rounds 3] [--json FILE] [--table FILE] [--quick]

The same net (the `cnn` of this project), the same augmentation (random affine maps of the preset `digits`), batch size,
optimiser and data: MNIST where it is found, else as many random pictures. Rows without augmentation show the engine alone, so
that pipeline and engine can be told apart. On a busy machine trust processor time. It asserts nothing about time.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks import Prepare, Work, describe_run, measure_in_turns, render_rows, render_run, run_benchmark, summarize
from benchmarks.peers import BatchLoop, vary_affine
from clearsight.augment.presets import PRESETS
from clearsight.config.build import build_config
from clearsight.data.read.load import load_data
from clearsight.errors import DataError
from clearsight.models.modules import build_module
from clearsight.pipeline.prepare import Prepared, prepare
from clearsight.training.order import epoch_order

OURS = ("clearsight", "clearsight, bfloat16", "clearsight, not augmented")
BATCHES = "PyTorch, batches in NHWC"
PAIRS = (
    *((ours, ours.replace(OURS[0], BATCHES)) for ours in OURS),
    (OURS[0], "PyTorch, DataLoader, Pillow"),
)  # (ours, the peer that does the same)
BATCH = 128


def load_pictures(count: int) -> tuple[str, np.ndarray, np.ndarray]:
    """MNIST's training pictures, or random ones of their size."""
    try:
        mnist = load_data("mnist")
        return "MNIST", mnist.images[:count], mnist.labels[:count]
    except DataError:
        rng = np.random.default_rng(0)
        return "random pictures", rng.integers(0, 256, (count, 28, 28, 1)).astype(np.uint8), np.arange(count) % 10


def build_prepared(images: np.ndarray, labels: np.ndarray, precision: str, augment: str = "digits") -> Prepared:
    """Our run, ready to train."""
    config = build_config({
        "data": {"valid_fraction": 0.0, "test_fraction": 0.0}, "augment": {"preset": augment}, "model": {"family": "cnn"},
        "train": {"optimizer": "nesterov", "lr": 0.05, "batch_size": BATCH, "precision": precision, "epochs": 1},
    })  # fmt: skip
    return prepare(config, load_data(images, labels))


def train_ours(images: np.ndarray, labels: np.ndarray, precision: str, augment: str = "digits") -> Work:
    """An epoch of this project's engine."""
    prepared = build_prepared(images, labels, precision, augment)
    order = epoch_order(prepared.split.train, seed=0, epoch=0)

    def work() -> float:
        losses, _ = prepared.engine.train_steps(order, epoch=0, first_batch=0, first_step=0, lrs=prepared.lrs)
        return float(losses.mean())

    return work


def train_batches(images: np.ndarray, labels: np.ndarray, precision: str, augment: str = "digits") -> Work:
    """An epoch of the plain loop over whole batches."""
    torch.manual_seed(0)
    prepared = build_prepared(images, labels, precision, augment)
    vary = partial(vary_affine, PRESETS[augment]) if augment != "none" else None
    loop = BatchLoop(prepared, vary=vary, bfloat16=precision == "bfloat16", lr=0.05)
    return partial(loop.train_epoch, epoch_order(prepared.split.train, seed=0, epoch=0))


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """What people write: a picture at a time through Pillow, then a tensor."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        self.images, self.labels, self.rng = images[..., 0], labels, np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        moved = vary(Image.fromarray(self.images[row]), self.rng)
        return torch.from_numpy(np.array(moved)).unsqueeze(0).float() / 255, int(self.labels[row])


def vary(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A random affine map of the strengths of `digits`, about the middle."""
    g, middle = PRESETS["digits"], (picture.width - 1) / 2
    angle, slant = (
        np.deg2rad(rng.uniform(-g["rotate"], g["rotate"])),
        np.tan(np.deg2rad(rng.uniform(-g["shear"], g["shear"]))),
    )
    grow = 1 / (1 + rng.uniform(-g["zoom"], g["zoom"]))
    turn = (
        np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        @ np.array([[1, slant], [0, 1]])
        * grow
    )
    shift = rng.uniform(-g["shift"], g["shift"], 2) * picture.width + middle - turn @ (middle, middle)
    places = (turn[0, 0], turn[0, 1], shift[0], turn[1, 0], turn[1, 1], shift[1])
    return picture.transform(picture.size, Image.Transform.AFFINE, places, Image.Resampling.BILINEAR)


class Flipped(nn.Module):
    """The project's net fed with (n, C, H, W), as PyTorch's own pictures are."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, C, H, W) to (n, K)."""
        out: torch.Tensor = self.module(x.permute(0, 2, 3, 1))
        return out


def train_plainly(images: np.ndarray, labels: np.ndarray, workers: int) -> Work:
    """An epoch of the loop that tutorials show."""
    torch.manual_seed(0)
    prepared = build_prepared(images[:256], labels[:256], "float32")
    module = build_module(prepared.net, device="cpu")
    first = {name: torch.from_numpy(v.copy()) for name, v in prepared.net.tensors(prepared.engine.params()).items()}
    module.load_state_dict(first, strict=False)
    net = Flipped(module)
    loader = DataLoader(Pictures(images, labels), batch_size=BATCH, shuffle=True, num_workers=workers)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    loss_of = nn.CrossEntropyLoss()

    def work() -> float:
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = loss_of(net(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
        return total / len(loader)

    return work


def measure(*, rounds: int, quick: bool, command: str) -> dict[str, Any]:
    """The record of all contestants."""
    record = describe_run(command)
    name, images, labels = load_pictures(200 if quick else 60_000)
    contestants: dict[str, Prepare] = {
        OURS[0]: partial(train_ours, images, labels, "float32"),
        OURS[1]: partial(train_ours, images, labels, "bfloat16"),
        OURS[2]: partial(train_ours, images, labels, "float32", "none"),
        BATCHES: partial(train_batches, images, labels, "float32"),
        f"{BATCHES}, bfloat16": partial(train_batches, images, labels, "bfloat16"),
        f"{BATCHES}, not augmented": partial(train_batches, images, labels, "float32", "none"),
        "PyTorch, DataLoader, Pillow": partial(train_plainly, images, labels, 0),
        "PyTorch, DataLoader with 2 workers, Pillow": partial(train_plainly, images, labels, 2),
    }
    raw = measure_in_turns(contestants, rounds=rounds)
    first = summarize(raw[OURS[0]]["seconds"])["median"]
    rows = {key: summarize(values["seconds"]) for key, values in raw.items()}
    for key, values in raw.items():
        spent = [s * share for s, share in zip(values["seconds"], values["cpu_share"], strict=True)]
        rows[key]["cpu"] = summarize(spent)["median"]
    threads = torch.get_num_threads()
    record |= {"data": name, "pictures": len(images), "threads": threads, "raw": raw}
    return record | {"rows": {key: row | {"ratio": row["median"] / first} for key, row in rows.items()}}


def render_table(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    rows = record["rows"]
    lines = ["| ours | beside it | times our seconds | times our processor time |", "|-|-|-:|-:|"]
    for ours, peer in PAIRS:
        ratios = " | ".join(f"{rows[peer][key] / rows[ours][key]:.2f}" for key in ("median", "cpu"))
        lines.append(f"| {ours} | {peer} | {ratios} |")
    return "\n\n".join([
        "## Convolutional nets: seconds an epoch",
        render_run(record),
        f"The `cnn` on {record['pictures']:,} pictures ({record['data']}), batch {BATCH}, augmented as `digits`, "
        f"{record['threads']} threads.",
        render_rows(rows, unit="s/epoch", bold=OURS),
        "Like beside like; the processor time is of the process itself, without DataLoader's workers.",
        "\n".join(lines),
    ])  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    run_benchmark("conv", arguments, measure=measure, render=render_table)


if __name__ == "__main__":
    main()
