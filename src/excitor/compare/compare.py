"""A comparison from its arguments to its report: sizes, learning rates, runs."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from excitor.compare.arguments import CompareArguments
from excitor.compare.budget import count
from excitor.compare.equalise import TOLERANCES, Spent, equalise
from excitor.compare.experiments import Experiment
from excitor.compare.run import Run, execute
from excitor.compare.suite import Suite, resolve
from excitor.compare.tables import SPENT, spent_text
from excitor.errors import ExcitorError
from excitor.train.folder import write_text
from excitor.train.prepare import read_model_config
from excitor.trials import lowest_rate, read_trial, run_all


PLAN_FILE = "plan.json"
RUNS = "runs"

Results = list[dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """What is compared.

    Attributes:
        suite: the description.
        experiments: resolved for the base, at the size of the budget.
        sizes: trainable parameters by experiment.
        command: repeats the comparison.
        spent: what experiments cost of what was matched, see :func:`excitor.compare.equalise.equalise`.
    """

    suite: Suite
    experiments: list[Experiment]
    sizes: dict[str, int]
    command: str
    spent: Spent = field(default_factory=dict)

    def tuning_runs(self) -> list[Run]:
        """Each method with each learning rate."""
        trained = [experiment for experiment in self.experiments if experiment.adapter]
        return [
            self._run(experiment, self.suite.tuning_seed, rate, tuning=True)
            for experiment in trained
            for rate in self.suite.rates
        ]

    def runs(self, rates: dict[str, float | None]) -> list[Run]:
        """What is reported, seed by seed; nothing of a method without a learning rate that works."""
        return [
            self._run(experiment, seed, rates[experiment.name])
            for seed in self.suite.seeds
            for experiment in self.experiments
            if experiment.name in rates
        ]

    def _run(self, experiment: Experiment, seed: int, rate: float | None, tuning: bool = False) -> Run:
        suite = self.suite
        strengths = suite.strengths if experiment.adapter and not tuning else []
        return Run(experiment, suite.material(), suite.training, seed, rate, suite.points, tuning, strengths)

    def write(self, folder: Path) -> None:
        """Keep the plan for ``--report-only``."""
        write_text(folder / PLAN_FILE, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        """The plan of an earlier call.

        Raises:
            ExcitorError: There is none.
        """
        path = folder / PLAN_FILE
        if not path.exists():
            raise ExcitorError(f"{folder} holds no comparison (no {PLAN_FILE}): run it, or name its --out.")
        values = json.loads(path.read_text(encoding="utf-8"))
        experiments = [Experiment(**one) for one in values["experiments"]]
        spent = values.get("spent", {})
        return cls(Suite(**values["suite"]), experiments, values["sizes"], values["command"], spent)


def make_plan(arguments: CompareArguments) -> Plan:
    """Read the suite, resolve its experiments for the base, and give them the size of the budget.

    Raises:
        ExcitorError: Something the user can mend; no weights are loaded before.
    """
    suite, experiments = resolve(arguments)
    config = read_model_config(suite.material().model)
    experiments = [experiment.resolve(config) for experiment in experiments]
    spent: Spent = {}
    if suite.match != "none":
        earlier = _matched_earlier(suite, arguments.folder)
        experiments, spent = equalise(experiments, config, suite.match, suite.target, suite.training, earlier)
    sizes = {experiment.name: count(experiment, config) for experiment in experiments}
    return Plan(suite, experiments, sizes, arguments.command, spent)


def _matched_earlier(suite: Suite, folder: Path) -> tuple[list[Experiment], Spent]:
    """What an earlier call has measured, if it was for the same."""
    if not (folder / PLAN_FILE).exists():
        return [], {}
    plan = Plan.read(folder)
    same = all(getattr(plan.suite, name) == getattr(suite, name) for name in ("model", "match", "target", "training"))
    return (plan.experiments, plan.spent) if same else ([], {})


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
    folder = arguments.folder
    if arguments.report_only:
        plan = Plan.read(folder)
        tuning = _finished(plan.tuning_runs(), folder)
        tuned = choose_rates(plan, tuning)
        console.print(write_report(plan, tuned, tuning, _finished(plan.runs(_rates(plan, tuned)), folder), folder))
        return plan
    plan = make_plan(arguments)
    if arguments.dry_run:
        console.print(_overview(plan, folder))
        return plan
    plan.suite.material().check()
    (folder / RUNS).mkdir(parents=True, exist_ok=True)
    plan.write(folder)
    tuning = _run(plan.tuning_runs(), folder, arguments.jobs, console, "learning rates")
    tuned = choose_rates(plan, tuning)
    write_text(folder / "tuning.json", json.dumps(tuned, indent=1) + "\n")
    results = _run(plan.runs(_rates(plan, tuned)), folder, arguments.jobs, console, "runs")
    console.print(write_report(plan, tuned, tuning, results, folder))
    console.print(f"Everything is in {folder}; read {folder / 'README.md'} first.")
    return plan


def choose_rates(plan: Plan, results: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The lowest learning rate of each method whose held-out answer loss is about as low as its lowest.

    Returns:
        By experiment, its ``learning_rate`` and the ``answer_loss`` by rate; None where runs diverged.
    """
    tried: dict[str, dict[float, float | None]] = {}
    for result in results:
        settings = result["settings"]
        losses = tried.setdefault(settings["experiment"], {})
        losses[settings["learning_rate"]] = result["measures"].get("answer_loss")
    chosen = {}
    for name, losses in tried.items():
        scores = {rate: -loss for rate, loss in losses.items() if loss is not None}
        rate = lowest_rate(scores, plan.suite.rate_noise) if scores else None
        chosen[name] = {"learning_rate": rate, "answer_loss": {f"{rate:g}": loss for rate, loss in losses.items()}}
    return chosen


def _rates(plan: Plan, tuned: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    untrained = {experiment.name: None for experiment in plan.experiments if not experiment.adapter}
    return untrained | {name: one["learning_rate"] for name, one in tuned.items() if one["learning_rate"] is not None}


def _run(runs: Sequence[Run], folder: Path, jobs: int, console: Console, title: str) -> Results:
    missing = [run for run in runs if not (folder / RUNS / f"{run.name}.json").exists()]
    for run in runs:
        if run not in missing:
            read_trial(folder / RUNS / f"{run.name}.json", run.settings())
    if missing:
        run_all(partial(execute, folder=folder / RUNS), missing, jobs, console, title)
    return _finished(runs, folder)


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
    seeds, rates = len(plan.suite.seeds), len(plan.suite.rates)
    for experiment in plan.experiments:
        stem = experiment.name.replace("/", "--")
        done = [path.stem.endswith("--tuning") for path in (folder / RUNS).glob(f"{stem}--*seed-*.json")]
        near = f"not within {100 * TOLERANCES.get(plan.suite.match, 0):g} %"
        matched = {True: "yes", False: near, None: ""}[experiment.matched]
        tuning = f"{sum(done)} of {rates}" if experiment.adapter else ""
        spent = [spent_text(plan.spent.get(experiment.name))] if cost else []
        seeded = f"{len(done) - sum(done)} of {seeds}"
        table.add_row(experiment.name, f"{plan.sizes[experiment.name]:,}", *spent, matched, tuning, seeded)
    return table
