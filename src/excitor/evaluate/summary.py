"""An evaluation for readers: the table in the terminal, the page beside the results, the section of a model card."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, cast

from rich.box import SIMPLE
from rich.console import Console, ConsoleOptions
from rich.markdown import Markdown, TableElement
from rich.table import Table

from excitor.evaluate.gate import in_words
from excitor.evaluate.markdown import markdown_table, show
from excitor.evaluate.results import Metrics, Results


BEGIN, END = "<!-- begin: excitor eval -->", "<!-- end: excitor eval -->"


class _FoldingTable(TableElement):
    """A table that breaks what is too wide; Rich would cut digits off."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        for table in cast(Iterable[Table], super().__rich_console__(console, options)):
            for column in table.columns:
                column.overflow = "fold"
            yield table


class Page(Markdown):
    """Markdown for the terminal."""

    elements: ClassVar = Markdown.elements | {"table_open": _FoldingTable}


def summary_table(metrics: Metrics) -> Table:
    """All metrics for a terminal: a row each, a column for each subject."""
    headings, rows = _cells(metrics)
    view = Table(box=SIMPLE, caption="In brackets: 95 % bootstrap interval over items.", caption_justify="left")
    for place, heading in enumerate(headings):
        view.add_column(heading, justify="right" if place > 1 else "left", overflow="fold")
    last = None
    for task, *cells in rows:
        view.add_row("" if task == last else task, *cells)
        last = task
    return view


def markdown_page(results: Results, metrics: Metrics, sections: Mapping[str, str], plots: Mapping[str, str]) -> str:
    """The whole evaluation as Markdown, to be read or put into a model card.

    Args:
        results: What was measured on what.
        metrics: The summary.
        sections: Markdown by task.
        plots: File names by task.
    """
    parts = ["## Evaluation"]
    if results["verdict"]:
        parts.append(in_words(results["verdict"]))
    headings, rows = _cells(metrics)
    parts.append(markdown_table(headings, rows))
    parts.append("In brackets: 95 % bootstrap interval over items. Changes are against the base, item by item.")
    parts += [f"**Warning:** {warning}" for warning in results["warnings"]]
    for task, section in sections.items():
        parts += [f"### {task}", section]
        if task in plots:
            parts.append(f"![{task}]({plots[task]})")
    sources = ", ".join(f"{name}: `{source}`" for name, source in results["subjects"].items())
    parts += [f"{sources}. {_origins(results)}", f"```\n{results['command']}\n```"]
    return "\n\n".join(parts) + "\n"


def update_card(path: Path, section: str) -> None:
    """Put a section into a model card: in place of an earlier one, else at the end.

    Args:
        path: Of the README.md; made if there is none.
        section: Markdown.
    """
    card = path.read_text(encoding="utf-8") if path.exists() else ""
    before, begin, rest = card.partition(BEGIN)
    after = rest.partition(END)[2] if begin else ""
    gap = "\n" if before and not begin else ""
    path.write_text(f"{before}{gap}{BEGIN}\n{section}{END}{after or chr(10)}", encoding="utf-8")


def _origins(results: Results) -> str:
    """What was measured with which versions: tasks may have been done at different times."""
    tasks: dict[str, list[str]] = {}
    for name, task in results["tasks"].items():
        versions = task["measured"]["environment"]["versions"]
        tasks.setdefault(", ".join(f"{package} {version}" for package, version in versions.items()), []).append(name)
    if len(tasks) == 1:
        return f"Measured with {next(iter(tasks))}."
    return " ".join(f"Measured with {versions}: {', '.join(names)}." for versions, names in tasks.items())


def _cells(metrics: Metrics) -> tuple[list[str], Iterator[list[str]]]:
    subjects = list(dict.fromkeys(subject for own in metrics.values() for subject in own))
    return ["task", "metric", *subjects], _rows(metrics, subjects)


def _rows(metrics: Metrics, subjects: list[str]) -> Iterator[list[str]]:
    for task, own in metrics.items():
        # the base has no changes: another subject's order puts each beside what has changed
        for name in dict.fromkeys(name for found in [*own.values()][::-1] for name in found):
            found = [own[subject].get(name) for subject in subjects]
            unit = next(metric.unit for metric in found if metric)
            cells = [show(metric, signed=" change" in name) if metric else "" for metric in found]
            yield [task, f"{name} ({unit})" if unit else name, *cells]
