"""What is compared: experiments at the size of the budget, and the runs that follow from them."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from excitor.compare.arguments import CompareArguments
from excitor.compare.budget import count
from excitor.compare.equalise import Spent, equalise
from excitor.compare.experiments import Experiment
from excitor.compare.run import Run
from excitor.compare.suite import Suite, resolve
from excitor.errors import ExcitorError
from excitor.train.folder import write_text
from excitor.train.prepare import read_model_config


PLAN_FILE = "plan.json"


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
            self.run(experiment, self.suite.tuning_seed, rate, tuning=True)
            for experiment in trained
            for rate in self.suite.rates
        ]

    def runs(self, rates: dict[str, float | None]) -> list[Run]:
        """What is reported, seed by seed; nothing of a method without a learning rate that works."""
        return [
            self.run(experiment, seed, rates[experiment.name])
            for seed in self.suite.seeds
            for experiment in self.experiments
            if experiment.name in rates
        ]

    def run(self, experiment: Experiment, seed: int, rate: float | None, tuning: bool = False) -> Run:
        """One of them."""
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
