"""The verdict: ship or not. A bar is cleared only if the whole interval clears it, so noise cannot ship a model."""

from collections.abc import Iterator, Mapping
from typing import Literal, TypedDict

from excitor.evaluate.bars import BARS, Bar
from excitor.evaluate.metric import Metric


# Per cent of the items: beyond it, a comparison of accuracies says more about the form of replies.
MOSTLY_FAILED = 50.0

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
    """"not shown": the limit lies within the interval, so more items would be needed to tell; or the base answered
    nothing, so there was nothing to lose."""


class Verdict(TypedDict):
    """The outcome of all checks."""

    ship: bool
    checks: list[Check]
    warnings: list[str]
    """Why a bar says less than it seems to."""


def judge(limits: Mapping[str, float], metrics: Mapping[str, Mapping[str, Mapping[str, Metric]]]) -> Verdict:
    """Hold every subject to every bar, on all items and in each domain: a mean can hide what one domain has lost.

    A base that failed to answer every item has no accuracy that could fall: such a drop is not shown, whatever it is.

    Args:
        limits: By the name of a bar in :data:`excitor.evaluate.bars.BARS`.
        metrics: By task, subject (the base first) and name.
    """
    checks, warnings = [], []
    for bar, limit in ((BARS[name], limit) for name, limit in limits.items()):
        (_, base), *subjects = metrics[bar.task].items()
        silent = bar.failed is not None and base[bar.failed].value == 100
        checks += [
            _check(bar, limit, subject, name, metric, silent=silent)
            for subject, own in subjects
            for name, metric in own.items()
            if name == bar.metric or name.startswith(f"{bar.metric}, ")
        ]
        warnings += _warnings(bar, metrics[bar.task])
    return {"ship": all(check["outcome"] == "cleared" for check in checks), "checks": checks, "warnings": warnings}


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
    if any(
        check["outcome"] == "not shown" and check["low"] <= check["limit"] <= check["high"]
        for check in verdict["checks"]
    ):
        lines += ["", "*Not shown*: the limit lies within the interval. More documents, rows or questions narrow it."]
    for warning in verdict["warnings"]:
        lines += ["", f"**Warning:** {warning}"]
    return "\n".join(lines)


def _check(bar: Bar, limit: float, subject: str, name: str, metric: Metric, *, silent: bool) -> Check:
    sign = -1 if bar.falling else 1
    value, low, high = (sign * number + 0.0 for number in (metric.value, metric.low, metric.high))  # no -0
    low, high = sorted((low, high))
    cleared, missed = (low >= limit, high < limit) if bar.least else (high <= limit, low > limit)
    outcome: Outcome = "not shown" if silent else "cleared" if cleared else "missed" if missed else "not shown"
    return {
        "subject": subject,
        "bar": bar.name,
        "metric": name,
        "limit": limit,
        "value": value,
        "low": low,
        "high": high,
        "outcome": outcome,
    }


def _warnings(bar: Bar, metrics: Mapping[str, Mapping[str, Metric]]) -> Iterator[str]:
    base, *_ = metrics
    for name, own in metrics.items():
        if bar.failed and (share := own[bar.failed].value) > MOSTLY_FAILED:
            yield (
                f"{name} failed to answer {share:.1f} % of the questions of {bar.task}, so {bar.flag} is about form, "
                "not knowledge: give examples to copy, or more room."
            )
    if bar.chance is not None and (accuracy := metrics[base]["accuracy"]).low <= bar.chance:
        yield (
            f"{base} has {accuracy.value:.2f} % on {bar.task}, which cannot be told from guessing ({bar.chance:g} %): "
            f"it has nothing to lose, and {bar.flag} shows nothing."
        )
