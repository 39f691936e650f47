import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from excitor import CombinedConfig, ExcitorConfig, ExcitorError, load_adapter, save_adapter, set_strength
from excitor.checkpoint import attach_adapter
from excitor.layer import ExcitorLayer
from tiny import make_llama, make_tokenizer


TOKENS = torch.arange(3, 3 + 2 * 11).view(2, 11)
EXCITOR = {"peft_type": "EXCITOR", "r": 2, "num_prompts": 4, "init_weights": False}
LORA = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}


def combined(*parts: dict) -> PeftModel:
    config = CombinedConfig(parts=list(parts or (EXCITOR, LORA)), task_type="CAUSAL_LM")
    return get_peft_model(make_llama(), config).eval()


def test_both_methods_act_and_both_go_off() -> None:
    base = make_llama()(TOKENS).logits
    model = combined()
    both = model(TOKENS).logits
    layers = [module for module in model.modules() if isinstance(module, ExcitorLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    lora_alone = model(TOKENS).logits
    for layer in layers:
        layer.enable_adapters(True)
    assert not torch.allclose(both, lora_alone)
    assert not torch.allclose(lora_alone, base)
    with model.disable_adapter():
        assert torch.equal(model(TOKENS).logits, base)
    assert torch.equal(model(TOKENS).logits, both)


def test_the_parameters_of_both_train_and_nothing_else() -> None:
    model = combined()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {"excitor_" in name for name in trained} == {True, False}
    assert all("excitor_" in name or "lora_" in name for name in trained)
    alone = get_peft_model(make_llama(), ExcitorConfig(r=2, num_prompts=4)).get_nb_trainable_parameters()[0]
    lora = 3 * 2 * ((32 + 48) + (32 + 24))
    assert model.get_nb_trainable_parameters()[0] == alone + lora
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)


def test_what_is_saved_is_loaded(tmp_path) -> None:
    base = str(tmp_path / "base")
    make_llama().save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    model = combined()
    model.peft_config["default"].base_model_name_or_path = base
    save_adapter(model, tmp_path / "adapter")
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert [part["peft_type"] for part in written["parts"]] == ["EXCITOR", "LORA"]
    loaded, _ = load_adapter(str(tmp_path / "adapter"), device="cpu", dtype=torch.float32)
    assert torch.equal(loaded(TOKENS).logits, model(TOKENS).logits)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_cached_decoding_gives_the_same_tokens() -> None:
    model = combined()
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    cached, plain = (model.generate(input_ids=TOKENS[:1], use_cache=cache, **settings) for cache in (True, False))
    assert torch.equal(cached, plain)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([EXCITOR], "at least two methods, got 1"),
        ([EXCITOR, {"peft_type": "PREFIX_TUNING"}], "'PREFIX_TUNING' is none"),
        ([EXCITOR, {"peft_type": "ROLA"}], "'ROLA' is none"),
        ([EXCITOR, {"r": 2}], "None is none"),
        ([EXCITOR | {"generator": "mlp"}, LORA], "cannot have generator='mlp'"),
        ([EXCITOR, LORA | {"target_modules": ["k_proj"]}], r"EXCITOR and LORA both adapt .*k_proj"),
    ],
)
def test_what_cannot_be_combined_is_refused(parts: list[dict], message: str) -> None:
    with pytest.raises(ExcitorError, match=message):
        combined(*parts)


def test_merging_is_refused() -> None:
    with pytest.raises(ExcitorError, match="cannot be merged"):
        combined().merge_and_unload()


def test_several_adapters_of_several_methods(tmp_path) -> None:
    model = combined()
    first = model(TOKENS).logits
    config = CombinedConfig(parts=[EXCITOR | {"num_prompts": 3}, LORA | {"r": 3}], task_type="CAUSAL_LM")
    model.add_adapter("second", config)
    assert torch.equal(model(TOKENS).logits, first)
    model.set_adapter("second")
    second = model.eval()(TOKENS).logits
    assert not torch.allclose(second, first)
    assert [type(model.peft_config[name]) for name in ("default", "second")] == [CombinedConfig] * 2
    model.save_pretrained(tmp_path)
    for place, expected in ((tmp_path, first), (tmp_path / "second", second)):
        torch.testing.assert_close(PeftModel.from_pretrained(make_llama(), place).eval()(TOKENS).logits, expected)
    loaded = PeftModel.from_pretrained(make_llama(), tmp_path).eval()
    loaded.load_adapter(tmp_path / "second", "second")
    torch.testing.assert_close(loaded(TOKENS).logits, first)
    loaded.set_adapter("second")
    torch.testing.assert_close(loaded(TOKENS).logits, second)


def test_parts_may_be_configurations_and_are_kept_as_json(tmp_path) -> None:
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    excitor = ExcitorConfig(r=2, num_prompts=4, target_modules=["k_proj"])
    for parts in ([excitor, lora], [excitor.to_dict(), lora.to_dict()]):
        config = CombinedConfig(parts=parts, task_type="CAUSAL_LM")
        save_adapter(get_peft_model(make_llama(), config), tmp_path)
        assert json.loads((tmp_path / "adapter_config.json").read_text())["parts"][1]["peft_type"] == "LORA"
        PeftModel.from_pretrained(make_llama(), tmp_path)
    with pytest.raises(ExcitorError, match="r must be a whole number of at least 1"):
        CombinedConfig(parts=[EXCITOR | {"r": 0}, LORA])


def test_what_would_be_ignored_or_reach_a_part_alone_is_refused() -> None:
    model = combined()
    with pytest.raises(ExcitorError, match="combined adapters know no `adapter_names`"):
        model(TOKENS, adapter_names=["__base__"] * 2)
    with pytest.raises(ExcitorError, match=r"'default' changes .*q_proj in another way as well"):
        set_strength(model, 0.5)


def test_a_damaged_adapter_and_one_of_a_deeper_base_are_refused(tmp_path) -> None:
    model = combined()
    save_adapter(model, tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    for kind in ("excitor_", "lora_"):
        key = next(key for key in weights if kind in key)
        save_file({name: t for name, t in weights.items() if name != key}, tmp_path / "adapter_model.safetensors")
        with pytest.raises(ExcitorError, match=r"does not fit the base model .*: it has no .* tensors"):
            attach_adapter(make_llama(), str(tmp_path))
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ExcitorError, match="the base has no place for"):
        attach_adapter(make_llama(num_hidden_layers=1), str(tmp_path))
