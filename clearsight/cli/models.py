"""`clearsight models`: the kinds of networks, with their sizes for given pictures."""

from typing import Annotated

import typer

from clearsight.cli import options
from clearsight.cli.output import print_json


def models(
    image_size: Annotated[
        str, typer.Option("--image-size", help="Size of the pictures: a side or HEIGHTxWIDTH.")
    ] = "32",
    channels: Annotated[int, typer.Option("--channels", min=1, max=64, help="Channels of the pictures.")] = 3,
    classes: Annotated[int, typer.Option("--classes", min=2, max=100_000, help="Number of classes.")] = 10,
    json_: options.Json = False,
) -> None:
    """List the available networks, with their numbers of weights and multiply-adds per picture."""
    from clearsight.cli.options import parse_size
    from clearsight.config.families import TIMM
    from clearsight.models.count import list_models

    size = parse_size(image_size)
    height, width = (size, size) if isinstance(size, int) else size
    found = list_models((height, width, channels), outputs=classes)
    if json_:
        print_json({"image_size": [height, width], "channels": channels, "classes": classes, "models": found})
        return
    typer.echo(f"for pictures of {height}x{width} with {channels} channels and {classes} classes\n")
    typer.echo(f"{'model':<20}{'weights':>12}{'multiply-adds':>16}  what")
    for row in found:
        numbers = f"{row['parameters']:>12,}{row['multiply_adds']:>16,}" if row["fits"] else f"{'-':>12}{'-':>16}"
        typer.echo(f"{row['model']:<20}{numbers}  {row['title'] if row['fits'] else row['why']}")
    typer.echo(f"{TIMM.name:<20}{'':>28}  {TIMM.title}")
