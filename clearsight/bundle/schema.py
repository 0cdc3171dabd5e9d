"""What `model.json` may say, checked key by key, and the network that it describes. It must not know files or tensors."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from clearsight.config.families import find_family, is_dense
from clearsight.config.schema import AnyFamily, Resize, Scaling
from clearsight.errors import UsageError
from clearsight.models.convnet import ConvNet
from clearsight.models.count import count_multiply_adds
from clearsight.models.mlp import MLP

_MOST_BLOCKS = 1000
_MOST_WORK = 50_000_000_000  # multiply-adds of one picture: some seconds; a resnet50 at 224x224 has 4 thousand million


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _DenseArchitecture(_Strict):
    family: str
    sizes: list[int] = Field(min_length=2, max_length=1000)
    activations: list[str]
    bias: str
    output: str

    def build(self) -> MLP:
        """The network, which may still be found inconsistent."""
        if max(self.sizes) > 2**24:
            raise UsageError(f"sizes must be at most {2**24}, got {max(self.sizes)}. Get the model again.")
        return MLP(tuple(self.sizes), tuple(self.activations), self.bias, self.output)


_Sizes = Annotated[list[Annotated[int, Field(ge=1, le=2**20)]], Field(max_length=100)]


class _ConvArchitecture(_Strict):
    family: AnyFamily
    input_shape: Annotated[_Sizes, Field(min_length=3, max_length=3)]
    outputs: int = Field(ge=1, le=2**20)
    output: str
    widths: _Sizes
    depths: _Sizes
    hidden: _Sizes
    kernel: int = Field(ge=1, le=15)
    norm: str
    activation: str
    pooling: str
    stem: str
    pad_to: int = Field(ge=0, le=4096)

    def build(self) -> ConvNet:
        """The network, which may still be found inconsistent."""
        if sum(self.depths) > _MOST_BLOCKS:
            raise UsageError(f"depths must be {_MOST_BLOCKS} or less in all, got {sum(self.depths)}. Use fewer.")
        height, width, channels = self.input_shape
        values = self.model_dump() | {key: tuple(getattr(self, key)) for key in ("widths", "depths", "hidden")}
        net = ConvNet(**values | {"input_shape": (height, width, channels)})
        if (library := find_family(net.family).library) is not None:  # which also bounds pictures
            library(net.family)
            return net
        if (work := count_multiply_adds(net)) > _MOST_WORK:
            raise UsageError(
                f"multiply-adds of a picture must be {_MOST_WORK:,} or less, got {work:,}. Get the model again."
            )
        return net


def _find_kind(architecture: Any) -> str:
    return "mlp" if isinstance(architecture, dict) and is_dense(architecture.get("family")) else "conv"


class _PreprocessSettings(_Strict):
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    channels: int = Field(ge=1)
    scaling: Scaling
    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    target_mean: float = Field(allow_inf_nan=False)
    target_std: float = Field(gt=0, allow_inf_nan=False)
    resize: Resize = "squash"
    background: list[Annotated[int, Field(ge=0, le=255)]] = Field([0, 0, 0], min_length=3, max_length=3)


class Description(_Strict):
    """`model.json` of format 4 and before."""

    format: Literal["clearsight-model"]
    version: int
    clearsight: str
    architecture: Annotated[
        Annotated[_DenseArchitecture, Tag("mlp")] | Annotated[_ConvArchitecture, Tag("conv")], Discriminator(_find_kind)
    ]
    class_names: list[str]
    preprocess: _PreprocessSettings
    temperature: float = Field(ge=1e-6, le=1e6, allow_inf_nan=False)
    data: dict[str, str]
    training: dict[str, str | int | float | None]
