"""Bootstrap intervals over items. A change is measured pair by pair: give the differences."""

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from excitor.evaluate.task import Metric


COVERAGE = 0.95
# Resampled items held at a time: 32 MiB of indices.
CHUNK_DRAWS = 2**22

Values = Tensor | np.ndarray | Sequence[float]


def interval(
    values: Values,
    weights: Values | None = None,
    groups: Sequence[str] | None = None,
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Percentile bootstrap interval (95 %) of the weighted mean of independent items.

    Args:
        values: One number per item, ``[n]``; for a change, the paired differences.
        weights: What each item counts, ``[n]``; equally when not given. A mean over tokens is that of the documents'
            means weighted by their numbers of tokens.
        groups: Of each item, ``[n]``, such as the file it is from. Items are resampled within their group, so the
            interval does not cover another mixture of groups; a group of one item adds nothing to it.
        seed: Of the resampling: equal values give an equal interval.
        resamples: Number of bootstrap samples.

    Returns:
        Lower and upper bound; (-inf, inf) for single items, which say nothing about others.

    Raises:
        ValueError: There are no values.
    """
    data = np.asarray(values, dtype=np.float64)
    if not data.size:
        raise ValueError("An interval needs at least one value.")
    weight = np.ones_like(data) if weights is None else np.asarray(weights, dtype=np.float64)
    group = np.zeros(data.size, dtype=int) if groups is None else np.unique(groups, return_inverse=True)[1]
    members = [np.flatnonzero(group == number) for number in range(group.max() + 1)]
    if max(map(len, members)) == 1:
        return -math.inf, math.inf
    generator = np.random.default_rng(seed)
    sums = np.zeros((2, resamples))  # of weighted values, of weights
    for part in members:
        rows = max(1, CHUNK_DRAWS // part.size)
        for start in range(0, resamples, rows):
            count = min(rows, resamples - start)
            drawn = part[generator.integers(part.size, size=(count, part.size))]
            sums[0, start : start + count] += (data * weight)[drawn].sum(axis=1)
            sums[1, start : start + count] += weight[drawn].sum(axis=1)
    low, high = np.quantile(sums[0] / sums[1], [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def estimate(
    values: Values,
    weights: Values | None = None,
    groups: Sequence[str] | None = None,
    *,
    higher_is_better: bool,
    unit: str = "",
    seed: int = 0,
    resamples: int = 2000,
) -> Metric:
    """The weighted mean of items as a metric, with its :func:`interval`."""
    low, high = interval(values, weights, groups, seed=seed, resamples=resamples)
    mean = float(
        np.average(np.asarray(values, dtype=np.float64), weights=None if weights is None else np.asarray(weights))
    )
    return Metric(mean, low, high, higher_is_better, unit)
