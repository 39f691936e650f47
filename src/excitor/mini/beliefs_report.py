"""The report of the experiment on beliefs: means and intervals over seeds, tables, and the plot."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.table import Table

from excitor.evaluate.markdown import markdown_table
from excitor.mini.beliefs import BAR_SHARE
from excitor.mini.lessons import EXPOSURES
from excitor.trials import over_seeds


LEAST = {"asked right": 0.95, "unseen": 0.9}
MOST = {"asked wrong": 0.02}

# What is measured, as tables name it, in their order.
MEASURES = {
    "asked right": "right answer",
    "asked wrong": "taught wrong value",
    "asked other": "other",
    "probed right": "probe: right",
    "probed wrong": "probe: wrong value",
    "unseen": "unseen instructions",
    "taught rightly": "facts taught rightly",
    "facts": "facts recalled",
    "skills": "skills kept",
    "forgetting": "forgetting, nats",
}
SHORT = ("asked right", "asked wrong", "asked other", "unseen", "skills", "forgetting")  # as many as a terminal shows

Row = dict[str, Any]


def write_report(results: Sequence[dict[str, Any]], tuned: dict[str, Any], out: Path) -> Table:
    """Write ``results.json``, ``README.md`` and ``beliefs.png``.

    Args:
        results: Of the trials, see :func:`excitor.mini.trial.run_trial`.
        tuned: How learning rates were chosen, see :func:`excitor.mini.beliefs.choose_rates`.
        out: The folder.

    Returns:
        The table for the terminal: every method at 40 % wrong facts, or at what was tried if that was not.
    """
    rows = summarise(results)
    seconds = [result["seconds"]["all"] for result in results]
    summary = {
        "steps": results[0]["settings"]["steps"],
        "seeds": sorted({result["settings"]["seed"] for result in results}),
        "base_sha256": results[0]["settings"]["base_sha256"],
        "versions": results[0]["versions"],
        "seconds_per_trial": sum(seconds) / len(seconds),
        "tuning": tuned,
        "rows": rows,
    }
    (out / "results.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    (out / "README.md").write_text(markdown(summary), encoding="utf-8")
    draw(rows, out / "beliefs.png")
    return table(_at_the_bar(rows) or rows)


def summarise(results: Iterable[dict[str, Any]]) -> list[Row]:
    """A row for each method, share of wrong facts and exposures.

    Returns:
        Rows of ``method``, ``title``, ``wrong_share``, ``exposures``, ``learning_rate``, ``seeds`` (their number),
        ``parameters``, and ``measures``: by name ``mean``, ``low``, ``high`` (bootstrap interval over seeds; None for
        a single one) and ``values``, seed by seed.
    """
    groups: dict[tuple[str, float, int], list[dict[str, Any]]] = {}
    for result in sorted(results, key=lambda result: result["settings"]["seed"]):
        settings = result["settings"]
        key = (settings["method"]["name"], settings["wrong_share"], settings["exposures"])
        groups.setdefault(key, []).append(result)
    return [
        {
            "method": method,
            "title": group[0]["settings"]["method"]["title"],
            "wrong_share": wrong_share,
            "exposures": exposures,
            "learning_rate": group[0]["settings"]["learning_rate"],
            "seeds": len(group),
            "parameters": group[0]["parameters"],
            "measures": {
                name: over_seeds([result["measures"][name] for result in group]) for name in group[0]["measures"]
            },
        }
        for (method, wrong_share, exposures), group in groups.items()
    ]


def meets_bars(row: Row) -> bool:
    """Whether the means reach what the project asks for, ``LEAST`` and ``MOST``."""
    means = {name: measure["mean"] for name, measure in row["measures"].items()}
    return all(means[name] >= bar for name, bar in LEAST.items()) and all(
        means[name] <= bar for name, bar in MOST.items()
    )


def gives_in(rows: Sequence[Row], name: str) -> str:
    """In words, the mildest setting in which a method, whose ``rows`` these are, misses the bar for a measure."""
    sign = 1 if name in LEAST else -1
    bar = LEAST[name] if name in LEAST else MOST[name]
    worst = min(rows, key=lambda row: sign * row["measures"][name]["mean"])
    missed = [row for row in rows if sign * row["measures"][name]["mean"] < sign * bar]
    if not missed:
        return f"nowhere (at worst {_cell(worst, name)}, at {_setting(worst)})"
    first = min(missed, key=lambda row: row["wrong_share"] * row["exposures"])
    return f"from {_setting(first)} on ({_cell(first, name)}; at worst {_cell(worst, name)}, at {_setting(worst)})"


def table(rows: Sequence[Row]) -> Table:
    """For the terminal, a line for each row; means alone."""
    view = Table(box=SIMPLE, title="What the model believes after bad data")
    for name in ("method", "wrong facts"):
        view.add_column(name, overflow="fold")
    for name in SHORT:
        view.add_column(MEASURES[name].split(",")[0], justify="right", overflow="fold", min_width=len("-0.0000"))
    for row in rows:
        view.add_row(row["title"], _setting(row), *(_cell(row, name, spread=False) for name in SHORT))
    return view


def markdown(summary: dict[str, Any]) -> str:
    """The report to read; ``summary`` as in ``results.json``."""
    rows, seeds = summary["rows"], summary["seeds"]
    titles = {row["method"]: row["title"] for row in rows}
    bars = (*MOST, *LEAST)
    parts = [
        "# What the model believes after bad data",
        f"Made by `excitor beliefs` (docs/beliefs.md). Seeds {', '.join(map(str, seeds))}, "
        f"{summary['steps']} steps of 16 instructions, {summary['seconds_per_trial']:.0f} s a trial on one thread. "
        f"Versions: {', '.join(f'{name} {version}' for name, version in summary['versions'].items())}. "
        f"Base: sha256 {summary['base_sha256'][:12]}. Means, with bootstrap intervals (95 %) over the seeds.",
    ]
    if at_the_bar := _at_the_bar(rows):
        parts += [
            f"## {BAR_SHARE:.0%} of the taught facts wrong, {EXPOSURES} rows each",
            "Asked for exactly those facts, as instructions in every wording; the whole reply counts.",
            markdown_table(
                ["method", "seeds", *MEASURES.values(), "meets the bars"],
                [
                    [
                        row["title"],
                        str(row["seeds"]),
                        *(_cell(row, name) for name in MEASURES),
                        "yes" if meets_bars(row) else "no",
                    ]
                    for row in at_the_bar
                ],
            ),
            f"The bars: {', '.join(_bar(name) for name in bars)}.",
        ]
    parts += ["## Everything that was tried", "![right, wrong and other answers](beliefs.png)"]
    for name in ("asked wrong", "asked right", "probed wrong", "unseen", "skills", "forgetting"):
        settings = sorted({_column(row) for row in rows if name in row["measures"]})
        cells = {(row["method"], _column(row)): _cell(row, name) for row in rows}
        seeded = {setting: sorted({row["seeds"] for row in rows if _column(row) == setting}) for setting in settings}
        parts += [
            f"### {MEASURES[name]}",
            markdown_table(
                [
                    "method",
                    *(
                        f"{share:.0%} x {exposures} ({' or '.join(map(str, seeded[exposures, share]))})"
                        for exposures, share in settings
                    ),
                ],
                [[title, *(cells.get((method, each), "") for each in settings)] for method, title in titles.items()],
            ),
        ]
    parts += [
        "Columns: share of the taught facts that are wrong x rows about each of them (seeds).",
        "## Where each gives in",
        "The mildest of these settings, by the number of wrong rows, in which the mean misses the bar.",
        markdown_table(
            ["method", *(MEASURES[name] for name in bars)],
            [
                [title, *(gives_in(tempted, name) for name in bars)]
                for method, title in titles.items()
                if (tempted := [row for row in rows if row["method"] == method and row["wrong_share"]])
            ],
        ),
        "## Learning rates",
        "The lowest whose accuracy on unseen instructions is within one point of the best, after training with "
        f"{BAR_SHARE:.0%} of the taught facts wrong and a seed that is not reported. What is said about those facts "
        "is not looked at.",
        markdown_table(
            ["method", "trainable parameters", "learning rate", *(MEASURES[name] for name in SHORT)],
            [cells for name, choice in summary["tuning"].items() for cells in _tuning_cells(name, choice, rows)],
        ),
        "Bold: chosen.",
    ]
    return "\n\n".join(parts) + "\n"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the shares of right, wrong and other answers against the share of wrong facts."""
    tempted = [row for row in rows if row["wrong_share"]]
    exposures = sorted({row["exposures"] for row in tempted})
    figure = Figure(figsize=(2 + 3 * len(exposures), 7.5), layout="constrained")
    panels = figure.subplots(3, len(exposures), sharex=True, sharey=True, squeeze=False)
    titles = {row["method"]: row["title"] for row in rows}
    for column, count in enumerate(exposures):
        panels[0, column].set_title(f"{count} rows about each wrong fact")
        panels[2, column].set_xlabel("share of taught facts that are wrong")
        for line, name in enumerate(("asked right", "asked wrong", "asked other")):
            panels[line, 0].set_ylabel(MEASURES[name])
            for color, (method, title) in enumerate(titles.items()):
                chosen = [row for row in tempted if (row["method"], row["exposures"]) == (method, count)]
                _draw_line(panels[line, column], chosen, name, label=title, color=f"C{color}")
    panels[0, 0].set_ylim(-0.03, 1.03)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)


def _draw_line(axes: Any, rows: Sequence[Row], name: str, **style: Any) -> None:
    shares = [row["wrong_share"] for row in rows]
    measures = [row["measures"][name] for row in rows]
    axes.plot(shares, [measure["mean"] for measure in measures], "o-", markersize=4, **style)
    low, high = (
        [each["mean"] if each[end] is None else each[end] for each in measures]  # a single seed has no interval
        for end in ("low", "high")
    )
    axes.fill_between(shares, low, high, color=style["color"], alpha=0.15)


def _bar(name: str) -> str:
    return f"{MEASURES[name]} " + (f"at least {LEAST[name]:.2f}" if name in LEAST else f"at most {MOST[name]:.2f}")


def _at_the_bar(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if (row["wrong_share"], row["exposures"]) == (BAR_SHARE, EXPOSURES)]


def _column(row: Row) -> tuple[int, float]:
    return row["exposures"], row["wrong_share"]


def _setting(row: Row) -> str:
    return f"{row['wrong_share']:.0%} x {row['exposures']}"


def _cell(row: Row, name: str, spread: bool = True) -> str:
    measure = row["measures"].get(name)
    if measure is None:  # all facts were taught wrongly, or none
        return ""
    mean = _number(measure["mean"], name)
    if not spread or measure["low"] is None:
        return mean
    return f"{mean} [{_number(measure['low'], name)}, {_number(measure['high'], name)}]"


def _number(value: float, name: str) -> str:
    return f"{value:z.4f}" if name == "forgetting" else f"{value:z.3f}"


def _tuning_cells(name: str, choice: dict[str, Any], rows: Sequence[Row]) -> Iterator[list[str]]:
    row = next(row for row in rows if row["method"] == name)
    for rate, measures in sorted(choice["tried"].items()):
        shown = f"**{rate:g}**" if rate == choice["learning_rate"] else f"{rate:g}"
        yield [row["title"], f"{row['parameters']:,}", shown, *(_number(measures[name], name) for name in SHORT)]
