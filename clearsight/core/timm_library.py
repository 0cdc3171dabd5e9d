"""What the library timm says of its networks. It is imported when one of them is asked for, and never needed otherwise."""

import difflib
from typing import Any

from clearsight.errors import UsageError

PREFIX = "timm:"
PATTERN = r"^timm:[a-z0-9_]+(\.[a-z0-9_]+)?$"
_MOST_LETTERS = 150
_SCALES = {
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)): "imagenet",
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)): "symmetric",
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)): "unit",
}  # by mean and deviation


def import_timm(family: str) -> Any:
    """The library, which knows the network.

    Raises:
        UsageError: it is missing, broken, or knows no such network.
    """
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # torchvision raises the second beside another PyTorch than its own
        if isinstance(error, ImportError) and error.name == "timm":
            raise UsageError(
                f"model {family} must have timm, got none installed. Install it with `pip install 'clearsight[timm]'`."
            ) from None
        raise UsageError(
            f"model {family} must have timm, got one that cannot be imported ({shorten(error)}). Install what it needs; "
            "torchvision must be that for your PyTorch."
        ) from None
    name = family.removeprefix(PREFIX)
    if not timm.is_model(name) or ("." in name and name not in timm.list_pretrained()):
        near = difflib.get_close_matches(name, [*timm.list_models(), *timm.list_pretrained()], n=1, cutoff=0.6)
        advice = f"Did you mean {PREFIX}{near[0]}?" if near else "See `timm.list_models()`."
        raise UsageError(f"model must be one that timm knows, got {family}. {advice}")
    return timm


def _find_facts(family: str) -> Any:
    """What timm says of a network's published weights."""
    return import_timm(family).get_pretrained_cfg(family.removeprefix(PREFIX))


def describe_pictures(family: str) -> dict[str, Any]:
    """Settings of how pictures must be for the published weights: `image_size`, and `scale` where it is one of ours."""
    facts = _find_facts(family)
    size = facts.input_size[1:]
    found: dict[str, Any] = {"image_size": size[0] if size[0] == size[1] else tuple(size)}
    scale = _SCALES.get((tuple(facts.mean), tuple(facts.std)))
    return found if scale is None else found | {"scale": scale}


def describe_origin(family: str) -> str:
    """Name and tag of the weights that the library would fetch, as `resnet18.a1_in1k`."""
    facts = _find_facts(family)
    return f"{facts.architecture}.{facts.tag}" if facts.tag else str(facts.architecture)


def shorten(error: BaseException) -> str:
    """What an error of another library says, in a line of words that are whole."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MOST_LETTERS else text[:_MOST_LETTERS].rsplit(" ", 1)[0] + " ..."
