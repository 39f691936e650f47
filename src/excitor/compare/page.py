"""The report as one self-contained page of HTML; it follows the reader's choice of light or dark."""

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from excitor.compare.tables import Table, all_tables
from excitor.compare.verdict import verdict


_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d0d4da, #3a4048); --soft: light-dark(#f4f5f7, #1d2126); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem;
  color: light-dark(#1b1f24, #e3e6ea); background: light-dark(#fff, #121519); }
.verdict { background: var(--soft); border: 1px solid var(--line); border-radius: .5rem; padding: .2rem 1rem; }
figure { margin: 1.5rem 0; color: inherit; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: right; vertical-align: top; }
th:first-child, td:first-child, td:last-child { text-align: left; }
tr:hover { background: var(--soft); }
pre { background: var(--soft); padding: .6rem .8rem; overflow-x: auto; }
.note { opacity: .75; font-size: .9rem; }
"""


def html_page(summary: dict[str, Any], pictures: Mapping[str, str]) -> str:
    """The page.

    Args:
        summary: See :func:`excitor.compare.summary.summarise`.
        pictures: SVG by name.
    """
    title = escape(summary["title"])
    figures = "\n".join(f"<figure>{svg}</figure>" for svg in pictures.values())
    command = escape(f"{summary['command']}\n{summary['command']} --report-only")
    body = [
        f"<h1>{title}</h1>",
        f'<div class="verdict">{"".join(map(_paragraph, verdict(summary)))}</div>',
        figures,
        f"<p>{escape(summary['about'])}</p>" if summary["about"] else "",
        *(_table(table) for table in all_tables(summary)),
        f"<h2>Again</h2>\n<pre>{command}</pre>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _paragraph(text: str) -> str:
    """A paragraph of Markdown: lists, and bold text."""
    html = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", escape(text))
    if html.startswith("- "):
        items = "".join(f"<li>{line.removeprefix('- ')}</li>" for line in html.splitlines())
        return f"<ul>{items}</ul>"
    return f"<p>{html}</p>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.headings)
    rows = "\n".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return (
        f'<h2>{escape(table.title)}</h2>\n<p class="note">{escape(table.note)}</p>\n'
        f'<div class="scroll"><table>\n<tr>{head}</tr>\n{rows}\n</table></div>'
    )


def _cell(text: str) -> str:
    """Names of files lead to them."""
    return re.sub(r"runs/[^,\s]+\.json", lambda found: f'<a href="{found[0]}">{found[0][5:-5]}</a>', escape(text))
