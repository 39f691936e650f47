import io
import json

from rich.console import Console

from excitor.cli.demo import demo
from excitor.mini.demo import ROWS, run_demo


def test_the_demo_writes_what_it_shows(tmp_path):
    console = Console(file=io.StringIO(), width=120)
    result = run_demo(console, steps=3, out=tmp_path)
    shown = console.file.getvalue()
    assert result == json.loads((tmp_path / "demo.json").read_text())
    assert (tmp_path / "demo.png").stat().st_size > 0
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    for row, title in ROWS.items():
        assert title in shown
        assert 0 <= result["accuracy"]["adapter"][row] <= 1
    assert f"{result['accuracy']['base']['facts']:.3f}" in shown
    assert result["parameters"]["share"] < 0.05


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
