"""From a configuration and its data to a network, what a step does, and the engine that trains it. It must not know runs."""

import os
import shutil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clearsight.augment.presets import Augmentation
from clearsight.bundle.load import load
from clearsight.config.rules import uses_torch
from clearsight.config.schema import RunConfig, TrainConfig
from clearsight.core.progress import MeterBuilder, SilentMeter
from clearsight.data.dataset import Dataset
from clearsight.data.preprocess import Preprocess
from clearsight.data.split import Rows, Split
from clearsight.engines.base import Engine
from clearsight.engines.dense_engine import DenseEngine
from clearsight.engines.objective import Objective
from clearsight.engines.team import Team, local_rank, started_by_torchrun
from clearsight.engines.torch_tools import as_memory_error
from clearsight.errors import UsageError
from clearsight.models.convnet import ConvNet, Tail
from clearsight.models.initialize import initialize, whiten
from clearsight.models.mlp import MLP
from clearsight.models.pretrained import HEAD, find_weights, load_weights
from clearsight.training.plan import FitPlan
from clearsight.training.schedules import learning_rates

_MOST_PARAMETERS = 1_000_000_000
_WHITENED_PIXELS = 2**21


def build_net(config: RunConfig, preprocess: Preprocess, *, outputs: int, regression: bool) -> MLP | ConvNet:
    """The network that a configuration means for pictures of some size.

    Raises:
        UsageError: sizes that do not fit together, or more than a billion weights.
    """
    model, output = config.model, "identity" if regression else "softmax"
    net: MLP | ConvNet
    if config.network.dense:
        net = MLP((preprocess.num_inputs, *config.hidden, outputs), config.activations, model.bias, output)
    else:
        if preprocess.height == 1:
            raise UsageError(f"model {config.family} must have pictures, got rows of features. Use model mlp.")
        if not isinstance(model.activation, str):
            raise UsageError(
                f"activation must be one name for {config.family}, got {list(model.activation)}. Give one."
            )
        net = ConvNet(
            config.family, (preprocess.height, preprocess.width, preprocess.channels), outputs, output,
            widths=model.widths or (), depths=model.depths or (), hidden=config.hidden, kernel=model.kernel or 0,
            norm=model.norm or "", activation=model.activation, pooling=model.pooling or "",
            stem=model.stem or ("large" if model.pretrained else ""),
            pad_to=model.pad_to or 0,
        )  # fmt: skip
    if net.num_parameters > _MOST_PARAMETERS:
        raise UsageError(
            f"the network must have at most {_MOST_PARAMETERS:,} weights, got {net.num_parameters:,}. Use a smaller "
            "--image-size or --hidden."
        )
    return net


def build_objective(config: RunConfig, dataset: Dataset, rows: Rows) -> Objective:
    """The step's loss, penalties and optimiser, with class weights worked out from the training rows.

    Raises:
        UsageError: a loss for classes with numbers, or the other way round.
    """
    train = config.train
    weights: tuple[float, ...] = ()
    if isinstance(train.class_weights, tuple):
        weights = train.class_weights
    elif train.class_weights == "balanced" and not dataset.is_regression:
        counts = np.bincount(dataset.labels[rows], minlength=len(dataset.class_names))
        weights = tuple(float(w) for w in len(rows) / (len(counts) * np.maximum(counts, 1)))
    loss = ("squared_error" if dataset.is_regression else "cross_entropy") if train.loss == "auto" else train.loss
    if (loss == "cross_entropy") == dataset.is_regression:
        fitting = "squared_error or huber" if dataset.is_regression else "cross_entropy"
        raise UsageError(f"loss must be {fitting} for this data, got {loss}. Leave it out, or set data.task.")
    shared = (
        "huber_delta", "reduction", "label_smoothing", "dropout", "l1", "l2", "clip_norm", "optimizer", "momentum", "rho",
        "beta1", "beta2", "eps", "weight_decay",
    )  # fmt: skip
    return Objective(loss=loss, class_weights=weights, **{key: getattr(train, key) for key in shared})


def find_huber(config: RunConfig) -> float | None:
    """From which error on the loss grows linearly; None for a loss that does not."""
    return config.train.huber_delta if config.train.loss == "huber" else None


def first_params(
    config: RunConfig,
    net: MLP | ConvNet,
    dataset: Dataset,
    rows: Rows,
    preprocess: Preprocess,
    *,
    meter: MeterBuilder = SilentMeter,
) -> NDArray[Any]:
    """The weights before training, (net.num_values,) float32; a whitened net's first layer is fitted to some training rows.

    Raises:
        UsageError: a model to start from that is of another network. ModelFileError: it cannot be read.
    """
    model, seed = config.model, config.train.seed
    if model.start_from is not None:
        found = load(model.start_from)
        if found.net != net:
            raise UsageError(
                f"start_from must be a model of the same network ({net.label}, {net.num_parameters:,} weights), got "
                f"{found.net.label} with {found.net.num_parameters:,} in {model.start_from}. Choose another."
            )
        if found.class_names != dataset.class_names:
            raise UsageError(
                f"start_from must be a model of the same classes in the same order ({_list(dataset.class_names)}), got "
                f"{_list(found.class_names)} in {model.start_from}. Choose another."
            )
        return found.params.copy()
    params = initialize(net, init=model.init, seed=seed, init_std=model.init_std, bias_init=model.bias_init)
    if model.pretrained and isinstance(net, ConvNet):
        tensors = net.tensors(params)
        for name, values in load_weights(net, find_weights(net.family, model.weights, meter=meter)).items():
            if name not in HEAD:
                tensors[name][:] = values
    if isinstance(net, ConvNet) and config.network.whitened:
        count = max(1, _WHITENED_PIXELS // (preprocess.height * preprocess.width))
        some = np.random.default_rng([seed, 0x5EED]).permutation(rows)[:count]
        whiten(net, params, preprocess.apply(dataset.images[some]).reshape(-1, *net.input_shape))
    return params


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "numbers"


def build_engine(
    config: RunConfig,
    net: MLP | ConvNet,
    dataset: Dataset,
    split: Split,
    preprocess: Preprocess,
    augmentation: Augmentation,
    team: Team,
    *,
    params: NDArray[np.float32],
) -> Engine:
    """The engine that a configuration means, with its first weights, (net.num_values,).

    Raises:
        UsageError: an engine, a device or a precision that cannot be had, or that does not go with the network.
    """
    train = config.train
    shared: dict[str, Any] = {
        "images": dataset.images, "labels": dataset.labels, "preprocess": preprocess, "batch_size": train.batch_size,
        "params": params, "seed": train.seed,
        "augmentation": augmentation, "pool": split.train,
    }  # fmt: skip
    objective = build_objective(config, dataset, split.train)
    if not uses_torch(config):
        if not isinstance(net, MLP):
            raise UsageError(
                f"engine {train.engine} must have model mlp, got {net.family}. Set train.engine to torch, or leave it out."
            )
        if team.size > 1:
            raise UsageError(
                f"several processes must train with engine torch, got {team.size} of them. Set train.engine to torch."
            )
        return DenseEngine(net, objective, name="dense" if train.engine == "auto" else train.engine, **shared)
    return build_torch_engine(config, net, objective, team=team, **shared)


def build_torch_engine(
    config: RunConfig, net: MLP | ConvNet | Tail, objective: Objective, *, team: Team, **shared: Any
) -> Engine:
    """The PyTorch engine on the device that a configuration means, for a whole network or its last stages.

    Raises:
        UsageError: a device, a precision or a compiler that cannot be had.
    """
    from clearsight.engines.torch_engine import TorchEngine, TorchOptions

    train, device = config.train, choose_device(config)
    if (
        train.compile
        and device == "cpu"
        and not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++"))
    ):
        raise UsageError("compile must have a C++ compiler, got none. Install g++, or leave train.compile out.")
    options = TorchOptions(
        device=device, bfloat16=uses_bfloat16(config, device), compile_module=train.compile, accumulate=train.accumulate,
        ema=train.ema, lookahead=train.lookahead, layer_decay=train.layer_decay, keep_statistics=config.model.pretrained,
    )  # fmt: skip
    with as_memory_error():
        return TorchEngine(net, objective, options=options, team=team, **shared)


def scale_features(features: NDArray[np.float32], rows: Rows, preprocess: Preprocess, *, one: bool) -> Preprocess:
    """How features become inputs: as they are, or for a head divided by one number that brings their mean square to 1."""
    height, width, channels = features.shape[1:]
    size, scale = height * width * channels, 1.0
    if one:
        scale = 1 / max(float(np.sqrt(np.square(features[rows], dtype=np.float64).mean())), 1e-12)
    return Preprocess(
        height, width, channels, "none", 0.0, 1.0, np.full(size, scale, np.float32), np.zeros(size, np.float32),
        preprocess.target_mean, preprocess.target_std,
    )  # fmt: skip


def build_tail_engine(
    config: RunConfig, net: ConvNet, objective: Objective, *, params: NDArray[np.float32], team: Team, **shared: Any
) -> Engine:
    """The PyTorch engine for the last stages of a whole network with these numbers, on maps that the stages before give.

    Raises:
        UsageError: see `build_torch_engine`.
    """
    tail, whole = Tail(net), net.tensors(params)
    last = np.empty(tail.num_values, np.float32)
    for name, values in tail.tensors(last).items():
        values[:] = whole[name]
    return build_torch_engine(config, tail, objective, team=team, params=last, **shared)


def choose_device(config: RunConfig) -> str:
    """The device of the torch engine: the wanted one, or the best there is; of several CUDA devices, this process's own.

    Raises:
        UsageError: PyTorch is missing, or the wanted device.
    """
    from clearsight.models.modules import import_torch

    torch, wanted = import_torch(), config.train.device
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if started_by_torchrun():
        found["mps"] = False  # no way to add up there
    chosen = next(name for name, there in found.items() if there) if wanted == "auto" else wanted
    if not found[chosen]:
        there = ", ".join(name for name, there in found.items() if there)
        raise UsageError(f"device must be one that PyTorch finds here ({there}), got {wanted}. Choose one of them.")
    if chosen == "cuda":
        count = torch.cuda.device_count()
        if local_rank() >= count:
            raise UsageError(
                f"processes on one machine must be at most {count}, one a CUDA device, got more. Lower --nproc-per-node, or add "
                "--device cpu."
            )
        torch.cuda.set_device(local_rank())
        return f"cuda:{local_rank()}"
    return chosen


def build_rates(config: RunConfig, num_rows: int) -> NDArray[np.float64]:
    """The learning rate of every step over so many training rows."""
    train = config.train
    return learning_rates(
        train.schedule, lr=config.lr, epochs=train.epochs, steps_per_epoch=-(-num_rows // train.batch_size),
        unit=train.schedule_unit, warmup_epochs=train.warmup_epochs, step_epochs=train.step_epochs,
        step_gamma=train.step_gamma,
    )  # fmt: skip


def build_plan(train: TrainConfig, lrs: NDArray[np.float64]) -> FitPlan:
    """How a training goes, by its settings and the learning rate of each step."""
    return FitPlan(
        train.epochs, train.batch_size, lrs, train.seed, shuffle=train.shuffle, balanced=train.sampling == "balanced",
        patience=train.patience, monitor=train.monitor, checkpoint_steps=train.checkpoint_steps,
        keep_steps=train.keep_steps, weight_history=train.weight_history,
    )  # fmt: skip


def describe_slow_products(config: RunConfig) -> tuple[str, ...]:
    """A sentence where bfloat16 was chosen on a processor that has no instructions for it, where most networks take longer."""
    if config.train.precision != "bfloat16" or not uses_torch(config) or choose_device(config) != "cpu":
        return ()
    from clearsight.models.modules import import_torch

    if import_torch().backends.cpu.get_cpu_capability() not in ("AVX2", "NO AVX"):
        return ()
    return (
        "products in bfloat16 can take several times as long as in float32 on this processor. Try --precision float32",
    )


def uses_bfloat16(config: RunConfig, device: str) -> bool:
    """Whether products are computed in bfloat16: if so chosen, or by itself on a CUDA device that can."""
    if config.train.precision != "auto":
        return config.train.precision == "bfloat16"
    from clearsight.models.modules import import_torch

    regression = config.data.task == "regression"  # numbers need more digits
    return device.startswith("cuda") and not regression and bool(import_torch().cuda.is_bf16_supported())
