import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from excitor.evaluate.bootstrap import estimate, interval, resample


values = st.lists(st.floats(-100, 100), min_size=2, max_size=20)


@given(values, st.integers(0, 5))
def test_interval_lies_within_the_values_and_repeats(numbers, seed):
    low, high = interval(numbers, seed=seed, resamples=50)
    assert min(numbers) - 1e-9 <= low <= high <= max(numbers) + 1e-9
    assert (low, high) == interval(numbers, seed=seed, resamples=50)


def test_interval_is_about_two_standard_errors_wide():
    numbers = torch.randn(400, generator=torch.Generator().manual_seed(0))
    low, high = interval(numbers)
    half = 1.96 * numbers.std().item() / math.sqrt(len(numbers))
    assert low == pytest.approx(numbers.mean().item() - half, abs=0.2 * half)
    assert high == pytest.approx(numbers.mean().item() + half, abs=0.2 * half)


def test_weighted_interval_covers_the_true_ratio():
    """Documents' lengths and losses go together: the estimate is a ratio of two random sums."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        weights = generator.integers(1, 50, 60)
        low, high = interval(weights / 50 + generator.normal(size=60), weights, resamples=300)
        covered += low <= np.mean(np.arange(1, 50) ** 2) / 50 / 25 <= high  # E[w * w / 50] / E[w]
    assert covered / 200 == pytest.approx(0.95, abs=0.05)


def test_resampled_sums_are_those_of_drawn_items():
    """Whole numbers of times, as many draws as items, the same draws for every column; groups keep their size."""
    ones, places = np.ones(6), np.arange(6)
    sums = resample(np.stack([ones, places, 10 * places], axis=1), resamples=300)
    assert sums.shape == (300, 3)
    assert (sums[:, 0] == 6).all()
    assert np.array_equal(sums[:, 2], 10 * sums[:, 1])
    assert sums[:, 1].mean() == pytest.approx(15, abs=1)
    first = np.array([1, 1, 0, 0, 0, 0])
    assert (resample(first[:, None], list("aabbbb")) == 2).all()


def test_estimate_is_the_mean_over_weights():
    metric = estimate([1.0, 4.0], [3, 1], higher_is_better=False, unit="nats")
    assert (metric.value, metric.unit, metric.higher_is_better) == (1.75, "nats", False)
    assert 1.0 <= metric.low <= 1.75 <= metric.high <= 4.0


def test_groups_keep_their_share():
    """What differs between groups is no uncertainty, what differs within them is."""
    generator = np.random.default_rng(2)
    noise = generator.normal(size=100)
    groups = ["a", "b"] * 50
    apart = noise + np.where(np.array(groups) == "a", 100, 0)
    low, high = interval(apart, groups=groups)
    own_low, own_high = interval(noise, groups=groups)
    assert high - low == pytest.approx(own_high - own_low)
    assert high - low == pytest.approx(2 * 1.96 / 10, rel=0.2)
    wide_low, wide_high = interval(apart)
    assert wide_high - wide_low > 10


def test_one_item_bounds_nothing_and_none_is_an_error():
    assert interval([0.5]) == (-math.inf, math.inf)
    assert interval([0.5, 0.1], groups=["a", "b"]) == (-math.inf, math.inf)
    with pytest.raises(ValueError, match="at least one value"):
        interval([])
