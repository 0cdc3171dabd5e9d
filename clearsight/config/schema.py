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
    """Where the pictures come from and how they are split."""

    source: str = Field(
        "digits", description="Name (digits, mnist, ...) or path (folder, zip, tar, NPZ, CSV) of the data."
    )
    task: Literal["classification", "regression"] = Field(
        "classification", description="Whether to predict classes or numbers."
    )
    label_column: str = Field(
        "auto", description="Label column of a CSV or metadata.csv: first, last, a header name, or auto."
    )
    skip_bad: bool = Field(False, description="Skip bad files, duplicates across splits and conflicting labels.")
    follow_links: bool = Field(False, description="Follow links in a folder, wherever they lead.")
    max_megapixels: float = Field(
        50.0, gt=0, le=1000, description="Largest picture file, in megapixels; larger ones are bad files."
    )
    relabel: str | None = Field(None, description="CSV file of label corrections, as written by label-errors.")
    check: bool = Field(True, description="Check the data before training.")
    valid_fraction: float = Field(0.1, ge=0, lt=1, description="Share of the training rows held out for validation.")
    test_fraction: float = Field(
        0.2, ge=0, lt=1, description="Share of the rows held out for test if the data has no test split."
    )
    train_per_class: int | None = Field(
        None, ge=1, description="Number of training rows per class, instead of fractions."
    )
    valid_per_class: int = Field(0, ge=0, description="Number of validation rows per class; needs train_per_class.")
    test_per_class: int = Field(0, ge=0, description="Number of test rows per class; needs train_per_class.")
    train_fraction: float = Field(1.0, gt=0, le=1, description="Share of the training rows of each class to use.")
    shuffle_split: bool = Field(True, description="Split at random; false splits in file order.")
    pool: bool = Field(False, description="Merge the splits that come with the data and split again.")
    split_seed: int = Field(0, ge=0, description="Seed of the split; independent of train.seed.")
    folds: int | None = Field(
        None, ge=2, le=1000, description="Number of folds of the training rows; one of them is the validation split."
    )
    fold: int = Field(0, ge=0, description="Index of the validation fold, from 0.")
    fold_seed: int = Field(0, ge=0, description="Seed of the folds; independent of split_seed.")
    group_by: str | None = Field(
        None,
        description="Regular expression for the part of a file name that names a patient or scene; its pictures stay together.",
    )


class PreprocessConfig(_Section):
    """How files become stored pixels, and pixels become inputs."""

    image_size: Side | tuple[Side, Side] | None = Field(
        None,
        description="Side, or [height, width], to resize pictures to; by default unchanged if small and of equal size.",
    )
    resize: Resize = Field(
        "squash", description="How to fit pictures to the size: stretch, crop evenly, or pad with the background."
    )
    channels: Channels = Field(
        "auto", description="Colour mode of picture files; auto uses grey if every picture is grey."
    )
    background: str = Field("white", description="Colour under transparent pixels: white, black, grey or #rrggbb.")
    scale: Scaling = Field(
        "unit",
        description="Scaling of the pixels: to 0..1; to -1..1; to mean 0 and standard deviation 1; by subtracting the mean "
        "picture; by ImageNet's mean and standard deviation; or none.",
    )


class AugmentConfig(_Section):
    """How training pictures are varied in each epoch; strengths given here override those of the preset."""

    preset: Preset = Field(
        "none",
        description="Preset of transforms for one kind of picture; transforms that do not suit the data are left out.",
    )
    hflip: float | None = Field(None, ge=0, le=1, description="Probability of a horizontal flip.")
    vflip: float | None = Field(None, ge=0, le=1, description="Probability of a vertical flip.")
    rot90: float | None = Field(None, ge=0, le=1, description="Probability of a rotation by 90, 180 or 270 degrees.")
    rotate: float | None = Field(None, ge=0, le=180, description="Largest rotation, in degrees.")
    shear: float | None = Field(None, ge=0, le=60, description="Largest shear, in degrees.")
    zoom: float | None = Field(None, ge=0, le=0.9, description="Largest zoom in or out, as a share.")
    shift: float | None = Field(None, ge=0, le=0.9, description="Largest shift, as a share of the side.")
    crop: float | None = Field(None, ge=0, le=0.9, description="Padding before a random crop, as a share of the side.")
    brightness: float | None = Field(
        None, ge=0, le=0.9, description="Largest change of brightness, as a share of the range."
    )
    contrast: float | None = Field(None, ge=0, le=0.9, description="Largest change of contrast, as a share.")
    color: float | None = Field(None, ge=0, le=0.9, description="Largest change of saturation, as a share.")
    blur: float | None = Field(None, ge=0, le=10, description="Largest standard deviation of the blur, in pixels.")
    noise: float | None = Field(
        None, ge=0, le=0.9, description="Largest standard deviation of the noise, as a share of the range."
    )
    cutout: float | None = Field(None, ge=0, le=0.9, description="Side of a blank square, as a share of the side.")
    mixup: float | None = Field(
        None, ge=0, le=100, description="Alpha of mixup, which blends two pictures and their labels."
    )
    cutmix: float | None = Field(
        None, ge=0, le=100, description="Alpha of cutmix, which pastes in a part of another picture."
    )
    fill: Fill | None = Field(None, description="How to fill beyond the edge: repeat the edge, or reflect.")
    unsafe: Literal["refuse", "warn", "ignore"] = Field(
        "refuse", description="What to do about a transform that changes labels on this data; ignore skips the check."
    )

    def overrides(self) -> dict[str, Any]:
        """The strengths given by themselves."""
        return self.model_dump(exclude={"preset", "unsafe"}, exclude_none=True)


class ModelConfig(_Section):
    """The network and its initial weights."""

    family: FamilyName = Field(
        "auto",
        description="Kind of network; `clearsight models` lists them. timm:NAME is a network of the timm library. auto is "
        f"the pretrained {USUAL_PRETRAINED} for a few colour photographs if its weights are installed, else {USUAL}.",
    )
    inputs: int | None = Field(
        None, ge=1, description="Required number of pixel values per picture; other data is refused."
    )
    outputs: int | None = Field(None, ge=1, description="Required number of classes; other data is refused.")
    hidden: tuple[Annotated[int, Field(ge=1, le=2**20)], ...] | None = Field(
        None, description=f"Units of each hidden dense layer; [] for none. The default is {_USUAL_HIDDEN}."
    )
    widths: tuple[Width, ...] | None = Field(
        None,
        min_length=1,
        description="Channels of each stage of a convolutional net; the default depends on the network.",
    )
    depths: tuple[Depth, ...] | None = Field(
        None, min_length=1, description="Convolutions (or blocks) of each stage; the default depends on the network."
    )
    kernel: int | None = Field(
        None, ge=1, le=15, description=f"Kernel size of the convolutions of {_name_takers('kernel')}; odd."
    )
    norm: Norm | None = Field(
        None, description=f"Batch normalisation after each convolution of {_name_takers('norm')}, or none."
    )
    pooling: Pooling | None = Field(
        None,
        description="Global pooling at the end; mean suits counting. By default mean for regression, else that of the network.",
    )
    stem: Stem | None = Field(
        None,
        description=f"First layers of {_name_takers('stem')}: small keeps the size, large divides both sides by 4; the "
        "default depends on the size of the pictures.",
    )
    pad_to: Side | None = Field(None, description="Side to which a convolutional net pads pictures with zeros.")
    activation: Activation | tuple[Activation, ...] = Field(
        "relu", description="Activation of all hidden layers, or one per layer."
    )
    bias: Bias = Field("unit", description="Biases: one per unit, one shared by the layer, or none.")
    init: Init = Field(
        "auto",
        description="Initialisation of the weights. auto is he for relu, leaky_relu and gelu; it is xavier for other "
        "activations and for the last layer of convolutional nets.",
    )
    init_std: float = Field(0.1, ge=0, description="Standard deviation for init normal and uniform.")
    bias_init: Literal["zeros", "normal"] = Field("zeros", description="Initial biases; normal uses init_std.")
    start_from: str | None = Field(None, description="Model of the same network whose weights are the initial ones.")
    pretrained: bool = Field(False, description="Start from published weights for this network, trained on ImageNet.")
    weights: str | None = Field(
        None, description="File of pretrained weights (.safetensors or .pth) to use instead of the published ones."
    )
    finetune: Finetune = Field(
        "auto", description="What to train of a pretrained net: the head, the last stages too, or all; auto is head."
    )


class TrainConfig(_Section):
    """The loss, how it is minimised, and for how long."""

    engine: Literal["auto", "dense", "reference", "torch"] = Field(
        "auto",
        description="Training engine; auto is dense for mlp on a CPU, else torch. reference is the textbook version in NumPy.",
    )
    device: Device = Field("auto", description="Device for engine torch; auto is cuda or mps if available, else cpu.")
    precision: Precision = Field(
        "auto",
        description="Precision of engine torch; auto is bfloat16 (products only) for classification on cuda, else float32.",
    )
    compile: bool = Field(False, description="Compile the network with torch.compile.")
    accumulate: int = Field(1, ge=1, description="Number of parts in which each batch is computed, to save memory.")
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay of the exponential moving average of the weights, which becomes the model; 0 turns it off.",
    )
    lookahead: int = Field(
        0,
        ge=0,
        description="Steps between Lookahead updates, which move the weights halfway back (Zhang et al. 2019); 0 turns them off.",
    )
    loss: Loss = Field(
        "auto", description="Loss function; auto is cross_entropy for classification and squared_error for regression."
    )
    huber_delta: float = Field(
        1.0, gt=0, description="Error above which the huber loss grows linearly, in standard deviations of the targets."
    )
    epochs: int = Field(20, ge=1, le=10**9, description="Passes over the training rows.")
    batch_size: int = Field(32, ge=1, le=2**31, description="Rows per step; the last batch of an epoch may be smaller.")
    shuffle: bool = Field(True, description="Shuffle the training rows in each epoch.")
    sampling: Sampling = Field(
        "natural", description="How to draw training rows; balanced draws every class equally often."
    )
    optimizer: Optimizer = Field("adam", description="Optimiser that updates the weights.")
    lr: Rate | Literal["auto"] | None = Field(
        None,
        description=f"Highest learning rate, or auto to find one; the default depends on the optimiser: {_USUAL_LR}.",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum coefficient for momentum, nesterov and muon.")
    rho: float = Field(0.9, ge=0, lt=1, description="Decay of the mean square for rmsprop.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the first moment for adam, adamw and muon.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Decay of the second moment for adam, adamw and muon.")
    eps: float = Field(1e-8, ge=0, description="Small number in the denominator for rmsprop, adam, adamw and muon.")
    schedule: Schedule = Field("constant", description="How the learning rate changes over the run.")
    schedule_unit: Literal["step", "epoch"] = Field(
        "step", description="Whether the learning rate changes every step or every epoch."
    )
    warmup_epochs: float = Field(
        0.0, ge=0, description="Epochs at the start in which the learning rate also rises from near 0."
    )
    step_epochs: int = Field(10, ge=1, description="Epochs between drops of the learning rate for schedule step.")
    step_gamma: float = Field(
        0.1, gt=0, le=1, description="Factor of each drop of the learning rate for schedule step."
    )
    reduction: Reduction = Field("mean", description="Average or sum the gradient over a batch.")
    l1: float = Field(0.0, ge=0, description="Strength of the L1 penalty, l1 |w|.")
    l2: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        0.0,
        description="Strength of the L2 penalty, l2/2 w^2; auto chooses it by cross-validation for the head of a pretrained net.",
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Factor by which the learning rate changes from each stage of a pretrained net to the stage before it.",
    )
    weight_decay: float | None = Field(
        None, ge=0, description="Decoupled weight decay; the default is 0.01 for adamw, else 0."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of hidden units dropped at each step.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of each target spread over all classes.")
    class_weights: Literal["none", "balanced"] | tuple[float, ...] = Field(
        "none",
        description="Weight of each class in the loss; balanced is the inverse frequency, n / (K n_k).",
    )
    clip_norm: float = Field(0.0, ge=0, description="Largest norm of the gradient; 0 turns clipping off.")
    patience: int | None = Field(
        None,
        ge=1,
        description="Stop after this many epochs without improvement in the monitored metric; the best model is kept.",
    )
    monitor: Literal["valid_loss", "valid_accuracy", "train_loss"] = Field(
        "valid_loss", description="Metric that patience monitors."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed for the initial weights, row order and dropout.")
    checkpoint_steps: int = Field(0, ge=0, description="Steps between checkpoints; 0 saves one every 30 seconds.")
    keep_steps: int = Field(0, ge=0, description="Steps between models to keep during training; 0 keeps none.")
    weight_history: bool = Field(False, description="Keep the weights of every epoch, to plot them.")


class EvalConfig(_Section):
    """How the model is evaluated at the end."""

    calibrate: bool = Field(
        True, description="Calibrate confidence and the detection of unusual pictures on the validation rows."
    )
    mistakes: int = Field(24, ge=0, description="Number of worst mistakes shown in the report.")
    floor: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Lowest achievable error, for the analysis of bias and variance; known for some data sets.",
    )


class RunConfig(_Section):
    """All settings of a run."""

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
