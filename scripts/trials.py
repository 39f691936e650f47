"""Runs trials in processes of one thread each: one line of JSON a trial, and none twice."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console


class Material(Protocol):
    """What a trial is trained on."""

    def describe(self) -> dict[str, Any]:
        """What tells it from other material, in plain values."""
        ...


def run_trials(run: Callable[..., dict[str, Any]], wanted: Sequence[Mapping[str, Any]], path: Path, jobs: int) -> None:
    """Run what ``path`` does not hold yet, and add it there.

    Args:
        run: Makes one trial from its settings as keyword arguments; returns what it measured.
        wanted: Settings of the trials: plain values, and ``material``.
        path: A JSON file of lines, each the settings of a trial with what was measured.
        jobs: Trials at a time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    missing = [each for each in wanted if not any(_settings(each).items() <= row.items() for row in done)]
    console = Console()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool, path.open("a") as file:
        trials = {pool.submit(run, **each): _settings(each) for each in missing}
        for number, trial in enumerate(as_completed(trials), start=1):
            row = trials[trial] | trial.result()
            file.write(json.dumps(row) + "\n")
            file.flush()
            numbers = "  ".join(f"{name} {value:.3f}" for name, value in row.items() if isinstance(value, float))
            console.print(f"{number}/{len(trials)}  {row['name']}: seed {row['seed']}  {numbers}", highlight=False)


def _settings(wanted: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in wanted.items() if name != "material"}
    return plain | wanted["material"].describe()
