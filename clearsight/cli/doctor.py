"""`clearsight doctor`: what is wrong with a training, and what cures it."""

from pathlib import Path
from typing import Annotated

import typer

from clearsight.cli import options
from clearsight.cli.output import plain_lines, print_json, tell, use_color
from clearsight.errors import UsageError

_SEVERE = 4  # the exit code


def doctor(
    what: Annotated[
        str,
        typer.Argument(metavar="RUN|DATA", help="Run that has ended, its name, or last; or a name or path of data."),
    ],
    root: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    cure: Annotated[
        bool, typer.Option("--cure", help="Take the prescriptions, train again and prove the result beside controls.")
    ] = False,
    seeds: Annotated[
        int | None, typer.Option("--seeds", help="Pairs of trainings in that proof; by default 5.")
    ] = None,
    quiet: options.Quiet = False,
    json_: options.Json = False,
) -> None:
    """Diagnose a training run or data: what is wrong, with evidence, cause and cure.

    Of data, the checks of `data check` and a probe training of a few seconds tell. Exit code 4 if a severe finding stands.
    """
    from clearsight.actions.doctor import diagnose
    from clearsight.core.progress import build_meter
    from clearsight.diagnose.rules import RULES
    from clearsight.report.diagnosis import render_cure, render_diagnosis

    if seeds is not None and not cure:
        raise UsageError(f"--seeds must go with --cure, got {seeds} without. Add --cure.")
    silent, meter = quiet or json_, build_meter(quiet=quiet or json_)
    found = diagnose(what, root=root, note=tell(quiet=silent), meter=meter)
    if cure:
        from clearsight.actions.cure import cure as treat

        cured = treat(found, seeds=5 if seeds is None else seeds, meter=meter)
        if json_:
            print_json({**found.summary(), "cure": cured.summary()})
        else:
            typer.echo(plain_lines(render_cure(cured)))
        return
    if json_:
        print_json(found.summary())
    else:
        text = render_diagnosis(found.findings, found.case, rules=len(RULES), color=use_color())
        typer.echo(plain_lines(text))
    if found.is_severe:
        raise typer.Exit(_SEVERE)
