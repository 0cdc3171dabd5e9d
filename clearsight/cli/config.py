"""`clearsight config show|schema`."""

from pathlib import Path
from typing import Annotated

import typer

from clearsight.cli.output import print_json

app = typer.Typer(help="Show the settings of a run.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def show(
    config: Annotated[Path | None, typer.Option("--config", help="TOML or JSON file.", show_default=False)] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, as train.lr=0.1.", show_default=False)
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the resolved settings as TOML."""
    from clearsight.config import build_config
    from clearsight.settings import merge, parse_setting, read_config_file, render_toml

    layers = [read_config_file(config)] if config else []
    resolved = build_config(merge(*layers, *(parse_setting(text) for text in set_ or [])))
    if json_:
        print_json(resolved.model_dump(mode="json"))
    else:
        typer.echo(render_toml(resolved).rstrip())


@app.command()
def schema() -> None:
    """Print the JSON Schema of the settings, with what each one means."""
    from clearsight.config import RunConfig

    print_json(RunConfig.model_json_schema())
