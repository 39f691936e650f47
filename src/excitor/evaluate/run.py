"""An evaluation from its arguments to its verdict."""

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from excitor.environment import describe_machine
from excitor.evaluate.arguments import EvalArguments
from excitor.evaluate.gate import in_words, judge
from excitor.evaluate.parallel import this_process
from excitor.evaluate.plan import Planned, plan
from excitor.evaluate.plots import draw
from excitor.evaluate.results import SCHEMA, Metrics, Results, record
from excitor.evaluate.store import Finished, Measured, read_items, write_items
from excitor.evaluate.subjects import Lineup, read_lineup
from excitor.evaluate.summary import Page, markdown_page, summary_table, update_card
from excitor.evaluate.task import Item
from excitor.evaluate.unknown import unknown_share, unknown_warning


Items = dict[str, dict[str, list[Item]]]
"""By task and subject."""


def evaluate(arguments: EvalArguments, console: Console | None = None) -> Results:
    """Measure a base and what was fine-tuned from it on the same items, and judge it.

    The folder ``arguments.out`` receives ``results.json``, ``README.md``, plots, and for each task its items; tasks
    that are there already are not done again. docs/evaluation.md describes each.

    Under ``accelerate launch`` every process calls this, and they share the items; the first one writes.

    Args:
        arguments: The evaluation.
        console: Where to print; the terminal when not given.

    Returns:
        What ``results.json`` holds.

    Raises:
        ExcitorError: Something the user can mend; see the message. Most of it is found before weights are loaded.
    """
    arguments.check()
    state = this_process()
    console = console or Console(quiet=not state.is_main_process)
    lineup = read_lineup(arguments)
    planned = plan(arguments, lineup)
    for one in planned:
        one.task.check(lineup.tokenizer)
    warning = _unknown_characters(planned, lineup)
    if warning:
        console.print(f"Warning: {warning}")

    finished = _measure(planned, lineup, arguments, console)
    items = {name: one.items for name, one in finished.items()}
    metrics = _summarise(planned, items)
    results: Results = {
        "schema": SCHEMA,
        "created": _now(),
        "arguments": arguments.to_dict(),
        "command": arguments.command,
        "subjects": lineup.sources,
        "tasks": {
            one.task.name: {
                "items_file": f"{one.task.name}.jsonl",
                "items": len(next(iter(items[one.task.name].values()))),
                "definition": one.definition,
                "measured": asdict(finished[one.task.name].measured),
                "metrics": {
                    subject: {name: record(metric) for name, metric in own.items()}
                    for subject, own in metrics[one.task.name].items()
                },
            }
            for one in planned
        },
        "verdict": judge(arguments.limits, metrics) if arguments.limits else None,
        "warnings": [warning] if warning else [],
    }
    sections = {one.task.name: one.task.report(items[one.task.name]) for one in planned}
    if state.is_main_process:
        _write(Path(arguments.out), results, metrics, sections, planned, items)
        if arguments.update_card:
            page = markdown_page(results, metrics, sections, plots={})
            for directory in filter(Path.is_dir, map(Path, lineup.adapters.values())):
                update_card(directory / "README.md", page)
    for task, section in sections.items():
        console.print(Page(f"# {task}\n\n{section}"))
    console.print(summary_table(metrics))
    if results["verdict"]:
        console.print(Page(in_words(results["verdict"])))
    console.print(f"Everything is in {arguments.out}; read {Path(arguments.out) / 'README.md'} first.")
    return results


def _unknown_characters(planned: list[Planned], lineup: Lineup) -> str | None:
    tasks: list[Any] = [one.task for one in planned if hasattr(one.task, "texts")]
    shares = {task.name: unknown_share(task.texts(), lineup.tokenizer) for task in tasks}
    return unknown_warning(shares, str(lineup.tokenizer.unk_token))


def _measure(
    planned: list[Planned], lineup: Lineup, arguments: EvalArguments, console: Console
) -> dict[str, Finished]:
    """All tasks by name; models are loaded only if one is not finished yet."""
    state, folder = this_process(), Path(arguments.out)
    finished: dict[str, Finished] = {}
    for one in planned:
        found = None if arguments.overwrite else read_items(folder, one.task.name, one.definition)
        if found is not None:
            finished[one.task.name] = found
    state.wait_for_everyone()  # nobody writes before all have read
    missing = [one for one in planned if one.task.name not in finished]
    if finished:
        console.print(f"Finished before: {', '.join(finished)}")
    if not missing:
        return finished
    if state.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)  # what cannot be made is better known now than after hours
    subjects = lineup.load(arguments.precision)
    environment = describe_machine() | {"processes": state.num_processes}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        for one in missing:
            started = time.perf_counter()
            items = one.task.run(subjects, lineup.tokenizer, progress)
            measured = Measured(_now(), time.perf_counter() - started, environment)
            finished[one.task.name] = Finished(items, measured)
            if state.is_main_process:
                write_items(folder, one.task.name, one.definition, finished[one.task.name])
    return finished


def _summarise(planned: list[Planned], items: Items) -> Metrics:
    """Metrics by task, subject and name; a base has no changes."""
    metrics = {}
    for one in planned:
        own = items[one.task.name]
        base_name, base = next(iter(own.items()))
        found = {subject: one.task.summarise(base, answers) for subject, answers in own.items()}
        found[base_name] = {name: metric for name, metric in found[base_name].items() if not name.endswith("change")}
        metrics[one.task.name] = found
    return metrics


def _write(
    folder: Path,
    results: Results,
    metrics: Metrics,
    sections: dict[str, str],
    planned: list[Planned],
    items: Items,
) -> None:
    plots = {task: f"{task}.png" for task, own in items.items() if draw(task, own, folder / f"{task}.png")}
    for one in planned:
        pages = getattr(one.task, "pages", None)
        for name, text in pages(items[one.task.name]).items() if pages else ():
            (folder / name).write_text(text, encoding="utf-8")
    page = markdown_page(results, metrics, sections, plots)
    (folder / "README.md").write_text(page, encoding="utf-8")
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
