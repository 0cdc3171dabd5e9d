"""`clearsight doctor`: what is wrong with a training, and what cures it."""

from pathlib import Path
from typing import Annotated

import typer

from clearsight.cli import options
from clearsight.cli.output import plain, print_json, use_color

_SEVERE = 4  # the exit code


def doctor(
    run: Annotated[str, typer.Argument(help="Run directory that has ended, its name, or last.")],
    root: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    json_: options.Json = False,
) -> None:
    """Say what is wrong with a training, with evidence, cause and cure. Exit code 4 if a severe finding stands."""
    from clearsight.actions.doctor import diagnose
    from clearsight.report.diagnosis import render_diagnosis

    found = diagnose(run, root=root)
    if json_:
        print_json(found.summary())
    else:
        text = render_diagnosis(found.findings, found.case, rules=found.summary()["rules"], color=use_color())
        typer.echo("\n".join(line if line.startswith("\x1b") else plain(line) for line in text.split("\n")))
    if found.is_severe:
        raise typer.Exit(_SEVERE)
