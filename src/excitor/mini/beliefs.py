"""What a model believes after bad data: methods, shares of wrong facts, exposures and seeds (docs/beliefs.md).

Every trial is a file, so an interrupted experiment goes on where it stopped, and a larger one keeps what is there.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from excitor.errors import ExcitorError
from excitor.mini.lessons import EXPOSURES, make_lessons
from excitor.mini.methods import load_methods
from excitor.mini.trial import Trial, run_trial
from excitor.mini.world import make_world
from excitor.trials import lowest_rate, run_all


RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
TUNING_SEED = 100  # never reported
BAR_SHARE = 0.4  # of facts taught wrongly, where rates are chosen and bars apply
RATE_NOISE = 0.01  # of the accuracy on unseen instructions


@dataclass(frozen=True)
class Experiment:
    """What is tried: every method with everything else.

    Attributes:
        methods: names of files in ``mini/methods``; all when there are none.
        wrong_shares: shares of the taught facts that are taught wrongly.
        exposures: rows about each fact that is taught wrongly.
        seeds: number of seeds, from 0.
        steps: optimizer steps of each trial.
        rates: learning rates to choose from.

    Raises:
        ExcitorError: A value is out of range, or there is no method of that name.
    """

    methods: Sequence[str] = ()
    wrong_shares: Sequence[float] = (0.0, 0.2, 0.4, 0.6, 0.8)
    exposures: Sequence[int] = (EXPOSURES, 8, 32)
    seeds: int = 5
    steps: int = 500
    rates: Sequence[float] = RATES

    def __post_init__(self) -> None:
        for name, value in (("seeds", self.seeds), ("steps", self.steps)):
            if value < 1:
                raise ExcitorError(f"The number of {name} must be at least 1, got {value}.")
        load_methods(self.methods)
        for wrong_share in self.wrong_shares:
            for exposures in self.exposures:
                make_lessons(make_world(), 0, wrong_share, exposures)

    def tuning_trials(self) -> list[Trial]:
        """Each method with each learning rate."""
        return [
            Trial(method, BAR_SHARE, EXPOSURES, TUNING_SEED, rate, self.steps)
            for method in load_methods(self.methods)
            for rate in self.rates
        ]

    def trials(self, rates: dict[str, float]) -> list[Trial]:
        """The experiment proper, seed by seed; on clean data exposures make no difference."""
        return [
            Trial(method, wrong_share, exposures, seed, rates[method.name], self.steps)
            for seed in range(self.seeds)
            for method in load_methods(self.methods)
            for wrong_share in sorted(set(self.wrong_shares))
            for exposures in (sorted(set(self.exposures)) if wrong_share else (EXPOSURES,))
        ]


def run_experiment(
    experiment: Experiment, out: Path, jobs: int = 1, console: Console | None = None
) -> list[dict[str, Any]]:
    """Choose learning rates, run every trial that ``out`` does not hold yet, and report on all that it holds then.

    So a broad experiment with few seeds and a narrow one with many can share a report: run one, then the other.

    Args:
        experiment: What to try.
        out: Folder for ``trials/``, ``tuning.json`` and the report: ``README.md``, ``beliefs.png``, ``results.json``.
        jobs: Trials at a time, each in a process of one thread, so that results do not depend on their number.
        console: Where to print; the terminal when not given.

    Returns:
        What the trials in the report measured, see :func:`excitor.mini.trial.run_trial`.

    Raises:
        ExcitorError: ``out`` holds trials that were made otherwise.
    """
    from excitor.mini.beliefs_report import write_report

    console = console or Console()
    folder = out / "trials"
    folder.mkdir(parents=True, exist_ok=True)
    tuned = choose_rates(run_trials(experiment.tuning_trials(), folder, jobs, console, "learning rates"))
    (out / "tuning.json").write_text(json.dumps(tuned, indent=2) + "\n", encoding="utf-8")
    rates = {name: choice["learning_rate"] for name, choice in tuned.items()}
    run_trials(experiment.trials(rates), folder, jobs, console, "trials")
    results = finished_trials(folder, rates, experiment.steps)
    console.print(write_report(results, tuned, out))
    return results


def run_trials(trials: Sequence[Trial], folder: Path, jobs: int, console: Console, title: str) -> list[dict[str, Any]]:
    """The results of ``trials``, in their order; those that ``folder`` holds are read, the others run."""
    missing = [trial for trial in trials if not (folder / f"{trial.name}.json").exists()]
    run_all(partial(run_trial, folder=folder), missing, jobs, console, title)
    return [run_trial(trial, folder) for trial in trials]


def finished_trials(folder: Path, rates: dict[str, float], steps: int) -> list[dict[str, Any]]:
    """The results in ``folder`` of methods at their ``rates``, after ``steps``; not those the rates were chosen by."""
    results = []
    for path in sorted(folder.glob("*.json")):
        settings = json.loads(path.read_text(encoding="utf-8"))["settings"]
        name = settings["method"]["name"]
        chosen = settings["learning_rate"] == rates.get(name) and settings["steps"] == steps
        if chosen and settings["seed"] != TUNING_SEED:
            (method,) = load_methods([name])
            tried = {key: settings[key] for key in ("wrong_share", "exposures", "seed", "learning_rate", "steps")}
            results.append(run_trial(Trial(method, **tried), folder))
    return sorted(results, key=lambda result: list(rates).index(result["settings"]["method"]["name"]))


def choose_rates(results: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The lowest learning rate of each method that follows unseen instructions within one point of its best.

    A difference of less is noise of one seed. What is said about the facts taught wrongly is not looked at.

    Returns:
        By method, its ``learning_rate`` and what was measured by rate, ``tried``.
    """
    tried: dict[str, dict[float, dict[str, float]]] = {}
    for result in results:
        settings = result["settings"]
        tried.setdefault(settings["method"]["name"], {})[settings["learning_rate"]] = result["measures"]
    choices = {}
    for name, measures in tried.items():
        rate = lowest_rate({rate: each["unseen"] for rate, each in measures.items()}, RATE_NOISE)
        choices[name] = {"learning_rate": rate, "tried": measures}
    return choices
