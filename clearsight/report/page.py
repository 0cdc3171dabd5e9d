"""HTML building blocks: paragraphs, tables, figures, and the page with its style sheet. It must not know runs.

All markup stands in `templates/`, where Jinja2 escapes whatever is given. Arguments named `html` are markup, which the functions
here return; all other text may come from anywhere.
"""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from clearsight.report.figure import COLORS
from clearsight.report.text import clean

_TEMPLATES = Path(__file__).parent / "templates"
_PIXELS_PER_POINT = 1.25


def _clean(value: object) -> object:
    """Text from anywhere without characters that are not printable; markup as it is."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, finalize=_clean, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def render(block: str, **values: Any) -> Markup:
    """A macro of `blocks.html` with these values."""
    return Markup(getattr(_environment().get_template("blocks.html").module, block)(**values))


def read_template(name: str) -> Markup:
    """A style sheet or script of ours, as it is."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))


def join(parts: Iterable[str]) -> Markup:
    """Markup put together; what is no markup is escaped."""
    return Markup("").join(parts)


def paragraph(text: str, *, kind: str = "") -> Markup:
    """One `<p>`."""
    return render("paragraph", text=text, kind=kind)


def section(title: str, *html: Markup | str, half: bool = False) -> Markup:
    """A titled card; `half` shares its line with a neighbour on wide screens."""
    return render("section", title=title, html=join(html), half=half)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, words: bool = False) -> Markup:
    """A table whose first column names its rows; `words` sets the others as text instead of numbers."""
    return render("table", header=header, rows=rows, words=words)


def items(lines: Iterable[str], *, kind: str = "", numbered: bool = False) -> Markup:
    """A list, an item a line."""
    return render("items", lines=lines, kind=kind, numbered=numbered)


def plot(svg: str, *, label: str) -> Markup:
    """An SVG text as part of the page, in the page's colours and as wide as there is room while its text stays small.

    Args:
        svg: from `plots`.
        label: what the picture shows, for who cannot see it.
    """
    head, body = svg.split(">", 1)
    width, height = (float(size) for size in re.findall(r'(?:width|height)="([\d.]+)pt"', head))
    inner = re.sub(r"<style.*?</style>|<title>.*?</title>", "", body, flags=re.DOTALL)
    inner = inner.replace("xlink:href", "href")
    for name, color in COLORS.items():
        inner = inner.replace(f": {color}", f": var(--{name})")
    most = f"{_PIXELS_PER_POINT * width:.0f}"
    return render("plot", html=Markup(inner), label=label, width=f"{width:g}", height=f"{height:g}", most=most)


def encode_png(png: bytes) -> str:
    """A picture as text that a page can hold."""
    return base64.b64encode(png).decode()


def pictures(items: Iterable[tuple[bytes, str, Sequence[str]]], *, cell: str, shape: str = "1") -> Markup:
    """A grid of PNG pictures, each with its alternative text and the lines of its caption, the first one dark.

    Args:
        items: of (PNG, text, lines).
        cell: least width of a picture, as CSS.
        shape: width over height of a picture, as CSS.
    """
    shown = [{"data": encode_png(png), "text": text, "lines": lines} for png, text, lines in items]
    return render("pictures", items=shown, cell=cell, shape=shape)


def render_page(
    title: str,
    html: Iterable[Markup | str],
    *,
    style: str = "",
    script: str = "",
    facts: Mapping[str, Any] | None = None,
) -> str:
    """The whole document.

    Args:
        style, script: of this page, names of files of ours in `templates`. facts: for the script, with text from anywhere.
    """
    sheets = [read_template(name) for name in ("page.css", style) if name]
    return _environment().get_template("page.html").render(
        title=title, parts=[part for part in html if part], style=join(sheets),
        script=read_template(script) if script else "", facts=facts,
    ) + "\n"  # fmt: skip


def origin_sections(config_text: str, environment: Mapping[str, object]) -> list[Markup]:
    """What a run was made with: its configuration, and names and values of its environment, side by side."""
    rows = [(str(key), str(value)) for key, value in environment.items()]
    return [
        section("Configuration", render("code", lines=config_text.splitlines()), half=True),
        section("Environment", table((), rows, words=True), half=True),
    ]
