"""Which network a run gets where nobody named one: chosen once, from the data, before pictures are decoded.

It must not know runs.
"""

from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from clearsight.config.build import build_config
from clearsight.config.families import USUAL_PRETRAINED
from clearsight.config.files import merge
from clearsight.config.rules import check_used
from clearsight.config.schema import RunConfig
from clearsight.core.progress import MeterBuilder, Note, SilentMeter
from clearsight.data.photographs import MOST_PICTURES, describe_photographs
from clearsight.data.read.load import build_request, survey_pictures
from clearsight.engines.team import started_by_torchrun
from clearsight.errors import ClearsightError, UsageError
from clearsight.models.pretrained import find_weights

LEAST_SIDE = 96
"""Pixels: with smaller pictures a pretrained network sees too little."""
_GOES_ALONG = {"family", "outputs", "weights", "finetune"}
_OTHER_NET = ("train.dropout", "train.engine", "train.weight_history", "preprocess.scale")
_HOW = {
    "head": "the head of {} on pretrained features",
    "last": "the last stages of the pretrained {}",
    "all": "all of the pretrained {}",
}


def resolve_family(
    config: RunConfig,
    data: Any = None,
    *,
    note: Note = lambda text: None,
    meter: MeterBuilder = SilentMeter,
    searched: Collection[str] = (),
) -> RunConfig:
    """The configuration with the network named that `auto` means for its data.

    The head of a pretrained network is trained on few colour photographs (see `describe_photographs`) where PyTorch and the
    weights are installed. Any setting that does not go with it keeps the dense net.

    Args:
        data: what is trained on, if not what the configuration names: a name or path, or arrays or a `Dataset`.
        note: is told what was chosen, and why. searched: settings that a search varies.

    Raises:
        DataError: there is nothing at the place that is named.
    """
    if config.model.family != "auto":
        return config
    named = _change(config, family=config.family)
    files = data is None or isinstance(data, str | Path)
    if config.model.pretrained or not files or not _allows_pretrained(config, searched):
        return named
    source = config.data.source if data is None else str(data)
    about = config.data
    request = build_request(follow_links=about.follow_links, max_megapixels=about.max_megapixels)
    facts, classes = survey_pictures(
        source, request=request, label_column=config.data.label_column, most=MOST_PICTURES, meter=meter
    )
    found = describe_photographs(facts, classes=classes)
    chosen = _change(config, family=USUAL_PRETRAINED, pretrained=True)
    if not found or not has_weights(config.model.weights):
        return named
    how = _HOW[chosen.depth].format(USUAL_PRETRAINED)
    note(f"{found}: training {how}. Choose another network with --model, e.g. --model mlp.")
    return chosen


def has_weights(weights: str | None = None) -> bool:
    """Whether PyTorch and the weights of the usual pretrained network, or a file of such, are there without a network."""
    try:
        find_weights(USUAL_PRETRAINED, weights)
    except ClearsightError:
        return False
    return find_spec("torch") is not None


def _allows_pretrained(config: RunConfig, searched: Collection[str]) -> bool:
    """Whether all that is said fits a pretrained network: nothing of another network, of numbers, or of several processes."""
    chosen = _change(config, family=USUAL_PRETRAINED, pretrained=True)
    said = {f"model.{key}" for key in config.model.model_fields_set - _GOES_ALONG}
    said |= {key for key in _OTHER_NET if _read(config, key) != _read(RunConfig(), key)}
    varied = {key for key in searched if key.startswith(("model.", "augment.")) or key in _OTHER_NET}
    size = config.preprocess.image_size or LEAST_SIDE
    small = (size if isinstance(size, int) else min(size)) < LEAST_SIDE
    kept = chosen.depth != "all" and bool(config.augment.overrides())  # features are those of pictures as they are
    other = config.data.task != "classification" or config.preprocess.channels == "grey" or started_by_torchrun()
    if said or varied or small or kept or other:
        return False
    try:
        check_used(chosen)
    except UsageError:
        return False
    return True


def _read(config: RunConfig, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def _change(config: RunConfig, **model: Any) -> RunConfig:
    return build_config(merge(config.model_dump(exclude_unset=True), {"model": model}))
