"""Pretrained networks of which only the end is trained: on features that are kept, by the dense engine or by PyTorch.

It must not know runs, nor how features are computed.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.config.schema import PRETRAINED_DEFAULTS, RunConfig, TrainConfig
from clearsight.core.progress import MeterBuilder, Note, SilentMeter
from clearsight.data.dataset import Dataset
from clearsight.data.preprocess import Preprocess, fit_preprocess
from clearsight.data.split import Rows, Split, find_groups
from clearsight.engines.base import Engine
from clearsight.engines.dense_engine import DenseEngine
from clearsight.engines.partial import PartialEngine
from clearsight.engines.team import Team
from clearsight.errors import UsageError
from clearsight.evaluation.losses import mean_loss
from clearsight.models.convnet import ConvNet, Tail
from clearsight.models.mlp import MLP
from clearsight.models.pretrained import hash_weights
from clearsight.pipeline.build import (
    build_net,
    build_objective,
    build_plan,
    build_rates,
    build_tail_engine,
    first_params,
    scale_features,
)
from clearsight.pipeline.cost import measure_cost
from clearsight.pipeline.data import build_split
from clearsight.pipeline.features import find_features
from clearsight.training.fit import fit
from clearsight.training.plan import TrainingRows

PENALTIES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
FOLDS = 5
_MOST_ROWS = 5000  # on which a penalty is chosen
_USUAL_PENALTY = 0.1


def find_weights_hash(config: RunConfig) -> str | None:
    """SHA-256 of the file that a pretrained net begins with; None for any other net."""
    return hash_weights(config.family, config.model.weights) if config.model.pretrained else None


def check_weights(before: str | None, config: RunConfig) -> None:
    """Refuse to go on with other weights than a run began with: its frozen part is in no checkpoint.

    Raises:
        UsageError: they are others.
    """
    if before is not None and before != (now := find_weights_hash(config)):
        raise UsageError(
            f"--resume must find the weights that it began with, got SHA-256 {str(now)[:12]} in place of {before[:12]}. Bring "
            "the file back."
        )


@dataclass(frozen=True, eq=False)
class HeadTrainer:
    """Trains the end of one pretrained network on kept features of one data set.

    Args:
        net, params: the network and its first numbers, (net.num_values,).
        preprocess: pixels to inputs.
        meter: shows progress. note: is told what was chosen.
    """

    net: ConvNet
    params: NDArray[np.float32]
    dataset: Dataset
    preprocess: Preprocess
    meter: MeterBuilder = SilentMeter
    note: Note = lambda text: None

    def resolve_penalty(self, config: RunConfig, rows: Rows, *, asked: bool) -> float:
        """The penalty on a head's weights, of `PENALTIES`, by k-fold over the training rows; groups stay together.

        It is the largest whose mean loss is within one standard error of the least (Breiman et al. 1984, section 3.4.3): where
        few rows cannot tell penalties apart, the simpler head is taken.

        Args:
            asked: whether somebody asked for that; else classes with too few rows get a usual penalty, with a note.

        Raises:
            UsageError: fewer rows or groups of a class than folds, where it was asked for, or no finite loss.
        """
        features, dataset = self._find_features("head"), self.dataset
        groups = find_groups(dataset, group_by=config.data.group_by)[rows]
        if (least := _count_least(dataset, rows, groups)) < FOLDS:
            if asked:
                raise UsageError(
                    f"l2 auto must have {FOLDS} or more training rows (or groups) of each class, got {least}. Use --set "
                    "train.l2=0.01."
                )
            self.note(
                f"using l2 {_USUAL_PENALTY:g}, because a class has only {least} training rows (or groups), too few to "
                "choose it by folds"
            )
            return _USUAL_PENALTY
        dealt = _deal(dataset.labels[rows], groups, seed=config.train.seed, stratified=not dataset.is_regression)
        some = np.sort(np.random.default_rng([config.train.seed, 0x50DE]).permutation(len(rows))[:_MOST_ROWS])
        folds = [(rows[some[dealt[some] != k]], rows[some[dealt[some] == k]]) for k in range(FOLDS)]
        losses = np.empty((len(PENALTIES), FOLDS))
        with self.meter("choosing l2", losses.size, unit="trials") as advance:
            for i, k in np.ndindex(losses.shape):
                losses[i, k] = self._try_penalty(config, features, *folds[k], PENALTIES[i])
                advance()
        if not np.isfinite(losses).all(axis=1).any():
            raise UsageError(
                "l2 auto must find a finite loss, got none at any penalty. Check the weights, or lower train.lr."
            )
        means, spread = losses.mean(axis=1), losses.std(axis=1, ddof=1) / np.sqrt(FOLDS)
        best = int(np.nanargmin(means))
        chosen = int(np.flatnonzero(means <= means[best] + spread[best])[-1])
        self.note(f"l2 {PENALTIES[chosen]:g} chosen by {FOLDS}-fold over the training rows (loss {means[chosen]:.3f})")
        return PENALTIES[chosen]

    def fit_head(self, config: RunConfig, rows: Rows) -> None:
        """Put a head that fits into the first numbers of the network, which is then trained deeper; `params` are changed.

        A head of random weights would at first tear at what the stages below have learnt (Kumar et al. 2022, "Fine-tuning can
        distort pretrained features"), so one is trained on kept features beforehand.
        """
        kept = {key: getattr(config.train, key) for key in ("seed", "loss", "huber_delta", "class_weights", "sampling")}
        train = TrainConfig.model_validate(PRETRAINED_DEFAULTS["head"]["train"] | kept)
        alone = config.model_copy(update={"train": train})
        alone = alone.change("train", l2=self.resolve_penalty(alone, rows, asked=False))
        engine, own = self._train(alone, self._find_features("head"), rows)
        tensors = self.net.tensors(self.params)
        for name, values in _head_tensors(engine.params(), scale=own.scale[0], outputs=self.net.outputs).items():
            tensors[name][:] = values

    def build_engine(self, config: RunConfig, split: Split, team: Team) -> Engine:
        """The engine that trains the end of the network, on kept features of all pictures.

        Raises:
            UsageError: an engine or several processes, which a head does not go with; see `find_features` and `first_params`.
        """
        net, dataset, features = self.net, self.dataset, self._find_features(config.depth)
        own = scale_features(features, split.train, self.preprocess, one=config.depth == "head")
        if config.depth == "head":
            if team.size > 1:
                raise UsageError(f"finetune head must be one process, got {team.size}. Start it without torchrun.")
            inner: Engine = self._build(config, features, own, split.train)
            to_tensors = partial(_head_tensors, scale=own.scale[0], outputs=net.outputs)
            return PartialEngine(inner, net, self.params, to_tensors, features=features)
        inner = build_tail_engine(
            config, net, build_objective(config, dataset, split.train), params=self.params, team=team, images=features,
            labels=dataset.labels, preprocess=own, batch_size=config.train.batch_size, seed=config.train.seed, pool=split.train,
        )  # fmt: skip
        return PartialEngine(inner, net, self.params, Tail(net).tensors)

    def _find_features(self, part: str) -> NDArray[np.float32]:
        found, _ = find_features(
            self.net, self.params, self.preprocess, self.dataset, part=part, meter=self.meter, note=self.note
        )
        return found

    def _try_penalty(
        self, config: RunConfig, features: NDArray[np.float32], rows: Rows, judged: Rows, l2: float
    ) -> float:
        """The loss on some rows of a head trained on others."""
        config = config.change("train", l2=l2)
        engine, _ = self._train(config, features, rows)
        p = self.preprocess
        return mean_loss(engine.logits(judged), self.dataset.labels[judged], mean=p.target_mean, std=p.target_std)

    def _train(self, config: RunConfig, features: NDArray[np.float32], rows: Rows) -> tuple[DenseEngine, Preprocess]:
        """A head trained on features of some rows, and how these were scaled."""
        own = scale_features(features, rows, self.preprocess, one=True)
        engine = self._build(config, features, own, rows)
        alone = config.change("train", patience=None, checkpoint_steps=0, keep_steps=0, weight_history=False)
        plan = build_plan(alone.train, build_rates(config, len(rows)))
        fit(engine, TrainingRows(self.dataset.labels, rows, rows[:0]), plan)
        return engine, own

    def _build(self, config: RunConfig, features: NDArray[np.float32], own: Preprocess, rows: Rows) -> DenseEngine:
        """The dense engine for one layer on features (N, 1, 1, F)."""
        head, train = MLP((features.shape[-1], self.net.outputs), (), "unit", self.net.output), config.train
        return DenseEngine(
            head, build_objective(config, self.dataset, rows), images=features, labels=self.dataset.labels, preprocess=own,
            batch_size=train.batch_size, pool=rows, params=np.zeros(head.num_values, np.float32), seed=train.seed,
            name="dense" if train.engine == "auto" else train.engine,
        )  # fmt: skip


def _count_least(dataset: Dataset, rows: Rows, groups: NDArray[np.int64]) -> int:
    """Groups of rows of the class that has the fewest; for numbers, of all rows."""
    kinds = np.zeros(len(rows), np.int64) if dataset.is_regression else dataset.labels[rows]
    return min(len(np.unique(groups[kinds == kind])) for kind in np.unique(kinds))


def _deal(labels: NDArray[Any], groups: NDArray[np.int64], *, seed: int, stratified: bool) -> NDArray[np.int64]:
    """Deal rows out to folds like cards, class by class and a group to one fold: (n,) numbers of folds.

    By hand, as scikit-learn takes half a second to load.
    """
    order = np.random.default_rng([seed, 0xDEA1]).permutation(len(labels))
    if stratified:
        order = order[np.argsort(labels[order], kind="stable")]
    _, first, members = np.unique(groups[order], return_index=True, return_inverse=True)
    turns = np.empty(len(first), np.int64)  # groups take turns in the order in which their first rows come
    turns[np.argsort(first)] = np.arange(len(first))
    places = np.empty(len(labels), np.int64)
    places[order] = turns[members] % FOLDS
    return places


def warm_features(config: RunConfig, dataset: Dataset, *, meter: MeterBuilder, note: Note, runs: int = 0) -> None:
    """Compute what many runs on one data set will ask for, where it is the same for all of them.

    Args:
        note: is told what `runs` deep ones cost, and where features cannot be kept.
    """
    scaling = config.preprocess.scale
    if not config.model.pretrained or scaling in ("standardize", "mean-image"):  # fitted to the rows of each run
        return
    rows = np.arange(len(dataset))
    preprocess = fit_preprocess(dataset, rows, scaling=scaling)
    regression = dataset.is_regression
    net = build_net(config, preprocess, outputs=1 if regression else len(dataset.class_names), regression=regression)
    assert isinstance(net, ConvNet)
    params = first_params(config, net, dataset, rows, preprocess, meter=meter)
    if config.depth != "head" and runs:
        some = build_split(config, dataset)
        cost = measure_cost(config, net, dataset, some, preprocess, params=params)
        note(f"each of {runs:,} runs takes {cost}, as measured on this machine")
    for part in ("head", "last") if config.depth == "last" else ("head",):  # deeper runs begin with a head that fits
        find_features(net, params, preprocess, dataset, part=part, meter=meter, note=note)


def _head_tensors(params: NDArray[np.float32], *, scale: float, outputs: int) -> dict[str, NDArray[np.float32]]:
    """A trained layer (weights (F, K), then biases) on scaled features, as the head on plain ones."""
    weights, biases = params[:-outputs].reshape(-1, outputs), params[-outputs:]
    return {"fc.weight": weights.T * np.float32(scale), "fc.bias": biases}
