"""Options that several commands share and that are no settings."""

from pathlib import Path
from typing import Annotated, Any

import typer

OUTPUT = "Output"


def option(help_text: str, *names: str, panel: str | None = None) -> Any:
    """An option whose default goes without saying."""
    return typer.Option(*names, help=help_text, show_default=False, rich_help_panel=panel)


Data = Annotated[str, typer.Argument(help="Name or path of labelled data, as for train.")]
OptionalData = Annotated[
    str | None,
    typer.Argument(
        help="digits, mnist, ..., or the path of a folder, zip or tar of pictures, an IDX folder, NPZ or CSV.",
        show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    option("TOML or JSON file of settings; command-line options override it.", "--config", panel="Other settings"),
]
Set = Annotated[
    list[str] | None,
    option(
        "Any setting, for example train.rho=0.8; may be repeated. `clearsight config reference` lists them.",
        "--set",
        panel="Other settings",
    ),
]
Target = Annotated[str | None, option("Column of numbers to predict (regression).", "--target", panel="Data")]
Workers = Annotated[
    int | None, option("Number of parallel runs; by default one per core, or one per CUDA device.", "--workers")
]
Executor = Annotated[
    str, typer.Option("--executor", help="How to run in parallel: auto, threads, processes or dask://HOST:PORT.")
]
SkipBad = Annotated[bool, option("Skip bad files, duplicate pictures and conflicting labels.", "--skip-bad")]
FollowLinks = Annotated[bool, option("Follow links in a folder, wherever they lead.", "--follow-links")]
MaxMegapixels = Annotated[
    float | None, option("Largest picture file to read, in megapixels; by default as in training.", "--max-megapixels")
]
Root = Annotated[Path, typer.Option("--root", help="Folder for new run directories.", rich_help_panel=OUTPUT)]
Track = Annotated[
    list[str] | None, option("Also log to tensorboard or mlflow; may be repeated.", "--track", panel=OUTPUT)
]
Quiet = Annotated[bool, option("Print no progress and no notes.", "--quiet", panel=OUTPUT)]
Json = Annotated[bool, option("Print the result as one JSON object.", "--json", panel=OUTPUT)]


def parse_numbers(text: str, flag: str) -> list[float]:
    """`0.1,1` as [0.1, 1.0].

    Raises:
        UsageError: another text.
    """
    from clearsight.errors import UsageError

    try:
        return [float(word) for word in text.split(",") if word.strip()]
    except ValueError:
        raise UsageError(
            f"{flag} must be numbers with commas between, got {text!r}. For example {flag} 0.1,1."
        ) from None


def parse_size(text: str) -> int | list[int]:
    """`64` as 64, `48x64` (height x width) as [48, 64].

    Raises:
        UsageError: another text, or a side out of 2 to 4096.
    """
    from clearsight.errors import UsageError

    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.strip().isdigit() for side in sides):
        raise UsageError(f"--image-size must be a side or HEIGHTxWIDTH, got {text!r}. For example --image-size 64.")
    if not all(2 <= int(side) <= 4096 for side in sides):
        raise UsageError(f"--image-size must lie in 2 to 4096, got {text}. For example --image-size 64.")
    return int(sides[0]) if len(sides) == 1 else [int(side) for side in sides]
