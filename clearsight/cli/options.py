"""Flags that several commands share, and how their texts become settings."""

from pathlib import Path
from typing import Annotated, Any

import typer


def option(help_text: str, *names: str) -> Any:
    """A flag whose default goes without saying."""
    return typer.Option(*names, help=help_text, show_default=False)


Data = Annotated[str, typer.Argument(help="Name or path of labelled data, as for train.")]
OptionalData = Annotated[
    str | None,
    typer.Argument(
        help="digits, mnist, ..., or the path of a folder, zip or tar of pictures, an IDX folder, NPZ or CSV.",
        show_default=False,
    ),
]
Root = Annotated[Path, typer.Option("--root", help="Where run directories are made.")]
Workers = Annotated[int | None, option("Runs at a time; by default one a core, or one a CUDA device.", "--workers")]
Executor = Annotated[str, typer.Option("--executor", help="auto, threads, processes or dask://HOST:PORT.")]
Config = Annotated[Path | None, option("TOML or JSON file of settings.", "--config")]
Set = Annotated[list[str] | None, option("One setting, as train.lr=0.1; may be repeated.", "--set")]
Model = Annotated[
    str | None, option("mlp, cnn, vgg, resnet8, resnet18, ..., timm:NAME; see `clearsight models`.", "--model")
]
Hidden = Annotated[str | None, option("Units of the hidden layers, as 128,64; '' for none.", "--hidden")]
Activation = Annotated[
    str | None,
    option("relu, leaky_relu, sigmoid, tanh, gelu or identity; or one a layer, as tanh,relu.", "--activation"),
]
Pretrained = Annotated[bool, option("Begin with weights published for this model, learnt on ImageNet.", "--pretrained")]
Weights = Annotated[str | None, option("File (.safetensors or .pth) with such weights instead.", "--weights")]
Tune = Annotated[
    str | None,
    option("What of a pretrained model is trained: head, last (stages) or all; auto is head.", "--tune"),
]
Epochs = Annotated[int | None, option("Passes over the training rows.", "--epochs")]
BatchSize = Annotated[int | None, option("Rows a step.", "--batch-size")]
Optimizer = Annotated[str | None, option("sgd, momentum, nesterov, rmsprop, adam, adamw or muon.", "--optimizer")]
Augment = Annotated[
    str | None,
    option(
        "none, light, photo, digits or counting; single strengths after it, as photo,hflip=0,rotate=20.", "--augment"
    ),
]
ImageSize = Annotated[
    str | None, option("Side, or HEIGHTxWIDTH, that pictures are brought to, as 64 or 48x64.", "--image-size")
]
Resize = Annotated[str | None, option("squash, crop or pad.", "--resize")]
Target = Annotated[str | None, option("Predict the numbers of this column (regression).", "--target")]
Relabel = Annotated[str | None, option("CSV that corrects labels, as label-errors writes it.", "--relabel")]
SkipBad = Annotated[bool, option("Go on without bad files, copies of pictures and conflicting labels.", "--skip-bad")]
FollowLinks = Annotated[
    bool, option("Read what links in a folder lead to, also out of it and to other folders.", "--follow-links")
]
MaxMegapixels = Annotated[
    float | None, option("Largest picture file that is read; by default 50 megapixels.", "--max-megapixels")
]
Seed = Annotated[int | None, option("Of weights, order and dropout.", "--seed")]
Engine = Annotated[str | None, option("auto, dense (compiled), reference (NumPy textbook) or torch.", "--engine")]
Device = Annotated[str | None, option("auto, cpu, cuda or mps, of engine torch.", "--device")]
Track = Annotated[list[str] | None, option("Also write to tensorboard or mlflow; may be repeated.", "--track")]
Quiet = Annotated[bool, option("No progress, no notes.", "--quiet")]
Json = Annotated[bool, option("Print one JSON object.", "--json")]


def read_settings(
    flags: dict[str, Any],
    *,
    config: Path | None = None,
    image_size: str | None = None,
    target: str | None = None,
    augment: str | None = None,
    follow_links: bool = False,
    max_megapixels: float | None = None,
    set_: list[str] | None = None,
) -> dict[str, Any]:
    """Nested settings of a file, flags and `--set`, later ones over earlier ones."""
    from clearsight.config.files import merge, nest, parse_augment, parse_setting, read_config_file

    flags = flags | {"preprocess.image_size": parse_size(image_size), **parse_augment(augment)}
    flags |= {"data.follow_links": follow_links or None, "data.max_megapixels": max_megapixels}
    if target:
        flags |= {"data.task": "regression", "data.label_column": target}
    layers = [read_config_file(config)] if config else []
    layers += [nest(key, value) for key, value in flags.items() if value is not None]
    return merge(*layers, *(parse_setting(text) for text in set_ or []))


def parse_common(
    *,
    model: str | None,
    hidden: str | None,
    activation: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    seed: int | None = None,
    engine: str | None = None,
    device: str | None = None,
    pretrained: bool = False,
    weights: str | None = None,
    tune: str | None = None,
) -> dict[str, Any]:
    """What the flags of those names, which most commands have, say."""
    return {
        "model.family": model, "model.hidden": parse_numbers(hidden, "--hidden", int), "model.activation": _words(activation),
        "train.epochs": epochs, "train.batch_size": batch_size, "train.optimizer": optimizer, "train.seed": seed,
        "train.engine": engine, "train.device": device, "model.pretrained": pretrained or None, "model.weights": weights,
        "model.tune": tune,
    }  # fmt: skip


def _words(text: str | None) -> str | list[str] | None:
    return text if text is None or "," not in text else [word.strip() for word in text.split(",")]


def parse_numbers(text: str | None, flag: str, kind: type) -> list[Any] | None:
    """`128,64` as [128, 64]."""
    from clearsight.errors import UsageError

    if text is None:
        return None
    try:
        return [kind(word) for word in text.split(",") if word.strip()]
    except ValueError:
        raise UsageError(
            f"{flag} must be numbers with commas between, got {text!r}. "
            f"For example {flag} {'128,64' if kind is int else '0.1,1'}."
        ) from None


def parse_size(text: str | None) -> int | list[int] | None:
    """`64` as 64, `48x64` (height x width) as [48, 64]."""
    from clearsight.errors import UsageError

    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.strip().isdigit() for side in sides):
        raise UsageError(f"--image-size must be a side or HEIGHTxWIDTH, got {text!r}. For example --image-size 64.")
    if not all(2 <= int(side) <= 4096 for side in sides):
        raise UsageError(f"--image-size must lie in 2 to 4096, got {text}. For example --image-size 64.")
    return int(sides[0]) if len(sides) == 1 else [int(side) for side in sides]
