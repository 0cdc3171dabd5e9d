"""`clearsight recipe list|run`: published experiments, measured again."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from clearsight.cli import options
from clearsight.cli.output import plain, print_json, print_notes, tell

app = typer.Typer(
    help="Rerun published experiments.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)


@app.command("list")
def list_(json_: options.Json = False) -> None:
    """List all recipes with the published results."""
    from clearsight.recipes import list_experiments, load_experiment

    found = [load_experiment(name) for name in list_experiments()]
    if json_:
        print_json({"recipes": [{k: v for k, v in asdict(e).items() if k != "variants"} for e in found]})
        return
    for experiment in found:
        typer.echo(f"{experiment.name:<4} {experiment.title}\n     published: {experiment.published}")


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="Name of a recipe, such as D2; see `clearsight recipe list`.")],
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs per variant.", show_default=False)] = None,
    root: Annotated[Path, typer.Option("--root", help="Folder for the run of the first seed.")] = Path("runs"),
    quiet: options.Quiet = False,
    json_: options.Json = False,
) -> None:
    """Run a recipe with several seeds and print its table. The run of each variant's first seed is kept, with its report."""
    from clearsight.recipes import describe_measured, find_name, load_experiment, render_measured, run_experiment
    from clearsight.recipes.searches import load_search
    from clearsight.recipes.table import RULE, TABLE_HEAD

    if (searched := load_search(find_name(name))) is not None:
        _run_search(searched, seeds, root, quiet, json_)
        return
    experiment = load_experiment(name)
    rows: list[dict[str, object]] = []
    if not json_:
        typer.echo(f"{experiment.name}: {experiment.title}\nsource: {experiment.source}")
        typer.echo(f"published: {experiment.published}\n\n{TABLE_HEAD}")
    for measured in run_experiment(experiment, seeds=seeds, root=root):
        rows.append(describe_measured(measured))
        if not json_:
            typer.echo(render_measured(experiment.name, measured))
        print_notes([f"report of seed 0: {measured.first.path}/report.html"], quiet=quiet)
    if len(rows) > 1:
        print_notes([f"losses side by side: {root / experiment.name}.svg"], quiet=quiet)
    if any(row["verdict"] for row in rows):
        print_notes([RULE], quiet=quiet)
    if json_:
        print_json({"recipe": experiment.name, "published": experiment.published, "variants": rows})


def _run_search(recipe: Any, seeds: int | None, root: Path, quiet: bool, json_: bool) -> None:
    from clearsight.errors import UsageError
    from clearsight.recipes.searches import run_search_recipe

    if seeds is not None:
        raise UsageError(f"--seeds must be left out for {recipe.name}, which is a search, got {seeds}. Remove it.")
    silent = quiet or json_
    measured = run_search_recipe(recipe, root=root, quiet=silent, note=tell(quiet=silent))
    if json_:
        print_json(measured.describe())
        return
    typer.echo(f"{recipe.name}: {recipe.title}\nsource: {recipe.source}\npublished: {recipe.published}\n")
    typer.echo(f"{measured.render()}\nsearch  {plain(measured.tuned.path)}")
