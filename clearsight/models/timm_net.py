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

from clearsight.errors import ClearsightError, UsageError
from clearsight.models.layers import Dropout
from clearsight.published import PREFIX, import_timm


class TimmNet(nn.Module):
    """`body` is timm's network without its classifier; `early` and `late` are what it calls features and head."""

    def __init__(self, net: Any, dropout: float) -> None:
        super().__init__()
        self.body = _build_body(net.family, net.input_shape)
        self.drop, self.fc = Dropout(dropout, 0), nn.Linear(self.body.head_hidden_size, net.outputs)

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
        UsageError: they do not fit.
    """
    state = {name: torch.from_numpy(np.array(values)) for name, values in tensors.items()}
    with torch.random.fork_rng(devices=[]):
        body = _build_body(net.family, net.input_shape, pretrained=True, pretrained_cfg_overlay={"state_dict": state})
    return {name: v.numpy() for name, v in body.state_dict().items() if v.is_floating_point()}


def _build_body(family: str, input_shape: tuple[int, int, int], **more: Any) -> Any:
    timm, name = import_timm(family), family.removeprefix(PREFIX)
    height, width, channels = input_shape
    options: dict[str, Any] = {"num_classes": 0, "in_chans": channels, **more}
    sized = tuple(timm.get_pretrained_cfg(name).input_size[1:]) != (height, width)
    with _telling(family, input_shape):
        try:  # networks with a place for each part of a picture must know its size
            body: Any = timm.create_model(name, **options, **({"img_size": (height, width)} if sized else {}))
        except TypeError:  # the others take pictures of any size
            body = timm.create_model(name, **options)
        if not (hasattr(body, "forward_head") and hasattr(body, "head_hidden_size")):
            raise ValueError("it has no features before its head")
    return body


@contextmanager
def _telling(family: str, input_shape: tuple[int, int, int]) -> Iterator[None]:
    """What a library raises where a network and pictures do not go together becomes a sentence."""
    try:
        yield
    except ClearsightError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        height, width, channels = input_shape
        raise UsageError(
            f"model {family} must take pictures of {height}x{width} and {channels} channels, got an error of timm's ({reason}). "
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


def find_depths(net: Any) -> dict[str, int]:
    """How many stages from the head, which is 0, each tensor lies, as timm groups them."""
    module = TimmNet(net, 0.0)
    from timm.models import group_parameters

    groups = group_parameters(module.body, module.body.group_matcher(coarse=True), reverse=True)
    last = max(groups.values())
    return {f"body.{name}": last - place + 1 for name, place in groups.items()} | {"fc.weight": 0, "fc.bias": 0}
