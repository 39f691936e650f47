"""Tables and numbers as readers see them."""

import math
from collections.abc import Iterable, Sequence

from excitor.evaluate.metric import Metric


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    lines = [headings, ("---",) + ("---:",) * (len(headings) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def show(metric: Metric, *, signed: bool = False) -> str:
    """Value and interval: two digits after the point for per cent, four for the rest; a sign for changes."""
    digits = 2 if metric.unit in ("%", "points") else 4
    sign = "+" if signed else ""
    text = f"{metric.value:{sign}.{digits}f}"
    if math.isinf(metric.low):
        return f"{text} (one item)"
    return f"{text} [{metric.low:{sign}.{digits}f}, {metric.high:{sign}.{digits}f}]"
