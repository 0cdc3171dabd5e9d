"""Convolutional networks as descriptions: family, sizes and options, and where each tensor lies in one flat vector.

The modules that compute them are built on demand, so a description needs no PyTorch until its shapes are asked for. It must
not know how a network is trained.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any, get_args

from numpy.typing import NDArray

from clearsight.config.families import FAMILIES, Family, find_family, get_family, render_names
from clearsight.config.schema import Activation, Norm, Pooling, Stem
from clearsight.errors import UsageError
from clearsight.models.mlp import OUTPUTS, TRAINED, Layout, cut

LARGE_SIDE = 96  # from here on a resnet starts with the large stem
KEPT = "kept"
_MOST_ACTIVATIONS = 2**27  # values of one layer's output for one picture


@dataclass(frozen=True, slots=True)
class ConvNet:
    """A convolutional network, its numbers kept in one flat vector: trained ones first, then statistics of normalisation.

    Args:
        family: a name of `FAMILIES` but for the dense net's, or `timm:` and one of timm's.
        input_shape: height, width and channels of a picture.
        outputs: classes, or 1 for a number.
        output: `softmax` for class probabilities, `identity` for regression.
        widths, depths: channels, and convolutions or blocks, of each stage; () for the family's.
        hidden: units of its dense layers.
        kernel: side of the convolutions, odd; 0 for the family's.
        norm: `batch` or `none`.
        activation: of all layers but the last.
        pooling: over all places, `max` or `mean`.
        stem: `small` keeps the size of the picture, `large` quarters it; "" chooses by the size.
        pad_to: side to which pictures are padded with zeros; 0 for as they are.

    Its family says which of these it takes; others are without effect.

    Raises:
        UsageError: an unknown name, sizes that do not go together, or pictures too small for so many stages.
    """

    family: str
    input_shape: tuple[int, int, int]
    outputs: int
    output: str = "softmax"
    widths: tuple[int, ...] = field(default=())
    depths: tuple[int, ...] = field(default=())
    hidden: tuple[int, ...] = field(default=())
    kernel: int = 0
    norm: str = ""
    activation: str = "relu"
    pooling: str = ""
    stem: str = ""
    pad_to: int = 0

    def __post_init__(self) -> None:
        family = get_family(self.family)
        if family is None or family.dense:
            raise UsageError(f"family must be one of {', '.join(FAMILIES)}, got {self.family!r}. Choose one of them.")
        defaults: dict[str, Any] = {
            "widths": family.widths, "depths": family.depths, "kernel": family.kernel, "norm": family.norm,
            "pooling": "mean" if self.output == "identity" else family.pooling,
            "stem": "large" if min(self.input_shape[:2]) >= LARGE_SIDE else "small",
        }  # fmt: skip
        for name, value in defaults.items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)
        for name, value, known in (
            ("norm", self.norm, get_args(Norm)),
            ("activation", self.activation, get_args(Activation)),
            ("pooling", self.pooling, get_args(Pooling)),
            ("stem", self.stem, get_args(Stem)),
            ("output", self.output, OUTPUTS),
        ):
            if value not in known:
                raise UsageError(f"{name} must be one of {', '.join(known)}, got {value[:40]!r}. Choose one of them.")
        self._check_sizes(family)

    def _check_sizes(self, family: Family) -> None:
        height, width, channels = self.input_shape
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise UsageError(f"kernel must be odd, got {self.kernel}. Use {self.kernel + 1}.")
        numbers = (height, width, channels, self.outputs, *self.widths, *self.depths, *self.hidden)
        if min(numbers) < 1:
            raise UsageError(f"sizes of a network must be 1 or more, got {min(numbers)}. Correct them.")
        if family.any_stages and len(self.widths) != len(self.depths):
            raise UsageError(
                f"widths and depths must be one a stage, got {len(self.widths)} and {len(self.depths)}. Give as many."
            )
        if not family.any_stages and (len(self.widths) != len(family.widths) or len(self.depths) != len(family.depths)):
            free = render_names(one for one in FAMILIES.values() if one.any_stages)
            raise UsageError(
                f"widths and depths of {self.family} must be {len(family.widths)} and {len(family.depths)} numbers, got "
                f"{len(self.widths)} and {len(self.depths)}. Give as many, or take model {free}."
            )
        if self.pad_to and self.pad_to < max(height, width):
            raise UsageError(
                f"pad_to must be {max(height, width)} or more, the picture's side, got {self.pad_to}. Raise it."
            )
        side, least = min(height, width) if not self.pad_to else self.pad_to, self.least_side
        if side < least:
            raise UsageError(
                f"pictures must be {least}x{least} or more for {self.family} of {len(self.widths)} stages, got {height}x{width}. "
                f"Use preprocess.image_size or model.pad_to{', or fewer widths' if family.any_stages else ''}."
            )
        if self.largest_map > _MOST_ACTIVATIONS:
            raise UsageError(
                f"pictures times widths must be {_MOST_ACTIVATIONS:,} or less, got {self.largest_map:,}. Use a smaller "
                "--image-size, pad_to or widths."
            )

    @property
    def largest_map(self) -> int:
        """Values of the largest output of a layer for one picture."""
        height, width, channels = self.input_shape
        family = find_family(self.family)
        area = self.pad_to * self.pad_to or height * width
        area //= 4 if self.stem == "large" and "stem" in family.settings else 1
        return family.largest_map(area, channels, self.widths)

    @property
    def num_inputs(self) -> int:
        """Pixel values of a picture."""
        return prod(self.input_shape)

    @property
    def least_side(self) -> int:
        """The smallest picture that leaves a pixel at the end."""
        family = find_family(self.family)
        return family.least_side or 1 << (len(self.widths) - (not family.flat))

    @property
    def label(self) -> str:
        """The network in a word or two, for lists and names."""
        return self.family

    @property
    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(prod(shape) for shape, kind in self.layout().values() if kind == TRAINED)

    @property
    def num_values(self) -> int:
        """Length of the flat vector."""
        return sum(prod(shape) for shape, _ in self.layout().values())

    def layout(self) -> Layout:
        """Name, shape and kind (`trained` or `kept`) of each tensor, in the order of the flat vector."""
        return _find_layout(self)

    def tensors(self, params: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Views into the flat vector by the names that published checkpoints use; see `cut`."""
        return cut(params, self.layout())

    def describe(self) -> dict[str, Any]:
        """Plain values that `build_net` reads back."""
        return {
            "family": self.family, "input_shape": list(self.input_shape), "outputs": self.outputs, "output": self.output,
            "widths": list(self.widths), "depths": list(self.depths), "hidden": list(self.hidden), "kernel": self.kernel,
            "norm": self.norm, "activation": self.activation, "pooling": self.pooling, "stem": self.stem,
            "pad_to": self.pad_to,
        }  # fmt: skip

    def stage_depth(self, name: str) -> float:
        """How many stages from the head, which is 0, a tensor of a network that can be pretrained lies."""
        return _find_depths(self)[name]


@dataclass(frozen=True, slots=True)
class Tail:
    """The last stages and the head of a network, which take maps that the stages before them gave.

    Args:
        net: the whole network, a resnet or an efficientnet.
    """

    net: ConvNet

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a map."""
        return _find_map(self.net)

    @property
    def num_inputs(self) -> int:
        """Values of a map."""
        return prod(self.input_shape)

    @property
    def outputs(self) -> int:
        """Those of the network."""
        return self.net.outputs

    @property
    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(prod(shape) for shape, kind in self.layout().values() if kind == TRAINED)

    @property
    def num_values(self) -> int:
        """Length of the flat vector."""
        return sum(prod(shape) for shape, _ in self.layout().values())

    @property
    def largest_map(self) -> int:
        """Not more than that of the network."""
        return self.net.largest_map

    def layout(self) -> Layout:
        """As of `ConvNet`, without the stages that are left out, by the same names."""
        return _find_layout(self)

    def tensors(self, params: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Views into the flat vector by name; see `cut`."""
        return cut(params, self.layout())

    def stage_depth(self, name: str) -> float:
        """See `ConvNet`."""
        return self.net.stage_depth(name)


@lru_cache(maxsize=64)
def _find_map(net: ConvNet) -> tuple[int, int, int]:
    from clearsight.models.modules import build_module, trace_shapes

    channels, height, width = trace_shapes(build_module(net), net.input_shape, part="early")
    return channels, height, width


@lru_cache(maxsize=2)
def _find_depths(net: ConvNet) -> dict[str, float]:
    from clearsight.models.modules import find_layers

    found: dict[str, float] = find_layers(find_family(net.family).layers).find_depths(net)
    return found


@lru_cache(maxsize=64)
def _find_layout(net: ConvNet | Tail) -> Layout:
    from clearsight.models.modules import build_module

    module = build_module(net)
    found: Layout = {name: (tuple(p.shape), TRAINED) for name, p in module.named_parameters()}
    return found | {name: (tuple(b.shape), KEPT) for name, b in module.named_buffers() if b.dtype.is_floating_point}
