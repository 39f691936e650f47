"""Strength and gates of a model's adapters."""

import pytest
import torch
from peft import get_peft_model

from excitor import ExcitorConfig, ExcitorError, gates, set_strength
from excitor.layer import excitor_layers
from tiny import make_llama


def test_gates_are_copies_of_one_adapter() -> None:
    model = get_peft_model(make_llama(), ExcitorConfig(gate_init=1.0))
    before = gates(model)
    layers = excitor_layers(model)
    with torch.no_grad():
        for layer in layers.values():
            layer.parts("default")[1].gate.add_(0.5)
    assert not next(iter(before.values())).requires_grad
    assert all(torch.equal(gate, torch.ones_like(gate)) for gate in before.values())
    assert all(torch.equal(gate, torch.full_like(gate, 1.5)) for gate in gates(model).values())
    model.add_adapter("other", ExcitorConfig(gate_init=2.0))
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(ExcitorError, match="several adapters are active, each with gates: name one of default, other"):
        gates(model)
    assert all(torch.equal(gate, torch.full_like(gate, 2.0)) for gate in gates(model, "other").values())


def test_strength_of_an_adapter_with_other_modules_is_refused() -> None:
    model = get_peft_model(make_llama(), ExcitorConfig(modules_to_save=["lm_head"]))
    with pytest.raises(ExcitorError, match=r"'default' changes .*lm_head in another way as well: at 0 the model"):
        set_strength(model, 0.0)
