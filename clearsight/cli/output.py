"""How commands say things: JSON alone on standard output, notes and progress on standard error."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from clearsight.errors import UsageError

_DRAWINGS = (b"<?xml", b"<svg", b"gif8", b"<!doctype")  # an SVG, a GIF or a page, as commands write them


def print_json(value: Any) -> None:
    """One JSON object on standard output; NaN and infinity, which JSON lacks, become null."""
    from clearsight.runs.store import drop_infinite

    typer.echo(json.dumps(drop_infinite(value), allow_nan=False))


def plain(text: str | Path) -> str:
    """Text or a path on one line, with line breaks, terminal codes and broken characters of names spelt out."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in str(text)
    )


def plain_lines(text: str) -> str:
    """The same for a text of lines; a line that we colour stays as it is."""
    return "\n".join(line if line.startswith("\x1b") else plain(line) for line in text.split("\n"))


def print_notes(notes: tuple[str, ...] | list[str], *, quiet: bool = False) -> None:
    """Notes on standard error."""
    for text in () if quiet else notes:
        typer.echo(f"note: {plain(text)}", err=True)


def tell(*, quiet: bool) -> Callable[[str], None]:
    """What writes a note to standard error, unless quiet."""
    return lambda text: print_notes([text], quiet=quiet)


def check_place(path: Path | None, flag: str) -> None:
    """Refuse a picture to write that could not be written, or would replace another kind of file, before any work is done.

    Raises:
        UsageError: it is a folder, its folder is missing, or something other than an earlier picture lies there.
    """
    if path is not None and (not path.name or path.is_dir() or not path.parent.is_dir()):
        raise UsageError(
            f"{flag} must be a file in a folder that exists, got {path}. Make the folder, or choose another."
        )
    if path is not None and path.is_file() and path.stat().st_size and not begins_with(path, *_DRAWINGS):
        raise UsageError(
            f"{flag} must not replace what is no earlier picture or page, got {path}. Choose another name."
        )


def begins_with(path: Path, *heads: bytes) -> bool:
    """Whether a file begins with one of these, in lower case."""
    with path.open("rb") as file:
        return file.read(max(map(len, heads))).lower().startswith(heads)


def use_color() -> bool:
    """Whether standard output is a terminal that may be coloured (see no-color.org)."""
    return (
        sys.stdout is not None
        and sys.stdout.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
    )


def render_judged(evaluation: Any) -> str:
    """All that a terminal shows of the split that counts: confusion matrix, classes, and the one line."""
    from clearsight.report.text import render_confusion, render_evaluation

    color = use_color()
    head, _, table = render_evaluation(evaluation, split=evaluation.split, color=color).partition("\n\n")
    if evaluation.confusion is None:
        return head
    names = [metrics.name for metrics in evaluation.classes]
    return f"{render_confusion(evaluation.confusion, names, color=color)}\n\n{table}\n\n{head}"
