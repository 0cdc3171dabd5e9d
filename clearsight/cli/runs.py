"""`clearsight runs list|show|remove` and `clearsight report`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from clearsight.cli import options
from clearsight.cli.output import plain, print_json, print_notes

app = typer.Typer(
    help="List, show, watch and remove runs.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)
Name = Annotated[str, typer.Argument(help="Directory or name of a run, or last.")]
Root = Annotated[Path, typer.Option("--root", help="Folder of the run directories.")]


@app.command("list")
def list_(root: Root = Path("runs"), json_: options.Json = False, quiet: options.Quiet = False) -> None:
    """List all runs with their accuracies, oldest first."""
    from clearsight.runs import store

    runs, notes = store.list_runs(root)
    print_notes(notes, quiet=quiet)
    if json_:
        print_json({"runs": [asdict(run) | {"path": str(run.path)} for run in runs]})
        return
    if not runs:
        typer.echo(f"no runs in {root}")
        return
    width = max(len(str(run.path)) for run in runs)
    typer.echo(f"{'run':<{width}}  {'status':<13}  {'data':<14}  {'model':<16}  train   valid   test")
    for run in runs:
        shares = "  ".join(
            f"{run.accuracy[s]:.4f}" if s in run.accuracy else "-     " for s in ("train", "valid", "test")
        )
        typer.echo(plain(f"{run.path!s:<{width}}  {run.status:<13}  {run.data:<14}  {run.model:<16}  {shares}"))


@app.command()
def show(run: Name, root: Root = Path("runs"), json_: options.Json = False) -> None:
    """Show the record and metrics of a run."""
    from clearsight.errors import RunError
    from clearsight.report.text import render_metrics
    from clearsight.runs import store
    from clearsight.runs.directory import RunDirectory

    path = store.find_run(run, root)
    files = RunDirectory(path)
    record = store.read_json(files.record)
    metrics: dict[str, Any] = store.read_json(files.metrics) if files.metrics.is_file() else {}
    if json_:
        print_json({"run": str(path), "record": record, "metrics": metrics or None})
        return
    for key in ("status", "created", "data", "model", "seed", "clearsight"):
        typer.echo(plain(f"{key:<11} {record.get(key, '?')}"))
    for split in ("train", "valid", "test"):
        if metrics.get(split):
            try:
                typer.echo(render_metrics(metrics[split], split=split))
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                raise RunError(
                    f"{files.metrics} must hold metrics, got damage ({error!r}). Restore the file."
                ) from None
    typer.echo(f"{'files':<11} {plain(path)}")


@app.command()
def watch(run: Name, root: Root = Path("runs"), json_: options.Json = False) -> None:
    """Follow a run from another terminal until it ends.

    It shows the loss so far, then each epoch. Ctrl-C stops watching but not the run. With --json,
    print the current state and exit.
    """
    from clearsight.report.text import render_course
    from clearsight.runs import store
    from clearsight.runs.directory import RunDirectory
    from clearsight.runs.events import describe_course, follow, read_course
    from clearsight.training.progress import build_progress

    path = store.find_run(run, root)
    if json_:
        print_json({"run": str(path), **describe_course(path)})
        return
    typer.echo(plain(f"{path}: {store.read_run(path).status}"))
    if chart := render_course(read_course(path)):
        typer.echo(chart)
    status = follow(path, build_progress(quiet=False))
    report = RunDirectory(path).report
    typer.echo(plain(f"{path}: {status}" + (f", see {report}" if report.is_file() else "")))


@app.command()
def remove(
    run: Name,
    root: Root = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    json_: options.Json = False,
) -> None:
    """Delete a run directory."""
    from clearsight.runs import store

    path = store.find_run(run, root)
    if not yes:
        typer.confirm(f"delete {path} and everything in it?", abort=True)
    store.remove_run(path)
    if json_:
        print_json({"removed": str(path)})
    else:
        typer.echo(f"removed {plain(path)}")


def report(
    run: Name,
    root: Root = Path("runs"),
    json_: options.Json = False,
) -> None:
    """Redraw the report of a run from its files."""
    from clearsight.report.html import write_report
    from clearsight.runs import store

    path = write_report(store.find_run(run, root))
    if json_:
        print_json({"report": str(path)})
    else:
        typer.echo(plain(path))
