"""The Python of docs/python.md about several adapters runs as it stands there."""

import re
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

import excitor
from excitor import ExcitorConfig, save_adapter
from tiny import make_llama


PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text()


def blocks(heading: str) -> str:
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return "\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL))


@pytest.fixture
def names(tmp_path, monkeypatch: pytest.MonkeyPatch, tokenizer) -> dict:
    """What the page takes as given: a base, a tokenizer, saved adapters."""
    monkeypatch.chdir(tmp_path)
    for folder, fields in (("support", {}), ("support-v2", {}), ("sales", {"r": 4, "top_layers": 1})):
        save_adapter(get_peft_model(make_llama(), ExcitorConfig(task_type="CAUSAL_LM", **fields)), f"runs/{folder}")
    return {"excitor": excitor, "torch": torch, "base": make_llama(), "tokenizer": tokenizer}


def test_several_adapters_then_rows_then_hot_swap(names: dict) -> None:
    several = blocks("Several adapters on one model")
    exec(several.replace('model.delete_adapter("sales")', ""), names)
    exec(blocks("A different adapter for each row"), names)
    assert len(names["answers"]) == 3
    exec(blocks("Another adapter into a model that runs"), names)
    exec('model.delete_adapter("sales")', names)
    assert list(names["model"].peft_config) == ["support"]


def test_single_layers(names: dict) -> None:
    exec(blocks("Single layers, single tokens"), names)
    model = get_peft_model(names["base"], names["config"])
    assert model(torch.arange(3, 14)[None]).logits.isfinite().all()
