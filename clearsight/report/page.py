"""HTML building blocks: escaping, tables, figures, and the page with its style sheet. It must not know runs.

Arguments named `html` are markup; all other text is escaped here.
"""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape as _escape

from clearsight.report.figure import COLORS
from clearsight.report.text import clean

_PIXELS_PER_POINT = 1.25
_STYLE = """
:root { color-scheme: light dark; --page: #f6f8fa; --card: #ffffff; --ink: #24292f; --faint: #59636e; --rule: #d8dee4;
  --blue: #0072b2; --vermilion: #d55e00; --sky: #56b4e9; --alert: #fff1e5; }
@media (prefers-color-scheme: dark) { :root { --page: #0f1318; --card: #171c23; --ink: #e3e8ee; --faint: #9aa5b1;
  --rule: #323a44; --blue: #4aa8e0; --vermilion: #f08a3c; --sky: #2f6f96; --alert: #3a2413; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 1.5rem 1rem 3rem; display: grid; gap: 1rem;
  grid-template-columns: repeat(2, minmax(0, 1fr)); }
header, section, .alert { grid-column: 1 / -1; min-width: 0; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 1rem 1.25rem 1.1rem; }
section.half { grid-column: span 1; }
@media (max-width: 800px) { section.half { grid-column: 1 / -1; } }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 0 0 .5rem; font-size: 1.1rem; }
h3 { margin: 1rem 0 .3rem; font-size: 1rem; }
p { margin: .35rem 0; }
.meta, .note, figcaption small { color: var(--faint); }
.meta { overflow-wrap: anywhere; }
.note { font-size: .875rem; max-width: 80ch; }
.score { display: flex; flex-wrap: wrap; align-items: center; gap: .25rem 1.25rem; margin-top: .9rem; }
.score strong { font-size: 2.9rem; line-height: 1.1; font-weight: 650; font-variant-numeric: tabular-nums; }
.score p { flex: 1 1 20rem; max-width: 62ch; }
.alert { background: var(--alert); border: 1px solid var(--vermilion); border-left-width: 6px; border-radius: 8px;
  padding: .7rem 1rem; }
.scroll { overflow: auto; max-height: 44rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .925rem; }
th, td { padding: .28rem .5rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--faint); font-weight: 600; }
th:last-child, td:last-child { padding-right: 0; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tbody th { color: var(--ink); white-space: normal; overflow-wrap: break-word; max-width: 16rem; }
thead th { position: sticky; top: 0; background: var(--card); }
table.words td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
tbody tr:last-child > * { border-bottom: 0; }
figure { margin: 0; min-width: 0; }
svg { display: block; width: 100%; height: auto; margin: 0 auto; }
.grid { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(var(--cell), 1fr)); }
.grid img { display: block; width: 100%; aspect-ratio: var(--shape, 1); image-rendering: pixelated; border-radius: 4px;
  border: 1px solid var(--rule); }
.grid figcaption { font-size: .82rem; line-height: 1.35; margin-top: .25rem; overflow-wrap: anywhere; }
.grid small { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 2; overflow: hidden; }
.ramp { display: inline-block; width: 7rem; height: .7rem; vertical-align: -1px; border: 1px solid var(--rule);
  background: linear-gradient(90deg, #055a96, #ffffff, #b84800); }
ol { margin: .2rem 0; padding-left: 1.4rem; }
pre { margin: 0; overflow-x: auto; font: .85rem/1.5 ui-monospace, monospace; }
@media (max-width: 560px) { main { padding: 1rem .6rem 2rem; } section { padding: .8rem .8rem .9rem; }
  table { font-size: .78rem; } th, td { padding: .25rem .22rem; } }
@media print { body { background: none; } .scroll { max-height: none; } section { break-inside: avoid; } }
"""


def escape(text: str) -> str:
    """Text from anywhere, safe between tags and in quoted attributes."""
    return _escape(clean(text), quote=True)


def escape_lines(text: str) -> str:
    """The same of a text of several lines."""
    return "\n".join(map(escape, text.splitlines()))


def paragraph(text: str, *, kind: str = "") -> str:
    """One `<p>`."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def section(title: str, *html: str, half: bool = False) -> str:
    """A titled card; `half` shares its line with a neighbour on wide screens."""
    kind = ' class="half"' if half else ""
    return f"<section{kind}><h2>{escape(title)}</h2>{''.join(html)}</section>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, words: bool = False) -> str:
    """A table whose first column names its rows; `words` sets the others as text instead of numbers."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    kind = ' class="words"' if words else ""
    top = f"<thead><tr>{head}</tr></thead>" if header else ""
    return f'<div class="scroll"><table{kind}>{top}<tbody>{body}</tbody></table></div>'


def plot(svg: str, *, label: str) -> str:
    """An SVG text as part of the page, in the page's colours and as wide as there is room while its text stays small.

    Args:
        svg: from `plots`.
        label: what the picture shows, for who cannot see it.
    """
    head, body = svg.split(">", 1)
    width, height = (float(size) for size in re.findall(r'(?:width|height)="([\d.]+)pt"', head))
    start = (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}" '
        f'style="max-width:{_PIXELS_PER_POINT * width:.0f}px">'
    )
    inner = re.sub(r"<style.*?</style>|<title>.*?</title>", "", body, flags=re.DOTALL)
    inner = inner.replace("xlink:href", "href")
    for name, color in COLORS.items():
        inner = inner.replace(f": {color}", f": var(--{name})")
    return f"<figure>{start}{inner}</figure>"


def pictures(items: Iterable[tuple[bytes, str, Sequence[str]]], *, cell: str, shape: str = "1") -> str:
    """A grid of PNG pictures, each with its alternative text and the lines of its caption, the first one dark.

    Args:
        items: of (PNG, text, lines).
        cell: least width of a picture, as CSS.
        shape: width over height of a picture, as CSS.
    """
    return f'<div class="grid" style="--cell:{cell};--shape:{shape}">{"".join(_picture(*item) for item in items)}</div>'


def image(png: bytes, text: str) -> str:
    """One picture that is part of the page, with its alternative text."""
    data = base64.b64encode(png).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(text)}" loading="lazy">'


def _picture(png: bytes, text: str, lines: Sequence[str]) -> str:
    caption = "".join(f"<small>{escape(line)}</small>" if at else escape(line) for at, line in enumerate(lines))
    return f"<figure>{image(png, text)}<figcaption>{caption}</figcaption></figure>"


def render_page(title: str, html: Iterable[str], *, style: str = "", script: str = "", facts: str = "") -> str:
    """The whole document.

    Args:
        style, script: of this page, ours and not of data. facts: JSON for the script, with text from anywhere.
    """
    safe = facts.replace("<", "\\u003c").replace("&", "\\u0026")  # so that no text ends the element
    code = f'<script type="application/json" id="facts">{safe}</script>\n<script>{script}</script>\n' if script else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head>\n<body><main>\n"
        + "\n".join(part for part in html if part)
        + f"\n</main>{code}</body></html>\n"
    )


def origin_sections(config_text: str, environment: Mapping[str, object]) -> list[str]:
    """What a run was made with: its configuration, and names and values of its environment, side by side."""
    rows = [(str(key), str(value)) for key, value in environment.items()]
    return [
        section("Configuration", f"<pre>{escape_lines(config_text)}</pre>", half=True),
        section("Environment", table((), rows, words=True), half=True),
    ]
