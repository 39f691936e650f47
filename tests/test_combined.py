import json

import pytest
import torch
from peft import PeftModel, get_peft_model

from excitor import CombinedConfig, ExcitorConfig, ExcitorError, load_adapter, save_adapter
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
