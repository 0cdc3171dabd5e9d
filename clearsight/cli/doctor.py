"""`clearsight doctor`: what is wrong with a training, and what cures it."""

from pathlib import Path
from typing import Annotated

import typer

from clearsight.cli import options
from clearsight.cli.output import plain, print_json, use_color

_SEVERE = 4  # the exit code


def doctor(
    run: Annotated[str, typer.Argument(help="Directory or name of a finished run, or last.")],
    root: Annotated[Path, typer.Option(help="Folder of the run directories.")] = Path("runs"),
    json_: options.Json = False,
) -> None:
    """Diagnose what went wrong in a training run, with evidence, cause and cure.

    The exit code is 4 if there is a severe finding.
    """
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
