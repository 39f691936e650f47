import json

import pytest

from excitor.evaluate.subjects import Lineup


@pytest.fixture
def given(adapter_dir, tmp_path) -> list[object]:
    text = tmp_path / "trees.txt"
    text.write_text("\n\n".join(f"Oak number {n} grows slowly." for n in range(10)))
    return ["eval", "--adapter", adapter_dir, "--retain", text, "--max-length", 32, "--out", tmp_path / "out"]


def test_the_exit_code_is_the_verdict(command, given, monkeypatch):
    result = command(*given)
    assert result.code == 0
    assert "loss change" in result.out
    monkeypatch.setattr(Lineup, "load", None)
    ship = command(*given, "--max-forgetting", 1000)
    assert (ship.code, "Every bar is cleared" in ship.out) == (0, True)
    stop = command(*given, "--max-kl", 0)
    assert (stop.code, "Do not ship" in stop.out) == (2, True)


def test_options_may_come_from_a_file(command, given, tmp_path):
    config = tmp_path / "eval.yaml"
    config.write_text("max_kl: 1000\nretain_documents: 3\n")
    assert command(*given, "--config", config).code == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["verdict"]["ship"]
    assert results["tasks"]["forgetting"]["items"] == 3


def test_mistakes_are_one_message_and_exit_code_2(command, given, tmp_path, lora_dir):
    for arguments, message in (
        (["eval"], "nothing to measure"),
        ([*given, "--retain", tmp_path / "missing.txt"], "missing.txt"),
        ([*given, "--base", tmp_path], "neither a folder with a model"),
        ([*given, "--adapter", tmp_path], "is no adapter folder"),
        ([*given, "--min-gain", 0.1], "--min-gain needs --data"),
        (["eval", "--model", lora_dir, "--base", lora_dir], "is an adapter, not a model"),
    ):
        result = command(*arguments)
        assert result.code == 2
        assert message in " ".join(result.err.split())
