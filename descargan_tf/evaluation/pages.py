"""Parts of the pages that reports are: one HTML file without anything from outside, and Markdown beside it."""

import base64
import html
import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np


def plain(value):
    """Make a value JSON-ready: numpy and paths become plain, a number that JSON lacks becomes its name."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def json_text(value):
    """What `plain` makes of a value, as a file's text."""
    return json.dumps(plain(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def number(name, value):
    """Set a metric's value as the tables do: mean square errors with four decimals, all else with three."""
    if not name.startswith("mse"):
        return f"{value:.3f}"
    return f"{value:.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:.1e}"


def markdown_table(rows):
    """Lines of a table of strings whose first row is its head; columns but the first are set to the right."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    marks = ["---"] + ["---:"] * (len(rows[0]) - 1)
    return ["| " + " | ".join(row) + " |" for row in (escaped[0], marks, *escaped[1:])]


class ScoreCell(NamedTuple):
    """A cell of `score_table`: lines, of which all but the first are set small, and whether it is in bold."""

    lines: list[str]
    bold: bool = False


def score_table(head, rows, caption):
    """HTML of a table that scrolls by itself where it is wider than the page.

    Args:
        head: cells of the first row.
        rows: a string, then cells, each a string or a ScoreCell.
        caption: what the table is; read to those who cannot see it.
    """
    top = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    body = []
    for first, *row in rows:
        cells = []
        for cell in row:
            cell = ScoreCell([cell]) if isinstance(cell, str) else cell
            value, *below = cell.lines
            small = "".join(f"<small>{html.escape(text)}</small>" for text in below if text)
            own = ' class="own"' if cell.bold else ""
            cells.append(f"<td{own}>{html.escape(value)}{small}</td>")
        body.append(f'<tr><th scope="row">{html.escape(first)}</th>{"".join(cells)}</tr>')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(caption)}"><table class="scores">'
        f"<caption>{html.escape(caption)}</caption><thead><tr>{top}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def facts(pairs):
    """HTML of a table of two columns, names and what they are."""
    rows = (
        f'<tr><th scope="row">{html.escape(str(key))}</th><td>{html.escape(str(value))}</td></tr>'
        for key, value in pairs
    )
    return f'<div class="scroll"><table class="facts"><tbody>{"".join(rows)}</tbody></table></div>'


def bullets(texts):
    """HTML of a list."""
    return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>"


def picture(figure):
    """HTML of a figures.FigureFile, the picture within it."""
    data = base64.b64encode(Path(figure.path).read_bytes()).decode()
    return (
        f'<figure><h3>{html.escape(figure.title)}</h3><img alt="{html.escape(figure.alt)}" '
        f'src="data:image/png;base64,{data}"><figcaption>{html.escape(figure.caption)}</figcaption></figure>'
    )


def page(title, sections):
    """Put a page together from its parts."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n" + "\n".join(sections) + "\n</main>\n</body>\n</html>\n"
    )


_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --soft: #5b5f66; --line: #d9dce1; --page: #ffffff; --card: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ea; --soft: #a4a9b1; --line: #3a3d43; --page: #17181b; --card: #222429; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem 1rem 3rem; max-width: 64rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
.result { background: var(--card); border-left: .3rem solid #0571b0; border-radius: .3rem; padding: .8rem 1rem;
  font-size: 1.05rem; }
.soft, figcaption, caption { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .4rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child, .facts td { text-align: left; }
tbody th { font-weight: 500; }
.scores th:first-child { position: sticky; left: 0; background: var(--page); max-width: 9.5rem; }
.scores td { white-space: nowrap; }
thead th { vertical-align: bottom; color: var(--soft); font-weight: 600; }
td.own { font-weight: 600; }
td small { display: block; color: var(--soft); font-weight: 400; }
.facts td { overflow-wrap: anywhere; }
.facts th { width: 38%; }
figure { margin: 1.2rem 0 2rem; }
figure img { display: block; max-width: 100%; height: auto; padding: .4rem; background: #fff;
  border: 1px solid var(--line); border-radius: .4rem; }
figure h3 { margin: 0 0 .4rem; font-size: 1.02rem; }
pre { background: var(--card); padding: .8rem 1rem; border-radius: .3rem; overflow-x: auto; font-size: .85rem; }
details { margin: .6rem 0; }
summary { cursor: pointer; }
"""
