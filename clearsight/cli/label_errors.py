"""`clearsight label-errors`: labels that are likely wrong, a gallery of them and a CSV to correct."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clearsight.cli import options
from clearsight.cli.options import OUTPUT, option
from clearsight.cli.output import plain, print_json, tell
from clearsight.cli.settings import MANY_RUNS, takes_settings

_SHOWN = 12


@takes_settings(MANY_RUNS, target=False)
def label_errors(
    data: options.OptionalData = None,
    *,
    folds: Annotated[int, typer.Option("--folds", min=2, help="Number of folds.")] = 5,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Number of repeats, each with new folds.")] = 1,
    workers: options.Workers = None,
    executor: options.Executor = "auto",
    settings: dict[str, Any],
    out: Annotated[Path | None, option("Directory to create.", "--out", panel=OUTPUT)] = None,
    root: options.Root = Path("runs"),
    resume: Annotated[
        str | None, option("Directory of a cross-validation to reuse or resume, or last.", "--resume", panel=OUTPUT)
    ] = None,
    quiet: options.Quiet = False,
    json_: options.Json = False,
) -> None:
    """Find labels that are probably wrong, by predicting each picture with models not trained on it.

    Writes suspects.html, a page on which you keep or change each label or leave the picture out, and save your decisions
    for train --relabel; and suspects.csv, the same table to fill in by hand.
    """
    from clearsight.actions.label_errors import GALLERY, TABLE, find_label_errors
    from clearsight.report.label_errors import describe_suspects

    silent = quiet or json_
    found = find_label_errors(
        data, config=settings or None, folds=folds, repeats=repeats, workers=workers, executor=executor, out=out, root=root,
        resume=resume, quiet=silent, note=tell(quiet=silent),
    )  # fmt: skip
    summary = found.summary()
    if json_:
        print_json(summary)
        return
    for one in summary["suspects"][:_SHOWN]:
        shares = f"{one['probability_of_label']:.3f} against {one['probability_of_suggested']:.3f}"
        typer.echo(plain(f"{one['name']}  {one['label']} or {one['suggested']}?  {shares}"))
    head, *parts = describe_suspects(found.dataset, found.rows, found.suggested, judged=summary["n"])
    more = f" (the first {_SHOWN} above)" if len(summary["suspects"]) > _SHOWN else ""
    typer.echo(plain(f"{head}{more}{':' if parts else ''}"))
    for part in parts:
        typer.echo(plain(f"  {part}"))
    typer.echo(f"The models agree with {summary['accuracy']:.1%} of the {summary['n']:,} labels.")
    typer.echo(f"look    {plain(found.path / GALLERY)} (its buttons write the corrections to a file)")
    typer.echo(f"correct {plain(found.path / TABLE)} (the same table to fill in by hand)")
