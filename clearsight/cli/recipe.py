"""`clearsight recipe list|run`: published experiments, measured again."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from clearsight.cli.output import print_json

app = typer.Typer(help="Run published experiments again.", no_args_is_help=True, rich_markup_mode=None)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("list")
def list_(json_: Json = False) -> None:
    """All recipes with what was published."""
    from clearsight.recipes import list_experiments, load_experiment

    found = [load_experiment(name) for name in list_experiments()]
    if json_:
        print_json({"recipes": [{k: v for k, v in asdict(e).items() if k != "variants"} for e in found]})
        return
    for experiment in found:
        typer.echo(f"{experiment.name:<4} {experiment.title}\n     published: {experiment.published}")


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="Such as D2; see `clearsight recipe list`.")],
    seeds: Annotated[int | None, typer.Option(min=1, help="Runs a variant.", show_default=False)] = None,
    root: Annotated[Path, typer.Option("--root", help="Where the first seed's run is kept.")] = Path("runs"),
    quiet: Annotated[bool, typer.Option("--quiet", help="No notes.")] = False,
    json_: Json = False,
) -> None:
    """Run a recipe over several seeds; print its table. The first seed of each variant leaves a run with a report."""
    from clearsight.data.load import load_data
    from clearsight.errors import DivergedError
    from clearsight.pipeline import train_dataset
    from clearsight.recipes import TABLE_HEAD, load_experiment, measure, render_row
    from clearsight.run import train

    experiment = load_experiment(name)
    rows: list[dict[str, Any]] = []
    if not json_:
        typer.echo(
            f"{experiment.name}: {experiment.title}\nsource: {experiment.source}\npublished: {experiment.published}\n"
        )
        typer.echo(TABLE_HEAD)
    dataset = load_data(experiment.variants[0].config.data.source)
    for variant in experiment.variants:
        folders: list[Any] = []

        def train_one(config: Any, number: int, folders: list[Any] = folders) -> Any:
            if number > 0:
                return train_dataset(config, dataset)
            try:
                kept = train(dataset, config=config, root=root, quiet=True)
            except DivergedError as error:
                folders.append(error.run.path)  # type: ignore[attr-defined]
                raise
            folders.append(kept.path)
            return kept

        measured = measure(variant, seeds=seeds or experiment.seeds, run=train_one)
        rows.append(
            {
                "variant": variant.name, "split": variant.split, "mean": measured.mean,
                "interval": [measured.low, measured.high], "n": len(measured.accuracies),
                "accuracies": list(measured.accuracies), "train_accuracies": list(measured.train_accuracies),
                "seconds": measured.seconds, "diverged": measured.diverged,
                "expect": list(variant.expect), "as_expected": measured.as_expected,
                "run": str(folders[0]),
            }
        )  # fmt: skip
        if not json_:
            typer.echo(render_row(experiment, measured))
        if not quiet:
            typer.echo(f"report: {folders[0]}/report.html", err=True)
    if json_:
        print_json({"recipe": experiment.name, "published": experiment.published, "variants": rows})
