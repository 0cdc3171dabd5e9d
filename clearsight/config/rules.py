"""What choices mean together: those that others leave without effect are refused, so that none is ignored in silence.

It must not know how any is carried out.
"""

from typing import Any

from pydantic import BaseModel

from clearsight.config.build import build_config
from clearsight.config.schema import PRETRAINED_FAMILIES, RunConfig
from clearsight.core.timm_library import is_timm
from clearsight.errors import UsageError

TORCH_ONLY = ("precision", "compile", "accumulate", "ema", "lookahead")
_PUBLISHED = (*PRETRAINED_FAMILIES, "timm:NAME")


def check_used(config: RunConfig) -> None:
    """Refuse a choice that others leave without effect, so that none is ignored in silence.

    Raises:
        UsageError: which choice, and what it needs.
    """
    family = config.family
    if config.train.l2 == "auto" and not (config.model.pretrained and config.depth == "head"):
        raise UsageError(
            "l2 auto must go with pretrained and finetune head, got it without. Give a number, such as 0.001."
        )
    if is_timm(family) and config.depth == "last":
        raise UsageError(
            f"finetune last must go with {', '.join(PRETRAINED_FAMILIES)}, got {family}. Use finetune head or all."
        )
    for section, key, partner, used in (*_train_needs(config), *_model_needs(config), *_data_needs(config)):
        if not used and getattr(section, key) != type(section).model_fields[key].default:
            raise UsageError(
                f"{key} must go with {partner}, got {getattr(section, key)} without. Leave it out or add that."
            )


_Need = tuple[BaseModel, str, str, bool]
"""A section, one of its choices, what that goes with, and whether that is there."""


def _train_needs(config: RunConfig) -> list[_Need]:
    train, model, family = config.train, config.model, config.family
    adams = train.optimizer in ("adam", "adamw", "muon")
    deeper = model.pretrained and config.depth != "head"
    drops = config.depth != "head" and (family != "mlp" or bool(config.hidden))
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
    model, family = config.model, config.family
    normal = "normal" in (model.init, model.bias_init)
    plain, residual, lite = family in ("cnn", "vgg"), family.startswith("resnet"), family == "efficientnet_lite0"
    activated = family == "mlp" and bool(config.hidden or model.activation == ())
    return [
        (model, "init_std", "init or bias_init normal, or init uniform", normal or model.init == "uniform"),
        *((model, key, "no start_from", model.start_from is None) for key in ("init", "init_std", "bias_init", "pretrained")),
        (model, "pretrained", f"model {', '.join(_PUBLISHED)}", family in PRETRAINED_FAMILIES or is_timm(family)),
        *((model, key, "pretrained", model.pretrained) for key in ("weights", "finetune")),
        *((model, key, "weights of one's own", not model.pretrained) for key in ("widths", "depths", "stem")),
        *((model, key, "a network of our own", not is_timm(family)) for key in ("init", "init_std", "bias_init")),
        *((model, key, "weights of one's own", not model.pretrained) for key in ("init", "init_std", "bias_init")),
        (model, "bias_init", "a bias", model.bias != "none"),
        (model, "hidden", "model mlp or vgg", family in ("mlp", "vgg")),
        (model, "activation", "a hidden layer, or model cnn or vgg", plain or activated),
        (model, "bias", "model mlp", family == "mlp"),
        (model, "widths", "a convolutional model of our own", family != "mlp" and not is_timm(family)),
        (model, "depths", "model cnn, vgg, a resnet or efficientnet_lite0", plain or residual or lite),
        (model, "kernel", "model cnn or vgg", plain),
        (model, "norm", "model cnn or vgg", plain),
        (model, "pooling", "model cnn, a resnet or efficientnet_lite0", residual or lite or family == "cnn"),
        (model, "stem", "a resnet", residual),
        (model, "pad_to", "a convolutional model of our own", family != "mlp" and not is_timm(family)),
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
    return config.family != "mlp" or train.optimizer == "muon" or train.device in ("cuda", "mps") or chosen


def leave_out(config: RunConfig, section: str, key: str) -> RunConfig:
    """The configuration as it would be if nothing were said about one choice."""
    values: dict[str, Any] = config.model_dump(exclude_unset=True)
    values.get(section, {}).pop(key, None)
    return build_config(values)


def is_chosen(config: RunConfig, section: str, key: str) -> bool:
    """Whether a choice differs from what would be there if nothing were said, so that saved defaults do not count."""
    without = leave_out(config, section, key)
    return bool(getattr(getattr(config, section), key) != getattr(getattr(without, section), key))
