"""PEFT's low-level interface: an adapter inside a model that stays a model of its own class."""

import pytest
import torch
from peft import (
    LoraConfig,
    PeftMixedModel,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from excitor import ExcitorConfig, ExcitorError
from excitor.layer import excitor_layers
from tiny import make_llama


TOKENS = torch.arange(3, 3 + 2 * 11).view(2, 11)


def config(**fields) -> ExcitorConfig:
    return ExcitorConfig(init_weights=False, **fields)


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("fields", [{}, {"generator": "mlp"}, {"modules_to_save": ["lm_head"]}], ids=str)
def test_the_state_of_an_injected_adapter_goes_into_another_model(fields, low_cpu_mem_usage, tmp_path) -> None:
    model = inject_adapter_in_model(config(**fields), make_llama(), adapter_name="mine")
    assert type(model) is LlamaForCausalLM
    state = get_peft_model_state_dict(model, adapter_name="mine")
    assert not any("mine" in key for key in state)
    save_file({key: tensor.clone() for key, tensor in state.items()}, tmp_path / "state.safetensors")
    other = inject_adapter_in_model(config(**fields), make_llama(), low_cpu_mem_usage=low_cpu_mem_usage)
    on_meta = {p.is_meta for name, p in other.named_parameters() if "excitor_" in name}
    assert on_meta == {low_cpu_mem_usage}
    result = set_peft_model_state_dict(
        other, load_file(tmp_path / "state.safetensors"), low_cpu_mem_usage=low_cpu_mem_usage
    )
    assert not result.unexpected_keys
    assert not any("excitor_" in key for key in result.missing_keys)
    assert torch.equal(other(TOKENS).logits, model(TOKENS).logits)


def test_layers_are_found_from_the_state_alone() -> None:
    state = get_peft_model_state_dict(inject_adapter_in_model(config(layers_to_transform=[0, 2]), make_llama()))
    with pytest.warns(RuntimeWarning, match="layers.1.self_attn.k_proj"):
        model = inject_adapter_in_model(config(), make_llama(), state_dict=state)
    set_peft_model_state_dict(model, state)
    assert [name.split(".")[2] for name in excitor_layers(model)] == ["0", "2"]


@pytest.mark.parametrize("edit", ["missing", "unknown", "shape"])
def test_a_state_that_does_not_fit_is_named(edit: str) -> None:
    model = inject_adapter_in_model(config(), make_llama())
    state = get_peft_model_state_dict(model)
    key = next(iter(state))
    if edit == "missing":
        del state[key]
    else:
        state[key.replace("layers.0", "layers.9") if edit == "unknown" else key] = torch.zeros(1)
    message = {"missing": "is missing", "unknown": "has no place in this model", "shape": r"has shape \[1\]"}[edit]
    with pytest.raises(ExcitorError, match=message):
        set_peft_model_state_dict(model, state)


def test_an_injected_adapter_and_a_wrapped_one_are_the_same_file(tmp_path) -> None:
    model = make_llama()
    model.add_adapter(config())
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_llama(), tmp_path).eval()
    assert torch.equal(loaded(TOKENS).logits, model(TOKENS).logits)


def test_transformers_switches_several_adapters() -> None:
    model = make_llama()
    model.add_adapter(config(), "first")
    model.add_adapter(config(r=3), "second")
    results = {}
    for active in ("first", "second"):
        model.set_adapter(active)
        results[active] = model(TOKENS).logits
    model.set_adapter(["first", "second"])
    assert not torch.allclose(model(TOKENS).logits, results["first"], atol=1e-3)
    model.delete_adapter("first")
    assert model.active_adapters() == ["second"]
    assert torch.equal(model(TOKENS).logits, results["second"])


def test_a_mix_of_methods_is_refused_by_peft_itself() -> None:
    with pytest.raises(ValueError, match="'EXCITOR' is not compatible with the `PeftMixedModel`"):
        get_peft_model(make_llama(), config(), mixed=True)
    mixed = PeftMixedModel(make_llama(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="'EXCITOR' is not compatible with the `PeftMixedModel`"):
        mixed.add_adapter("excitor", config())
    lora = get_peft_model(make_llama(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="Cannot combine adapters with different peft types"):
        lora.add_adapter("excitor", config())
