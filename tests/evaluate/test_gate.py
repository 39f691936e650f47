import math

import pytest

from excitor.evaluate.bars import BARS
from excitor.evaluate.gate import in_words, judge
from excitor.evaluate.metric import Metric


def verdict(bar: str, limit: float, low: float, high: float) -> dict:
    metric = Metric((low + high) / 2, low, high, higher_is_better=False, unit="")
    return judge({bar: limit}, {BARS[bar].task: {"mine": {BARS[bar].metric: metric}}})


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
    result = judge({"max_forgetting": 0.1, "max_kl": 0.5}, {"forgetting": {"a": good, "b": bad}})
    assert not result["ship"]
    assert [check["outcome"] for check in result["checks"]] == ["cleared", "cleared", "cleared", "missed"]


def test_a_domain_cannot_hide_behind_the_mean():
    own = {
        "loss change": Metric(0.0, 0.0, 0.0, False),
        "loss change, wiki.txt": Metric(0.5, 0.4, 0.6, False),
        "loss change, stories.txt": Metric(-0.5, -0.6, -0.4, False),
    }
    result = judge({"max_forgetting": 0.1}, {"forgetting": {"mine": own}})
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
