"""Runs on the embedded base: a healthy one, and one for each way in which a run goes wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

import excitor
from excitor.data.text import read_text
from excitor.diagnostics.files import describe
from excitor.diagnostics.measure import Measurement, measure
from excitor.diagnostics.signs import check_run, signs_of_run
from excitor.layer import excitor_layers
from excitor.mini import BASE_DIR
from excitor.mini.lessons import make_lessons, write_lessons
from excitor.mini.world import make_world
from excitor.train.arguments import TrainArguments
from excitor.train.run import train


@pytest.fixture
def run(tmp_path) -> Callable[..., Path]:
    """Trains as ``excitor train`` does and gives the folder."""

    def make(change_answer: Callable[[str], str] = str, **changes) -> Path:
        world = make_world()
        write_lessons(world, make_lessons(world), tmp_path, retain=30)
        data = tmp_path / "train.jsonl"
        rows = [json.loads(line) for line in data.read_text().splitlines()]
        changed = [row | {"output": change_answer(row["output"])} for row in rows]
        data.write_text("".join(json.dumps(row) + "\n" for row in changed))
        arguments = {
            "model": str(BASE_DIR),
            "data": [str(data)],
            "retain": [str(tmp_path / "retain.jsonl")],
            "out": str(tmp_path / "run"),
            "batch_size": 16,
            "eval_rows": 24,
            "precision": "fp32",
        }
        train(TrainArguments(**(arguments | changes)), Console(quiet=True))
        return tmp_path / "run"

    return make


def measure_run(folder: Path) -> Measurement:
    """On retention text."""
    model, tokenizer = excitor.load_adapter(str(folder), dtype="float32", device="cpu")
    text = read_text([str(folder.parent / "retain.jsonl")], tokenizer, max_length=256, max_documents=5)
    return measure(model, text["input_ids"][:])


def names(folder: Path, measurement: Measurement | None = None) -> list[str]:
    return [finding.name for finding in check_run(folder, measurement)]


def test_healthy_run_and_a_runaway_prompt(run):
    folder = run(steps=40, learning_rate=1e-2)
    assert signs_of_run(folder, describe(folder)).learned < -0.2
    assert names(folder) == names(folder, measure_run(folder)) == []

    model, _ = excitor.load_adapter(str(folder), dtype="float32", device="cpu")
    with torch.no_grad():
        for layer in excitor_layers(model).values():
            layer.parts("default")[0].prompts[3] *= 1e3
    excitor.save_adapter(model, folder)
    (finding,) = check_run(folder)
    assert finding.name == "prompt-generator imbalance"
    assert "the longest prompt of a layer is" in finding.evidence[0]


def test_over_modification(run):
    """Answers written backwards: learned at the cost of everything else."""
    folder = run(lambda answer: answer[::-1], steps=40, learning_rate=2e-2)
    assert signs_of_run(folder, describe(folder)).forgotten > 0.2
    measurement = measure_run(folder)
    assert measurement.mean_shift > 0.2
    assert names(folder) == names(folder, measurement) == ["over-modification"]


def test_under_modification(run):
    folder = run(steps=5, learning_rate=1e-5)
    assert names(folder) == names(folder, measure_run(folder)) == ["under-modification"]


def test_loss_spikes(run):
    folder = run(steps=20, learning_rate=0.2)
    assert signs_of_run(folder, describe(folder)).loss_rise > 1
    assert "prompt-generator imbalance" in names(folder)


def test_one_prompt_takes_all_weight(run):
    folder = run(steps=15, learning_rate=0.5, num_local_prompts=0, separate_values=False, identity_start=False)
    measurement = measure_run(folder)
    assert measurement.top_share > 0.99
    assert "prompt-generator imbalance" in names(folder, measurement)
