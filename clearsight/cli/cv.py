"""`clearsight cv`: k-fold cross-validation, its table and its corrected interval."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clearsight.cli import options
from clearsight.cli.options import option, parse_common, read_settings
from clearsight.cli.output import plain, print_json, tell


def cv(
    data: options.OptionalData = None,
    folds: Annotated[int, typer.Option("--folds", min=2, help="Parts, each judged once a repeat.")] = 5,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="How often the folds are drawn.")] = 1,
    group_by: Annotated[
        str | None,
        option("Regular expression; pictures alike in what it finds in their names stay together.", "--group-by"),
    ] = None,
    metric: Annotated[str | None, option("accuracy, loss or mae.", "--metric")] = None,
    workers: options.Workers = None,
    executor: options.Executor = "auto",
    config: options.Config = None,
    set_: options.Set = None,
    model: options.Model = None,
    pretrained: options.Pretrained = False,
    weights: options.Weights = None,
    tune: options.Tune = None,
    hidden: options.Hidden = None,
    activation: options.Activation = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    optimizer: options.Optimizer = None,
    augment: options.Augment = None,
    image_size: options.ImageSize = None,
    follow_links: options.FollowLinks = False,
    max_megapixels: options.MaxMegapixels = None,
    target: options.Target = None,
    relabel: options.Relabel = None,
    seed: options.Seed = None,
    engine: options.Engine = None,
    device: options.Device = None,
    out: Annotated[Path | None, option("Directory to make.", "--out")] = None,
    root: options.Root = Path("runs"),
    resume: Annotated[str | None, option("Directory of a cross-validation to go on with, or last.", "--resume")] = None,
    quiet: options.Quiet = False,
    json_: options.Json = False,
) -> None:
    """Cross-validate: train on all folds but one, judge on that one, in turn. Stratified, and repeated if you like.

    All pictures are in the folds, unless data.test_fraction is set or a test split came with the data. The interval counts in
    that folds share training pictures. What each picture got from the model that had not seen it is kept.
    """
    from clearsight.actions.cross_validate import cross_validate

    flags = parse_common(
        model=model, hidden=hidden, activation=activation, epochs=epochs, batch_size=batch_size, optimizer=optimizer, seed=seed,
        engine=engine, device=device, pretrained=pretrained, weights=weights, tune=tune,
    )  # fmt: skip
    flags = {"data.group_by": group_by, "data.relabel": relabel, **flags}
    settings = read_settings(
        flags, config=config, image_size=image_size, target=target, augment=augment, follow_links=follow_links,
        max_megapixels=max_megapixels, set_=set_,
    )  # fmt: skip
    silent = quiet or json_
    found = cross_validate(
        data, config=settings, folds=folds, repeats=repeats, metric=metric, workers=workers, executor=executor, out=out,
        root=root, resume=resume, quiet=silent, note=tell(quiet=silent),
    )  # fmt: skip
    if json_:
        print_json(found.summary())
    else:
        typer.echo(_render(found))


def _render(found: Any) -> str:
    names = list(found.folds[0].metrics)
    lines = [f"{'repeat':>6} {'fold':>5} {'train':>8} {'tested':>7}  " + "  ".join(f"{name:>8}" for name in names)]
    for fold in found.folds:
        numbers = "  ".join(f"{fold.metrics[name]:>8.4f}" for name in names)
        status = "" if fold.status == "finished" else f"  {fold.status}"
        lines.append(f"{fold.repeat + 1:>6} {fold.fold + 1:>5} {fold.num_train:>8,} {fold.n:>7,}  {numbers}{status}")
    interval = (
        "" if found.low is None else f", 95 % interval {found.low:.4f} to {found.high:.4f} (corrected for shared rows)"
    )
    lines.append(
        f"{found.metric} {found.mean:.4f}, mean of {len(found.folds)} runs on {len(found.rows):,} pictures{interval}"
    )
    lines.append(f"cv      {plain(found.path)}")
    return "\n".join(lines)
