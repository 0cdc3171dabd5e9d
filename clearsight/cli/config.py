"""`clearsight config show|schema`."""

from typing import Any

import typer

from clearsight.cli import options
from clearsight.cli.output import print_json
from clearsight.cli.settings import SETTINGS, PanelCommand, name_option, takes_settings

app = typer.Typer(
    help="Show the settings and their documentation.", no_args_is_help=True, add_completion=False, rich_markup_mode=None
)


@app.command(cls=PanelCommand)
@takes_settings((), target=False)
def show(*, settings: dict[str, Any], json_: options.Json = False) -> None:
    """Print the settings in force as TOML."""
    from clearsight.config.build import build_config
    from clearsight.config.files import render_toml

    resolved = build_config(settings)
    if json_:
        print_json(resolved.model_dump(mode="json"))
    else:
        typer.echo(render_toml(resolved).rstrip())


@app.command()
def schema() -> None:
    """Print the JSON Schema of the settings, with their descriptions."""
    import json

    from clearsight.config.schema import RunConfig

    typer.echo(json.dumps(RunConfig.model_json_schema(), indent=1))


@app.command()
def reference() -> None:
    """Print a page of all settings.

    The page is Markdown and lists the flag, values, default and description of every setting.
    """
    from clearsight.config.reference import render_reference

    typer.echo(render_reference({key: name_option(key) for key in SETTINGS}).rstrip())
