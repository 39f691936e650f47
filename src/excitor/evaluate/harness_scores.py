"""Metrics of lm-evaluation-harness from what it says of each document."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lm_eval.api.group import Group
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task

from excitor.evaluate.bootstrap import COVERAGE, estimate
from excitor.evaluate.metric import Metric
from excitor.evaluate.task import Item


RESAMPLES = 200
"""Fewer than for means: other metrics (perplexity, BLEU, ...) are computed anew for each."""


@dataclass(frozen=True)
class Score:
    """A metric of a task or of a group of tasks."""

    name: str
    """Of the task or group."""
    metric: str
    """As the harness names it: "acc,none" is the metric acc of unfiltered answers."""
    aggregate: Callable[[Sequence[Any]], float]
    """From documents to the number."""
    higher_is_better: bool
    tasks: Mapping[str, float]
    """Whose documents count, and what one of them counts."""

    @property
    def label(self) -> str:
        """For readers: "arc_easy acc", "gsm8k exact_match (strict-match)"."""
        metric, _, answers = self.metric.partition(",")
        return f"{self.name} {metric}" + (f" ({answers})" if answers != "none" else "")

    def measure(self, items: list[Item], base: list[Item] | None = None) -> Metric:
        """The metric of a subject, or its change where a base is given; intervals by resampling documents."""
        pairs = [
            (own["metrics"][self.metric], before["metrics"][self.metric], self.tasks[own["task"]])
            for own, before in zip(items, base or items, strict=True)
            if own["task"] in self.tasks and self.metric in own["metrics"].keys() & before["metrics"].keys()
        ]
        owns, earlier, weights = zip(*pairs, strict=True)
        if self.aggregate is mean:
            values = np.array(owns, dtype=float) - (np.array(earlier, dtype=float) if base else 0)
            return estimate(values, weights, higher_is_better=self.higher_is_better)

        def number(places: Sequence[int]) -> float:
            before = self.aggregate([earlier[place] for place in places]) if base else 0
            return self.aggregate([owns[place] for place in places]) - before

        draws = np.random.default_rng(0).integers(len(owns), size=(RESAMPLES, len(owns)))
        low, high = np.quantile([number(draw) for draw in draws], [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
        return Metric(number(range(len(owns))), float(low), float(high), self.higher_is_better)


def scores(tasks: Mapping[str, Task], groups: Mapping[str, Group], items: list[Item]) -> Iterator[Score]:
    """All metrics: those of groups that define some first, then those of tasks.

    Args:
        tasks: By name.
        groups: By name, those inside others too.
        items: Documents of all tasks.
    """
    counts = Counter((item["task"], metric) for item in items for metric in item["metrics"])
    for name, group in groups.items():
        inside = {task.task_name for task in group.get_all_tasks()}
        for config in group.aggregate_metric_list or ():
            for metric in dict.fromkeys(metric for task, metric in counts if task in inside):
                plain, _, answers = metric.partition(",")
                if plain == config.metric and (config.filter_list is None or answers in config.filter_list):
                    sizes = {task: counts[task, metric] for task in inside if counts[task, metric]}
                    weights = {task: 1.0 if config.weight_by_size else 1 / size for task, size in sizes.items()}
                    yield Score(name, metric, mean, _higher_is_better(tasks[next(iter(sizes))], plain), weights)
    for task, metric in counts:
        plain = metric.partition(",")[0]
        aggregate = (tasks[task].aggregation() or {}).get(plain, mean)
        yield Score(task, metric, aggregate, _higher_is_better(tasks[task], plain), {task: 1.0})


def _higher_is_better(task: Task, metric: str) -> bool:
    """True where a task does not say, as in the harness's own tables."""
    return (task.higher_is_better() or {}).get(metric) is not False
