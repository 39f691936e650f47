"""A comparison from its arguments to its report: sizes, learning rates, runs."""

import json
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from excitor.compare.arguments import CompareArguments, options_of
from excitor.compare.equalise import TOLERANCES
from excitor.compare.plan import Plan, make_plan
from excitor.compare.run import Run, execute
from excitor.compare.tables import SPENT, spent_text
from excitor.compare.tuning import choose_rates, tune
from excitor.errors import ExcitorError
from excitor.train.folder import write_text
from excitor.trials import read_trial, run_all


RUNS = "runs"
TUNING_FILE = "tuning.json"
PLACES = ("--suite", "--out", "--files")  # where things are, not what is compared

Results = list[dict[str, Any]]


def run_comparison(arguments: CompareArguments, console: Console | None = None) -> Plan:
    """Choose learning rates, run what is missing, and report.

    Args:
        arguments: The comparison.
        console: Where to print; the terminal when not given.

    Returns:
        The plan; the folder ``arguments.folder`` holds ``plan.json``, ``tuning.json``, ``runs/`` and the report.

    Raises:
        ExcitorError: Something the user can mend; see the message.
    """
    from excitor.compare.report import write_report

    console = console or Console()
    arguments.check()
    folder = arguments.folder
    if arguments.report_only:
        plan = Plan.read(folder)
        _check_same(arguments, plan)
        tuning = tune(plan, lambda runs: _finished(runs, folder))
        tuned = _chosen(plan, tuning, folder)
        console.print(write_report(plan, tuned, tuning, _finished(plan.runs(_rates(plan, tuned)), folder), folder))
        return plan
    plan = make_plan(arguments)
    if arguments.dry_run:
        _check_finished(plan.tuning_runs(), folder)
        console.print(_overview(plan, folder))
        return plan
    plan.suite.material().check()
    (folder / RUNS).mkdir(parents=True, exist_ok=True)
    _check_finished(plan.tuning_runs(), folder)  # or a refused call would leave its plan to the next report
    plan.write(folder)
    tuning = tune(plan, lambda runs: _run(runs, folder, arguments.jobs, console, "learning rates"))
    tuned = choose_rates(plan, tuning)
    write_text(folder / TUNING_FILE, json.dumps(tuned, indent=1) + "\n")
    results = _run(plan.runs(_rates(plan, tuned)), folder, arguments.jobs, console, "runs")
    console.print(write_report(plan, tuned, tuning, results, folder))
    console.print(f"Everything is in {folder}; read {folder / 'README.md'} first.")
    return plan


def _check_same(arguments: CompareArguments, plan: Plan) -> None:
    """Refuse options that a report of what is there could not follow."""
    asked = {option for option in options_of(arguments.command) if option[0] not in PLACES}
    if other := sorted(asked - options_of(plan.command)):
        raise ExcitorError(
            f"--report-only writes the report of what was compared, which {' '.join(other[0])} would change: leave it "
            f"out, or run the comparison with it. What was compared: {plan.command}"
        )


def _chosen(plan: Plan, tuning: Results, folder: Path) -> dict[str, dict[str, Any]]:
    """The rates that seeds were run with: while a grid is being widened those of the last time it was done."""
    path = folder / TUNING_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else choose_rates(plan, tuning)


def _rates(plan: Plan, tuned: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    untrained = {experiment.name: None for experiment in plan.experiments if not experiment.adapter}
    return untrained | {name: one["learning_rate"] for name, one in tuned.items() if one["learning_rate"] is not None}


def _run(runs: Sequence[Run], folder: Path, jobs: int, console: Console, title: str) -> Results:
    missing = [run for run in runs if not (folder / RUNS / f"{run.name}.json").exists()]
    _check_finished(runs, folder)
    if missing:
        run_all(partial(execute, folder=folder / RUNS), missing, jobs, console, title)
    return _finished(runs, folder)


def _check_finished(runs: Iterable[Run], folder: Path) -> None:
    for run in runs:
        if (path := folder / RUNS / f"{run.name}.json").exists():
            read_trial(path, run.settings())


def _finished(runs: Iterable[Run], folder: Path) -> Results:
    """What is there of these; the data they were made from may be gone."""
    paths = [folder / RUNS / f"{run.name}.json" for run in runs]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def _overview(plan: Plan, folder: Path) -> Table:
    table = Table(box=SIMPLE, title=plan.suite.title)
    table.add_column("method", overflow="fold")
    cost = [SPENT[plan.suite.match]] if plan.spent else []
    for name in ("trainable parameters", *cost, "size matched", "runs to choose a rate: done", "runs of seeds: done"):
        table.add_column(name, justify="right")
    seeds, least = len(plan.suite.seeds), len(plan.suite.rates)
    rates = f"{least} to {least + plan.suite.widen}" if plan.suite.widen else least
    tuning = tune(plan, lambda runs: _finished(runs, folder))
    reported = _finished(plan.runs(_rates(plan, _chosen(plan, tuning, folder))), folder)
    for experiment in plan.experiments:
        tuned, done = (
            sum(result["settings"]["experiment"] == experiment.name for result in results)
            for results in (tuning, reported)
        )
        near = f"not within {100 * TOLERANCES.get(plan.suite.match, 0):g} %"
        matched = {True: "yes", False: near, None: ""}[experiment.matched]
        counts = f"{tuned} of {rates}" if experiment.adapter else "", f"{done} of {seeds}"
        spent = [spent_text(plan.spent.get(experiment.name))] if cost else []
        table.add_row(experiment.name, f"{plan.sizes[experiment.name]:,}", *spent, matched, *counts)
    return table
