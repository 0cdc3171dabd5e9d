"""`clearsight train`: settings, one call, and what a person or a program reads afterwards."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clearsight.cli import options
from clearsight.cli.options import OUTPUT, option
from clearsight.cli.output import plain, print_json, render_judged, tell
from clearsight.cli.settings import takes_settings


@takes_settings()
def train(
    data: options.OptionalData = None,
    *,
    settings: dict[str, Any],
    out: Annotated[Path | None, option("Run directory to create.", "--out", panel=OUTPUT)] = None,
    root: options.Root = Path("runs"),
    resume: Annotated[str | None, option("Run directory to resume, or last.", "--resume", panel=OUTPUT)] = None,
    finish: Annotated[
        bool,
        option(
            "With --resume: do not train further; evaluate, save and report the run as it is.", "--finish", panel=OUTPUT
        ),
    ] = False,
    track: options.Track = None,
    quiet: options.Quiet = False,
    json_: options.Json = False,
) -> None:
    """Train a model, evaluate it, save it and write its report.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the data is not fit to train on, 4 the loss diverged (the last good
    model is kept), 130 Ctrl-C and 143 SIGTERM (the run is saved; continue it with --resume).
    """
    from clearsight.actions.train import train as train_model
    from clearsight.engines.team import leave, started_by_torchrun

    run = train_model(
        data, config=settings, out=out, root=root, quiet=quiet, note=tell(quiet=quiet),
        resume=resume, finish=finish, track=track or (),
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
    from clearsight.report.diagnosis import render_line
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
    found = [("doctor", render_line(one)) for one in run.findings if one.severity != "note"]
    places = (("model", summary["bundle"]), ("report", summary["report"]), *found, ("next", run.next_step))
    parts += [f"{name:<7} {plain(text)}" for name, text in places]
    return "\n".join(parts)
