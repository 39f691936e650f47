"""The tables of a comparison, as headings and cells of text: the same in Markdown, HTML and the terminal."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from excitor.compare.measures import COSTS, MEASURES, Measure
from excitor.compare.verdict import separable


Summary = dict[str, Any]

SPENT = {"flops": "operations per token", "time": "time of a step, against the target's"}


@dataclass(frozen=True)
class Table:
    """A table with what to know about it."""

    title: str
    note: str
    headings: list[str]
    rows: list[list[str]]


def ranks(summary: Summary, name: str) -> Table:
    """Ranks on one measure; a range where the seeds do not tell methods apart."""
    measure = MEASURES[name]
    means = {row["method"]: row["measures"][name] for row in summary["rows"] if name in row["measures"]}
    baseline = summary["differences"].get(summary["baseline"], {}).get(name, {})
    rows = []
    for method, rank in summary["ranks"][name].items():
        span = str(rank["best"]) if rank["best"] == rank["worst"] else f"{rank['best']} to {rank['worst']}"
        apart = f"not separable from {', '.join(rank['with'])}" if rank["with"] else "separable"
        difference = baseline.get(method)
        cells = ["", ""] if difference is None else [interval(difference, signed=True), p_value(difference)]
        rows.append([method, span, interval(means[method]), *cells, apart])
    return Table(
        f"Rank: {measure.label}",
        f"{'More' if measure.higher else 'Less'} is better. Methods whose intervals overlap are not separable. The "
        f"difference is seed by seed; p is that of a paired t-test, corrected by Holm over all methods and ranked "
        "measures.",
        ["method", "rank", _unit(measure), f"against {summary['baseline']}", "p", "order"],
        rows,
    )


def measures(summary: Summary) -> Table:
    """Everything that was measured."""
    names = [name for name in MEASURES if any(name in row["measures"] for row in summary["rows"])]
    rows = [
        [row["method"], *(interval(row["measures"][name]) if name in row["measures"] else "" for name in names)]
        for row in summary["rows"]
    ]
    return Table(
        "All measures",
        "Means over seeds, with bootstrap intervals (95 %).",
        ["method", *(_unit(MEASURES[name]) for name in names)],
        rows,
    )


def costs(summary: Summary) -> Table:
    """What methods cost."""
    names = [name for name in COSTS if any(name in row["costs"] for row in summary["rows"])]
    rows = [
        [row["method"], *(_cost(COSTS[name], row["costs"].get(name)) for name in names), str(row["failed"])]
        for row in summary["rows"]
    ]
    return Table(
        "Costs",
        "Tokens per second and peak memory are those of the machine and of what else ran on it; the peak is beyond "
        "what was held before the model was loaded, by PyTorch on a GPU, by the process on a CPU. Kept for the "
        "backward pass is exact: the tensors autograd holds for the first batch of held-out rows, without parameters.",
        ["method", *(f"{COSTS[name].label} ({COSTS[name].unit})" for name in names), "failed"],
        rows,
    )


def curves(summary: Summary) -> Table:
    """Hypervolumes of the curves over steps."""
    most = summary["reference_forgetting"]
    rows = [
        [row["method"], interval(row["hypervolume"])]
        for row in sorted(summary["rows"], key=lambda row: -row["hypervolume"]["mean"])
    ]
    return Table(
        "Learning-forgetting curves",
        "Area that the points of a run dominate, in nats squared; the reference point learns nothing and forgets "
        f"{most:g} nats per token.",
        ["method", "hypervolume"],
        rows,
    )


def strengths(summary: Summary) -> Table:
    """What finished adapters have learned and forgotten at other strengths than they were trained at."""
    grid = sorted({1.0, *summary["strengths"]})
    return Table(
        "Strength",
        "Learned / forgotten, nats per token, of the same adapters with their effect multiplied by a factor: 0 would "
        "be the base, 1 is as trained. Means over seeds. Where no factor scales the effect down to the base, there is "
        "none.",
        ["method", *(f"{strength:g}" for strength in grid)],
        [
            [row["method"], *_at_strengths(row["strength_curve"], grid)]
            for row in summary["rows"]
            if row["learning_rate"] is not None
        ],
    )


def _at_strengths(curve: list[dict[str, Any]], grid: list[float]) -> list[str]:
    points = {point["strength"]: f"{point['gain']['mean']:.4f} / {point['forgetting']['mean']:.4f}" for point in curve}
    return [points.get(strength, "none") for strength in grid]


def rates(summary: Summary) -> Table:
    """How learning rates were chosen, and how large methods are."""
    grid = sorted({float(rate) for choice in summary["tuning"].values() for rate in choice["answer_loss"]})
    by = summary["match"]["by"]
    cost = [SPENT[by]] if by in SPENT else []
    note = (
        " Times of steps were measured in turn with the target's, median and the interval that holds it (96 %)."
        if by == "time"
        else ""
    )
    return Table(
        "Learning rates and sizes",
        f"Held-out answer loss by learning rate, on seed {summary['tuning_seed']}, which is not reported, and on rows "
        f"that are not reported either. Chosen is the lowest rate whose loss is about as low as the lowest.{note}",
        ["method", "chosen", *(f"{rate:g}" for rate in grid), "trainable parameters", *cost, "budget"],
        list(_rates(summary, grid)),
    )


def runs(summary: Summary) -> Table:
    """Which files the numbers of a method come from."""
    return Table(
        "Where the numbers come from",
        "Each file holds what a run measured, its settings, versions and hardware; its run_info, train_info and "
        "meta_info are those of PEFT's method comparison.",
        ["method", "seeds", "files"],
        [[row["method"], ", ".join(map(str, row["seeds"])), ", ".join(row["files"])] for row in summary["rows"]],
    )


def all_tables(summary: Summary) -> list[Table]:
    """In the order of the report."""
    ranked = [ranks(summary, name) for name in summary["ranked"]]
    scaled = [strengths(summary)] if summary["strengths"] else []
    return [*ranked, measures(summary), curves(summary), *scaled, costs(summary), rates(summary), runs(summary)]


def interval(estimate: dict[str, Any], signed: bool = False) -> str:
    """Mean and interval over seeds."""
    sign = "+" if signed else ""
    text = f"{estimate['mean']:{sign}.4f}"
    if estimate["low"] is None:
        return text
    return f"{text} [{estimate['low']:{sign}.4f}, {estimate['high']:{sign}.4f}]"


def p_value(difference: dict[str, Any]) -> str:
    """A corrected p-value; a star where it separates."""
    if difference["holm"] is None:
        return ""
    return f"{difference['holm']:.2g}{'*' if separable(difference) else ''}"


def spent_text(spent: list[float] | None) -> str:
    """What a method costs of what was matched: a count, or a ratio with its interval."""
    if spent is None:
        return ""
    return f"{spent[0]:,.0f}" if len(spent) == 1 else f"{spent[0]:.3f} [{spent[1]:.3f}, {spent[2]:.3f}]"


def _rates(summary: Summary, grid: list[float]) -> Iterator[list[str]]:
    match = summary["match"]
    if match["by"] == "none":
        budget = dict.fromkeys((True, False, None), "")
    else:
        near = f"within {100 * match['tolerance']:g} %"
        budget = {True: near, False: f"not shown to be {near}", None: "fixed size"}
    for row in summary["rows"]:
        losses = summary["tuning"].get(row["method"], {}).get("answer_loss", {})
        cells = [_loss(losses[f"{rate:g}"]) if f"{rate:g}" in losses else "" for rate in grid]
        chosen = "" if row["learning_rate"] is None else f"{row['learning_rate']:g}"
        spent = [spent_text(row["spent"])] if match["by"] in SPENT else []
        yield [row["method"], chosen, *cells, f"{row['parameters']:,}", *spent, budget[row["matched"]]]


def _loss(loss: float | None) -> str:
    return "failed" if loss is None else f"{loss:.4f}"


def _cost(cost: Measure, estimate: dict[str, Any] | None) -> str:
    if estimate is None:
        return ""
    value = estimate["mean"] / cost.scale
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:,.1f}"


def _unit(measure: Measure) -> str:
    return f"{measure.label} ({measure.unit})"
