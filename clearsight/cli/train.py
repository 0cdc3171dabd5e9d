"""`clearsight train`: flags to settings, one call, and what a person or a program reads afterwards."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clearsight.cli import options
from clearsight.cli.options import option, parse_common, parse_numbers, read_settings
from clearsight.cli.output import plain, print_json, render_judged, tell


def train(
    data: options.OptionalData = None,
    config: options.Config = None,
    set_: options.Set = None,
    model: options.Model = None,
    pretrained: options.Pretrained = False,
    weights: options.Weights = None,
    tune: options.Tune = None,
    hidden: options.Hidden = None,
    activation: options.Activation = None,
    bias: Annotated[str | None, option("unit, shared or none.", "--bias")] = None,
    init: Annotated[str | None, option("auto, normal, uniform, xavier, he, orthogonal or zeros.", "--init")] = None,
    init_std: Annotated[float | None, option("Standard deviation of normal and uniform.", "--init-std")] = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    optimizer: options.Optimizer = None,
    lr: Annotated[str | None, option("Largest learning rate, or auto to look for it first.", "--lr")] = None,
    momentum: Annotated[float | None, option("Of momentum and nesterov.", "--momentum")] = None,
    schedule: Annotated[str | None, option("constant, step, cosine, one-cycle or linear.", "--schedule")] = None,
    warmup_epochs: Annotated[
        float | None, option("First epochs in which the rate grows from near 0.", "--warmup-epochs")
    ] = None,
    weight_decay: Annotated[float | None, option("Decoupled weight decay.", "--weight-decay")] = None,
    l1: Annotated[float | None, option("L1 penalty.", "--l1")] = None,
    l2: Annotated[
        str | None, option("L2 penalty; auto chooses that of a pretrained model's head by k-fold.", "--l2")
    ] = None,
    layer_decay: Annotated[
        float | None,
        option("Factor of the rate from each stage of a pretrained model to the one before.", "--layer-decay"),
    ] = None,
    dropout: Annotated[float | None, option("Share of hidden units silenced at each step.", "--dropout")] = None,
    loss: Annotated[str | None, option("auto, cross_entropy, squared_error or huber.", "--loss")] = None,
    label_smoothing: Annotated[
        float | None, option("Share of the target spread over all classes.", "--label-smoothing")
    ] = None,
    class_weights: Annotated[
        str | None, option("none, balanced, or one number a class, as 1,2,1.", "--class-weights")
    ] = None,
    clip_norm: Annotated[float | None, option("Largest norm of the gradient.", "--clip-norm")] = None,
    sampling: Annotated[
        str | None, option("natural, or balanced: every class equally often in an epoch.", "--sampling")
    ] = None,
    image_size: options.ImageSize = None,
    follow_links: options.FollowLinks = False,
    max_megapixels: options.MaxMegapixels = None,
    resize: options.Resize = None,
    channels: Annotated[str | None, option("auto, grey or rgb.", "--channels")] = None,
    background: Annotated[
        str | None, option("Under transparent pixels: white, black, grey or #rrggbb.", "--background")
    ] = None,
    augment: options.Augment = None,
    scale: Annotated[
        str | None, option("unit, symmetric, standardize, mean-image, imagenet or none.", "--scale")
    ] = None,
    task: Annotated[str | None, option("classification or regression.", "--task")] = None,
    target: options.Target = None,
    relabel: options.Relabel = None,
    label_column: Annotated[
        str | None, option("Of a CSV or metadata.csv: first, last, a header name or auto.", "--label-column")
    ] = None,
    skip_bad: options.SkipBad = False,
    valid_fraction: Annotated[
        float | None, option("Share of the training rows for validation.", "--valid-fraction")
    ] = None,
    test_fraction: Annotated[
        float | None, option("Share of all rows for test, where the data has no test split.", "--test-fraction")
    ] = None,
    patience: Annotated[
        int | None, option("Stop after so many epochs without a better monitor; keeps the best.", "--patience")
    ] = None,
    monitor: Annotated[
        str | None, option("What patience watches: valid_loss, valid_accuracy or train_loss.", "--monitor")
    ] = None,
    seed: options.Seed = None,
    engine: options.Engine = None,
    device: options.Device = None,
    precision: Annotated[str | None, option("auto, float32 or bfloat16, of engine torch.", "--precision")] = None,
    compile_: Annotated[bool, option("Compile the network with torch.compile.", "--compile")] = False,
    accumulate: Annotated[int | None, option("Parts in which a batch is computed.", "--accumulate")] = None,
    ema: Annotated[float | None, option("Decay of a running average of the weights.", "--ema")] = None,
    lookahead: Annotated[int | None, option("Steps after which weights go back half way.", "--lookahead")] = None,
    checkpoint_steps: Annotated[
        int | None, option("Steps between checkpoints; by default every 30 seconds.", "--checkpoint-steps")
    ] = None,
    keep_steps: Annotated[
        int | None, option("Steps between models that are kept, to go back to any.", "--keep-steps")
    ] = None,
    weight_history: Annotated[
        bool, option("Keep the weights of every epoch, to draw them.", "--weight-history")
    ] = False,
    out: Annotated[Path | None, option("Run directory to make.", "--out")] = None,
    root: options.Root = Path("runs"),
    resume: Annotated[str | None, option("Run directory to go on with, or last.", "--resume")] = None,
    track: options.Track = None,
    quiet: options.Quiet = False,
    json_: options.Json = False,
) -> None:
    """Train a classifier, evaluate it, save it and draw its report.

    Exit codes: 0 done, 1 failed, 2 wrong use, 3 the data is not fit to train on, 4 the loss diverged (the last good
    model is kept), 130 Ctrl-C and 143 SIGTERM (saved, go on with --resume).
    """
    from clearsight.actions.train import train as train_model
    from clearsight.engines.team import leave, started_by_torchrun
    from clearsight.errors import UsageError

    if target and (label_column or task):
        raise UsageError("--target must stand alone, got --label-column or --task beside it. Leave those out.")
    flags = {
        "data.relabel": relabel, "data.task": task, "data.label_column": label_column,
        "data.skip_bad": skip_bad or None, "preprocess.resize": resize,
        "preprocess.channels": channels, "preprocess.background": background, "train.sampling": sampling,
        "data.valid_fraction": valid_fraction,
        "data.test_fraction": test_fraction, "preprocess.scale": scale,
        **parse_common(
            model=model, hidden=hidden, activation=activation, epochs=epochs, batch_size=batch_size, optimizer=optimizer,
            seed=seed, engine=engine, device=device, pretrained=pretrained, weights=weights, tune=tune,
        ), "model.bias": bias,
        "model.init": init, "model.init_std": init_std,
        "train.precision": precision, "train.compile": compile_ or None, "train.accumulate": accumulate, "train.ema": ema,
        "train.lookahead": lookahead, "train.loss": loss, "train.keep_steps": keep_steps,
        "train.lr": _parse_rate(lr, "--lr"), "train.momentum": momentum,
        "train.schedule": schedule, "train.warmup_epochs": warmup_epochs, "train.weight_decay": weight_decay,
        "train.l1": l1, "train.l2": _parse_rate(l2, "--l2"), "train.layer_decay": layer_decay, "train.dropout": dropout,
        "train.label_smoothing": label_smoothing,
        "train.class_weights": _class_weights(class_weights), "train.clip_norm": clip_norm, "train.patience": patience,
        "train.monitor": monitor,
        "train.checkpoint_steps": checkpoint_steps, "train.weight_history": weight_history or None,
    }  # fmt: skip
    settings = read_settings(
        flags, config=config, image_size=image_size, target=target, augment=augment, follow_links=follow_links,
        max_megapixels=max_megapixels, set_=set_,
    )  # fmt: skip
    run = train_model(
        data, config=settings, out=out, root=root, quiet=quiet, note=tell(quiet=quiet),
        resume=resume, track=track or (),
    )  # fmt: skip
    if run.path is None:  # a process that helps another one, which speaks
        leave()
    if json_:
        print_json(run.summary())
    elif not quiet:
        typer.echo(_render(run))
    if started_by_torchrun():
        leave()


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
    places = (("model", summary["bundle"]), ("report", summary["report"]), ("next", run.next_step))
    parts += [f"{name:<7} {plain(text)}" for name, text in places]
    return "\n".join(parts)


def _parse_rate(text: str | None, flag: str) -> float | str | None:
    """`0.1` as 0.1; auto as it is."""
    from clearsight.errors import UsageError

    if text is None or text == "auto":
        return text
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"{flag} must be a number or auto, got {text!r}. For example {flag} 0.01.") from None


def _class_weights(text: str | None) -> str | list[Any] | None:
    return text if text in (None, "none", "balanced") else parse_numbers(text, "--class-weights", float)
