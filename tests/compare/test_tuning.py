import math

import pytest

from excitor.compare.plan import make_plan
from excitor.compare.tuning import at_end, choose_rates, tune
from excitor.errors import ExcitorError


def tuned(plan, best: float, diverges: float = math.inf) -> tuple[dict, list[str]]:
    """The choice for LoRA if losses rise with the distance to a rate; and all runs by name."""
    names = []

    def run(runs):
        names.extend(run.name for run in runs)
        return [
            {
                "settings": run.settings(),
                "measures": {"answer_loss": abs(math.log10(run.learning_rate / best))}
                if run.learning_rate < diverges
                else {},
            }
            for run in runs
        ]

    return choose_rates(plan, tune(plan, run))["lora/q-v"], names


@pytest.fixture
def plan(suite, arguments):
    return lambda **changes: make_plan(
        arguments(suite=suite(methods=["lora/q-v", "base"], subject="lora/q-v", **changes))
    )


@pytest.mark.parametrize(
    ("best", "more", "chosen"),
    [
        (0.01, [], 0.01),
        (0.1, [0.1, 0.3], 0.1),
        (0.001, [0.001, 0.0003], 0.001),
        (0.04, [0.1], 0.03),
        (100.0, [0.1, 0.3], 0.3),
    ],
)
def test_the_grid_is_widened_where_the_best_is_at_its_end(plan, best, more, chosen):
    choice, names = tuned(plan(), best)
    assert choice["learning_rate"] == chosen
    assert {float(rate) for rate in choice["answer_loss"]} == {0.003, 0.01, 0.03, *more}
    assert at_end(choice) == (best == 100)
    assert len(names) == len(set(names)) == 3 + len(more)


def test_a_rate_that_diverges_ends_it(plan):
    choice, _ = tuned(plan(), best=1.0, diverges=0.1)
    assert (choice["learning_rate"], choice["answer_loss"]["0.1"]) == (0.03, None)
    assert not at_end(choice)


def test_lower_rates_are_tried_where_all_diverge(plan):
    choice, _ = tuned(plan(), best=1.0, diverges=0.002)
    assert {float(rate) for rate in choice["answer_loss"]} == {0.0003, 0.001, 0.003, 0.01, 0.03}
    assert choice["learning_rate"] == 0.001


def test_the_best_counts_even_if_a_lower_one_is_chosen(plan):
    choice, _ = tuned(plan(rate_noise=1.0, widen=1), best=0.1)
    assert choice["learning_rate"] == 0.01
    assert "0.1" in choice["answer_loss"]


def test_it_can_be_left_alone(plan):
    choice, names = tuned(plan(widen=0), best=1.0)
    assert len(names) == 3
    assert at_end(choice)
    assert not at_end(tuned(plan(rates=[0.01]), best=1.0)[0])  # there is nothing to choose from
    with pytest.raises(ExcitorError, match="widen must be at least 0, got -1"):
        plan(widen=-1)


def test_two_rates_go_on_in_their_own_steps(plan):
    choice, _ = tuned(plan(rates=[0.01, 0.02]), best=0.05)
    assert {float(rate) for rate in choice["answer_loss"]} == {0.01, 0.02, 0.04, 0.08}
