import pytest
from hypothesis import given
from hypothesis import strategies as st

from excitor.compare.statistics import holm, hypervolume, paired, rank_ranges, student_p
from excitor.trials import over_seeds


# Critical values as tables print them.
@pytest.mark.parametrize(
    ("t", "freedom", "p"),
    [(12.706, 1, 0.05), (4.303, 2, 0.05), (2.776, 4, 0.05), (4.604, 4, 0.01), (2.571, 5, 0.05), (3.169, 10, 0.01)],
)
def test_students_t(t, freedom, p):
    assert student_p(t, freedom) == pytest.approx(p, rel=2e-3)
    assert student_p(-t, freedom) == student_p(t, freedom)


def test_paired_differences_are_those_of_common_seeds():
    difference = paired({0: 1.0, 1: 2.0, 2: 3.0, 7: 9.0}, {0: 0.5, 1: 1.0, 2: 1.5})
    assert difference["values"] == [0.5, 1.0, 1.5]
    assert difference["p"] == pytest.approx(student_p(1.0 / (0.5 / 3**0.5), 2))
    assert paired({0: 1.0}, {1: 1.0}) is None
    assert paired({0: 1.0}, {0: 0.0})["p"] is None
    assert paired({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0})["p"] == 1.0


def test_equal_differences_are_no_certainty():
    """A coarse measure gives them by chance; rounding makes them nearly equal."""
    ahead = {seed: 0.1 + 0.3 + 0.07 * seed for seed in range(5)}
    assert paired(ahead, {seed: 0.1 + 0.07 * seed for seed in range(5)})["p"] == 2 / 2**5
    assert paired({0: 0.5, 1: 0.5}, {0: 0.25, 1: 0.25})["p"] == 0.5


def test_holm():
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None})
    assert corrected == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": None})


@given(st.dictionaries(st.integers(), st.floats(0, 1), min_size=1))
def test_holm_never_lowers_nor_reorders(p_values):
    corrected = holm(p_values)
    assert all(p_values[name] <= corrected[name] <= 1 for name in p_values)
    order = sorted(p_values, key=lambda name: p_values[name])
    assert [corrected[name] for name in order] == sorted(corrected.values())


def test_ranks_are_ranges_where_intervals_overlap():
    measures = {
        "best": {"mean": 0.9, "low": 0.88, "high": 0.92},
        "good": {"mean": 0.6, "low": 0.5, "high": 0.7},
        "like it": {"mean": 0.55, "low": 0.45, "high": 0.65},
        "bad": {"mean": 0.1, "low": 0.05, "high": 0.15},
    }
    ranks = rank_ranges(measures, higher=True)
    assert {name: (rank["best"], rank["worst"]) for name, rank in ranks.items()} == {
        "best": (1, 1),
        "good": (2, 3),
        "like it": (2, 3),
        "bad": (4, 4),
    }
    assert ranks["good"]["with"] == ["like it"]
    assert next(iter(rank_ranges(measures, higher=False))) == "bad"


def test_one_seed_separates_nothing():
    ranks = rank_ranges({"a": over_seeds([1.0]), "b": over_seeds([0.0])}, higher=True)
    assert ranks["a"] == {"best": 1, "worst": 2, "with": ["b"]}


def test_hypervolume():
    assert hypervolume([(1.0, 0.5), (2.0, 0.8), (-1.0, 0.0), (3.0, 2.0)], 1.0) == pytest.approx(0.3 + 0.4)
    assert hypervolume([], 1.0) == 0.0


@given(st.lists(st.tuples(st.floats(-1, 5), st.floats(-0.5, 2)), max_size=8), st.floats(0, 5), st.floats(-0.5, 1))
def test_a_further_point_never_takes_area_away(points, gain, forgetting):
    before, after = hypervolume(points, 1.0), hypervolume([*points, (gain, forgetting)], 1.0)
    assert after >= before - 1e-9
    assert after >= gain * (1.0 - forgetting) - 1e-9
