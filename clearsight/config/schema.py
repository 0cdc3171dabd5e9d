"""RunConfig: every choice of a run, in sections, each with its type, range and meaning; an unknown key is an error.

It must not know how any choice is carried out, nor where it was written (`settings` does). Ranges that only make sense
together are checked where they are used.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from clearsight.config.families import (
    FAMILIES,
    USUAL,
    USUAL_PRETRAINED,
    Family,
    find_family,
    find_takers,
    render_names,
)
from clearsight.core.timm_library import PATTERN

# Every name that a choice can take; the parts that carry the choices out import these.
Activation = Literal["relu", "leaky_relu", "sigmoid", "tanh", "gelu", "identity"]
Bias = Literal["unit", "shared", "none"]
Init = Literal["auto", "normal", "uniform", "xavier", "he", "orthogonal", "zeros"]
Optimizer = Literal["sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw", "muon"]
if TYPE_CHECKING:
    OwnFamily = str
else:
    OwnFamily = Literal[tuple(FAMILIES)]  # which a checker of types cannot read
AnyFamily = OwnFamily | Annotated[str, StringConstraints(pattern=PATTERN)]
Norm = Literal["batch", "none"]
Pooling = Literal["max", "mean"]
Stem = Literal["small", "large"]
Loss = Literal["auto", "cross_entropy", "squared_error", "huber"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16"]
Reduction = Literal["mean", "sum"]
Schedule = Literal["constant", "step", "cosine", "one-cycle", "linear"]
Scaling = Literal["unit", "symmetric", "standardize", "mean-image", "imagenet", "none"]
Finetune = Literal["auto", "head", "last", "all"]
Resize = Literal["squash", "crop", "pad"]
Channels = Literal["auto", "grey", "rgb"]
Sampling = Literal["natural", "balanced"]
Fill = Literal["edge", "reflect"]
Preset = Literal["none", "light", "photo", "digits", "counting"]
DEFAULT_LR = {
    "sgd": 0.1, "momentum": 0.05, "nesterov": 0.05, "rmsprop": 0.001, "adam": 0.001, "adamw": 0.001, "muon": 0.02,
}  # fmt: skip
_USUAL_HIDDEN = ", ".join(f"{family.hidden[0]} for {family.name}" for family in find_takers("hidden"))
_USUAL_LR = ", ".join(f"{name} {lr}" for name, lr in DEFAULT_LR.items())
_FINE_TUNED: dict[str, Any] = {
    "optimizer": "adamw", "lr": 0.001, "schedule": "one-cycle", "epochs": 12, "batch_size": 16, "layer_decay": 0.5,
}  # fmt: skip


def _check_family(name: object) -> object:
    return name if name == "auto" else find_family(name).name


FamilyName = Annotated[Literal["auto"] | AnyFamily, BeforeValidator(_check_family)]
# What settings are where weights are pretrained and nothing else is said, by how deep the training goes.
PRETRAINED_DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "head": {"train": {"lr": 0.01, "schedule": "one-cycle", "epochs": 60, "l2": "auto"}},
    "last": {"train": _FINE_TUNED | {"lr": 0.00003, "epochs": 6}},
    "all": {"train": _FINE_TUNED, "augment": {"preset": "light"}},
}


def _name_takers(setting: str) -> str:
    return render_names(find_takers(setting), last="and")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Side = Annotated[int, Field(ge=2, le=4096)]
Width = Annotated[int, Field(ge=1, le=2**14)]
Depth = Annotated[int, Field(ge=1, le=1000)]
Rate = Annotated[float, Field(ge=0)]


class DataConfig(_Section):
    """Where pictures come from and how they are split."""

    source: str = Field("digits", description="Name (digits, mnist, ...) or path (folder, zip, tar, NPZ, CSV).")
    task: Literal["classification", "regression"] = Field("classification", description="Predict classes or numbers.")
    label_column: str = Field("auto", description="Of a CSV or metadata.csv: first, last, a header name, or auto.")
    skip_bad: bool = Field(False, description="Go on without bad files, copies across splits and conflicting labels.")
    follow_links: bool = Field(False, description="Read what links in a folder lead to, wherever that is.")
    max_megapixels: float = Field(50.0, gt=0, le=1000, description="Largest picture file; others are bad files.")
    relabel: str | None = Field(None, description="CSV that corrects labels, as label-errors writes it.")
    check: bool = Field(True, description="Check the data before training.")
    valid_fraction: float = Field(0.1, ge=0, lt=1, description="Share of the training rows held out for validation.")
    test_fraction: float = Field(
        0.2, ge=0, lt=1, description="Share held out for test where the data has no test split."
    )
    train_per_class: int | None = Field(None, ge=1, description="Exact training rows a class, instead of fractions.")
    valid_per_class: int = Field(0, ge=0, description="Exact validation rows a class, with train_per_class.")
    test_per_class: int = Field(0, ge=0, description="Exact test rows a class, with train_per_class.")
    train_fraction: float = Field(
        1.0, gt=0, le=1, description="Share of the training rows that is used, of each class."
    )
    shuffle_split: bool = Field(True, description="False splits in file order instead of at random.")
    pool: bool = Field(False, description="Put the splits that came with the data together and draw anew.")
    split_seed: int = Field(0, ge=0, description="Seed of the split, apart from train.seed.")
    folds: int | None = Field(
        None, ge=2, le=1000, description="Parts of the training rows, of which one is for validation, for k-fold."
    )
    fold: int = Field(0, ge=0, description="Which of the folds is for validation, from 0.")
    fold_seed: int = Field(0, ge=0, description="Seed of the folds, apart from that of the test split.")
    group_by: str | None = Field(
        None,
        description="Regular expression; pictures in whose file names it finds the same text (a patient, a scene) stay together.",
    )


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
        "unit",
        description="0..1, -1..1, mean 0 and deviation 1, minus the mean picture, by ImageNet's mean and deviation, "
        "or as stored.",
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

    family: FamilyName = Field(
        "auto",
        description="Kind of network; `clearsight models` lists them. timm:NAME is one of the library timm. auto is "
        f"{USUAL_PRETRAINED}, pretrained, for few colour photographs where its weights are installed, else {USUAL}.",
    )
    inputs: int | None = Field(None, ge=1, description="Pixel values a picture must have; refuse other data.")
    outputs: int | None = Field(None, ge=1, description="Classes the data must have; refuse other data.")
    hidden: tuple[Annotated[int, Field(ge=1, le=2**20)], ...] | None = Field(
        None, description=f"Units of each hidden dense layer, [] for none; by default {_USUAL_HIDDEN}."
    )
    widths: tuple[Width, ...] | None = Field(
        None, min_length=1, description="Channels of each stage of a convolutional net; by default its family's."
    )
    depths: tuple[Depth, ...] | None = Field(
        None, min_length=1, description="Convolutions (or blocks) of each stage; by default its family's."
    )
    kernel: int | None = Field(
        None, ge=1, le=15, description=f"Side of the convolutions of {_name_takers('kernel')}; odd."
    )
    norm: Norm | None = Field(
        None, description=f"Of {_name_takers('norm')}: batch normalisation after each convolution, or none."
    )
    pooling: Pooling | None = Field(
        None,
        description="Over all places at the end; mean sums up a map, as counting wants. By default max; mean for numbers.",
    )
    stem: Stem | None = Field(
        None,
        description=f"First layers of {_name_takers('stem')}: small keeps the size, large quarters it; by default "
        "by the size of the pictures.",
    )
    pad_to: Side | None = Field(
        None, description="Side to which pictures are padded with 0 inside a convolutional net."
    )
    activation: Activation | tuple[Activation, ...] = Field("relu", description="Of all hidden layers, or one each.")
    bias: Bias = Field("unit", description="A bias a unit, one a layer, or none.")
    init: Init = Field(
        "auto",
        description="First weights; auto is he for the relu family and gelu, else xavier; and xavier for the last layer of "
        "convolutional nets.",
    )
    init_std: float = Field(0.1, ge=0, description="Standard deviation of normal and uniform.")
    bias_init: Literal["zeros", "normal"] = Field("zeros", description="First biases; normal uses init_std.")
    start_from: str | None = Field(None, description="Model of the same network whose weights are the first ones.")
    pretrained: bool = Field(False, description="Begin with weights published for this family, learnt on ImageNet.")
    weights: str | None = Field(
        None, description="File (.safetensors or .pth) with such weights, for the published one."
    )
    finetune: Finetune = Field(
        "auto", description="What of a pretrained net is trained: its head, the last stages too, or all; auto is head."
    )


class TrainConfig(_Section):
    """What is minimised, how, and for how long."""

    engine: Literal["auto", "dense", "reference", "torch"] = Field(
        "auto", description="auto is dense for an mlp on a CPU, else torch; reference is the NumPy textbook."
    )
    device: Device = Field("auto", description="Of engine torch; auto is cuda or mps where there is one, else cpu.")
    precision: Precision = Field(
        "auto", description="Of engine torch: auto is bfloat16 (products only) for classes on cuda, else float32."
    )
    compile: bool = Field(False, description="Compile the network with torch.compile.")
    accumulate: int = Field(1, ge=1, description="Parts in which a batch is computed, to save memory.")
    ema: float = Field(
        0.0, ge=0, lt=1, description="Decay of a running average of the weights, which is then the model."
    )
    lookahead: int = Field(
        0, ge=0, description="Steps after which weights go back half way (Zhang et al. 2019); 0 for none."
    )
    loss: Loss = Field("auto", description="auto is cross_entropy for classes and squared_error for numbers.")
    huber_delta: float = Field(
        1.0, gt=0, description="Of loss huber: error, in deviations, beyond which it grows linearly."
    )
    epochs: int = Field(20, ge=1, le=10**9, description="Passes over the training rows.")
    batch_size: int = Field(32, ge=1, le=2**31, description="Rows a step; the last batch of an epoch may be short.")
    shuffle: bool = Field(True, description="A new order each epoch.")
    sampling: Sampling = Field("natural", description="balanced draws every class equally often in an epoch.")
    optimizer: Optimizer = Field("adam", description="How a gradient moves the weights.")
    lr: Rate | Literal["auto"] | None = Field(
        None,
        description=f"Largest learning rate, or auto to look for it; by default that of the optimiser: {_USUAL_LR}.",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Of momentum, nesterov and muon.")
    rho: float = Field(0.9, ge=0, lt=1, description="Decay of rmsprop's mean square.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Of adam, adamw and muon.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Of adam, adamw and muon.")
    eps: float = Field(1e-8, ge=0, description="Of rmsprop, adam, adamw and muon.")
    schedule: Schedule = Field("constant", description="How the learning rate changes over the run.")
    schedule_unit: Literal["step", "epoch"] = Field("step", description="Change the rate each step or each epoch.")
    warmup_epochs: float = Field(0.0, ge=0, description="First epochs in which the rate also grows from near 0.")
    step_epochs: int = Field(10, ge=1, description="Of schedule step: epochs between drops.")
    step_gamma: float = Field(0.1, gt=0, le=1, description="Of schedule step: factor of a drop.")
    reduction: Reduction = Field("mean", description="Average or sum the gradient over a batch.")
    l1: float = Field(0.0, ge=0, description="Penalty l1 |w|, in the gradient.")
    l2: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        0.0,
        description="Penalty l2/2 w^2, in the gradient; auto chooses it by k-fold, for the head of a pretrained net.",
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Factor of the rate from each stage of a pretrained net to the one before it."
    )
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
    keep_steps: int = Field(0, ge=0, description="Steps between models that are kept, to go back to any; 0 for none.")
    weight_history: bool = Field(False, description="Keep the weights of every epoch, to draw them.")


class EvalConfig(_Section):
    """What is shown at the end."""

    calibrate: bool = Field(
        True, description="Scale confidence on the validation rows, and remember what they look like."
    )
    mistakes: int = Field(24, ge=0, description="Worst mistakes pictured in the report.")
    floor: float | None = Field(
        None, ge=0, le=1, description="Error that nobody gets below, for bias and variance; known for some data sets."
    )


class RunConfig(_Section):
    """All choices of a run."""

    data: DataConfig = DataConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

    def change(self, section: str, **values: Any) -> Self:
        """The same with other values in a section, taken as they are: settings that were found, not asked for."""
        return self.model_copy(update={section: getattr(self, section).model_copy(update=values)})

    @property
    def lr(self) -> float:
        """The learning rate in force; the optimiser's usual one until `auto` has been looked for."""
        return self.train.lr if isinstance(self.train.lr, float) else DEFAULT_LR[self.train.optimizer]

    @property
    def family(self) -> str:
        """The network in force; a dense net until somebody looks at the data to settle `auto`."""
        usual = USUAL_PRETRAINED if self.model.pretrained else USUAL
        return usual if self.model.family == "auto" else self.model.family

    @property
    def network(self) -> Family:
        """What that network is, and what it takes."""
        return find_family(self.family)

    @property
    def depth(self) -> str:
        """What is trained: `head` or `last` of a pretrained net, or `all`."""
        if not self.model.pretrained:
            return "all"
        return "head" if self.model.finetune == "auto" else self.model.finetune

    @property
    def hidden(self) -> tuple[int, ...]:
        """Units of the hidden dense layers in force."""
        chosen = self.model.hidden
        return self.network.hidden if chosen is None else chosen

    @property
    def activations(self) -> tuple[str, ...]:
        """One activation a hidden layer."""
        chosen = self.model.activation
        return (chosen,) * len(self.hidden) if isinstance(chosen, str) else chosen
