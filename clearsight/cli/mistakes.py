"""`clearsight mistakes`: the worst mistakes of a model, where they come from, and which training pictures are like them."""

import re
from pathlib import Path
from typing import Annotated

import typer

from clearsight.cli import options
from clearsight.cli.options import option
from clearsight.cli.output import plain, print_json, print_notes, tell

_SHOWN = 10
_PAGE = "mistakes"


def mistakes(
    model: Annotated[str, typer.Argument(help="Model file or run directory.")],
    data: Annotated[
        str | None,
        typer.Argument(help="Name or path of labelled data; by default the data of the run.", show_default=False),
    ] = None,
    split: Annotated[str | None, option("Split to look at: train, valid, test or all.", "--split")] = None,
    count: Annotated[int, typer.Option("--count", min=1, max=1000, help="Number of mistakes to show.")] = 24,
    saliency: Annotated[
        str,
        typer.Option(
            "--saliency", help="Method that shows what an answer rests on: auto, grad-cam, occlusion or none."
        ),
    ] = "auto",
    neighbours: Annotated[
        int, typer.Option("--neighbours", min=0, max=20, help="Similar training pictures to show beside each mistake.")
    ] = 3,
    skip_bad: options.SkipBad = False,
    follow_links: options.FollowLinks = False,
    max_megapixels: options.MaxMegapixels = None,
    out: Annotated[
        Path | None,
        option(
            "HTML page to write; by default mistakes.html in the run directory, with DATA and --split in its name if given.",
            "--out",
        ),
    ] = None,
    quiet: options.Quiet = False,
    json_: options.Json = False,
) -> None:
    """Show the mistakes with the highest loss, what each answer rests on, and the most similar training pictures."""
    from clearsight.actions.mistakes import find_mistakes
    from clearsight.bundle.load import load
    from clearsight.cli.output import check_place
    from clearsight.core.progress import build_meter
    from clearsight.runs.store import write_text

    bundle = load(model)
    print_notes(bundle.notes, quiet=quiet)
    if out is None:
        out = (Path(model) if Path(model).is_dir() else Path()) / _name_page(data, split)
    check_place(out, "--out")
    silent = quiet or json_
    found = find_mistakes(
        bundle, data, split=split, count=count, saliency=saliency, neighbours=neighbours, skip_bad=skip_bad,
        follow_links=follow_links, max_megapixels=max_megapixels, note=tell(quiet=silent), meter=build_meter(quiet=silent),
    )  # fmt: skip
    write_text(out, found.render())
    summary = {"model": model, "page": str(out), **found.summary()}
    if json_:
        print_json(summary)
        return
    for one in found.worst[:_SHOWN]:
        near = f"  like {', '.join(near.label for near in one.neighbours)}" if one.neighbours else ""
        typer.echo(plain(f"{one.name}  {one.true} taken for {one.answer}  {one.confidence:.1%} confident{near}"))
    typer.echo(f"{summary['wrong']:,} of {summary['n']:,} answers ({summary['split']}) are wrong\nlook    {plain(out)}")
    for other in sorted(set(out.parent.glob(f"{_PAGE}*.html")) - {out}):
        typer.echo(f"earlier {plain(other)}")


def _name_page(data: str | None, split: str | None) -> str:
    """A name of its own for each data set and split, so that one page never takes the place of another's."""
    parts = [_PAGE, *([re.sub(r"[^\w.-]+", "-", Path(data).stem)] if data else [])]
    return "-".join(parts + ([split] if split not in (None, "test") else [])) + ".html"
