import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerState

from excitor.preservation.controller import RANGE, ForgettingController


def feed(controller: ForgettingController, *values: float) -> float:
    for value in values:
        controller.observe(torch.tensor(value))
        controller.on_step_end(None, None, None)
    return controller.weight


def test_the_weight_rises_above_the_bar_and_falls_below_it():
    assert feed(ForgettingController(0.01), 0.05) > 1 > feed(ForgettingController(0.01), 0.0)
    assert feed(ForgettingController(0.01), 0.0099) > 1  # the target leaves a margin


def test_one_outlier_does_not_throw_it():
    calm = [0.005] * 20
    controller = ForgettingController(0.01)
    before = feed(controller, *calm)
    assert feed(controller, 1e6) < 1.5 * before


@given(values=st.lists(st.floats(0, 100), max_size=80), bar=st.floats(1e-4, 1))
def test_the_weight_stays_in_its_range(values, bar):
    assert 2 / RANGE <= feed(ForgettingController(bar, weight=2), *values) <= 2 * RANGE


def test_nothing_moves_in_steps_that_do_not_replay():
    controller = ForgettingController(0.01)
    controller.on_step_end(None, None, None)
    assert controller.weight == 1


def test_passes_of_one_step_count_as_one():
    single, double = ForgettingController(0.01), ForgettingController(0.01)
    for value in (0.0, 0.04):
        double.observe(torch.tensor(value))
    double.on_step_end(None, None, None)
    assert feed(single, 0.02) == pytest.approx(double.weight)


def test_a_game_it_can_win_ends_below_the_bar():
    """Forgetting that falls with the weight, as 0.1 / (1 + weight): below 0.01 from a weight of 9 on."""
    controller = ForgettingController(0.01)
    for _ in range(200):
        feed(controller, 0.1 / (1 + controller.weight))
    assert 0.004 < 0.1 / (1 + controller.weight) < 0.01


def test_the_state_comes_back():
    controller = ForgettingController(0.01)
    feed(controller, 0.05, 0.02)
    state = TrainerState(stateful_callbacks=[controller])
    resumed = ForgettingController(0.01)
    resumed.on_train_begin(None, state, None)
    assert feed(resumed, 0.03, 0.0) == feed(controller, 0.03, 0.0)
