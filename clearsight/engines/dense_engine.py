"""The protocol that every engine implements, and the dense engine behind it. It must not know epochs or files."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.augment.presets import Augmentation
from clearsight.augment.randomness import count_uses
from clearsight.augment.transforms import augment_rows
from clearsight.core.numerics import allow_infinities
from clearsight.data.preprocess import Preprocess
from clearsight.engines.base import Rows, State, check_ends
from clearsight.engines.dense import reference
from clearsight.engines.objective import Objective
from clearsight.engines.predictor import Predictor
from clearsight.engines.probe import Probe, noise_scale, probe_layer, probe_network, rms, split_rows, try_step
from clearsight.errors import UsageError
from clearsight.models.mlp import MLP

_AUGMENTED_BYTES = 2**24  # of varied pictures at a time
ENGINES = ("dense", "reference")


class DenseEngine:
    """A fully connected network trained by `dense.kernel` (compiled) or `dense.reference` (NumPy).

    Args:
        net, objective: architecture, and what a step minimises and how.
        images: (N, H, W, C) as stored; never copied.
        labels: (N,) int64 classes, or float32 targets.
        preprocess: pixels to inputs.
        params: first parameters, (net.num_parameters,); taken over and changed in place.
        batch_size: rows of a step.
        seed: of dropout and augmentation.
        name: `dense` or `reference`.
        augmentation: how training pictures are varied; None for as they are.
        pool: rows from which pictures to mix in are drawn, where `augmentation` mixes.

    Raises:
        UsageError: the network's ends do not fit the data.
    """

    partial = False
    features: NDArray[np.float32] | None = None

    def __init__(
        self,
        net: MLP,
        objective: Objective,
        *,
        images: NDArray[Any],
        labels: NDArray[Any],
        preprocess: Preprocess,
        params: NDArray[np.floating],
        batch_size: int,
        seed: int,
        name: str = "dense",
        augmentation: Augmentation | None = None,
        pool: Rows | None = None,
    ) -> None:
        if name not in ENGINES:
            raise UsageError(f"engine must be auto, {', '.join(ENGINES)} or torch, got {name!r}. Choose one of them.")
        if objective.optimizer == "muon":
            raise UsageError(f"optimizer muon must go with engine torch, got engine {name}. Leave train.engine out.")
        check_ends(net, objective, labels, preprocess)
        self.name, self.device = name, "cpu"
        self._net, self._recipe, self._preprocess = net, objective, preprocess
        self._images, self._batch_size, self._seed = images, batch_size, seed
        self._augmentation = augmentation if augmentation and augmentation.active() else None
        self._pool = np.arange(len(images)) if pool is None else pool
        self._uses: tuple[Rows, Rows] | None = None
        self._params = params
        self._slots = np.zeros((objective.num_slots, params.size), params.dtype)
        if objective.is_regression:
            self._labels = np.zeros(len(labels), np.int64)
            self._targets = preprocess.standardize_targets(labels)[:, None].astype(params.dtype)
        else:
            self._labels, self._targets = labels, np.zeros((0, net.sizes[-1]), params.dtype)

    def train_steps(
        self, order: Rows, *, epoch: int, first_batch: int, first_step: int, lrs: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], int]:
        """See `Engine`."""
        if self._augmentation is None:
            return self._train(
                self._images,
                self._labels,
                self._targets,
                order,
                None,
                first_batch=first_batch,
                first_step=first_step,
                lrs=lrs,
            )
        block = max(1, _AUGMENTED_BYTES // (self._images[0].nbytes * self._batch_size))
        losses, hits = [], 0
        for start in range(0, len(lrs), block):
            part = lrs[start : start + block]
            at = first_batch + start
            found, right = self._train_varied(
                order, epoch=epoch, first_batch=at, first_step=first_step + start, lrs=part
            )
            losses.append(found)
            hits += right
            if len(found) < len(part) or not np.isfinite(found[-1]):
                break
        return np.concatenate(losses), hits

    def _train_varied(
        self, order: Rows, *, epoch: int, first_batch: int, first_step: int, lrs: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], int]:
        """Some batches on pictures that are varied now, held in memory no longer than they are needed."""
        assert self._augmentation is not None
        chosen = slice(first_batch * self._batch_size, (first_batch + len(lrs)) * self._batch_size)
        rows = order[chosen]
        batch = augment_rows(
            self._images, rows, augmentation=self._augmentation, seed=self._seed, epoch=epoch, pool=self._pool,
            uses=self._count_uses(order)[chosen], low=self._preprocess.low, high=self._preprocess.high,
        )  # fmt: skip
        labels, targets, mixed = self._labels[rows], self._targets, None
        if len(targets):
            targets = targets[rows]
        if batch.partners is not None and batch.shares is not None:
            mixed = self._labels[batch.partners], batch.shares
            if len(targets):
                share = batch.shares[:, None].astype(targets.dtype)
                targets = share * targets + (1 - share) * self._targets[batch.partners]
        own = np.arange(len(rows))
        return self._train(batch.images, labels, targets, own, mixed, first_batch=0, first_step=first_step, lrs=lrs)

    def _count_uses(self, order: Rows) -> Rows:
        """`count_uses` of the epoch under way, worked out once an epoch."""
        if self._uses is None or self._uses[0] is not order:
            self._uses = order, count_uses(order)
        return self._uses[1]

    def _train(
        self,
        images: NDArray[Any],
        labels: NDArray[np.int64],
        targets: NDArray[np.floating],
        order: Rows,
        mixed: reference.Mixed | None,
        *,
        first_batch: int,
        first_step: int,
        lrs: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], int]:
        if self.name == "dense":
            from clearsight.engines.dense import kernel

            train = kernel.train_steps
        else:
            train = reference.train_steps
        return train(
            self._net,
            self._recipe,
            inputs=images.reshape(len(images), -1),
            labels=labels,
            targets=targets,
            order=order,
            batch_size=self._batch_size,
            scale=self._preprocess.scale.astype(self._params.dtype, copy=False),
            offset=self._preprocess.offset.astype(self._params.dtype, copy=False),
            params=self._params,
            slots=self._slots,
            lrs=lrs,
            first_batch=first_batch,
            first_step=first_step,
            seed=self._seed,
            mixed=mixed,
        )

    def logits(self, rows: Rows) -> NDArray[np.float32]:
        """See `Engine`."""
        return Predictor(self._net, self._params, self._preprocess)(self._images, rows)

    @allow_infinities()
    def probe(self, rows: Rows, *, trial: tuple[int, float] | None = None) -> Probe:
        """See `Engine`."""
        net, objective, params, parts = self._net, self._recipe, self._params, split_rows(len(rows))
        rows = rows[: parts[-1].stop]
        x = self._preprocess.apply(self._images[rows]).astype(params.dtype, copy=False)
        targets = self._targets[rows] if len(self._targets) else self._targets
        sums: list[NDArray[np.floating]] = []
        outputs, slopes = reference.forward(net, params, x, sums=sums)
        plain = replace(objective, reduction="mean", label_smoothing=0.0, class_weights=())
        gradient, squares = np.zeros_like(params), []
        for part in parts:
            wanted = targets[part] if len(targets) else targets
            _, delta = reference.loss_and_delta(outputs[-1][part], self._labels[rows[part]], wanted, plain)
            grad = reference.backward(net, params, [a[part] for a in outputs], [s[part] for s in slopes], delta)
            squares.append(_square(grad))
            gradient += grad / len(parts)
        tried, before = None, params.copy()
        moved: list[float | None] = [None] * net.num_layers
        if trial is not None:
            loss, moved = try_step(
                self, rows[: self._batch_size], step=trial[0], lr=trial[1],
                look=lambda: [rms(w) for w, _ in net.layers(params - before)],
            )  # fmt: skip
            tried = loss, self._batch_size
        layers = [
            probe_layer(
                f"layer {k + 1}", z=z, x=outputs[k], silent=float((outputs[k] == 0).all(axis=0).mean()),
                weight=rms(w), gradient=rms(grad_w), step=moved[k],
            )
            for k, (z, (w, _), (grad_w, _)) in enumerate(zip(sums, net.layers(params), net.layers(gradient), strict=True))
        ]  # fmt: skip
        return probe_network(
            outputs[-1], targets[:, 0] if len(targets) else self._labels[rows], huber=objective.huber, layers=layers,
            noise=noise_scale(float(np.mean(squares)), _square(gradient), n=len(rows), size=parts[0].stop), trial=tried,
        )  # fmt: skip

    def params(self) -> NDArray[np.float32]:
        """See `Engine`."""
        return self._params.astype(np.float32)

    def state(self) -> State:
        """See `Engine`."""
        return {"params": self._params.copy(), "slots": self._slots.copy()}

    def load_state(self, state: State) -> None:
        """See `Engine`."""
        self._params[:] = state["params"]
        self._slots[:] = state["slots"]

    def is_finite(self) -> bool:
        """See `Engine`."""
        return bool(np.isfinite(self._params).all())

    def describe(self) -> dict[str, Any]:
        """See `Engine`."""
        return {"engine": self.name, "device": self.device}


def _square(values: NDArray[np.floating]) -> float:
    """Squared norm."""
    return float(np.dot(values, values))
