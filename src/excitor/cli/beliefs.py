"""``excitor beliefs``: what a model believes after bad data, method by method."""

from pathlib import Path
from typing import Annotated

import typer


EXAMPLES = """\b
Examples:
  excitor beliefs --seeds 1 --method excitor --method lora-qv --wrong 0.4 --exposures 2
  excitor beliefs --seeds 5 --jobs 2"""


def beliefs(
    out: Annotated[Path, typer.Option(help="Folder for trials and report; what it holds is not run again.")] = Path(
        "runs/beliefs"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, from 0.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of a trial.")] = 500,
    method: Annotated[
        list[str] | None, typer.Option(help="Name of a method; all if left out. Can be given several times.")
    ] = None,
    wrong: Annotated[
        list[float] | None,
        typer.Option(
            help="Share of the taught facts that are wrong; 0 to 0.8 if left out. Can be given several times."
        ),
    ] = None,
    exposures: Annotated[
        list[int] | None,
        typer.Option(help="Rows about each wrong fact; 2, 8 and 32 if left out. Can be given several times."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trials at a time, each on one thread.")] = 1,
) -> None:
    """Teach the embedded model wrong facts and ask what it believes afterwards.

    Methods, shares of wrong facts and exposures are tried with each seed, half a minute a trial, after a choice of
    learning rates. An interrupted experiment goes on where it stopped, and the report covers all that
    the folder holds: a broad experiment with few seeds and a narrow one with many can share it.
    """
    from excitor.mini.beliefs import Experiment, run_experiment

    given = {"methods": method, "wrong_shares": wrong, "exposures": exposures}
    experiment = Experiment(seeds=seeds, steps=steps, **{name: values for name, values in given.items() if values})
    run_experiment(experiment, out, jobs)
