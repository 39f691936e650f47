"""Pictures of an evaluation. To the right is more."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from excitor.evaluate.losses import by_domain, loss_change
from excitor.evaluate.task import Item


Items = dict[str, list[Item]]

CHANCE = 25.0  # of four choices, in per cent


def draw(task: str, items: Items, path: Path) -> bool:
    """Draw the picture of a task, if there is one for it and there is a base to compare with.

    Args:
        task: Its name.
        items: By subject, the base first.
        path: Of the PNG.

    Returns:
        Whether there is one.
    """
    if task not in _DRAWERS or len(items) < 2:
        return False
    _DRAWERS[task](items).savefig(path, dpi=120)
    return True


def draw_domains(items: Items) -> Figure:
    """Change of the loss in each domain, with its interval, for every subject."""
    (_, base), *subjects = items.items()
    domains = _names(base, "domain")
    figure, axes = _rows_of(domains, "change of the loss (nats/token), 95 % interval")
    for number, (name, own) in enumerate(subjects):
        offset = (number - (len(subjects) - 1) / 2) * 0.6 / len(subjects)
        changes = [loss_change(before, after) for _, before, after in by_domain(base, own)]
        values = np.array([change.value for change in changes])
        ends = np.array([[change.low for change in changes], [change.high for change in changes]])
        reach = np.where(np.isfinite(ends), np.abs(ends - values), 0)  # a single document has no interval
        places = [place + offset for place in range(len(domains))]
        axes.errorbar(values, places, xerr=reach, fmt="o", markersize=5, capsize=2, label=name)
    axes.axvline(0, color="0.6", linewidth=0.8)
    return _with_legend(figure)


def draw_topics(items: Items) -> Figure:
    """Accuracy on each topic before (hollow) and after, for every subject."""
    (base_name, base), *subjects = items.items()
    before = {topic: _accuracy(_within(base, "topic", topic)) for topic in _names(base, "topic")}
    topics = sorted(before, key=lambda topic: before[topic])
    figure, axes = _rows_of(topics, "accuracy (%)")
    for number, (name, own) in enumerate(subjects):
        after = [_accuracy(_within(own, "topic", topic)) for topic in topics]
        axes.hlines(range(len(topics)), [before[topic] for topic in topics], after, color=f"C{number}", linewidth=1)
        axes.plot(after, range(len(topics)), "o", color=f"C{number}", markersize=5, label=name)
    axes.plot([before[topic] for topic in topics], range(len(topics)), "o", mfc="none", mec="0.3", label=base_name)
    axes.axvline(CHANCE, color="0.6", linewidth=0.8, linestyle="--", label="chance")
    return _with_legend(figure)


_DRAWERS: dict[str, Callable[[Items], Figure]] = {"forgetting": draw_domains, "mmlu": draw_topics}


def _rows_of(names: Sequence[str], label: str) -> tuple[Figure, Axes]:
    """A figure with a row for each name."""
    figure = Figure(figsize=(8, 1.4 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    return figure, axes


def _with_legend(figure: Figure) -> Figure:
    """The legend above the rows: among them its marks would look like measurements."""
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return figure


def _names(items: list[Item], key: str) -> list[str]:
    return list(dict.fromkeys(item[key] for item in items))


def _within(items: list[Item], key: str, value: str) -> list[Item]:
    return [item for item in items if item[key] == value]


def _accuracy(items: list[Item]) -> float:
    return 100 * sum(item["correct"] for item in items) / len(items)
