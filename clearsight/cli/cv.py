"""`clearsight cv`: k-fold cross-validation, its table and its corrected interval."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clearsight.cli import options
from clearsight.cli.options import OUTPUT, option
from clearsight.cli.output import plain, print_json, tell
from clearsight.cli.settings import MANY_RUNS, takes_settings


@takes_settings(MANY_RUNS)
def cv(
    data: options.OptionalData = None,
    *,
    folds: Annotated[int, typer.Option("--folds", min=2, help="Number of folds.")] = 5,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Number of repeats, each with new folds.")] = 1,
    metric: Annotated[str | None, option("Metric to report: accuracy, loss or mae.", "--metric")] = None,
    workers: options.Workers = None,
    executor: options.Executor = "auto",
    settings: dict[str, Any],
    out: Annotated[Path | None, option("Directory to create.", "--out", panel=OUTPUT)] = None,
    root: options.Root = Path("runs"),
    resume: Annotated[
        str | None, option("Directory of a cross-validation to resume, or last.", "--resume", panel=OUTPUT)
    ] = None,
    quiet: options.Quiet = False,
    json_: options.Json = False,
) -> None:
    """Cross-validate: predict each picture with a model not trained on it. Folds are stratified.

    The folds contain all pictures, unless data.test_fraction is set or the data comes with a test split. The interval is
    corrected for the training pictures that folds share. The prediction for each picture is saved.
    """
    from clearsight.actions.cross_validate import cross_validate

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
