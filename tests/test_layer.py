import pytest
import torch
from peft import get_peft_model
from torch import nn

from excitor import ExcitorConfig, ExcitorError, ExcitorLayer, gates, set_strength
from excitor.functional import Prompts, excited_key, excitor_query, reconstructed_key, split_heads
from excitor.layer import excitor_layers


SMALL = {"r": 3, "num_prompts": 5, "num_local_prompts": 0, "init_weights": False}


def make_layer(dtype: torch.dtype = torch.float32, **changes) -> ExcitorLayer:
    layer = ExcitorLayer(nn.Linear(10, 12, dtype=dtype), head_dim=4)
    layer.update_layer("default", ExcitorConfig(**(SMALL | changes)))
    return layer


def test_forward_is_the_reference_formula() -> None:
    layer = make_layer()
    x = torch.randn(2, 7, 10)
    parts, generator = layer.excitor_processor["default"], layer.excitor_generator["default"]
    table = split_heads(generator.prompts, 3)
    extra = reconstructed_key(excitor_query(x, parts.A, parts.B, 3), [Prompts(table, table)])
    expected = excited_key(split_heads(layer.base_layer(x), 3), extra, parts.gate).flatten(-2)
    torch.testing.assert_close(layer(x), expected)
    assert not torch.allclose(layer(x), layer.base_layer(x))


SWITCHES = [
    {},
    {"num_local_prompts": 2},
    {"num_prompts": 0, "num_local_prompts": 2},
    {"separate_values": True},
    {"separate_values": True, "num_local_prompts": 2},
    {"null_prompt": True},
    {"gate": "layer"},
    {"gate": "none"},
    {"generator": "mlp"},
    {"generator": "mlp", "separate_values": True, "null_prompt": True, "gate": "layer", "num_local_prompts": 1},
]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_parameter_of_every_switch_gets_a_gradient(switches: dict) -> None:
    layer = make_layer(**switches)
    layer(torch.randn(2, 7, 10)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        if "excitor_" in name and parameter.numel():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def count(config: ExcitorConfig) -> int:
    layer = ExcitorLayer(nn.Linear(10, 12), head_dim=4)
    layer.update_layer("default", config)
    return sum(parameter.numel() for name, parameter in layer.named_parameters() if "excitor_" in name)


@pytest.mark.parametrize(
    ("switches", "parameters"),
    [
        ({}, 10 * 3 + 3 * 12 + 5 * 12 + 3),
        ({"num_local_prompts": 2}, 10 * 3 + 3 * 12 + 5 * 12 + 3 + 3 * 2 * 12),
        ({"separate_values": True}, 10 * 3 + 3 * 12 + 2 * 5 * 12 + 3),
        ({"separate_values": True, "num_local_prompts": 2}, 10 * 3 + 3 * 12 + 2 * 5 * 12 + 3 + 2 * 3 * 2 * 12),
        ({"null_prompt": True}, 10 * 3 + 3 * 12 + 5 * 12 + 3 + 3),
        ({"gate": "layer"}, 10 * 3 + 3 * 12 + 5 * 12 + 1),
        ({"gate": "none"}, 10 * 3 + 3 * 12 + 5 * 12),
        ({"generator": "mlp"}, 10 * 3 + 3 * 12 + 5 * 64 + 64 * 64 + 64 * 12 + 3),
    ],
    ids=str,
)
def test_parameters_of_each_switch(switches: dict, parameters: int) -> None:
    """The formulas of docs/configuration.md for C = 10, r = 3, K = 5, C_kv = 12, G = 3."""
    assert count(ExcitorConfig(**(SMALL | switches))) == parameters


@pytest.mark.parametrize("generator", ["table", "mlp"])
def test_separate_values_can_start_as_an_exact_identity_with_open_gates(generator: str) -> None:
    layer = make_layer(separate_values=True, generator=generator)
    layer.update_layer(
        "default",
        ExcitorConfig(separate_values=True, generator=generator, gate_init=1.0, init_weights="identity"),
    )
    x = torch.randn(2, 7, 10)
    assert torch.equal(layer(x), layer.base_layer(x))
    layer(x).square().sum().backward()
    moved = layer.excitor_generator["default"].outer if generator == "mlp" else None
    moved = layer.excitor_generator["default"].value_prompts if moved is None else moved
    assert moved.grad.abs().sum() > 0


def test_centred_prompts_start_as_an_identity_but_for_rounding() -> None:
    layer = ExcitorLayer(nn.Linear(10, 12), head_dim=4)
    layer.update_layer("default", ExcitorConfig())
    x = torch.randn(2, 7, 10)
    torch.testing.assert_close(layer(x), layer.base_layer(x), atol=1e-6, rtol=0)
    layer(x).square().sum().backward()
    assert layer.excitor_processor["default"].B.grad.abs().sum() > 0


@pytest.mark.parametrize("separate", [False, True])
def test_local_prompts_do_not_move_alike(separate: bool) -> None:
    """Equal ones would have equal gradients, and be one prompt for ever."""
    layer = ExcitorLayer(nn.Linear(10, 12), head_dim=4)
    layer.update_layer("default", ExcitorConfig(num_prompts=0, num_local_prompts=3, separate_values=separate))
    optimizer = torch.optim.SGD([p for n, p in layer.named_parameters() if "excitor_" in n], lr=0.1)
    for _ in range(2):
        layer(torch.randn(2, 7, 10)).square().sum().backward()
        optimizer.step()
    for prompts in [parameter for name, parameter in layer.named_parameters() if ".local" in name]:
        first, second, third = prompts.unflatten(-1, (3, -1)).unbind(1)
        assert not torch.allclose(first, second)
        assert not torch.allclose(second, third)


def test_prompt_weights_make_the_term() -> None:
    layer = make_layer(num_local_prompts=2, null_prompt=True)
    x = torch.randn(2, 7, 10)
    generator, processor = layer.parts("default")
    weights = layer.prompt_weights("default", x)
    assert weights.shape == (2, 7, 3, 5 + 2 + 1)
    table, local = generator(processor.features(x))
    values = torch.cat([table.values.expand(2, 7, 5, 3, 4), local.values], dim=2)
    expected = torch.einsum("bmgk,bmkgd->bmgd", weights[..., :-1], values) * processor.gate[:, None]
    torch.testing.assert_close(layer.term("default", x), expected.flatten(-2))


def test_gates_at_zero_still_learn() -> None:
    layer = ExcitorLayer(nn.Linear(10, 12), head_dim=4)
    layer.update_layer("default", ExcitorConfig(r=3, num_prompts=5, gate_init=0.0, init_weights=True))
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
