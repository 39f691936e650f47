"""The report of a comparison: ``results.json``, ``README.md``, ``index.html`` and the pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.table import Table as Screen

from excitor.compare.page import html_page
from excitor.compare.plots import draw_all
from excitor.compare.summary import summarise
from excitor.compare.tables import all_tables, ranks
from excitor.compare.verdict import verdict
from excitor.errors import ExcitorError
from excitor.evaluate.markdown import markdown_table
from excitor.train.folder import write_text


if TYPE_CHECKING:
    from excitor.compare.plan import Plan


def write_report(
    plan: "Plan",
    tuned: dict[str, Any],
    tuning: Sequence[dict[str, Any]],
    results: Sequence[dict[str, Any]],
    folder: Path,
) -> Screen:
    """Write everything that readers see.

    Args:
        plan: What is compared.
        tuned: How learning rates were chosen.
        tuning: The runs they were chosen by.
        results: The runs of the seeds.
        folder: Receives the files; its ``runs/`` holds the runs.

    Returns:
        The first rank table, for the terminal.

    Raises:
        ExcitorError: There is no finished run.
    """
    summary = summarise(plan, tuned, tuning, results)
    if not summary["rows"]:
        raise ExcitorError(f"{folder} holds no finished run of a seed: there is nothing to report yet.")
    write_text(folder / "results.json", json.dumps(summary, indent=1) + "\n")
    pictures = draw_all(summary, folder)
    write_text(folder / "README.md", markdown_page(summary, list(pictures)))
    write_text(folder / "index.html", html_page(summary, pictures))
    return _screen(summary)


def markdown_page(summary: dict[str, Any], pictures: Sequence[str]) -> str:
    """The report as Markdown; the verdict comes first."""
    parts = [f"# {summary['title']}", *verdict(summary)]
    parts += [f"![{name}]({name}.png)" for name in pictures]
    if summary["about"]:
        parts.append(summary["about"].strip())
    parts.append(origin(summary))
    for table in all_tables(summary):
        parts += [f"## {table.title}", table.note, markdown_table(table.headings, table.rows)]
    parts += ["## Again", f"```\n{summary['command']}\n{summary['command']} --report-only\n```"]
    return "\n\n".join(parts) + "\n"


def origin(summary: dict[str, Any]) -> str:
    """A sentence on how the numbers were made."""
    machines = "; ".join(
        f"{', '.join(one['hardware'].get('gpus', []) or [one['hardware']['machine'] + ' CPU'])}, "
        f"{one['hardware']['threads']} thread(s) a run, "
        + ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        for one in summary["environments"]
    )
    training = ", ".join(f"{name} {value}" for name, value in summary["training"].items())
    seeds = sorted({seed for row in summary["rows"] for seed in row["seeds"]})
    return (
        f"Seeds {', '.join(map(str, seeds))}. The same for all methods: {training}, the data and their "
        f"order. Made on {machines}."
    )


def _screen(summary: dict[str, Any]) -> Screen:
    table = ranks(summary, summary["ranked"][0])
    screen = Screen(box=SIMPLE, title=table.title)
    for place, heading in enumerate(table.headings):
        screen.add_column(heading, justify="left" if place in (0, 5) else "right", overflow="fold")
    for row in table.rows:
        screen.add_row(*row)
    return screen
