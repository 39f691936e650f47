import json

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from excitor import BottleneckConfig, CombinedConfig, ExcitorError, load_adapter, save_adapter
from excitor.bottleneck import BottleneckLayer
from tiny import make_llama, make_tokenizer


TOKENS = torch.arange(3, 3 + 2 * 11).view(2, 11)
HOULSBY = ["o_proj", "down_proj"]


def config(**changes) -> BottleneckConfig:
    small = {"bottleneck_size": 5, "target_modules": HOULSBY, "init_weights": False, "task_type": "CAUSAL_LM"}
    return BottleneckConfig(**(small | changes))


def adapted(base=None, **changes) -> PeftModel:
    return get_peft_model(base or make_llama(), config(**changes)).eval()


def layers(model: nn.Module) -> list[BottleneckLayer]:
    return [module for module in model.modules() if isinstance(module, BottleneckLayer)]


@pytest.mark.parametrize("non_linearity", ["relu", "gelu", "silu", "tanh"])
def test_the_formula_is_that_of_the_paper(non_linearity: str) -> None:
    layer = layers(adapted(non_linearity=non_linearity))[0]
    x = torch.randn(2, 7, layer.in_features)
    h = layer.base_layer(x)
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    hidden = getattr(torch.nn.functional, non_linearity)(h @ down.weight.T + down.bias)
    torch.testing.assert_close(layer(x), h + hidden @ up.weight.T + up.bias)


def test_adapters_are_behind_the_layers_that_are_named() -> None:
    assert len(layers(adapted())) == 2 * 3
    model = adapted(target_modules=["down_proj"], layers_to_transform=[0, 2])
    assert [name for name, one in model.named_modules() if isinstance(one, BottleneckLayer)] == [
        f"base_model.model.model.layers.{number}.mlp.down_proj" for number in (0, 2)
    ]


def test_a_fresh_adapter_and_one_switched_off_are_the_base_bit_for_bit() -> None:
    base = make_llama()(TOKENS).logits
    assert torch.equal(adapted(init_weights=True)(TOKENS).logits, base)
    model = adapted()
    assert not torch.allclose(model(TOKENS).logits, base)
    with model.disable_adapter():
        assert torch.equal(model(TOKENS).logits, base)
    for layer in layers(model):
        layer.scaling["default"] = 0.0
    assert torch.equal(model(TOKENS).logits, base)
    assert torch.equal(model.unload()(TOKENS).logits, base)


def test_the_adapters_train_and_nothing_else() -> None:
    model = adapted(init_weights=True, bottleneck_size_pattern={r"model\.layers\.0\..*": 6})
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("bottleneck_" in name for name in trained)
    size = 2 * 32  # into and out of the adapter, and its biases
    assert model.get_nb_trainable_parameters()[0] == 2 * (6 * (size + 1) + 2 * 5 * (size + 1) + 3 * 32)
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if "bottleneck_up" in name}
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads.values())


def test_masters_are_fp32_and_the_output_has_the_dtype_of_the_base() -> None:
    model = adapted(make_llama().bfloat16())
    assert {p.dtype for name, p in model.named_parameters() if "bottleneck_" in name} == {torch.float32}
    assert model(TOKENS).logits.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        loss = adapted()(input_ids=TOKENS, labels=TOKENS).loss
    loss.backward()
    assert loss.isfinite()


def test_several_adapters_add_and_each_can_be_chosen() -> None:
    model = adapted()
    model.add_adapter("other", config(bottleneck_size=3, target_modules=["down_proj"]))
    first = model(TOKENS).logits
    layer = layers(model)[1]
    x = torch.randn(2, 4, layer.in_features)
    alone = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        alone[name] = layer(x) - layer.base_layer(x)
    assert not torch.allclose(model(TOKENS).logits, first)
    model.base_model.set_adapter(["default", "other"])
    torch.testing.assert_close(layer(x) - layer.base_layer(x), alone["default"] + alone["other"], atol=1e-5, rtol=0)
    model.delete_adapter("other")
    model.set_adapter("default")
    assert torch.equal(model(TOKENS).logits, first)


def test_what_is_saved_is_loaded(tmp_path) -> None:
    base = str(tmp_path / "base")
    make_llama().save_pretrained(base)
    make_tokenizer().save_pretrained(base)
    model = adapted(non_linearity="tanh")
    model.peft_config["default"].base_model_name_or_path = base
    save_adapter(model, tmp_path / "adapter")
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (written["peft_type"], written["bottleneck_size"]) == ("BOTTLENECK", 5)
    loaded, _ = load_adapter(str(tmp_path / "adapter"), device="cpu", dtype=torch.float32)
    assert torch.equal(loaded(TOKENS).logits, model(TOKENS).logits)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_cached_decoding_gives_the_same_tokens() -> None:
    model = adapted()
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    cached, plain = (model.generate(input_ids=TOKENS[:1], use_cache=cache, **settings) for cache in (True, False))
    assert torch.equal(cached, plain)


def test_it_is_a_part_of_a_combined_adapter() -> None:
    part = {"peft_type": "BOTTLENECK", "bottleneck_size": 5, "target_modules": ["down_proj"]}
    model = get_peft_model(make_llama(), CombinedConfig(parts=[{"peft_type": "EXCITOR"}, part]))
    assert len(layers(model)) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bottleneck_size": 0}, "bottleneck_size must be a whole number of at least 1, got 0"),
        ({"bottleneck_size_pattern": {"x": 0}}, "bottleneck_size_pattern.*at least 1, got 0"),
        ({"non_linearity": "step"}, "non_linearity must be one of relu, gelu, silu, tanh, got 'step'"),
        ({"target_modules": None}, "target_modules must name the linear layers"),
        ({"target_modules": ["input_layernorm"]}, "input_layernorm is a LlamaRMSNorm, not a linear layer"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ExcitorError, match=message):
        adapted(**changes)


def test_merging_is_refused() -> None:
    with pytest.raises(ExcitorError, match="cannot be merged"):
        adapted().merge_and_unload()


def test_adapter_names_are_refused() -> None:
    model = get_peft_model(make_llama(), BottleneckConfig(target_modules=["down_proj"])).eval()
    with pytest.raises(ExcitorError, match="bottleneck adapters know no `adapter_names`"):
        model(torch.arange(3, 9)[None], adapter_names=["__base__"])
