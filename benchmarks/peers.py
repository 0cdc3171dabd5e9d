"""The peer of convolutional nets: a plain eager PyTorch loop over whole batches in NHWC, which are varied on the batch.

It trains the module of this project from the same first weights and knows nothing of its engine: pictures lie in one tensor, a
batch is picked, varied by PyTorch's own operations, scaled, and goes through the net, the loss and PyTorch's optimiser.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from clearsight.models.modules import build_module
from clearsight.pipeline.prepare import Prepared

Vary = Callable[[torch.Tensor], torch.Tensor]
"""Pictures (n, H, W, C) float32 to as many varied ones."""


def vary_affine(strengths: dict[str, Any], x: torch.Tensor) -> torch.Tensor:
    """A random affine map a picture, of the strengths of a preset: turn, slant, size and shift; black beyond the edge."""

    def spread(most: float) -> torch.Tensor:
        return (2 * torch.rand(len(x), device=x.device) - 1) * most

    angle, slant = torch.deg2rad(spread(strengths["rotate"])), torch.tan(torch.deg2rad(spread(strengths["shear"])))
    grow, (across, down) = 1 / (1 + spread(strengths["zoom"])), (spread(2 * strengths["shift"]) for _ in range(2))
    cos, sin = grow * torch.cos(angle), grow * torch.sin(angle)
    rows = torch.stack([cos, cos * slant - sin, across, sin, sin * slant + cos, down], 1).view(-1, 2, 3)
    pictures = x.permute(0, 3, 1, 2)
    grid = functional.affine_grid(rows, list(pictures.shape), align_corners=False)
    return functional.grid_sample(pictures, grid, align_corners=False).permute(0, 2, 3, 1)


def vary_flip_and_crop(reach: int, mode: str, x: torch.Tensor) -> torch.Tensor:
    """Half of the pictures mirrored, each moved by up to `reach` pixels; beyond the edge by `mode` of PyTorch's `pad`."""
    n, height, width, _ = x.shape
    padded = functional.pad(x.permute(0, 3, 1, 2), (reach,) * 4, mode=mode).permute(0, 2, 3, 1)
    down, right = (torch.randint(0, 2 * reach + 1, (n, 1), device=x.device) for _ in range(2))
    columns = torch.arange(width, device=x.device).expand(n, width)
    columns = torch.where(torch.rand(n, 1, device=x.device) < 0.5, width - 1 - columns, columns) + right
    rows = torch.arange(height, device=x.device) + down
    return padded[torch.arange(n, device=x.device)[:, None, None], rows[:, :, None], columns[:, None, :]]


class BatchLoop:
    """The loop.

    Args:
        prepared: whose data, first weights, batch size, rate and label smoothing it takes.
        vary: see `Vary`; None leaves pictures as they are. bfloat16: compute under autocast. weight_decay: of the weights.
    """

    def __init__(
        self,
        prepared: Prepared,
        *,
        vary: Vary | None,
        device: str = "cpu",
        bfloat16: bool = False,
        lr: float,
        one_cycle: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        train, data = prepared.config.train, prepared.dataset
        tensors = prepared.net.tensors(prepared.engine.params())
        self.module: nn.Module = build_module(prepared.net, device=device)
        self.module.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in tensors.items()}, strict=False)
        self.module.to(memory_format=torch.channels_last)
        self.images = torch.from_numpy(np.array(data.images)).to(device)
        self.labels = torch.from_numpy(data.labels).to(device)
        shape = data.images.shape[1:]
        self.scale, self.offset = (
            torch.from_numpy(part.copy()).view(shape).to(device)
            for part in (prepared.preprocess.scale, prepared.preprocess.offset)
        )
        self.vary, self.bfloat16, self.device, self.batch_size = vary, bfloat16, device, train.batch_size
        self.loss = nn.CrossEntropyLoss(label_smoothing=train.label_smoothing)
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9, nesterov=True, weight_decay=weight_decay)
        self.schedule = None
        if one_cycle:
            self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, lr, total_steps=len(prepared.lrs))

    def _forward(self, pictures: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.bfloat16):
            logits: torch.Tensor = self.module(pictures * self.scale + self.offset)
        return logits.float()

    def train_epoch(self, order: NDArray[np.int64]) -> float:
        """The mean loss of an epoch over rows in this order."""
        self.module.train()
        rows = torch.from_numpy(order).to(self.device)
        total = torch.zeros((), device=self.device)
        batches = rows.split(self.batch_size)
        for batch in batches:
            pictures = self.images[batch].float()
            pictures = pictures if self.vary is None else self.vary(pictures)
            self.optimizer.zero_grad()
            loss = self.loss(self._forward(pictures), self.labels[batch])
            loss.backward()
            self.optimizer.step()
            if self.schedule is not None:
                self.schedule.step()
            total += loss.detach()
        return float(total) / len(batches)

    @torch.no_grad()
    def find_accuracy(self, rows: NDArray[np.int64]) -> float:
        """The share of these rows that is answered rightly."""
        self.module.eval()
        wanted = torch.from_numpy(rows).to(self.device)
        hits = [(self._forward(self.images[b].float()).argmax(1) == self.labels[b]).sum() for b in wanted.split(1000)]
        return float(torch.stack(hits).sum()) / len(rows)
