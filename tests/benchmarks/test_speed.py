"""The benchmark of speed runs, on a model so small that its times mean nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from compilers import needs_compiler


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("speed")
    options = ["--size", "tiny", "--rounds", "2", "--batches", "1,2", "--contexts", "32"]
    command = [sys.executable, "benchmarks/speed", *options, "--output", folder]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    assert (folder / "plot.svg").stat().st_size
    return json.loads((folder / "results.json").read_text())


@needs_compiler
def test_every_method_has_its_numbers(results: dict) -> None:
    methods = list(results["trainable"])
    assert {"base", "Excitor, as written", "Excitor, folded", "Excitor, C++", results["against"]} < set(methods)
    titles = ["training", "prefill 1", "decoding 1", "prefill 2", "decoding 2"]
    assert list(results["tasks"]) == titles
    for title in titles:
        measured = {name for name in methods if name != "full fine-tuning" or title == "training"}
        assert set(results["tasks"][title]) == measured
        for timed in results["tasks"][title].values():
            low, high = timed["speed"]["quartiles"]
            assert 0 < low <= timed["speed"]["median"] <= high


@needs_compiler
def test_training_keeps_no_more_than_lora(results: dict) -> None:
    """Bytes are exact on any machine, above those that the base keeps."""
    kept = {name: count - results["bytes_kept"]["base"] for name, count in results["bytes_kept"].items()}
    assert 0 < kept["Excitor, folded"] == kept["Excitor, C++"] < kept[results["against"]]
    assert kept["Excitor, as written"] > 2 * kept["Excitor, folded"]
