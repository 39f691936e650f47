import io
import json

import pytest
from peft import PeftConfig
from rich.console import Console

from excitor.cli.demo import demo
from excitor.mini.demo import ANSWERS, ROWS, WAYS, run_demo
from excitor.mini.methods import load_methods
from excitor.train.arguments import TrainArguments
from excitor.train.method import read_method


def test_the_demo_writes_what_it_shows(tmp_path, few_lessons, monkeypatch):
    monkeypatch.setattr("excitor.mini.demo.make_lessons", few_lessons)
    console = Console(file=io.StringIO(), width=120)
    result = run_demo(console, steps=2, out=tmp_path)
    shown = console.file.getvalue()
    assert result == json.loads((tmp_path / "demo.json").read_text())
    assert all((tmp_path / name).stat().st_size > 0 for name in ("demo.png", "beliefs.png"))
    assert all((tmp_path / name / "adapter_model.safetensors").exists() for name in ("adapter", "wrong/adapter"))
    for row, title in ROWS.items():
        assert title in shown
        assert 0 <= result["accuracy"]["adapter"][row] <= 1
    assert f"{result['accuracy']['base']['facts']:.3f}" in shown
    assert result["parameters"]["share"] < 0.1

    for name in ("base", "adapter"):
        for way, how in WAYS.items():
            assert sum(result["beliefs"][name][way].values()) == pytest.approx(1)
            assert all(f"{how}: {answer}" in shown for answer in ANSWERS.values())
    assert result["beliefs"]["base"]["probed"]["right"] > 0.9
    right, wrong = ((tmp_path / name / "train.jsonl").read_text().splitlines() for name in ("data", "wrong/data"))
    assert sum(before != after for before, after in zip(right, wrong, strict=True)) == 2 * round(0.4 * 240)


def test_export_writes_the_world_for_a_run_by_hand(tmp_path, capsys):
    demo(export=tmp_path / "world")
    assert sorted(path.name for path in (tmp_path / "world").iterdir()) == [
        "heldout.jsonl",
        "retain.jsonl",
        "train.jsonl",
    ]
    row = json.loads((tmp_path / "world" / "train.jsonl").read_text().splitlines()[0])
    assert row.keys() == {"instruction", "output"}
    assert "excitor train --model" in capsys.readouterr().out


def test_the_demo_trains_what_the_experiment_calls_excitor():
    (method,) = load_methods(["excitor"])
    shown = read_method(TrainArguments())
    assert shown == PeftConfig.from_peft_type(task_type="CAUSAL_LM", **method.adapter)
