"""Comparisons that take no time: results in place of runs, made from what a run is."""

import json

import pytest

from excitor.compare import compare
from excitor.compare.arguments import CompareArguments
from excitor.compare.record import SCHEMA


LEARNS = {"excitor/default": 0.5, "lora/q-v": 0.8, "lora/k": 0.5, "ia3/default": 0.2, "base/untouched": 0.0}


def result_of(run) -> dict:
    """What a run might give: LoRA on q and v learns most and forgets most; 3e-2 diverges."""
    best = LEARNS[run.experiment.name]
    failed = run.learning_rate is not None and run.learning_rate > 0.02
    rate = 1.0 if run.learning_rate is None or run.learning_rate >= 0.01 else 0.7
    noise = 0.002 * run.seed
    curve = [
        {"step": step, "gain": rate * best * step / run.steps + noise, "forgetting": 0.1 * best**2 * step / run.steps}
        for step in run.curve()
    ]
    gain = curve[-1]["gain"] if curve else 0.0
    measures = {"answer_loss": 1 - gain, "gain": gain, "forgetting": 0.1 * best**2 + noise, "kl": 0.0, "flipped": 0.0}
    measures |= {} if run.tuning else {"unseen": 0.2 + rate * best + noise, "skills": 1.0}
    strengths = None
    if run.strengths and run.experiment.name != "ia3/default":
        strengths = [{"strength": s, "gain": s * gain, "forgetting": s**2 * 0.1 * best**2} for s in run.strengths]
    return {
        "schema": SCHEMA,
        "settings": run.settings(),
        "status": "failed" if failed else "success",
        "measures": {} if failed else measures,
        "curve": [] if failed else curve,
        "strength_curve": strengths,
        "costs": {"parameters": 1000, "peak_memory_bytes": 2**20, "tokens_per_second": 500.0},
        "environment": {"versions": {"torch": "2"}, "hardware": {"machine": "x", "threads": 1}},
        "run_info": {"error_msg": "Training diverged" if failed else ""},
    }


@pytest.fixture
def ran(monkeypatch) -> list[str]:
    """Names of the runs that were made, in place of making them."""
    names: list[str] = []

    def execute(run, folder):
        names.append(run.name)
        (folder / f"{run.name}.json").write_text(json.dumps(result_of(run)))

    monkeypatch.setattr(compare, "execute", execute)
    return names


@pytest.fixture
def suite(tmp_path):
    """A suite on the embedded world, changed by keyword; its folder."""

    def make(**changes) -> str:
        folder = tmp_path / "suite"
        folder.mkdir(exist_ok=True)
        values = {
            "title": "A test",
            "methods": ["excitor/default", "lora/q-v", "lora/k", "ia3", "base"],
            "train": {"steps": 64},
            "seeds": [0, 1, 2],
            "rates": [0.003, 0.01, 0.03],
            "ranked": ["unseen", "forgetting"],
        }
        (folder / "suite.yaml").write_text(json.dumps(values | changes))
        return str(folder)

    return make


@pytest.fixture
def arguments(tmp_path, suite):
    def make(**changes) -> CompareArguments:
        given = changes if "suite" in changes else {"suite": suite()} | changes
        return CompareArguments(**({"out": str(tmp_path / "out")} | given))

    return make
