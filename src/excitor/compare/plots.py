"""The pictures of a comparison: what was learned against what was forgotten, curves, costs."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from excitor.compare.measures import COSTS


Summary = dict[str, Any]

MARKERS = "osD^vPX*<>hp"
INK = "#010203"  # a colour nothing else has: the page puts that of its text in its place


def draw_pareto(summary: Summary) -> Figure:
    """A point for each method, with intervals over seeds; to the upper left is better."""
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    axes = figure.subplots()
    for number, row in enumerate(summary["rows"]):
        gain, forgetting = row["measures"]["gain"], row["measures"]["forgetting"]
        axes.errorbar(
            forgetting["mean"],
            gain["mean"],
            xerr=_reach(forgetting),
            yerr=_reach(gain),
            capsize=2,
            markersize=7,
            linestyle="none",
            label=row["method"],
            **_style(number),
        )
    return _finish(figure, axes)


def draw_curves(summary: Summary) -> Figure:
    """Over the steps of the reported runs, means over seeds; where each learning rate ends; over strengths, if any."""
    has_strengths = any(row["strength_curve"] for row in summary["rows"])
    figure = Figure(figsize=(16 if has_strengths else 12, 5.4), layout="constrained")
    panels = list(figure.subplots(1, 3 if has_strengths else 2, sharey=True))
    over_steps, over_rates, *over_strengths = panels
    for number, row in enumerate(summary["rows"]):
        if row["curve"]:
            x, y = _means(row["curve"])
            over_steps.plot([0.0, *x], [0.0, *y], markersize=4, linewidth=1.2, label=row["method"], **_style(number))
        rates = summary["rate_curves"].get(row["method"], [])
        x, y = ([point[name] for point in rates] for name in ("forgetting", "gain"))
        over_rates.plot(x, y, markersize=4, linewidth=1.2, linestyle="--", **_style(number))
        for axes in over_strengths if row["strength_curve"] else ():
            x, y = _means(row["strength_curve"])
            axes.plot([0.0, *x], [0.0, *y], markersize=4, linewidth=1.2, linestyle=":", **_style(number))
    over_steps.set_title("over training steps")
    over_rates.set_title(f"over learning rates, seed {summary['tuning_seed']}, not reported")
    for axes in over_strengths:
        axes.set_title("over strengths of the finished adapters")
    for axes in panels:  # what diverges would hide all else
        right, top = min(axes.get_xlim()[1], summary["reference_forgetting"]), axes.get_ylim()[1]
        axes.set_xlim(max(axes.get_xlim()[0], -0.05 * right), right)
        axes.set_ylim(max(axes.get_ylim()[0], -0.15 * top), top)
    for axes in panels[1:]:
        _label(axes)
    return _finish(figure, over_steps)


def _means(curve: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """What was forgotten and learned at the points of a curve, means over seeds."""
    forgotten, learned = ([point[name]["mean"] for point in curve] for name in ("forgetting", "gain"))
    return forgotten, learned


def draw_costs(summary: Summary) -> Figure:
    """A bar for each method and cost."""
    rows = summary["rows"]
    names = [name for name in COSTS if any(name in row["costs"] for row in rows)]
    columns = 3
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(12, lines * (1.1 + 0.28 * len(rows))), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True).flat
    for axes, name in zip(panels, names, strict=False):
        cost = COSTS[name]
        for number, row in enumerate(rows):
            if name in row["costs"]:
                estimate = row["costs"][name]
                reach = _reach(estimate)
                axes.barh(
                    number,
                    estimate["mean"] / cost.scale,
                    xerr=None if reach is None else [[end[0] / cost.scale] for end in reach],
                    color=_style(number)["color"],
                    ecolor=INK,
                    height=0.7,
                )
        better = "more" if cost.higher else "less"
        axes.set_title(f"{cost.label} ({cost.unit}; {better} is better)", fontsize=9)
        axes.set_yticks(range(len(rows)), [row["method"] for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
    for axes in list(panels):
        axes.set_visible(False)
    return figure


DRAWERS: dict[str, Callable[[Summary], Figure]] = {
    "pareto": draw_pareto,
    "curves": draw_curves,
    "costs": draw_costs,
}


def draw_all(summary: Summary, folder: Path) -> dict[str, str]:
    """Write ``<name>.png`` for each picture.

    Returns:
        The same pictures as SVG for a page of any background, by name: text and axes have the colour of its text.
    """
    drawn = {}
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    for name, draw in DRAWERS.items():
        settings: Any = dict.fromkeys(inked, INK) | {"svg.fonttype": "none", "svg.hashsalt": name}
        with mpl.rc_context(settings):
            figure = draw(summary)
            figure.savefig(folder / f"{name}.png", dpi=110)
            stream = io.StringIO()
            figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
        svg = stream.getvalue()
        svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
        drawn[name] = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'width="100%"', svg, count=1)
    return drawn


def _style(number: int) -> dict[str, Any]:
    return {"color": f"C{number % 10}", "marker": MARKERS[number % len(MARKERS)]}


def _reach(estimate: dict[str, Any]) -> list[list[float]] | None:
    """How far an interval goes to both sides of the mean."""
    if estimate["low"] is None:
        return None
    return [[max(0.0, estimate["mean"] - estimate["low"])], [max(0.0, estimate["high"] - estimate["mean"])]]


def _label(axes: Axes) -> None:
    axes.set_xlabel("forgotten: rise of loss on text (nats/token)")
    axes.grid(alpha=0.25)
    axes.axvline(0, color="0.6", linewidth=0.8)
    axes.axhline(0, color="0.6", linewidth=0.8)


def _finish(figure: Figure, axes: Axes) -> Figure:
    _label(axes)
    axes.set_ylabel("learned: fall of held-out answer loss (nats/token)")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure
