import itertools

import pytest
from transformers import AutoConfig

from excitor.compare import equalise as equalising
from excitor.compare import timing
from excitor.compare.equalise import equalise
from excitor.compare.experiments import CATALOGUE, Experiment, read_experiments
from excitor.compare.timing import ROUNDS, Ratio, Steps, compare_times, nearest_size, step_of
from excitor.errors import ExcitorError
from excitor.mini import BASE_DIR


CONFIG = AutoConfig.from_pretrained(BASE_DIR)
KNOWN = {name: one.resolve(CONFIG) for name, one in read_experiments(CATALOGUE).items()}
STEPS = Steps(batch_size=1, length=8)
TRAINING = {"batch_size": 1, "max_length": 8, "precision": "fp32"}


def exact(value: float) -> Ratio:
    return Ratio(value, value, value)


def compared(monkeypatch, seconds: list[float]) -> Ratio:
    """Of steps that take as long as is said, in their order: target and own, own and target, ..."""
    given = iter(seconds)
    monkeypatch.setattr(timing, "_seconds", lambda step: next(given))
    return compare_times(KNOWN["lora/q-v"], step_of(KNOWN["ia3/default"], CONFIG, STEPS), CONFIG, STEPS, 0.05)


def test_rounds_take_turns_and_give_median_and_interval(monkeypatch) -> None:
    ratios = [1.0, 1.02, 0.98, 1.5, 1.01, 0.99, 1.03, 0.5, 1.04]
    seconds = [(2.0, 2.0 * r) if turn % 2 == 0 else (2.0 * r, 2.0) for turn, r in enumerate(ratios)]
    ratio = compared(monkeypatch, list(itertools.chain(*seconds)))
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((1.01, 0.98, 1.04))
    assert ratio.within(0.05)
    assert not ratio.within(0.03)


def test_what_is_clearly_off_is_not_measured_on(monkeypatch) -> None:
    assert compared(monkeypatch, [1.0, 2.0, 2.1, 1.0, 1.0, 2.2]).median == pytest.approx(2.1)


def test_steps_are_real() -> None:
    seconds = compare_times(KNOWN["full/layers"], step_of(KNOWN["ia3/default"], CONFIG, STEPS), CONFIG, STEPS, 1e9)
    assert 0 < seconds.low <= seconds.median <= seconds.high


@pytest.mark.parametrize(("wanted", "size"), [(1, 1), (7, 7), (900, 900), (4096, 4096), (9999, 4096)])
def test_the_size_with_the_time_of_the_target_is_found(wanted: int, size: int) -> None:
    tried = []

    def ratio_at(size: int) -> Ratio:
        tried.append(size)
        return exact(0.5 + 0.5 * size / wanted)

    found, ratio = nearest_size(ratio_at, range(1, 4097), 1e-9)
    assert found == pytest.approx(size, rel=0.02)
    assert ratio == exact(0.5 + 0.5 * found / wanted)
    assert len(tried) <= 10


def test_sizes_that_are_too_large_are_stepped_back_from() -> None:
    found = nearest_size(lambda size: exact(0.1 * size) if size <= 6 else None, range(1, 4097), 0.01)
    assert found == (6, exact(0.1 * 6))
    assert nearest_size(lambda size: None, range(1, 9), 0.01) is None


@pytest.fixture
def times(monkeypatch) -> list[str]:
    """Names of what was timed: LoRA takes as long as the target at rank 20, all else twice as long."""
    timed: list[str] = []

    def compare(experiment: Experiment, **_) -> Ratio:
        timed.append(experiment.name)
        if experiment.name == "excitor/default":
            return exact(1.0)
        return exact(0.9 + 0.005 * experiment.adapter["r"]) if experiment.name == "lora/q-v" else exact(2.0)

    monkeypatch.setattr(equalising, "compare_times", compare)
    return timed


def solve(*names: str, target: str = "excitor/default", earlier=((), {})):
    experiments = [KNOWN[name] for name in names or ("excitor/default", "lora/q-v", "ia3/default", "base/untouched")]
    return equalise(experiments, CONFIG, "time", target, TRAINING, earlier)


def test_times_are_matched_where_there_is_a_size(times) -> None:
    (target, lora, ia3, base), spent = solve()
    assert target.adapter == KNOWN["excitor/default"].adapter
    assert target.matched
    assert lora.matched
    assert 10 <= lora.adapter["r"] <= 30
    assert lora.adapter["lora_alpha"] == 2 * lora.adapter["r"]
    assert ia3 == KNOWN["ia3/default"]
    assert base == KNOWN["base/untouched"]
    assert spent["ia3/default"] == [2.0, 2.0, 2.0]
    assert "base/untouched" not in spent


def test_what_cannot_be_shown_to_take_as_long_is_flagged(times) -> None:
    (_, pfeiffer), _ = solve("excitor/default", "bottleneck/pfeiffer")
    assert pfeiffer.matched is False
    assert pfeiffer.adapter["bottleneck_size"] == 1


def test_times_of_an_earlier_call_stand(times) -> None:
    before = solve()
    times.clear()
    assert solve(earlier=before) == before
    assert times == []
    solve("excitor/default", "lora/q-v", "lora/k", earlier=before)
    assert set(times) == {"lora/k"}


@pytest.mark.parametrize("target", ["42264", "nobody", "base/untouched"])
def test_a_time_needs_a_method_to_be_measured_beside(target: str) -> None:
    with pytest.raises(ExcitorError, match="needs a method that trains as its target"):
        solve(target=target)


def test_rounds_are_enough_for_the_interval_that_is_named() -> None:
    """Chance that the median of the distribution is below the second or above the eighth of nine values."""
    outside = 2 * sum([1, ROUNDS]) / 2**ROUNDS
    assert 1 - outside == pytest.approx(0.96, abs=0.005)
