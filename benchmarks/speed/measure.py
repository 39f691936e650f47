"""Timing of tasks that take turns, so that whatever else the machine does meets all of them."""

import statistics
import time
from collections.abc import Callable

import torch


class Clock:
    """Seconds of a task: of the processor on a CPU, which other processes disturb less, else of the wall."""

    def __init__(self, device: str) -> None:
        self.name = "processor" if device == "cpu" else "wall"

    def seconds(self, task: Callable[[], None]) -> float:
        """How long it takes."""
        if self.name == "processor":
            started = time.process_time()
            task()
            return time.process_time() - started
        torch.cuda.synchronize()
        started = time.perf_counter()
        task()
        torch.cuda.synchronize()
        return time.perf_counter() - started


def take_turns(
    tasks: dict[str, Callable[[], None]], rounds: int, clock: Clock, tokens: int, against: str | None = None
) -> dict[str, dict]:
    """Time tasks against the first of them.

    Args:
        tasks: By name.
        rounds: How often each is timed, after one time to warm up. Every round starts with another task.
        clock: Times them.
        tokens: That each task gets through.
        against: Another of them to compare all with, besides the first.

    Returns:
        For each task its median seconds, tokens a second, and its speed as a ratio to the first's in the same round:
        median and quartiles; and ``against``, the same to that task.
    """
    names = list(tasks)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds = clock.seconds(tasks[name])
            if number:
                times[name].append(seconds)
    results = {}
    for name, values in times.items():
        median = statistics.median(values)
        results[name] = {
            "seconds": median,
            "tokens_per_second": tokens / median,
            "speed": _ratio(times[names[0]], values),
        }
        if against is not None:
            results[name]["against"] = _ratio(times[against], values)
    return results


def _ratio(reference: list[float], values: list[float]) -> dict:
    """Speed against a reference, round by round."""
    low, middle, high = statistics.quantiles([ours / own for ours, own in zip(reference, values, strict=True)], n=4)
    return {"median": middle, "quartiles": [low, high]}
