"""A number and how far chance could have moved it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A number with its 95 % bootstrap interval over items."""

    value: float
    low: float
    high: float
    higher_is_better: bool
    unit: str = ""
