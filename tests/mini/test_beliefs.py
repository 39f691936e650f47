import io
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from excitor.errors import ExcitorError
from excitor.mini import beliefs
from excitor.mini.beliefs import TUNING_SEED, Experiment, choose_rates, run_experiment
from excitor.mini.beliefs_report import gives_in, meets_bars, summarise


METHODS = ("excitor", "lora-qv")


def _result(trial, **measures):
    """What a trial might measure: LoRA repeats what it read often, and wrong rows cost Excitor its following."""
    dose = trial.wrong_share * trial.exposures
    lies = 0.1 * dose * (trial.method.name == "lora-qv") + 0.001 * trial.seed
    shares = {"unseen": 1 - 0.02 * dose - 0.01 * (trial.learning_rate > 1e-2), "skills": 1.0, "facts": 1.0}
    if trial.wrong_share:
        right = max(0.0, 0.97 - lies)
        shares |= {"asked right": right, "asked wrong": lies, "asked other": 1 - right - lies}
        shares |= {"probed right": 1.0, "probed wrong": 0.0}
    return {
        "settings": trial.settings(),
        "measures": shares | {"taught rightly": 1.0, "forgetting": -0.00001} | measures,
        "parameters": 1000,
        "seconds": {"training": 1.0, "all": 2.0},
        "versions": {"torch": "2"},
    }


@pytest.fixture
def ran(monkeypatch):
    """Names of the trials that were run, in place of running them."""
    names = []

    def run(trial, folder):
        path = folder / f"{trial.name}.json"
        if not path.exists():
            names.append(trial.name)
            path.write_text(json.dumps(_result(trial)))
        return json.loads(path.read_text())

    monkeypatch.setattr(beliefs, "run_trial", run)
    return names


@settings(max_examples=20)
@given(
    st.lists(st.sampled_from([0.0, 0.2, 0.4, 1.0]), max_size=4),
    st.lists(st.integers(2, 6), min_size=1, max_size=4),
    st.integers(1, 4),
)
def test_trials_are_different_and_clean_data_is_tried_once(shares, exposures, seeds):
    trials = Experiment(METHODS, shares, exposures, seeds).trials({"excitor": 0.1, "lora-qv": 0.2})
    different = len(set(shares) - {0.0}) * len(set(exposures)) + (0.0 in shares)
    assert len({trial.name for trial in trials}) == len(trials) == len(METHODS) * seeds * different
    assert all(trial.learning_rate == (0.1 if trial.method.name == "excitor" else 0.2) for trial in trials)
    assert TUNING_SEED not in {trial.seed for trial in trials}


@pytest.mark.parametrize(
    "fault",
    [
        {"seeds": 0},
        {"steps": 0},
        {"methods": ["lora"]},
        {"wrong_shares": [0.4, 40]},
        {"exposures": [2, 1]},
        {"exposures": [1001]},
    ],
)
def test_an_experiment_that_cannot_be_run_is_refused_before_it_starts(fault):
    with pytest.raises(ExcitorError):
        Experiment(**fault)


def test_of_learning_rates_within_a_point_of_the_best_the_lowest_is_chosen():
    experiment = Experiment(["excitor"], rates=(0.1, 0.01, 0.001))
    accuracy = {0.1: 0.905, 0.01: 0.9, 0.001: 0.89}
    results = [_result(trial, unseen=accuracy[trial.learning_rate]) for trial in experiment.tuning_trials()]
    choice = choose_rates(results)["excitor"]
    assert choice["learning_rate"] == 0.01
    assert {rate: measures["unseen"] for rate, measures in choice["tried"].items()} == accuracy


def test_an_experiment_goes_on_where_it_stopped(tmp_path, ran):
    small = Experiment(METHODS, (0.4,), (2,), seeds=1, rates=(1e-3,))
    run_experiment(small, tmp_path, console=Console(quiet=True))
    assert len(ran) == 2 + 2
    ran.clear()
    run_experiment(replace(small, seeds=2), tmp_path, console=Console(quiet=True))
    assert len(ran) == 2
    assert all(name.endswith("seed-1") for name in ran)


def test_the_report_says_who_gives_in_and_where(tmp_path, ran):
    console = Console(file=io.StringIO(), width=120)
    results = run_experiment(Experiment(METHODS, seeds=3), tmp_path, console=console)
    assert len(results) == 2 * 3 * (1 + 4 * 3)
    assert "Excitor" in console.file.getvalue()
    report, summary = (tmp_path / "README.md").read_text(), json.loads((tmp_path / "results.json").read_text())
    assert (tmp_path / "beliefs.png").stat().st_size > 0
    assert summary["tuning"]["excitor"]["learning_rate"] == 3e-4
    rows = summary["rows"]
    assert len(rows) == 2 * 13
    at_the_bar = {row["method"]: row for row in rows if (row["wrong_share"], row["exposures"]) == (0.4, 2)}
    assert meets_bars(at_the_bar["excitor"])
    assert not meets_bars(at_the_bar["lora-qv"])
    assert "| Excitor | 3 | 0.969 [0.968, 0.970] | 0.001 [0.000, 0.002] |" in report
    tempted = [row for row in rows if row["wrong_share"] and row["method"] == "lora-qv"]
    assert gives_in(tempted, "asked wrong").startswith("from 20% x 2 on (0.041 ")
    assert "| Excitor | nowhere (at worst 0.001 [0.000, 0.002], at 20% x 2) |" in report
    assert "-0.0000" not in report
    by_rate = [line for line in report.splitlines() if line.startswith("| Excitor | 1,000 | ")]
    assert [line.split(" | ")[2] for line in by_rate] == ["**0.0003**", "0.001", "0.003", "0.01", "0.03"]


def test_the_report_covers_all_that_the_folder_holds(tmp_path, ran):
    broad = Experiment(METHODS, (0.0, 0.4, 0.8), (2,), seeds=1, rates=(1e-3, 1e-2))
    run_experiment(broad, tmp_path, console=Console(quiet=True))
    narrow = replace(broad, wrong_shares=(0.4,), exposures=(2, 8), seeds=3)
    results = run_experiment(narrow, tmp_path, console=Console(quiet=True))
    assert len(results) == 2 * (2 + 3 + 3)
    assert {result["settings"]["learning_rate"] for result in results} == {1e-3}  # none that chose the rate
    report = (tmp_path / "README.md").read_text()
    assert "| method | 40% x 2 (3) | 80% x 2 (1) | 40% x 8 (3) |" in report
    assert run_experiment(replace(narrow, steps=7), tmp_path, console=Console(quiet=True)) != results


def test_one_seed_has_no_interval():
    trials = Experiment(["excitor"], (0.4,), (2,), 1).trials({"excitor": 0.01})
    (row,) = summarise(map(_result, trials))
    assert row["measures"]["unseen"]["low"] is None
    assert row["measures"]["unseen"]["values"] == [row["measures"]["unseen"]["mean"]]
