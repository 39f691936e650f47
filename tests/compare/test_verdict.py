import pytest

from excitor.compare.statistics import holm, paired, rank_ranges
from excitor.compare.verdict import verdict
from excitor.trials import over_seeds


SUBJECT, RIVAL = "excitor/default", "lora/q-v"


def summary_of(gains: dict[str, list[float]], **row) -> dict:
    """A summary of one ranked measure, the subject against all others."""
    rows = [
        {
            "method": name,
            "learning_rate": 0.01,
            "edge": False,
            "seeds": list(range(len(values))),
            "failed": 0,
            "parameters": 0 if name.startswith("base") else 100,
            "matched": True,
            "measures": {"gain": over_seeds(values)},
            "hypervolume": None,
        }
        | row
        for name, values in gains.items()
    ]
    by_seed = {name: dict(enumerate(values)) for name, values in gains.items()}
    found = {name: paired(own, by_seed[SUBJECT]) for name, own in by_seed.items() if name != SUBJECT}
    corrected = holm({name: one["p"] for name, one in found.items()})
    return {
        "subject": SUBJECT,
        "ranked": ["gain"],
        "rows": rows,
        "differences": {SUBJECT: {"gain": {name: one | {"holm": corrected[name]} for name, one in found.items()}}},
        "ranks": {"gain": rank_ranges({row["method"]: row["measures"]["gain"] for row in rows}, higher=True)},
        "match": {"by": "none", "target": ""},
        "reference_forgetting": 1.0,
        "missing": [],
    }


LOW, HIGH = [0.1, 0.12, 0.11, 0.1, 0.12], [0.5, 0.52, 0.5, 0.51, 0.53]
WIDE = [0.1, 0.9, 0.2, 0.8, 0.5]


def test_a_defeat_is_the_first_thing_said():
    first, which, price, *rest = verdict(summary_of({SUBJECT: LOW, RIVAL: HIGH}))
    assert first.startswith(f"**{SUBJECT} does not win on any measure**")
    assert "0.1100, against lora/q-v 0.5120 (+0.4020, p = " in which
    assert price.startswith("lora/q-v pays for it in nothing that is ranked here.")
    assert rest == []


def test_who_is_ahead_over_the_whole_curve_is_said():
    summary = summary_of({SUBJECT: HIGH, RIVAL: LOW, "ia3/default": LOW, "lora/k": LOW})
    for row, values in zip(summary["rows"], ([0.2, 0.3], [0.5, 0.6], [0.25, 0.4], [0.0, 0.1]), strict=True):
        row["hypervolume"] = over_seeds(values)
    said = verdict(summary)[2]
    assert "at most 1 nats" in said
    assert said.endswith(f"ahead of {SUBJECT} with 0.250, intervals apart: {RIVAL} 0.550.")


def test_a_victory_needs_to_be_over_all():
    first, held = verdict(summary_of({SUBJECT: HIGH, RIVAL: LOW, "ia3/default": LOW}))
    assert first.startswith(f"**{SUBJECT} is best** on learned")
    assert held.endswith("lora/q-v, ia3/default.")
    assert "is best" not in verdict(summary_of({SUBJECT: HIGH, RIVAL: LOW, "ia3/default": WIDE}))[0]


def test_intervals_apart_are_enough_to_lose_and_not_to_win():
    few, more = [0.1, 0.2, 0.15], [0.25, 0.5, 0.9]  # the paired test is not sure
    assert "does not win on any measure" in verdict(summary_of({SUBJECT: few, RIVAL: more}))[0]
    assert "is not separably best" in verdict(summary_of({SUBJECT: more, RIVAL: few}))[0]


def test_what_the_seeds_do_not_separate_is_not_claimed():
    for own, other in ((WIDE, HIGH), (HIGH, WIDE), (HIGH[:1], LOW[:1])):
        assert "is not separably best, and not beaten" in verdict(summary_of({SUBJECT: own, RIVAL: other}))[0]


def test_the_untrained_base_is_no_rival():
    assert "is not separably best" in verdict(summary_of({SUBJECT: LOW, "base/untouched": HIGH}))[0]


@pytest.mark.parametrize(
    ("row", "caution"),
    [
        (
            {"edge": True},
            "a better one may lie beyond (chosen: excitor/default (0.01)",
        ),
        (
            {"failed": 2},
            "runs that failed (diverged, or out of memory) are left out of means: excitor/default (2), lora/q-v (2)",
        ),
        ({"matched": False}, "not shown to be within 2 % of the budget (params): excitor/default (100)"),
        ({"seeds": [0, 1]}, "some methods have only 2 finished seeds"),
    ],
)
def test_what_weakens_the_numbers_is_said(row, caution):
    summary = summary_of({SUBJECT: LOW, RIVAL: HIGH}, **row)
    if "matched" in row:
        summary["match"] = {"by": "params", "target": SUBJECT, "tolerance": 0.02}
    assert any(caution in line for line in verdict(summary))
