"""The learning rate of each method: one grid for all, widened by the same rule where a method's best is at its end."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from excitor.compare.plan import Plan
from excitor.compare.run import Run
from excitor.trials import lowest_rate


def tune(plan: Plan, run: Callable[[Sequence[Run]], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Try every rate of the grid with every method, and up to ``plan.suite.widen`` more where the best is at an end.

    Args:
        plan: The comparison.
        run: Makes runs, or reads those that are there, and gives their results.
    """
    results = run(plan.tuning_runs())
    for _ in range(plan.suite.widen):
        more = wider(plan, choose_rates(plan, results))
        if not more:
            break
        results = [*results, *run(more)]
    return results


def wider(plan: Plan, tuned: dict[str, dict[str, Any]]) -> list[Run]:
    """The next rate beyond the grid for each method that does best with the last one, or fails with all of them."""
    runs = []
    for experiment in plan.experiments:
        choice = tuned.get(experiment.name)
        if choice is None or not at_end(choice):
            continue
        tried = sorted(_losses(choice))
        if _best(choice) in (None, tried[0]):
            tried.reverse()
        runs.append(plan.run(experiment, plan.suite.tuning_seed, _next(tried), tuning=True))
    return runs


def at_end(choice: dict[str, Any]) -> bool:
    """Whether the best of the rates that a method tried is the last one, so that a better one may lie beyond."""
    tried = sorted(_losses(choice))
    return len(tried) > 1 and _best(choice) in (None, tried[0], tried[-1])


def _losses(choice: dict[str, Any]) -> dict[float, float | None]:
    return {float(rate): loss for rate, loss in choice["answer_loss"].items()}


def _best(choice: dict[str, Any]) -> float | None:
    """The rate with the lowest loss, which is not always the one that is chosen; None if all failed."""
    losses = {rate: loss for rate, loss in _losses(choice).items() if loss is not None}
    return min(losses, key=lambda rate: losses[rate]) if losses else None


def _next(rates: Sequence[float]) -> float:
    """What follows on these: ``3e-3, 1e-2, 3e-2`` go on with ``1e-1``, as their steps alternate."""
    last = rates[-3:]
    step = last[-1] / last[-2] if len(last) == 2 else last[-2] / last[-3]
    return float(f"{last[-1] * step:.3g}")


def choose_rates(plan: Plan, results: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The lowest learning rate of each method whose held-out answer loss is about as low as its lowest.

    Returns:
        By experiment, its ``learning_rate`` and the ``answer_loss`` by rate; None where runs failed.
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
