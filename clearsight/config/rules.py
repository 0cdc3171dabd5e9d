"""What choices mean together: those that others leave without effect are refused, so that none is ignored in silence.

It must not know how any is carried out.
"""

from typing import Any

from pydantic import BaseModel

from clearsight.config.build import build_config
from clearsight.config.families import FAMILIES, TIMM, find_takers, list_published, render_names, render_takers
from clearsight.config.schema import RunConfig
from clearsight.errors import UsageError

TORCH_ONLY = ("precision", "compile", "accumulate", "ema", "lookahead")
_FIRST = ("init", "init_std", "bias_init")
_SIZES = ("widths", "depths", "kernel", "norm", "pooling", "stem", "pad_to")


def check_used(config: RunConfig) -> None:
    """Refuse a choice that others leave without effect, so that none is ignored in silence.

    Raises:
        UsageError: which choice, and what it needs.
    """
    family = config.network
    if config.train.l2 == "auto" and not (config.model.pretrained and config.depth == "head"):
        raise UsageError(
            "l2 auto must go with pretrained and finetune head, got it without. Give a number, such as 0.001."
        )
    if family.published and not family.tail and config.depth == "last":
        known = ", ".join(name for name in list_published() if FAMILIES[name].tail)
        raise UsageError(f"finetune last must go with {known}, got {family.name}. Use finetune head or all.")
    for section, key, partner, used in (*_train_needs(config), *_model_needs(config), *_data_needs(config)):
        if not used and getattr(section, key) != type(section).model_fields[key].default:
            raise UsageError(
                f"{key} must go with {partner}, got {getattr(section, key)} without. Leave it out or add that."
            )


_Need = tuple[BaseModel, str, str, bool]
"""A section, one of its choices, what that goes with, and whether that is there."""


def _train_needs(config: RunConfig) -> list[_Need]:
    train, model = config.train, config.model
    adams = train.optimizer in ("adam", "adamw", "muon")
    deeper = model.pretrained and config.depth != "head"
    drops = config.depth != "head" and (not config.network.dense or bool(config.hidden))
    return [
        (train, "momentum", "optimizer momentum, nesterov or muon", train.optimizer in ("momentum", "nesterov", "muon")),
        (train, "rho", "optimizer rmsprop", train.optimizer == "rmsprop"),
        (train, "beta1", "optimizer adam, adamw or muon", adams),
        (train, "beta2", "optimizer adam, adamw or muon", adams),
        (train, "eps", "optimizer rmsprop, adam, adamw or muon", adams or train.optimizer == "rmsprop"),
        (train, "step_epochs", "schedule step", train.schedule == "step"),
        (train, "step_gamma", "schedule step", train.schedule == "step"),
        (train, "schedule_unit", "a schedule or warmup_epochs", train.schedule != "constant" or train.warmup_epochs > 0),
        (train, "monitor", "patience", train.patience is not None),
        (train, "huber_delta", "loss huber", train.loss == "huber"),
        (train, "dropout", "a hidden layer, or a convolutional model that is trained whole or in its last stages", drops),
        *((train, key, "engine torch", uses_torch(config)) for key in TORCH_ONLY),
        (train, "device", "engine torch", uses_torch(config) or train.device == "cpu"),
        (train, "engine", "finetune last or all", train.engine != "torch" or not model.pretrained or deeper),
        (train, "layer_decay", "pretrained and finetune last or all", deeper),
        (train, "shuffle", "sampling natural", train.sampling == "natural"),
    ]  # fmt: skip


def _model_needs(config: RunConfig) -> list[_Need]:
    model, family = config.model, config.network
    normal = "normal" in (model.init, model.bias_init)
    published = ", ".join((*list_published(), TIMM.name))
    activated = not family.dense or bool(config.hidden or model.activation == ())
    layers = f"a hidden layer, or model {render_names(find_takers('activation', conv=True))}"

    def takes(*keys: str) -> list[_Need]:
        return [(model, key, render_takers(key), key in family.settings) for key in keys]

    return [
        (model, "init_std", "init or bias_init normal, or init uniform", normal or model.init == "uniform"),
        *((model, key, "no start_from", model.start_from is None) for key in (*_FIRST, "pretrained")),
        (model, "pretrained", f"model {published}", family.published),
        *((model, key, "pretrained", model.pretrained) for key in ("weights", "finetune")),
        *((model, key, "weights of one's own", not model.pretrained) for key in ("widths", "depths", "stem")),
        *takes(*_FIRST),
        *((model, key, "weights of one's own", not model.pretrained) for key in _FIRST),
        (model, "bias_init", "a bias", model.bias != "none"),
        *takes("hidden"),
        (model, "activation", layers, "activation" in family.settings and activated),
        *takes("bias", *_SIZES),
    ]  # fmt: skip


def _data_needs(config: RunConfig) -> list[_Need]:
    data, augment = config.data, config.augment
    whole = "finetune all, as features are kept of pictures as they are"
    return [
        *((augment, key, whole, config.depth == "all") for key in type(augment).model_fields),
        *(
            (data, key, "no train_per_class", data.train_per_class is None)
            for key in ("valid_fraction", "group_by", "test_fraction")
        ),
        *((data, key, "no folds", data.folds is None) for key in ("valid_fraction", "train_per_class")),
        *((data, key, "folds", data.folds is not None) for key in ("fold", "fold_seed")),
    ]  # fmt: skip


def uses_torch(config: RunConfig) -> bool:
    """Whether the torch engine is meant: by name, by the network, or by a choice that only it can carry out."""
    train = config.train
    if train.engine != "auto":
        return train.engine == "torch"
    if config.model.pretrained and config.depth == "head":
        return False
    chosen = any(getattr(train, key) != type(train).model_fields[key].default for key in TORCH_ONLY)
    return not config.network.dense or train.optimizer == "muon" or train.device in ("cuda", "mps") or chosen


def drop_unused(config: RunConfig) -> RunConfig:
    """The same without choices that others leave without effect, as a changed choice may leave its partners."""
    for section, key, _, used in (*_train_needs(config), *_model_needs(config), *_data_needs(config)):
        if not used and getattr(section, key) != type(section).model_fields[key].default:
            name = next(name for name in type(config).model_fields if getattr(config, name) is section)
            return drop_unused(leave_out(config, name, key))
    return config


def leave_out(config: RunConfig, section: str, key: str) -> RunConfig:
    """The configuration as it would be if nothing were said about one choice."""
    values: dict[str, Any] = config.model_dump(exclude_unset=True)
    values.get(section, {}).pop(key, None)
    return build_config(values)


def is_chosen(config: RunConfig, section: str, key: str) -> bool:
    """Whether a choice differs from what would be there if nothing were said, so that saved defaults do not count."""
    without = leave_out(config, section, key)
    return bool(getattr(getattr(config, section), key) != getattr(getattr(without, section), key))
