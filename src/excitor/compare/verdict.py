"""Who wins, in sentences made from the numbers: the first lines of a report."""

from collections.abc import Sequence
from typing import Any

from excitor.compare.measures import MEASURES
from excitor.compare.statistics import LEVEL


Summary = dict[str, Any]


def verdict(summary: Summary) -> list[str]:
    """What the comparison says about its subject, and what to know before quoting it.

    The untrained base is no rival: it forgets nothing. Another method counts as better than the subject where either
    their intervals do not overlap or the paired test, corrected by Holm, separates them; the subject as better than
    another only where the test does. So it is easier to be told that it lost than that it won.

    Args:
        summary: See :func:`excitor.compare.summary.summarise`.

    Returns:
        Paragraphs of Markdown.
    """
    return [*_about_subject(summary), *_over_curves(summary), *_cautions(summary)]


def separable(difference: dict[str, Any] | None) -> bool:
    """Whether a difference is more than noise of the seeds."""
    return bool(difference and difference["holm"] is not None and difference["holm"] < LEVEL)


def _about_subject(summary: Summary) -> list[str]:
    subject = summary["subject"]
    if subject not in summary["differences"]:
        return []
    differences, ranked = summary["differences"][subject], summary["ranked"]
    others = [row["method"] for row in summary["rows"] if row["method"] != subject and row["parameters"]]
    better = {name: [other for other in others if _sign(summary, name, other) > 0] for name in ranked}
    worse = {name: [other for other in others if _sign(summary, name, other, tested=True) < 0] for name in ranked}
    beaten = [name for name in ranked if better[name]]
    lead = [name for name in ranked if others and len(worse[name]) == len(others)]
    lines = []
    if beaten:
        where = (
            f"on {len(beaten)} of {len(ranked)} measures" if lead or len(beaten) < len(ranked) else "on any measure"
        )
        lines.append(f"**{subject} does not win {where}**: another method is better.")
        lines.append("\n".join(_beaten(summary, differences, name, better[name]) for name in beaten))
        winners = dict.fromkeys(other for name in beaten for other in better[name])
        lines += [_price(summary, ranked, other) for other in winners]
    elif lead:
        lines.append(f"**{subject} is best** on {_labels(lead)}, by more than the seeds explain; nothing beats it.")
    else:
        lines.append(f"**{subject} is not separably best, and not beaten:** the seeds do not tell it from the best.")
    held = [f"{MEASURES[name].label}: {', '.join(worse[name])}" for name in ranked if worse[name]]
    if held:
        lines.append(f"{subject} is better, by more than the seeds explain, than these. {'. '.join(held)}.")
    return lines


def _beaten(summary: Summary, differences: dict[str, Any], name: str, better: Sequence[str]) -> str:
    means = {row["method"]: row["measures"][name]["mean"] for row in summary["rows"] if name in row["measures"]}
    own = differences[name]
    parts = [
        f"{other} {means[other]:.4f} ({own[other]['mean']:+.4f}, p = {own[other]['holm']:.2g})" for other in better
    ]
    return f"- {MEASURES[name].label}: {means[summary['subject']]:.4f}, against {', '.join(parts)}"


def _over_curves(summary: Summary) -> list[str]:
    """Who dominates more of the plane of learning and forgetting than the subject, by the steps that were measured."""
    volumes = {row["method"]: row["hypervolume"] for row in summary["rows"] if row["hypervolume"]}
    own = volumes.pop(summary["subject"], None)
    if own is None or own["high"] is None:
        return []
    ahead = [f"{name} {each['mean']:.3f}" for name, each in volumes.items() if (each["low"] or 0) > own["high"]]
    if not ahead:
        return []
    most = summary["reference_forgetting"]
    return [
        f"By hypervolume (gain against forgetting of at most {most:g} nats, over the whole curve) these are ahead of "
        f"{summary['subject']} with {own['mean']:.3f}, intervals apart: {', '.join(ahead)}."
    ]


def _price(summary: Summary, ranked: Sequence[str], other: str) -> str:
    """What a better method pays, on the other ranked measures and in parameters."""
    differences = summary["differences"][summary["subject"]]
    paid = [
        f"{MEASURES[name].label} ({differences[name][other]['mean']:+.4f})"
        for name in ranked
        if _sign(summary, name, other) < 0
    ]
    sizes = {row["method"]: row["parameters"] for row in summary["rows"]}
    own, theirs = sizes[summary["subject"]], sizes[other]
    size = f" It trains {theirs:,} parameters, {summary['subject']} {own:,}." if own != theirs else ""
    if paid:
        return f"{other} pays for it in {', '.join(paid)}.{size}"
    return f"{other} pays for it in nothing that is ranked here.{size}"


def _cautions(summary: Summary) -> list[str]:
    lines = []
    seeds = min((len(row["seeds"]) for row in summary["rows"]), default=0)
    if seeds < 5:
        lines.append(f"Caution: some methods have only {seeds} finished seed{'s' if seeds != 1 else ''}.")
    edge = [f"{row['method']} ({row['learning_rate']:g})" for row in summary["rows"] if row["edge"]]
    if edge:
        lines.append(
            "Caution: the best learning rate is the last one tried, so a better one may lie beyond (chosen: "
            f"{', '.join(edge)})."
        )
    failed = [f"{row['method']} ({row['failed']})" for row in summary["rows"] if row["failed"]]
    if failed:
        lines.append(
            f"Caution: runs that failed (diverged, or out of memory) are left out of means: {', '.join(failed)}."
        )
    match = summary["match"]
    if match["by"] == "none":
        return lines + _missing(summary)
    unmatched = [f"{row['method']} ({row['parameters']:,})" for row in summary["rows"] if row["matched"] is False]
    if unmatched:
        lines.append(
            f"Caution: these are not shown to be within {100 * match['tolerance']:g} % of the budget ({match['by']}): "
            f"{', '.join(unmatched)}."
        )
    fixed = [f"{row['method']} ({row['parameters']:,})" for row in summary["rows"] if row["matched"] is None]
    lines.append(f"These have no size to choose: {', '.join(fixed)}." if fixed else "All have a size that was chosen.")
    return lines + _missing(summary)


def _missing(summary: Summary) -> list[str]:
    names = summary["missing"]
    return [f"Caution: no finished run of {', '.join(names)}."] if names else []


def _sign(summary: Summary, name: str, other: str, tested: bool = False) -> int:
    """1 where the other method is better than the subject, -1 where it is worse, 0 where nothing separates them.

    Args:
        summary: The summary.
        name: Of the measure.
        other: The method.
        tested: Whether the paired test has to say so; else intervals that do not overlap are enough.
    """
    subject = summary["subject"]
    difference = summary["differences"][subject].get(name, {}).get(other)
    if difference is None:
        return 0
    apart = subject not in summary["ranks"][name][other]["with"]
    if not (separable(difference) or (apart and not tested)):
        return 0
    return 1 if (difference["mean"] > 0) == MEASURES[name].higher else -1


def _labels(names: Sequence[str]) -> str:
    return ", ".join(MEASURES[name].label for name in names)
