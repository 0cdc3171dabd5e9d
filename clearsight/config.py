"""RunConfig: every choice of a run, in sections, read from TOML, JSON, flags and `--set`; an unknown key is an error.

It must not know how any choice is carried out. Ranges that only make sense together are checked where they are used.
"""

import difflib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clearsight.errors import UsageError

# Every name that a choice can take; the parts that carry the choices out import these.
Activation = Literal["relu", "leaky_relu", "sigmoid", "tanh", "gelu", "identity"]
Bias = Literal["unit", "shared", "none"]
Init = Literal["auto", "normal", "uniform", "xavier", "he", "orthogonal", "zeros"]
Optimizer = Literal["sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw"]
Reduction = Literal["mean", "sum"]
Schedule = Literal["constant", "step", "cosine", "one-cycle", "linear"]
Scaling = Literal["unit", "symmetric", "standardize", "mean-image", "none"]
Resize = Literal["squash", "crop", "pad"]
Channels = Literal["auto", "grey", "rgb"]
Sampling = Literal["natural", "balanced"]
Fill = Literal["edge", "reflect"]
Preset = Literal["none", "light", "photo", "digits", "counting"]
DEFAULT_LR = {"sgd": 0.1, "momentum": 0.05, "nesterov": 0.05, "rmsprop": 0.001, "adam": 0.001, "adamw": 0.001}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Side = Annotated[int, Field(ge=2, le=4096)]


class DataConfig(_Section):
    """Where pictures come from and how they are split."""

    source: str = Field("digits", description="Name (digits, mnist, ...) or path (folder, zip, tar, NPZ, CSV).")
    task: Literal["classification", "regression"] = Field("classification", description="Predict classes or numbers.")
    label_column: str = Field("auto", description="Of a CSV or metadata.csv: first, last, a header name, or auto.")
    skip_bad: bool = Field(False, description="Go on without bad files, copies across splits and conflicting labels.")
    check: bool = Field(True, description="Check the data before training.")
    valid_fraction: float = Field(0.1, ge=0, lt=1, description="Share of the training rows held out for validation.")
    test_fraction: float = Field(
        0.2, ge=0, lt=1, description="Share held out for test where the data has no test split."
    )
    train_per_class: int | None = Field(None, ge=1, description="Exact training rows a class, instead of fractions.")
    valid_per_class: int = Field(0, ge=0, description="Exact validation rows a class, with train_per_class.")
    test_per_class: int = Field(0, ge=0, description="Exact test rows a class, with train_per_class.")
    shuffle_split: bool = Field(True, description="False splits in file order instead of at random.")
    pool: bool = Field(False, description="Put the splits that came with the data together and draw anew.")
    split_seed: int = Field(0, ge=0, description="Seed of the split, apart from train.seed.")


class PreprocessConfig(_Section):
    """From files to stored pixels, and from those to inputs."""

    image_size: Side | tuple[Side, Side] | None = Field(
        None,
        description="Side, or [height, width], that pictures are brought to; by default as they are if small and equal.",
    )
    resize: Resize = Field("squash", description="Stretch, crop evenly, or pad with the background.")
    channels: Channels = Field("auto", description="Of picture files; auto is grey where all are.")
    background: str = Field("white", description="Under transparent pixels: white, black, grey or #rrggbb.")
    scale: Scaling = Field(
        "unit", description="0..1, -1..1, mean 0 and deviation 1, minus the mean picture, or as stored."
    )


class AugmentConfig(_Section):
    """How training pictures are varied, anew in each epoch; strengths given here go over those of the preset."""

    preset: Preset = Field("none", description="Strengths that fit a kind of pictures, as far as the data allows.")
    hflip: float | None = Field(None, ge=0, le=1, description="Probability of a mirror image.")
    vflip: float | None = Field(None, ge=0, le=1, description="Probability of a picture upside down.")
    rot90: float | None = Field(None, ge=0, le=1, description="Probability of a turn by 90, 180 or 270 degrees.")
    rotate: float | None = Field(None, ge=0, le=180, description="Largest angle in degrees.")
    shear: float | None = Field(None, ge=0, le=60, description="Largest angle in degrees.")
    zoom: float | None = Field(None, ge=0, le=0.9, description="Largest growth or shrinkage, as a share.")
    shift: float | None = Field(None, ge=0, le=0.9, description="Largest move, as a share of the side.")
    crop: float | None = Field(None, ge=0, le=0.9, description="Padding before a random crop, as a share of the side.")
    brightness: float | None = Field(None, ge=0, le=0.9, description="Largest change, as a share of the range.")
    contrast: float | None = Field(None, ge=0, le=0.9, description="Largest change, as a share.")
    color: float | None = Field(None, ge=0, le=0.9, description="Largest change of saturation, as a share.")
    blur: float | None = Field(None, ge=0, le=10, description="Strongest blur, standard deviation in pixels.")
    noise: float | None = Field(None, ge=0, le=0.9, description="Strongest noise, deviation as a share of the range.")
    cutout: float | None = Field(None, ge=0, le=0.9, description="Side of a blank square, as a share of the side.")
    mixup: float | None = Field(None, ge=0, le=100, description="Alpha of blending two pictures and their labels.")
    cutmix: float | None = Field(None, ge=0, le=100, description="Alpha of pasting in a part of another picture.")
    fill: Fill | None = Field(None, description="Beyond the edge: repeat it, or mirror.")
    unsafe: Literal["refuse", "warn", "ignore"] = Field(
        "refuse", description="What to do about a transform that changes labels on this data; ignore does not measure."
    )

    def overrides(self) -> dict[str, Any]:
        """The strengths given by themselves."""
        return self.model_dump(exclude={"preset", "unsafe"}, exclude_none=True)


class ModelConfig(_Section):
    """The network and its first weights."""

    family: Literal["mlp"] = Field("mlp", description="Kind of network.")
    inputs: int | None = Field(None, ge=1, description="Pixel values a picture must have; refuse other data.")
    outputs: int | None = Field(None, ge=1, description="Classes the data must have; refuse other data.")
    hidden: tuple[Annotated[int, Field(ge=1, le=2**20)], ...] = Field(
        (128,), description="Units of each hidden layer; [] for none."
    )
    activation: Activation | tuple[Activation, ...] = Field("relu", description="Of all hidden layers, or one each.")
    bias: Bias = Field("unit", description="A bias a unit, one a layer, or none.")
    init: Init = Field("auto", description="First weights; auto is he for the relu family and gelu, else xavier.")
    init_std: float = Field(0.1, ge=0, description="Standard deviation of normal and uniform.")
    bias_init: Literal["zeros", "normal"] = Field("zeros", description="First biases; normal uses init_std.")


class TrainConfig(_Section):
    """What is minimised, how, and for how long."""

    engine: Literal["auto", "dense", "reference"] = Field(
        "auto", description="auto is dense; reference is the NumPy textbook."
    )
    epochs: int = Field(20, ge=1, le=10**9, description="Passes over the training rows.")
    batch_size: int = Field(32, ge=1, le=2**31, description="Rows a step; the last batch of an epoch may be short.")
    shuffle: bool = Field(True, description="A new order each epoch.")
    sampling: Sampling = Field("natural", description="balanced draws every class equally often in an epoch.")
    optimizer: Optimizer = Field("adam", description="How a gradient moves the weights.")
    lr: float | None = Field(None, ge=0, description=f"Largest learning rate; by default {DEFAULT_LR}.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Of momentum and nesterov.")
    rho: float = Field(0.9, ge=0, lt=1, description="Decay of rmsprop's mean square.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Of adam and adamw.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Of adam and adamw.")
    eps: float = Field(1e-8, ge=0, description="Of rmsprop, adam and adamw.")
    schedule: Schedule = Field("constant", description="How the learning rate changes over the run.")
    schedule_unit: Literal["step", "epoch"] = Field("step", description="Change the rate each step or each epoch.")
    warmup_epochs: float = Field(0.0, ge=0, description="First epochs in which the rate also grows from near 0.")
    step_epochs: int = Field(10, ge=1, description="Of schedule step: epochs between drops.")
    step_gamma: float = Field(0.1, gt=0, le=1, description="Of schedule step: factor of a drop.")
    reduction: Reduction = Field("mean", description="Average or sum the gradient over a batch.")
    l1: float = Field(0.0, ge=0, description="Penalty l1 |w|, in the gradient.")
    l2: float = Field(0.0, ge=0, description="Penalty l2/2 w^2, in the gradient.")
    weight_decay: float | None = Field(None, ge=0, description="Decoupled decay; by default 0.01 for adamw, else 0.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of hidden units silenced at each step.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of the target spread over all classes.")
    class_weights: Literal["none", "balanced"] | tuple[float, ...] = Field(
        "none", description="Weight of each class in the loss; balanced is n / (K n_k)."
    )
    clip_norm: float = Field(0.0, ge=0, description="Largest norm of the gradient; 0 for no limit.")
    patience: int | None = Field(
        None, ge=1, description="Stop after so many epochs without a better monitor; keeps the best."
    )
    monitor: Literal["valid_loss", "valid_accuracy", "train_loss"] = Field(
        "valid_loss", description="What patience watches."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Of weights, order and dropout.")
    checkpoint_steps: int = Field(0, ge=0, description="Steps between checkpoints; 0 for every 30 seconds.")
    weight_history: bool = Field(False, description="Keep the weights of every epoch, to draw them.")


class EvalConfig(_Section):
    """What is shown at the end."""

    mistakes: int = Field(24, ge=0, description="Worst mistakes pictured in the report.")


class RunConfig(_Section):
    """All choices of a run."""

    data: DataConfig = DataConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

    @property
    def lr(self) -> float:
        """The learning rate in force."""
        return DEFAULT_LR[self.train.optimizer] if self.train.lr is None else self.train.lr

    @property
    def init(self) -> str:
        """The initialiser in force."""
        if self.model.init != "auto":
            return self.model.init
        first = self.activations[0] if self.activations else "identity"
        return "he" if first in ("relu", "leaky_relu", "gelu") else "xavier"

    @property
    def activations(self) -> tuple[str, ...]:
        """One activation a hidden layer."""
        chosen = self.model.activation
        return (chosen,) * len(self.model.hidden) if isinstance(chosen, str) else chosen


def known_keys() -> list[str]:
    """Every key as `section.name`."""
    return [
        f"{section}.{key}"
        for section, info in RunConfig.model_fields.items()
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)
        for key in info.annotation.model_fields
    ]


def build_config(values: dict[str, Any], *, where: str = "the configuration") -> RunConfig:
    """A checked RunConfig from nested plain values.

    Raises:
        UsageError: an unknown key, with the nearest known one, or a value outside its type or range.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        location = [str(part) for part in first["loc"]]
        key = ".".join(location[:2])
        if first["type"] == "extra_forbidden":
            near = _find_near(location[-1])
            advice = f"Did you mean {near}?" if near else "See `clearsight config show`."
            raise UsageError(f"{where} must hold known keys, got {_shorten(repr(key))}. {advice}") from None
        rule = first["msg"][0].lower() + first["msg"][1:]
        raise UsageError(
            f"{key} must be right, got {_shorten(repr(first['input']))} in {where}: {rule}. Correct it."
        ) from None


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


_OTHER_NAMES = {
    "learning_rate": "train.lr",
    "layers": "model.hidden",
    "units": "model.hidden",
    "wd": "train.weight_decay",
}


def _find_near(name: str) -> str:
    """The key or section whose name is most like `name`; empty if none is."""
    names = {key.split(".")[1]: key for key in known_keys()} | {s: s for s in RunConfig.model_fields} | _OTHER_NAMES
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return names[near[0]] if near else ""


def check_used(config: RunConfig) -> None:
    """Refuse a choice that others leave without effect, so that none is ignored in silence.

    Raises:
        UsageError: which choice, and what it needs.
    """
    train, model = config.train, config.model
    normal = "normal" in (config.init, model.bias_init)
    needs: list[tuple[BaseModel, str, str, bool]] = [
        (train, "momentum", "optimizer momentum or nesterov", train.optimizer in ("momentum", "nesterov")),
        (train, "rho", "optimizer rmsprop", train.optimizer == "rmsprop"),
        (train, "beta1", "optimizer adam or adamw", train.optimizer in ("adam", "adamw")),
        (train, "beta2", "optimizer adam or adamw", train.optimizer in ("adam", "adamw")),
        (train, "eps", "optimizer rmsprop, adam or adamw", train.optimizer in ("rmsprop", "adam", "adamw")),
        (train, "step_epochs", "schedule step", train.schedule == "step"),
        (train, "step_gamma", "schedule step", train.schedule == "step"),
        (train, "monitor", "patience", train.patience is not None),
        (train, "dropout", "a hidden layer", bool(model.hidden)),
        (model, "init_std", "init or bias_init normal, or init uniform", normal or config.init == "uniform"),
        (config.data, "valid_fraction", "no train_per_class", config.data.train_per_class is None),
        (config.data, "test_fraction", "no train_per_class", config.data.train_per_class is None),
        (train, "shuffle", "sampling natural", train.sampling == "natural"),
    ]  # fmt: skip
    for section, key, partner, used in needs:
        if not used and getattr(section, key) != type(section).model_fields[key].default:
            raise UsageError(
                f"{key} must go with {partner}, got {getattr(section, key)} without. Leave it out or add that."
            )


def merge(*layers: dict[str, Any]) -> dict[str, Any]:
    """Nested values, later layers over earlier ones."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(merged.get(key), dict)
            merged[key] = merge(merged[key], value) if both else value
    return merged


def nest(key: str, value: Any) -> dict[str, Any]:
    """`train.lr`, 0.1 as {"train": {"lr": 0.1}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def parse_setting(text: str) -> dict[str, Any]:
    """`train.lr=0.1` as nested values; the right side is read as TOML, or as a plain word.

    Raises:
        UsageError: no `=`, or an empty key.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set must be KEY=VALUE, got {text!r}. For example --set train.lr=0.1.")
    try:
        table = tomllib.loads(f"value = {value}")
        parsed = table["value"] if len(table) == 1 else value
    except (ValueError, RecursionError):
        parsed = value.strip()
    return nest(key.strip(), parsed)


def read_config_file(path: Path) -> dict[str, Any]:
    """Nested values of a TOML or JSON file; the small JSON format with `layers` is translated.

    Raises:
        UsageError: missing, unreadable, or neither TOML nor JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"config must be a readable file, got {path}: {error.strerror}. Check the path.") from None
    except UnicodeDecodeError:
        raise UsageError(f"config must be UTF-8 text, got other bytes in {path}. Save it as UTF-8.") from None
    try:
        values = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"config must be TOML or JSON, got an error in {path}: {error}. Mend the file.") from None
    if not isinstance(values, dict):
        raise UsageError(f"config must be a table of sections, got a {type(values).__name__} in {path}. Mend the file.")
    return translate_small_format(values, path) if "layers" in values else values


_SMALL_KEYS = ("layers", "learning_rate", "epochs", "momentum", "batch_size")
_LAYER_KEYS = ("nodes", "activation")  # the last layer has no next one, so no activation
_SMALL_ACTIVATIONS = {a.replace("_", ""): a for a in get_args(Activation)} | {"linear": "identity"}


def translate_small_format(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """The format `{"layers": [{"nodes": 784, "activation": "Sigmoid"}, ...], "learning_rate": 0.01, ...}`.

    An activation belongs to the step to the next layer; the gradient is summed over a batch (so the rate is that of the
    sum), weights move with momentum, all training rows are used. Source: the study "Machine Learning Part 7".

    Raises:
        UsageError: an unknown key or activation, or layers that are not a list of nodes.
    """
    layers = values["layers"]
    if (
        not isinstance(layers, list)
        or len(layers) < 2
        or not all(
            isinstance(layer, dict) and type(layer.get("nodes")) is int and layer["nodes"] > 0 for layer in layers
        )
    ):
        raise UsageError(
            f'layers must be a list of two or more {{"nodes": N, "activation": NAME}}, got another form in {path}. Mend it.'
        )
    given = [(key, _SMALL_KEYS) for key in values] + [(key, _LAYER_KEYS) for layer in layers[:-1] for key in layer]
    for key, known in [*given, *((key, _LAYER_KEYS[:1]) for key in layers[-1])]:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise UsageError(
                f"{path} must hold known keys, got {key!r}. {f'Did you mean {near[0]}?' if near else 'Remove it.'}"
            )
    names = [str(layer.get("activation", "")).lower().replace("_", "") for layer in layers[:-1]]
    if names[-1] not in ("softmax", ""):
        raise UsageError(
            f"the last activation must be Softmax, got {layers[-2]['activation']!r} in {path}. Correct it."
        )
    for name, layer in zip(names[:-1], layers, strict=False):
        if name not in _SMALL_ACTIVATIONS:
            raise UsageError(
                f"activation must be one of {', '.join(get_args(Activation))}, got {layer.get('activation')!r} in {path}. "
                "Correct it."
            )
    train = {"reduction": "sum", "optimizer": "momentum" if values.get("momentum") else "sgd"}
    for key, name in (
        ("learning_rate", "lr"),
        ("epochs", "epochs"),
        ("momentum", "momentum"),
        ("batch_size", "batch_size"),
    ):
        if key in values and not (key == "momentum" and not values[key]):
            train[name] = values[key]
    return {
        "data": {"valid_fraction": 0.0},
        "model": {
            "inputs": layers[0]["nodes"],
            "outputs": layers[-1]["nodes"],
            "hidden": [layer["nodes"] for layer in layers[1:-1]],
            "activation": [_SMALL_ACTIVATIONS[name] for name in names[:-1]],
        },
        "train": train,
    }


def render_toml(config: RunConfig) -> str:
    """The configuration as TOML that reads back equal; unset values are left out."""
    lines = []
    for section, values in config.model_dump(mode="json", exclude_none=True).items():
        lines.append(f"[{section}]")
        lines += [
            f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
            for key, value in values.items()
        ]
        lines.append("")
    return "\n".join(lines)


def find_differences(old: RunConfig, new: RunConfig) -> list[str]:
    """Every key whose value differs, as `train.lr: 0.1 -> 0.2`."""
    before, after = old.model_dump(), new.model_dump()
    return [
        f"{section}.{key}: {before[section][key]} -> {value}"
        for section, values in after.items()
        for key, value in values.items()
        if before[section][key] != value
    ]
