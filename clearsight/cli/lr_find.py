"""`clearsight lr-find`: the loss at rising learning rates, and which one to take."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clearsight.cli import options
from clearsight.cli.options import option
from clearsight.cli.output import check_place, plain, print_json, print_notes, tell
from clearsight.cli.settings import ONE_STEP, takes_settings


@takes_settings(ONE_STEP)
def lr_find(
    data: options.Data,
    *,
    low: Annotated[float, typer.Option("--low", help="Lowest learning rate.")] = 1e-7,
    high: Annotated[float, typer.Option("--high", help="Highest learning rate.")] = 10.0,
    steps: Annotated[int, typer.Option("--steps", help="Number of learning rates, one batch each.")] = 100,
    plot: Annotated[Path | None, option("SVG file to plot the losses to.", "--plot")] = None,
    settings: dict[str, Any],
    quiet: options.Quiet = False,
    json_: options.Json = False,
) -> None:
    """Find a good learning rate by training one batch at each of many rates. The weights are then restored.

    On a log scale, the suggestion lies halfway between the rate where the loss has made four fifths of its fall and the rate
    where it is lowest. `train --lr auto` runs the same search and uses the suggestion.
    """
    from clearsight.actions.lr_find import load_and_search
    from clearsight.config.build import build_config
    from clearsight.config.files import merge
    from clearsight.core.progress import build_meter
    from clearsight.runs.store import write_text

    check_place(plot, "--plot")
    settings = merge(settings, {"data": {"source": data}})
    quiet = quiet or json_
    found, notes = load_and_search(
        build_config(settings), low=low, high=high, steps=steps, note=tell(quiet=quiet), meter=build_meter(quiet=quiet)
    )
    print_notes(notes, quiet=quiet)
    if plot:
        from clearsight.report.curves import draw_rate_search

        svg = draw_rate_search(
            found.lrs,
            found.losses,
            found.smoothed,
            suggestion=found.suggestion,
            steepest=found.steepest,
            reason=found.reason,
        )
        write_text(plot, svg + "\n")
    if json_:
        print_json({"data": data, "plot": str(plot) if plot else None, **found.as_dict()})
    elif not quiet:
        typer.echo(_render(found))
        if plot:
            typer.echo(f"plot   {plain(plot)}")
    else:
        typer.echo("none" if found.suggestion is None else f"{found.suggestion:.3g}")


def _render(found: Any) -> str:
    """The curve in characters, and the sentence below it."""
    import numpy as np

    from clearsight.report.chart import render_chart

    shown = found.smoothed[np.isfinite(found.smoothed)]
    lines = []
    if len(shown) > 1:
        first, least = float(shown[0]), float(shown.min())
        room = max(first - least, 0.05 * abs(first), 1e-12)
        mark = None if found.suggestion is None else int(np.abs(found.lrs - found.suggestion).argmin())
        lines.append(render_chart(found.smoothed, low=least - 0.1 * room, high=first + 0.5 * room, mark=mark))
        lines.append(f"{'':>9} └{f'{found.lrs[0]:.1g}':<48}{f'{found.lrs[-1]:.2g}':>16}")
        lines.append(f"{'':>11}{'learning rate (log scale)':^64}")
    if found.suggestion is None:
        return "\n".join([*lines, f"no suggestion, because {found.reason}"])
    others = ", ".join(f"{name} {getattr(found, name):.3g}" for name in ("valley", "steepest", "lowest"))
    return "\n".join([*lines, f"suggestion {found.suggestion:.3g}   ({others})"])
