"""The schema of ``results.json``."""

import math
from collections.abc import Mapping
from typing import Any, TypedDict

from excitor.evaluate.gate import Verdict
from excitor.evaluate.metric import Metric


SCHEMA = 2

Metrics = Mapping[str, Mapping[str, Mapping[str, Metric]]]
"""By task, subject and name."""


class MetricRecord(TypedDict):
    """A :class:`excitor.evaluate.task.Metric`."""

    value: float
    low: float | None
    """Of the 95 % interval; null where there is only one item."""
    high: float | None
    higher_is_better: bool
    unit: str


class TaskRecord(TypedDict):
    """A task on all subjects."""

    items_file: str
    items: int
    definition: dict[str, Any]
    """Options, hashes of the data, subjects, precision."""
    measured: dict[str, Any]
    """``created``, ``seconds``, ``environment``: those of the call that did the task, which may be an earlier one."""
    metrics: dict[str, dict[str, MetricRecord]]
    """By subject and name."""


class Results(TypedDict):
    """An evaluation."""

    schema: int
    created: str
    """ISO 8601, UTC."""
    arguments: dict[str, Any]
    command: str
    subjects: dict[str, str]
    """Folder or hub id by name, the base first."""
    tasks: dict[str, TaskRecord]
    verdict: Verdict | None
    """Null where no bar was given."""
    warnings: list[str]
    """What to know before quoting a number; those on bars stand in the verdict."""


def record(metric: Metric) -> MetricRecord:
    """A metric as JSON holds it."""
    return {
        "value": metric.value,
        "low": metric.low if math.isfinite(metric.low) else None,
        "high": metric.high if math.isfinite(metric.high) else None,
        "higher_is_better": metric.higher_is_better,
        "unit": metric.unit,
    }
