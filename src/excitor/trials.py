"""Many trials, each a file of its own: only those that are missing run, in processes of one thread each."""

import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from excitor.errors import ExcitorError
from excitor.evaluate.bootstrap import interval


T = TypeVar("T")


def run_all(run: Callable[[T], object], trials: Sequence[T], jobs: int, console: Console, title: str) -> None:
    """Run trials, with a bar that tells how long it will take.

    Args:
        run: Makes one trial, and keeps what it gave; a function that processes can be sent.
        trials: What to run.
        jobs: Trials at a time, each in a process of one thread, so that results do not depend on their number.
        console: Where to print.
        title: Of the bar.
    """
    bar = Progress(
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=3600,  # a trial takes longer than the half minute that is usual
    )
    with bar, _workers(jobs) as mapped:
        task = bar.add_task("", total=len(trials))
        for _ in mapped(run, trials):
            bar.advance(task)


def read_trial(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the file of a finished trial holds, its ``settings`` among it.

    Raises:
        ExcitorError: It was made with other settings than these.
    """
    result = json.loads(path.read_text(encoding="utf-8"))
    before = result["settings"]
    changed = [name for name in settings if before.get(name) != settings[name]]
    if changed:
        raise ExcitorError(
            f"{path} was made with another {' and another '.join(changed)}. Delete it, or choose another --out."
        )
    return result


def lowest_rate(scores: Mapping[float, float], noise: float) -> float:
    """The lowest learning rate that is about as good as the best.

    Args:
        scores: By learning rate; higher is better.
        noise: A difference of at most this means nothing.
    """
    return min(rate for rate, score in scores.items() if score >= max(scores.values()) - noise)


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """A measure over seeds: ``mean``, its bootstrap interval ``low`` to ``high`` (None for one seed), ``values``."""
    low, high = interval(values)
    several = math.isfinite(low)
    mean = sum(values) / len(values)
    return {"mean": mean, "low": low if several else None, "high": high if several else None, "values": list(values)}


@contextmanager
def _workers(jobs: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """A ``map`` over processes; over none but this one if one is enough."""
    if jobs == 1:
        _prepare_process()
        yield map
        return
    before = active_children()
    with ProcessPoolExecutor(jobs, get_context("spawn"), _prepare_process) as pool:

        def in_any_order(run: Callable[[T], object], trials: Iterable[T]) -> Iterator[object]:
            for future in as_completed([pool.submit(run, trial) for trial in trials]):
                yield future.result()

        try:
            # A process that the pool starts while it waits is not watched before the next result comes (CPython 3.11):
            # its death would be noticed a trial later.
            for started in [pool.submit(os.getpid) for _ in range(jobs)]:
                started.result()
            yield in_any_order
        except BaseException as error:  # an interruption, or a trial that failed: no other goes on
            pool.shutdown(wait=False, cancel_futures=True)
            for child in active_children():
                if child not in before:
                    child.terminate()
            if isinstance(error, BrokenProcessPool):
                raise ExcitorError(
                    "A process that made a trial ended without an answer. If it said nothing above, it was killed, "
                    "most likely for want of memory. What is finished is kept: start again, with fewer jobs."
                ) from error
            raise


def _prepare_process() -> None:
    """One thread, and nothing printed but what the experiment prints."""
    import torch
    from datasets import disable_progress_bars
    from transformers.utils import logging

    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
