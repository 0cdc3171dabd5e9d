"""Networks of the library timm with a head of ours, so that they train, are kept and answer as all others.

It must not know how a network is trained.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clearsight.core.timm_library import PREFIX, import_timm, shorten
from clearsight.errors import ClearsightError, UsageError
from clearsight.models.layers import Dropout

_MOST_GROWTH = 16  # times the pixels of the pictures that a network was made for
_MOST_STAGES = 8.0  # of EfficientNet-Lite, as far from the head as its first layer is


class TimmNet(nn.Module):
    """`body` is timm's network without its classifier; `early` and `late` are what it calls features and head."""

    def __init__(self, net: Any, dropout: float) -> None:
        super().__init__()
        self.body = _build_body(net.family, net.input_shape)
        self.drop, self.fc = Dropout(dropout, 0), nn.Linear(self.body.head_hidden_size, net.outputs)

    @staticmethod
    def find_depths(net: Any) -> dict[str, float]:
        """How far from the head, which is 0, each tensor lies, as timm groups them: at most as far as stages of ours.

        Raises:
            UsageError: timm cannot group this network.
        """
        from timm.models import group_parameters

        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            body = _build_body(net.family, net.input_shape)
        try:
            groups = group_parameters(body, body.group_matcher(coarse=True), reverse=True)
        except (AttributeError, AssertionError, NotImplementedError, TypeError):
            raise UsageError(
                f"layer_decay must be 1 for {net.family}, which timm does not part into stages, got less. Set "
                "train.layer_decay to 1."
            ) from None
        last = max(groups.values())
        step = min(1.0, _MOST_STAGES / (last + 1))
        return {f"body.{name}": (last - place + 1) * step for name, place in groups.items()} | {
            "fc.weight": 0,
            "fc.bias": 0,
        }

    def early(self, x: Tensor) -> Tensor:
        """(n, H, W, C) to maps or tokens."""
        out: Tensor = self.body.forward_features(x.permute(0, 3, 1, 2))
        return out

    def late(self, x: Tensor) -> Tensor:
        """Such maps to features (n, F)."""
        out: Tensor = self.body.forward_head(x, pre_logits=True)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """(n, H, W, C) to (n, K)."""
        out: Tensor = self.fc(self.drop(self.late(self.early(x))))
        return out


def fit_weights(net: Any, tensors: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Weights of the body, by timm's names, brought by timm to the net's size of pictures and channels.

    Raises:
        ValueError: they do not fit, and why.
    """
    state = {name: torch.from_numpy(np.array(values)) for name, values in tensors.items()}
    options = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": state}}
    with torch.random.fork_rng(devices=[]):
        try:
            body = _create(net.family, net.input_shape, **options)
        except Exception as error:  # what a library raises is without end
            raise ValueError(shorten(error)) from None
    return {name: v.detach().numpy().copy() for name, v in body.state_dict().items() if v.is_floating_point()}


def list_names(family: str) -> set[str]:
    """Names of the tensors of a published network, with its classifier."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return set(import_timm(family).create_model(family.removeprefix(PREFIX)).state_dict())


def _create(family: str, input_shape: tuple[int, int, int], **more: Any) -> Any:
    """The network as timm makes it, without its classifier."""
    timm, name = import_timm(family), family.removeprefix(PREFIX)
    height, width, channels = input_shape
    options: dict[str, Any] = {"num_classes": 0, "in_chans": channels, **more}
    usual = tuple(timm.get_pretrained_cfg(name).input_size[1:])
    if height * width > _MOST_GROWTH * usual[0] * usual[1]:
        raise ValueError(f"they have more than {_MOST_GROWTH} times the pixels that it was made for")
    try:  # networks with a place for each part of a picture must know its size
        return timm.create_model(name, **options, **({"img_size": (height, width)} if usual != (height, width) else {}))
    except TypeError:  # the others take pictures of any size
        return timm.create_model(name, **options)


def _build_body(family: str, input_shape: tuple[int, int, int]) -> Any:
    """The network without its classifier and without chance; batches of one picture are normalised as `BatchNorm2d` here does."""
    with _telling(family, input_shape):
        body: Any = _create(family, input_shape)
        if not (hasattr(body, "forward_head") and hasattr(body, "head_hidden_size")):
            raise ValueError("it has no features before its head")
    for module in body.modules():
        drops = "drop" in type(module).__name__.lower()
        for name, value in vars(module).items():  # shares of units, paths or blocks that PyTorch's generator chooses
            if isinstance(value, float) and ("drop" in name or (drops and name == "p")):
                setattr(module, name, 0.0)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_pre_hook(_use_running_stats)
            module.register_forward_hook(_wake)
    return body


def _use_running_stats(norm: Any, inputs: tuple[Tensor, ...]) -> None:
    """A single value a channel has no spread: it is normalised by the running statistics."""
    norm.woken = norm.training
    norm.training = norm.training and inputs[0].numel() > inputs[0].shape[1]


def _wake(norm: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    norm.training = norm.woken


@contextmanager
def _telling(family: str, input_shape: tuple[int, int, int]) -> Iterator[None]:
    """What a library raises where a network and pictures do not go together becomes a sentence."""
    try:
        yield
    except ClearsightError:
        raise
    except Exception as error:
        height, width, channels = input_shape
        raise UsageError(
            f"model {family} must take pictures of {height}x{width} and {channels} channels, got an error ({shorten(error)}). "
            "Use another --image-size or model."
        ) from None


def draw_values(net: Any, *, seed: int) -> NDArray[np.float32]:
    """First values as timm draws them, in the order of `ConvNet.layout`.

    Raises:
        UsageError: the network does not take such pictures.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = TimmNet(net, 0.0).eval()
    with torch.no_grad(), _telling(net.family, net.input_shape):
        module(torch.zeros(1, *net.input_shape))
    parts = [*module.parameters(), *(b for b in module.buffers() if b.dtype.is_floating_point)]
    return np.concatenate([part.detach().float().numpy().ravel() for part in parts])
