import json

import pytest
import torch

import excitor
from excitor.diagnostics.doctor import Signs
from excitor.diagnostics.files import describe
from excitor.diagnostics.signs import check_run, loss_rise, signs_of_run


def test_loss_rise():
    assert loss_rise([1.0] * 4) is None
    assert loss_rise([3.0, 2.5, 2.0, 1.5, 1.0, 1.0]) == 0
    falls, spike = [2.0] * 5 + [1.0] * 5, [4.0] * 5
    assert loss_rise(falls + spike) == 1.5  # from 1 to 4, of 2
    assert loss_rise(spike + falls) == 0.0
    noise = [1.0, 2.0] * 50
    assert loss_rise(noise) < 0.2


@pytest.fixture
def run(adapted, tmp_path):
    """The folder of a run whose numbers are chosen."""

    def make(gates, losses=(), **report) -> Signs:
        model = adapted(num_prompts=3)
        with torch.no_grad():
            for size, layer in zip(gates, excitor.layer.excitor_layers(model).values(), strict=True):
                layer.parts("default")[1].gate.copy_(torch.tensor([size, -size]))
        excitor.save_adapter(model, tmp_path)
        if losses:
            lines = [json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in enumerate(losses)]
            (tmp_path / "metrics.jsonl").write_text("".join(lines))
        if report:
            (tmp_path / "report.json").write_text(json.dumps(report))
        return signs_of_run(tmp_path, describe(tmp_path))

    return make


def test_signs_of_a_run(run, tmp_path):
    signs = run(
        [1.0, 2.0, 14.0],
        [2.0] * 5 + [8.0] * 5,
        learned={"base": 2.0, "change": -0.5},
        forgotten={"change": 0.25, "kl": 0.3},
    )
    assert (signs.learned, signs.forgotten, signs.kl) == (-0.25, 0.25, 0.3)
    assert (signs.gate_spread, signs.loss_rise) == (pytest.approx(7.0), 3.0)
    assert 1 < signs.prompt_spread < 3
    assert signs.shift is signs.top_share is None
    assert [finding.name for finding in check_run(tmp_path)] == ["over-modification", "prompt-generator imbalance"]


def test_adapter_alone(run, tmp_path):
    signs = run([0.0, 0.0, 0.0])
    assert signs.gate_spread is signs.loss_rise is signs.learned is None
    assert check_run(tmp_path) == []
