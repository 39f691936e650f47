import math

import pytest

from excitor.evaluate.bars import BARS
from excitor.evaluate.gate import in_words, judge
from excitor.evaluate.metric import Metric


def verdict(bar: str, limit: float, low: float, high: float) -> dict:
    metric = Metric((low + high) / 2, low, high, higher_is_better=False, unit="")
    base = {"accuracy": Metric(60, 55, 65, higher_is_better=True)}
    return judge({bar: limit}, {BARS[bar].task: {"base": base, "mine": {BARS[bar].metric: metric}}})


@pytest.mark.parametrize(
    ("bar", "limit", "interval", "outcome"),
    [
        ("max_forgetting", 0.02, (0.005, 0.015), "cleared"),
        ("max_forgetting", 0.02, (-0.1, -0.05), "cleared"),
        ("max_forgetting", 0.02, (0.015, 0.025), "not shown"),
        ("max_forgetting", 0.02, (0.03, 0.04), "missed"),
        ("max_forgetting", 0.02, (-math.inf, math.inf), "not shown"),
        ("max_forgetting", 0.0, (0.0, 0.0), "cleared"),
        ("min_gain", 0.1, (-0.3, -0.2), "cleared"),  # the loss falls by 0.2 to 0.3
        ("min_gain", 0.1, (-0.3, -0.05), "not shown"),
        ("min_gain", 0.1, (0.2, 0.3), "missed"),
        ("max_mmlu_drop", 0.5, (-0.4, 3.0), "cleared"),
        ("max_mmlu_drop", 0.5, (-0.6, 3.0), "not shown"),
        ("max_mmlu_drop", 0.5, (-2.0, -1.0), "missed"),
    ],
)
def test_a_bar_is_cleared_only_by_the_whole_interval(bar, limit, interval, outcome):
    result = verdict(bar, limit, *interval)
    assert result["checks"][0]["outcome"] == outcome
    assert result["ship"] == (outcome == "cleared")


def test_every_subject_must_clear_every_bar():
    good = {"loss change": Metric(0.0, 0.0, 0.0, False), "KL": Metric(0.1, 0.1, 0.1, False)}
    bad = {"loss change": Metric(0.0, 0.0, 0.0, False), "KL": Metric(0.9, 0.9, 0.9, False)}
    result = judge({"max_forgetting": 0.1, "max_kl": 0.5}, {"forgetting": {"base": {}, "a": good, "b": bad}})
    assert not result["ship"]
    assert [check["outcome"] for check in result["checks"]] == ["cleared", "cleared", "cleared", "missed"]


def test_a_domain_cannot_hide_behind_the_mean():
    own = {
        "loss change": Metric(0.0, 0.0, 0.0, False),
        "loss change, wiki.txt": Metric(0.5, 0.4, 0.6, False),
        "loss change, stories.txt": Metric(-0.5, -0.6, -0.4, False),
    }
    result = judge({"max_forgetting": 0.1}, {"forgetting": {"base": {}, "mine": own}})
    assert {check["metric"]: check["outcome"] for check in result["checks"]} == {
        "loss change": "cleared",
        "loss change, wiki.txt": "missed",
        "loss change, stories.txt": "cleared",
    }
    assert "loss change, wiki.txt +0.5000" in in_words(result)


def test_words_say_what_was_wanted_and_found():
    text = in_words(verdict("min_gain", 0.1, -0.3, -0.2))
    assert text.startswith("**Ship.**")
    assert "--min-gain 0.1" in text
    assert "+0.2500 [+0.2000, +0.3000], wanted at least 0.1" in text
    doubtful = in_words(verdict("max_forgetting", 0.02, 0.0, 0.1))
    assert doubtful.startswith("**Do not ship.**")
    assert "narrow it" in doubtful


def percent(value: float) -> Metric:
    return Metric(value, value, value, higher_is_better=True)


@pytest.mark.parametrize(
    ("before", "after", "ship", "warnings"),
    [(0, 0, True, 0), (40, 45, True, 0), (99, 60, True, 2), (100, 100, False, 2), (100, 0, False, 1)],
)
def test_a_base_that_answers_nothing_has_nothing_to_lose(before, after, ship, warnings):
    found = {
        "base": {"failed": percent(before)},
        "mine": {"failed": percent(after), "accuracy change": percent(0)},
    }
    result = judge({"max_scienceqa_drop": 1}, {"scienceqa": found})
    assert result["ship"] == ship
    assert len(result["warnings"]) == warnings
    assert in_words(result).count("**Warning:**") == warnings
    assert "accuracy change (fall) +0.0000 [+0.0000, +0.0000]" in in_words(result)
    if not ship:
        assert result["checks"][0]["outcome"] == "not shown"


def test_accuracy_at_chance_is_pointed_out():
    change = {"accuracy change": percent(0)}
    for low, warnings in ((24, 1), (26, 0)):
        base = {"accuracy": Metric(low + 1, low, low + 2, higher_is_better=True)}
        result = judge({"max_mmlu_drop": 1}, {"mmlu": {"base": base, "mine": change}})
        assert result["ship"]
        assert len(result["warnings"]) == warnings
