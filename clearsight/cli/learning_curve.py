"""`clearsight learning-curve`: how errors fall with the number of training pictures."""

from pathlib import Path
from typing import Annotated, Any

import typer

from clearsight.cli import options
from clearsight.cli.options import parse_numbers
from clearsight.cli.output import check_place, plain, print_json, print_notes
from clearsight.cli.settings import MANY_RUNS, takes_settings


@takes_settings(MANY_RUNS)
def learning_curve(
    data: options.Data,
    *,
    shares: Annotated[
        str, typer.Option("--shares", help="Shares of the training rows, in rising order.")
    ] = "0.1,0.2,0.4,0.7,1",
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=100, help="Runs per share.")] = 3,
    plot: Annotated[Path, typer.Option("--plot", help="SVG file to plot the curve to.")] = Path("learning-curve.svg"),
    settings: dict[str, Any],
    quiet: options.Quiet = False,
    json_: options.Json = False,
) -> None:
    """Plot training and validation error against the number of training rows, with several seeds per size.

    If a gap between the curves closes slowly, more data helps. If they meet at a high error, a different model may help. The
    test split is not used.
    """
    from clearsight.actions.learning_curve import measure_curve
    from clearsight.config.build import build_config
    from clearsight.config.files import merge
    from clearsight.core.progress import build_meter
    from clearsight.report.curves import draw_learning_curve
    from clearsight.runs.store import write_text

    check_place(plot, "--plot")
    settings = merge(settings, {"data": {"source": data}})
    wanted = parse_numbers(shares, "--shares")
    curve = measure_curve(build_config(settings), shares=wanted, seeds=seeds, meter=build_meter(quiet=quiet or json_))
    print_notes(curve.notes, quiet=quiet or json_)
    write_text(plot, draw_learning_curve(curve.sizes, curve.errors, what=curve.what, floor=curve.floor) + "\n")
    if json_:
        print_json({"data": data, "plot": str(plot), **curve.as_dict()})
        return
    typer.echo(
        f"{'pictures':>9}  {curve.what}, mean of {seeds}" + ("" if seeds == 1 else " (95 % interval of the mean)")
    )
    for row in curve.rows():
        parts = [f"{split} {cell['mean']:8.3f}{_interval(cell)}" for split, cell in row["errors"].items()]
        typer.echo(f"{row['size']:>9,}  " + "   ".join(parts))
    typer.echo(plain(plot))


def _interval(cell: dict[str, Any]) -> str:
    return "" if cell["low"] is None else f" ({cell['low']:.3f} to {cell['high']:.3f})"
