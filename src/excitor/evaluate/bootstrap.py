"""Bootstrap intervals over items. A change is measured pair by pair: give the differences."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from excitor.evaluate.metric import Metric


COVERAGE = 0.95
RESAMPLES = 2000


def resample(
    columns: np.ndarray, groups: Sequence[str] | None = None, *, seed: int = 0, resamples: int = RESAMPLES
) -> np.ndarray:
    """Column sums over items that are drawn anew, with replacement: the bootstrap of any function of such sums.

    Args:
        columns: What each item adds to each sum, ``[n, c]``.
        groups: Of each item, ``[n]``; items are drawn within their group.
        seed: Of the draws: equal columns give equal sums.
        resamples: Number of bootstrap samples.

    Returns:
        fp64 ``[resamples, c]``.
    """
    group = np.zeros(len(columns), dtype=int) if groups is None else np.unique(groups, return_inverse=True)[1]
    generator = np.random.default_rng(seed)
    sums = np.zeros((resamples, columns.shape[1]))
    for number in range(group.max() + 1):
        part = np.asarray(columns[group == number], dtype=np.float64)
        for row in sums:
            times_drawn = np.bincount(generator.integers(len(part), size=len(part)), minlength=len(part))
            row += times_drawn @ part
    return sums


def percentiles(statistics: np.ndarray) -> tuple[float, float]:
    """The bounds between which the middle 95 % of a statistic's bootstrap samples lie."""
    low, high = np.quantile(statistics, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)


def interval(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    groups: Sequence[str] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
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
    if len(data) == (1 if groups is None else len(set(groups))):
        return -math.inf, math.inf
    sums = resample(np.stack([data * weight, weight], axis=1), groups, seed=seed, resamples=resamples)
    return percentiles(sums[:, 0] / sums[:, 1])


def estimate(
    values: ArrayLike,
    weights: ArrayLike | None = None,
    groups: Sequence[str] | None = None,
    *,
    higher_is_better: bool,
    unit: str = "",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Metric:
    """The weighted mean of items as a metric, with its :func:`interval`."""
    low, high = interval(values, weights, groups, seed=seed, resamples=resamples)
    mean = float(
        np.average(np.asarray(values, dtype=np.float64), weights=None if weights is None else np.asarray(weights))
    )
    return Metric(mean, low, high, higher_is_better, unit)
