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
    Path | None, option("TOML or JSON file of settings, under the options here.", "--config", panel="Other settings")
]
Set = Annotated[
    list[str] | None,
    option(
        "Any setting, as train.rho=0.8; may be repeated. `clearsight config reference` lists them.",
        "--set",
        panel="Other settings",
    ),
]
Target = Annotated[str | None, option("Predict the numbers of this column (regression).", "--target", panel="Data")]
Workers = Annotated[int | None, option("Runs at a time; by default one a core, or one a CUDA device.", "--workers")]
Executor = Annotated[str, typer.Option("--executor", help="auto, threads, processes or dask://HOST:PORT.")]
SkipBad = Annotated[bool, option("Go on without bad files, copies of pictures and conflicting labels.", "--skip-bad")]
FollowLinks = Annotated[
    bool, option("Read what links in a folder lead to, also out of it and to other folders.", "--follow-links")
]
MaxMegapixels = Annotated[
    float | None, option("Largest picture file that is read; by default 50 megapixels.", "--max-megapixels")
]
Root = Annotated[Path, typer.Option("--root", help="Where run directories are made.", rich_help_panel=OUTPUT)]
Track = Annotated[
    list[str] | None, option("Also write to tensorboard or mlflow; may be repeated.", "--track", panel=OUTPUT)
]
Quiet = Annotated[bool, option("No progress, no notes.", "--quiet", panel=OUTPUT)]
Json = Annotated[bool, option("Print one JSON object.", "--json", panel=OUTPUT)]


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
