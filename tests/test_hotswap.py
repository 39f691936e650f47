import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch._dynamo.testing import CompileCounter

from excitor import ExcitorConfig, ExcitorError, hotswap_adapter, save_adapter, set_strength
from tiny import make_llama


TOKENS = torch.arange(3, 3 + 2 * 11).view(2, 11)


def make(seed: int, layers: int = 3, **fields) -> PeftModel:
    base = make_llama(num_hidden_layers=layers)
    torch.manual_seed(seed)
    return get_peft_model(base, ExcitorConfig(init_weights=False, task_type="CAUSAL_LM", **fields)).eval()


@pytest.fixture
def other(tmp_path) -> str:
    save_adapter(make(7), tmp_path / "other")
    return str(tmp_path / "other")


def test_the_values_are_the_other_adapters_and_the_parameters_the_same(other: str) -> None:
    model = make(1)
    before = {name: parameter for name, parameter in model.named_parameters() if "excitor_" in name}
    hotswap_adapter(model, other)
    assert torch.equal(model(TOKENS).logits, make(7)(TOKENS).logits)
    assert not torch.equal(model(TOKENS).logits, make(1)(TOKENS).logits)
    after = dict(model.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())


def test_a_compiled_model_is_not_compiled_again(tmp_path) -> None:
    make(7, layers=1).save_pretrained(tmp_path)
    model, compiles = make(1, layers=1), CompileCounter()
    compiled = torch.compile(model, backend=compiles, fullgraph=True)
    with torch.no_grad():
        first = compiled(TOKENS).logits
        hotswap_adapter(compiled, str(tmp_path))
        torch.testing.assert_close(compiled(TOKENS).logits, make(7, layers=1)(TOKENS).logits)
    assert not torch.allclose(first, make(7, layers=1)(TOKENS).logits)
    assert compiles.frame_count == 1


def test_the_chosen_adapter_is_swapped_and_keeps_name_and_strength(other: str) -> None:
    model = make(1)
    expected = model(TOKENS).logits
    model.add_adapter("second", ExcitorConfig(init_weights=False))
    set_strength(model, 0.0, "second")
    hotswap_adapter(model, other, adapter_name="second")
    assert torch.equal(model(TOKENS).logits, expected)
    model.set_adapter("second")
    set_strength(model, 1.0)
    assert torch.equal(model(TOKENS).logits, make(7)(TOKENS).logits)


def test_modules_that_are_saved_with_it_are_swapped_too(tmp_path) -> None:
    source, model = (make(seed, modules_to_save=["lm_head"], trainable_token_indices=[4, 5]) for seed in (7, 1))
    with torch.no_grad():
        source.base_model.model.lm_head.modules_to_save["default"].weight.normal_()
        source.get_input_embeddings().token_adapter.trainable_tokens_delta["default"].normal_()
    source.save_pretrained(tmp_path)
    hotswap_adapter(model, str(tmp_path))
    assert torch.equal(model(TOKENS).logits, source(TOKENS).logits)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": 3}, "its r is 16, the loaded adapter's is 3"),
        ({"num_prompts": 4}, "its num_prompts is 30"),
        ({"temperature": 2.0}, "its temperature is 1.0"),
        ({"gate": "none"}, "its gate is 'head'"),
        ({"top_layers": 1}, r".*layers\.0\.self_attn\.k_proj.* has no place in this model"),
        ({"modules_to_save": ["lm_head"]}, "its modules_to_save is None"),
    ],
)
def test_another_shape_is_refused_and_nothing_changed(other: str, fields: dict, message: str) -> None:
    model = make(1, **fields)
    before = model(TOKENS).logits
    with pytest.raises(ExcitorError, match=f"cannot be swapped in: {message}"):
        hotswap_adapter(model, other)
    assert torch.equal(model(TOKENS).logits, before)


def test_fewer_layers_are_refused(tmp_path) -> None:
    make(7, top_layers=1).save_pretrained(tmp_path)
    with pytest.raises(ExcitorError, match=r"layers\.0\.self_attn\.k_proj.* is missing"):
        hotswap_adapter(make(1), str(tmp_path))


def test_what_cannot_be_swapped_is_named(other: str, tmp_path) -> None:
    with pytest.raises(ExcitorError, match="no adapter 'second' to swap out; known are: default"):
        hotswap_adapter(make(1), other, adapter_name="second")
    with pytest.raises(ExcitorError, match="needs a PeftModel"):
        hotswap_adapter(make_llama(), other)
    lora = get_peft_model(make_llama(), LoraConfig(task_type="CAUSAL_LM"))
    with pytest.raises(ExcitorError, match=r"one of these is .*LORA"):
        hotswap_adapter(lora, other)
    with pytest.raises(ExcitorError, match="is no adapter folder"):
        hotswap_adapter(make(1), str(tmp_path))
