"""The verdict: ship or not. A bar is cleared only if the whole interval clears it, so noise cannot ship a model."""

from collections.abc import Mapping
from typing import Literal, TypedDict

from excitor.evaluate.bars import BARS, Bar
from excitor.evaluate.metric import Metric


Outcome = Literal["cleared", "missed", "not shown"]


class Check(TypedDict):
    """One subject against one bar, on all items or in one domain."""

    subject: str
    bar: str
    metric: str
    limit: float
    value: float
    """What the limit is on: for a drop or a gain, by how much the metric fell."""
    low: float
    high: float
    outcome: Outcome
    """"not shown": the limit lies within the interval, so more items would be needed to tell."""


class Verdict(TypedDict):
    """The outcome of all checks."""

    ship: bool
    checks: list[Check]


def judge(limits: Mapping[str, float], metrics: Mapping[str, Mapping[str, Mapping[str, Metric]]]) -> Verdict:
    """Hold every subject to every bar, on all items and in each domain: a mean can hide what one domain has lost.

    Args:
        limits: By the name of a bar in :data:`excitor.evaluate.bars.BARS`.
        metrics: By task, subject (the base left out) and name.
    """
    checks = [
        _check(bar, limit, subject, name, metric)
        for bar, limit in ((BARS[name], limit) for name, limit in limits.items())
        for subject, own in metrics[bar.task].items()
        for name, metric in own.items()
        if name == bar.metric or name.startswith(f"{bar.metric}, ")
    ]
    return {"ship": all(check["outcome"] == "cleared" for check in checks), "checks": checks}


def in_words(verdict: Verdict) -> str:
    """The verdict as Markdown: what to do, and a line for every check."""
    lines = ["**Ship.** Every bar is cleared." if verdict["ship"] else "**Do not ship.**", ""]
    for check in verdict["checks"]:
        bar = BARS[check["bar"]]
        relation = "at least" if bar.least else "at most"
        lines.append(
            f"- {check['outcome']}: {check['subject']}, {bar.flag} {check['limit']:g}: {bar.task}, {check['metric']}"
            f"{' (fall)' if bar.falling else ''} {check['value']:+.4f} [{check['low']:+.4f}, {check['high']:+.4f}], "
            f"wanted {relation} {check['limit']:g}"
        )
    if any(check["outcome"] == "not shown" for check in verdict["checks"]):
        lines += ["", "*Not shown*: the limit lies within the interval. More documents, rows or questions narrow it."]
    return "\n".join(lines)


def _check(bar: Bar, limit: float, subject: str, name: str, metric: Metric) -> Check:
    sign = -1 if bar.falling else 1
    low, high = sorted((sign * metric.low, sign * metric.high))
    cleared, missed = (low >= limit, high < limit) if bar.least else (high <= limit, low > limit)
    outcome: Outcome = "cleared" if cleared else "missed" if missed else "not shown"
    return {
        "subject": subject,
        "bar": bar.name,
        "metric": name,
        "limit": limit,
        "value": sign * metric.value,
        "low": low,
        "high": high,
        "outcome": outcome,
    }
