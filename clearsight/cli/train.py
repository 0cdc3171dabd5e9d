"""`clearsight train`: flags to settings, one call, and what a person or a program reads afterwards."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clearsight.cli.output import print_json, render_judged, tell


def _option(help_text: str, *names: str) -> Any:
    return typer.Option(*names, help=help_text, show_default=False)


def train(
    data: Annotated[
        str | None,
        typer.Argument(
            help="digits, mnist, ..., or the path of a folder, zip or tar of pictures, an IDX folder, NPZ or CSV.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[Path | None, _option("TOML or JSON file of settings.", "--config")] = None,
    set_: Annotated[list[str] | None, _option("One setting, as train.lr=0.1; may be repeated.", "--set")] = None,
    model: Annotated[
        str | None, _option("mlp, cnn, vgg, resnet8, resnet18, ...; see `clearsight models`.", "--model")
    ] = None,
    hidden: Annotated[str | None, _option("Units of the hidden layers, as 128,64; '' for none.", "--hidden")] = None,
    activation: Annotated[
        str | None,
        _option("relu, leaky_relu, sigmoid, tanh, gelu or identity; or one a layer, as tanh,relu.", "--activation"),
    ] = None,
    bias: Annotated[str | None, _option("unit, shared or none.", "--bias")] = None,
    init: Annotated[str | None, _option("auto, normal, uniform, xavier, he, orthogonal or zeros.", "--init")] = None,
    init_std: Annotated[float | None, _option("Standard deviation of normal and uniform.", "--init-std")] = None,
    epochs: Annotated[int | None, _option("Passes over the training rows.", "--epochs")] = None,
    batch_size: Annotated[int | None, _option("Rows a step.", "--batch-size")] = None,
    optimizer: Annotated[
        str | None, _option("sgd, momentum, nesterov, rmsprop, adam, adamw or muon.", "--optimizer")
    ] = None,
    lr: Annotated[str | None, _option("Largest learning rate, or auto to look for it first.", "--lr")] = None,
    momentum: Annotated[float | None, _option("Of momentum and nesterov.", "--momentum")] = None,
    schedule: Annotated[str | None, _option("constant, step, cosine, one-cycle or linear.", "--schedule")] = None,
    warmup_epochs: Annotated[
        float | None, _option("First epochs in which the rate grows from near 0.", "--warmup-epochs")
    ] = None,
    weight_decay: Annotated[float | None, _option("Decoupled weight decay.", "--weight-decay")] = None,
    l1: Annotated[float | None, _option("L1 penalty.", "--l1")] = None,
    l2: Annotated[float | None, _option("L2 penalty.", "--l2")] = None,
    dropout: Annotated[float | None, _option("Share of hidden units silenced at each step.", "--dropout")] = None,
    loss: Annotated[str | None, _option("auto, cross_entropy, squared_error or huber.", "--loss")] = None,
    label_smoothing: Annotated[
        float | None, _option("Share of the target spread over all classes.", "--label-smoothing")
    ] = None,
    class_weights: Annotated[
        str | None, _option("none, balanced, or one number a class, as 1,2,1.", "--class-weights")
    ] = None,
    clip_norm: Annotated[float | None, _option("Largest norm of the gradient.", "--clip-norm")] = None,
    sampling: Annotated[
        str | None, _option("natural, or balanced: every class equally often in an epoch.", "--sampling")
    ] = None,
    image_size: Annotated[
        str | None, _option("Side, or HEIGHTxWIDTH, that pictures are brought to, as 64 or 48x64.", "--image-size")
    ] = None,
    resize: Annotated[str | None, _option("squash, crop or pad.", "--resize")] = None,
    channels: Annotated[str | None, _option("auto, grey or rgb.", "--channels")] = None,
    background: Annotated[
        str | None, _option("Under transparent pixels: white, black, grey or #rrggbb.", "--background")
    ] = None,
    augment: Annotated[
        str | None,
        _option(
            "none, light, photo, digits or counting; single strengths after it, as photo,hflip=0,rotate=20.",
            "--augment",
        ),
    ] = None,
    scale: Annotated[str | None, _option("unit, symmetric, standardize, mean-image or none.", "--scale")] = None,
    task: Annotated[str | None, _option("classification or regression.", "--task")] = None,
    target: Annotated[str | None, _option("Predict the numbers of this column (regression).", "--target")] = None,
    label_column: Annotated[
        str | None, _option("Of a CSV or metadata.csv: first, last, a header name or auto.", "--label-column")
    ] = None,
    skip_bad: Annotated[
        bool, _option("Go on without bad files, copies of pictures and conflicting labels.", "--skip-bad")
    ] = False,
    valid_fraction: Annotated[
        float | None, _option("Share of the training rows for validation.", "--valid-fraction")
    ] = None,
    test_fraction: Annotated[
        float | None, _option("Share of all rows for test, where the data has no test split.", "--test-fraction")
    ] = None,
    patience: Annotated[
        int | None, _option("Stop after so many epochs without a better monitor; keeps the best.", "--patience")
    ] = None,
    monitor: Annotated[
        str | None, _option("What patience watches: valid_loss, valid_accuracy or train_loss.", "--monitor")
    ] = None,
    seed: Annotated[int | None, _option("Of weights, order and dropout.", "--seed")] = None,
    engine: Annotated[
        str | None, _option("auto, dense (compiled), reference (NumPy textbook) or torch.", "--engine")
    ] = None,
    device: Annotated[str | None, _option("auto, cpu, cuda or mps, of engine torch.", "--device")] = None,
    precision: Annotated[str | None, _option("auto, float32 or bfloat16, of engine torch.", "--precision")] = None,
    compile_: Annotated[bool, _option("Compile the network with torch.compile.", "--compile")] = False,
    accumulate: Annotated[int | None, _option("Parts in which a batch is computed.", "--accumulate")] = None,
    ema: Annotated[float | None, _option("Decay of a running average of the weights.", "--ema")] = None,
    lookahead: Annotated[int | None, _option("Steps after which weights go back half way.", "--lookahead")] = None,
    checkpoint_steps: Annotated[
        int | None, _option("Steps between checkpoints; by default every 30 seconds.", "--checkpoint-steps")
    ] = None,
    keep_steps: Annotated[
        int | None, _option("Steps between models that are kept, to go back to any.", "--keep-steps")
    ] = None,
    weight_history: Annotated[
        bool, _option("Keep the weights of every epoch, to draw them.", "--weight-history")
    ] = False,
    out: Annotated[Path | None, _option("Run directory to make.", "--out")] = None,
    root: Annotated[Path, typer.Option("--root", help="Where run directories are made.")] = Path("runs"),
    resume: Annotated[str | None, _option("Run directory to go on with, or last.", "--resume")] = None,
    quiet: Annotated[bool, _option("No progress, no notes.", "--quiet")] = False,
    json_: Annotated[bool, _option("Print one JSON object.", "--json")] = False,
) -> None:
    """Train a classifier, evaluate it, save it and draw its report.

    Exit codes: 0 done, 1 failed, 2 wrong use, 3 the data is not fit to train on, 4 the loss diverged (the last good
    model is kept), 130 Ctrl-C and 143 SIGTERM (saved, go on with --resume).
    """
    from clearsight import run as runs
    from clearsight.errors import UsageError
    from clearsight.settings import merge
    from clearsight.training.team import leave, started_by_torchrun

    if target and (label_column or task):
        raise UsageError("--target must stand alone, got --label-column or --task beside it. Leave those out.")
    flags = {
        "data.task": task, "data.label_column": label_column,
        "data.skip_bad": skip_bad or None, "preprocess.resize": resize,
        "preprocess.channels": channels, "preprocess.background": background, "train.sampling": sampling,
        "data.valid_fraction": valid_fraction,
        "data.test_fraction": test_fraction, "preprocess.scale": scale,
        **parse_network(model=model, hidden=hidden, activation=activation), "model.bias": bias,
        "model.init": init, "model.init_std": init_std, "train.engine": engine, "train.epochs": epochs, "train.device": device,
        "train.precision": precision, "train.compile": compile_ or None, "train.accumulate": accumulate, "train.ema": ema,
        "train.lookahead": lookahead, "train.loss": loss, "train.keep_steps": keep_steps,
        "train.batch_size": batch_size, "train.optimizer": optimizer, "train.lr": parse_rate(lr), "train.momentum": momentum,
        "train.schedule": schedule, "train.warmup_epochs": warmup_epochs, "train.weight_decay": weight_decay,
        "train.l1": l1, "train.l2": l2, "train.dropout": dropout, "train.label_smoothing": label_smoothing,
        "train.class_weights": _class_weights(class_weights), "train.clip_norm": clip_norm, "train.patience": patience,
        "train.monitor": monitor, "train.seed": seed,
        "train.checkpoint_steps": checkpoint_steps, "train.weight_history": weight_history or None,
    }  # fmt: skip
    layers = build_layers(flags, config=config, image_size=image_size, target=target, augment=augment, set_=set_)
    run = runs.train(
        data, config=merge(*layers), out=out, root=root, quiet=quiet, note=tell(quiet=quiet),
        resume=resume,
    )  # fmt: skip
    if run.path is None:  # a process that helps another one, which speaks
        leave()
    if json_:
        print_json(run.summary())
    elif not quiet:
        typer.echo(_render(run))
    if started_by_torchrun():
        leave()


def build_layers(
    flags: dict[str, Any],
    *,
    config: Path | None = None,
    image_size: str | None = None,
    target: str | None = None,
    augment: str | None = None,
    set_: list[str] | None = None,
) -> list[dict[str, Any]]:
    """Nested settings of a file, flags and `--set`, later ones over earlier ones."""
    from clearsight.settings import nest, parse_setting, read_config_file

    flags = flags | {"preprocess.image_size": parse_size(image_size), **_parse_augment(augment)}
    if target:
        flags |= {"data.task": "regression", "data.label_column": target}
    layers = [read_config_file(config)] if config else []
    layers += [nest(key, value) for key, value in flags.items() if value is not None]
    return layers + [parse_setting(text) for text in set_ or []]


def parse_network(*, model: str | None, hidden: str | None, activation: str | None) -> dict[str, Any]:
    """What the flags of those names say."""
    return {
        "model.family": model, "model.hidden": parse_numbers(hidden, "--hidden", int), "model.activation": _words(activation),
    }  # fmt: skip


def _parse_augment(text: str | None) -> dict[str, Any]:
    """`photo,hflip=0` as {"augment.preset": "photo", "augment.hflip": 0.0}."""
    from clearsight.errors import UsageError

    found: dict[str, Any] = {}
    for word in text.split(",") if text else ():
        name, equals, value = (part.strip() for part in word.partition("="))
        if not equals:
            name, value = "preset", name
        if f"augment.{name}" in found:
            raise UsageError(f"--augment must name {name} once, got {text!r}. Remove one.")
        try:
            found[f"augment.{name}"] = value if name in ("preset", "fill", "unsafe") else float(value)
        except ValueError:
            raise UsageError(
                f"--augment must be a preset and NAME=NUMBER with commas between, got {word!r}. For example photo,hflip=0."
            ) from None
    return found


def _render(run: Any) -> str:
    from clearsight.report.text import render_evaluation

    evaluations = run.evaluations()
    judged = list(evaluations)[-1]
    parts = [render_judged(evaluations[judged])]
    parts += [
        render_evaluation(evaluation, split=split, color=False, details=False)
        for split, evaluation in evaluations.items()
        if split != judged
    ]
    summary = run.summary()
    parts.append(
        f"{run.status} at epoch {run.epoch}: {summary['parameters']:,} parameters, "
        f"{summary['seconds']:.2f} s of training ({summary['seconds_per_epoch']:.4f} s an epoch)"
    )
    parts.append(f"model   {summary['bundle']}\nreport  {summary['report']}")
    return "\n".join(parts)


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


def parse_rate(text: str | None) -> float | str | None:
    """`0.1` as 0.1; auto as it is."""
    from clearsight.errors import UsageError

    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--lr must be a number or auto, got {text!r}. For example --lr 0.01.") from None


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


def _class_weights(text: str | None) -> str | list[Any] | None:
    return text if text in (None, "none", "balanced") else parse_numbers(text, "--class-weights", float)
