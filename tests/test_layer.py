import pytest
import torch
from peft import get_peft_model
from torch import nn

from excitor import ExcitorConfig, ExcitorError, ExcitorLayer, gates, set_strength
from excitor.functional import excited_key, excitor_query, reconstructed_key, split_heads
from excitor.layer import excitor_layers


def make_layer(dtype: torch.dtype = torch.float32, **changes) -> ExcitorLayer:
    layer = ExcitorLayer(nn.Linear(10, 12, dtype=dtype), head_dim=4)
    layer.update_layer("default", ExcitorConfig(r=3, num_prompts=5, init_weights=False, **changes))
    return layer


def test_forward_is_the_reference_formula() -> None:
    layer = make_layer()
    x = torch.randn(2, 7, 10)
    parts, generator = layer.excitor_processor["default"], layer.excitor_generator["default"]
    table = split_heads(generator.prompts, 3)
    extra = reconstructed_key(excitor_query(x, parts.A, parts.B, 3), table, table)
    expected = excited_key(split_heads(layer.base_layer(x), 3), extra, parts.gate).flatten(-2)
    torch.testing.assert_close(layer(x), expected)
    assert not torch.allclose(layer(x), layer.base_layer(x))


def test_every_parameter_gets_a_gradient() -> None:
    layer = make_layer()
    layer(torch.randn(2, 7, 10)).square().sum().backward()
    names = {name for name, parameter in layer.named_parameters() if parameter.grad is not None}
    adapter = {
        "excitor_generator.default.prompts",
        "excitor_processor.default.A",
        "excitor_processor.default.B",
        "excitor_processor.default.gate",
    }
    assert adapter <= names
    assert all(layer.get_parameter(name).grad.abs().sum() > 0 for name in adapter)


def test_gates_at_zero_still_learn() -> None:
    layer = ExcitorLayer(nn.Linear(10, 12), head_dim=4)
    layer.update_layer("default", ExcitorConfig(r=3, num_prompts=5))
    x = torch.randn(2, 7, 10)
    assert torch.equal(layer(x), layer.base_layer(x))
    layer(x).square().sum().backward()
    assert layer.excitor_processor["default"].gate.grad.abs().min() > 0


def test_disabled_and_strength_zero_are_the_base_bit_for_bit() -> None:
    layer = make_layer()
    x = torch.randn(2, 7, 10)
    base = layer.base_layer(x)
    set_strength(layer, 0)
    assert torch.equal(layer(x), base)
    set_strength(layer, 1)
    layer.enable_adapters(False)
    assert torch.equal(layer(x), base)


def test_strength_zero_does_not_even_compute_the_term() -> None:
    layer = make_layer()
    torch.nn.init.constant_(layer.excitor_generator["default"].prompts, float("nan"))
    x = torch.randn(2, 7, 10)
    set_strength(layer, 0)
    assert torch.equal(layer(x), layer.base_layer(x))


def test_strength_scales_the_term() -> None:
    layer = make_layer()
    x = torch.randn(2, 7, 10)
    base, full = layer.base_layer(x), layer(x)
    set_strength(layer, 0.25)
    torch.testing.assert_close(layer(x), base + 0.25 * (full - base))


@pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf")])
def test_bad_strength(strength: float) -> None:
    with pytest.raises(ExcitorError, match="strength must be"):
        set_strength(make_layer(), strength)


def test_terms_of_several_active_adapters_add() -> None:
    layer = make_layer()
    layer.update_layer("other", ExcitorConfig(r=2, num_prompts=4, init_weights=False))
    x = torch.randn(2, 7, 10)
    base = layer.base_layer(x)
    layer.set_adapter(["default"])
    first = layer(x) - base
    layer.set_adapter(["other"])
    second = layer(x) - base
    layer.set_adapter(["default", "other"])
    torch.testing.assert_close(layer(x), base + first + second)


def test_result_keeps_the_bases_dtype() -> None:
    layer = make_layer(torch.bfloat16)
    assert layer(torch.randn(2, 7, 10, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_head_dim_must_divide_the_projection() -> None:
    with pytest.raises(ExcitorError, match="12 outputs cannot be split into heads of 5"):
        ExcitorLayer(nn.Linear(10, 12), head_dim=5)


def test_merging_says_why_it_cannot_be(llama) -> None:
    model = get_peft_model(llama, ExcitorConfig())
    for attempt in (model.merge_and_unload, model.merge_adapter, make_layer().merge):
        with pytest.raises(ExcitorError, match=r"softmax of the layer's input.*unload\(\)"):
            attempt()


def test_gates_are_listed_in_model_order(llama) -> None:
    model = get_peft_model(llama, ExcitorConfig(gate_init_std=1.0))
    found = gates(model)
    assert list(found) == list(excitor_layers(model))
    assert [tuple(gate.shape) for gate in found.values()] == [(2,)] * 3


def test_a_model_without_the_adapter_is_named(llama) -> None:
    with pytest.raises(ExcitorError, match="LlamaForCausalLM carries no Excitor adapter"):
        gates(llama)
