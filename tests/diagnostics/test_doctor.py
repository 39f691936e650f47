import pytest

from excitor.diagnostics.doctor import Signs, diagnose


HEALTHY = Signs(
    learned=-0.5, forgotten=0.01, kl=0.01, shift=0.1, loss_rise=0.2, gate_spread=1.3, prompt_spread=1.6, top_share=0.6
)


def names(**signs) -> list[str]:
    return [finding.name for finding in diagnose(HEALTHY | Signs(**signs))]


def test_healthy_and_unknown_raise_nothing():
    assert diagnose(HEALTHY) == []
    assert diagnose(Signs()) == []


@pytest.mark.parametrize(
    ("signs", "found"),
    [
        ({"forgotten": 0.2}, ["over-modification"]),
        ({"forgotten": 0.2, "shift": 0.02}, []),  # something else is to blame
        ({"learned": -0.01, "shift": 0.001}, ["under-modification"]),
        ({"learned": 0.3, "shift": 0.001}, ["under-modification"]),
        ({"learned": -0.01}, []),  # attention moves; it does not help
        ({"shift": 0.001}, []),  # little is enough
        ({"loss_rise": 0.8}, ["prompt-generator imbalance"]),
        ({"gate_spread": 7.0}, ["prompt-generator imbalance"]),
        ({"prompt_spread": 7.0}, ["prompt-generator imbalance"]),
        ({"top_share": 0.99}, ["prompt-generator imbalance"]),
        ({"forgotten": 0.2, "top_share": 0.99}, ["over-modification", "prompt-generator imbalance"]),
    ],
    ids=str,
)
def test_one_sign_away_from_healthy(signs, found):
    assert names(**signs) == found


def test_without_a_measured_shift():
    (over,) = diagnose(Signs(forgotten=0.2))
    assert over.evidence == ["the loss on text that is not instructions rose by 0.200 nats (> 0.1)"]
    (under,) = diagnose(Signs(learned=-0.001, kl=0.0002))
    assert under.evidence == [
        "the loss on held-out answers changed by -0.1% (> -2%)",
        "the model is 0.0002 nats from its base (KL, < 0.001)",
    ]
    assert diagnose(Signs(learned=-0.001)) == []


def test_evidence_has_numbers_and_thresholds_and_all_signs():
    (finding,) = diagnose(HEALTHY | Signs(gate_spread=7.0, loss_rise=2.0))
    assert finding.evidence == [
        "the training loss rose by 2.00 of what it was at the start (> 0.5)",
        "the gates of one layer are 7.0 times those of the median layer (> 5.0)",
    ]
    assert "--learning-rate" in finding.advice


def test_known_signs_are_kept():
    assert Signs(learned=1.0, shift=0.1) | Signs(shift=0.2) == Signs(learned=1.0, shift=0.2)
