"""`clearsight config show|schema`."""

import typer

from clearsight.cli import options
from clearsight.cli.output import print_json

app = typer.Typer(help="Show the settings of a run.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def show(
    config: options.Config = None,
    set_: options.Set = None,
    json_: options.Json = False,
) -> None:
    """Print the resolved settings as TOML."""
    from clearsight.config.files import merge, parse_setting, read_config_file, render_toml
    from clearsight.config.schema import build_config

    layers = [read_config_file(config)] if config else []
    resolved = build_config(merge(*layers, *(parse_setting(text) for text in set_ or [])))
    if json_:
        print_json(resolved.model_dump(mode="json"))
    else:
        typer.echo(render_toml(resolved).rstrip())


@app.command()
def schema() -> None:
    """Print the JSON Schema of the settings, with what each one means."""
    from clearsight.config.schema import RunConfig

    print_json(RunConfig.model_json_schema())


@app.command()
def reference() -> None:
    """Print a page about every setting: its flag, its values, what is usual, and what it is."""
    from typer.main import get_command

    from clearsight.cli.train import train
    from clearsight.config.files import complete_key
    from clearsight.config.reference import render_reference
    from clearsight.config.schema import known_keys

    alone = typer.Typer()
    alone.command()(train)
    flags = {"augment.preset": "--augment"}
    for option in get_command(alone).params:
        name = str(option.name).strip("_")
        key = "model.family" if name == "model" else complete_key(name)
        if key in known_keys():
            flags[key] = option.opts[-1]
    typer.echo(render_reference(flags).rstrip())
