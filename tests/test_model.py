import pytest
import torch
from peft import get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from excitor import ExcitorConfig, ExcitorError
from excitor.layer import excitor_layers
from literal_scores import literal_scores
from tiny import make_llama


TOKENS = torch.arange(3, 3 + 2 * 11).view(2, 11)


def trainable(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_llama_7b_with_the_papers_preset_has_the_papers_parameters() -> None:
    with torch.device("meta"):
        base = LlamaForCausalLM(LlamaConfig())  # the defaults are LLaMA-7B's shape
    assert (base.config.hidden_size, base.config.num_hidden_layers) == (4096, 32)
    model = get_peft_model(base, ExcitorConfig.paper())
    assert trainable(model) == 7_618_560 + 960
    assert [int(name.split(".")[4]) for name in excitor_layers(model)] == list(range(2, 32))


@pytest.mark.parametrize(
    ("start", "tolerance"),
    [
        ({}, 5e-6),
        ({"separate_values": True}, 0),
        ({"gate_init": 0.0, "init_weights": True}, 0),
        ({"separate_values": True, "generator": "mlp"}, 0),
    ],
    ids=str,
)
def test_a_fresh_adapter_is_the_base(llama, start: dict, tolerance: float) -> None:
    """Bit for bit, or but for the rounding of prompts that cancel."""
    base = llama(TOKENS).logits
    fresh = get_peft_model(llama, ExcitorConfig(**start))(TOKENS).logits
    torch.testing.assert_close(fresh, base, atol=tolerance, rtol=0)


def test_switched_off_it_is_the_base_bit_for_bit(llama) -> None:
    base = llama(TOKENS).logits
    model = get_peft_model(llama, ExcitorConfig(init_weights=False))
    assert not torch.allclose(model(TOKENS).logits, base)
    with model.disable_adapter():
        assert torch.equal(model(TOKENS).logits, base)
    assert torch.equal(model.unload()(TOKENS).logits, base)


def test_only_the_adapter_trains(llama) -> None:
    model = get_peft_model(llama, ExcitorConfig())
    model(input_ids=TOKENS, labels=TOKENS).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == ("excitor_" in name), name
        assert (parameter.grad is not None) == ("excitor_" in name), name


@pytest.mark.parametrize(
    "switches",
    [
        {"num_local_prompts": 0},
        {"num_prompts": 0},
        {"separate_values": True, "null_prompt": True, "temperature": 0.5},
        {"generator": "mlp", "gate": "layer"},
        {"gate": "none"},
    ],
    ids=str,
)
def test_the_whole_model_computes_the_papers_formula(switches: dict) -> None:
    """Extra scores are added inside a frozen model; tests/families has the default in every architecture."""
    model = get_peft_model(make_llama(), ExcitorConfig(init_weights=False, **switches))
    frozen = make_llama(attn_implementation="eager")
    base = frozen(TOKENS).logits
    with literal_scores(frozen, model):
        expected = frozen(TOKENS).logits
    torch.testing.assert_close(model(TOKENS).logits, expected, atol=1e-5, rtol=1e-5)
    assert (expected - base).abs().max() > 0.01


@pytest.mark.parametrize(
    ("selection", "layers"),
    [
        ({"top_layers": 2}, [1, 2]),
        ({"layers_to_transform": [0, 2]}, [0, 2]),
        ({"layers_to_transform": 1, "layers_pattern": "layers"}, [1]),
        ({"exclude_modules": ["layers.0.self_attn.k_proj"]}, [1, 2]),
        ({"target_modules": r".*\.1\.self_attn\.k_proj"}, [1]),
        ({"target_modules": ["k_proj"]}, [0, 1, 2]),
    ],
)
def test_layer_selection(llama, selection: dict, layers: list[int]) -> None:
    model = get_peft_model(llama, ExcitorConfig(**selection))
    assert [int(name.split(".")[4]) for name in excitor_layers(model)] == layers


def test_more_layers_than_the_model_has(llama) -> None:
    with pytest.raises(ExcitorError, match="top_layers is 30, but the model has 3 layers"):
        get_peft_model(llama, ExcitorConfig.paper())


def test_a_used_configuration_is_not_taken_for_another_depth(llama) -> None:
    config = ExcitorConfig(top_layers=1)
    get_peft_model(llama, config)
    with pytest.raises(ExcitorError, match="model of another depth"):
        get_peft_model(make_llama(num_hidden_layers=2), config)


def test_unknown_architecture_lists_the_known_ones() -> None:
    mamba = MambaForCausalLM(MambaConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(ExcitorError, match=r"architecture 'mamba'; known are: .*llama.*target_modules"):
        get_peft_model(mamba, ExcitorConfig())


def test_a_target_that_is_no_linear_layer_is_named() -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2))
    with pytest.raises(ExcitorError, match=r"transformer\.h\.0\.attn is a GPT2Attention, not a linear projection"):
        get_peft_model(gpt2, ExcitorConfig(target_modules=["attn"]))


def test_a_plain_module_counts_as_one_head_unless_told(llama) -> None:
    plain = nn.Sequential(nn.Linear(6, 8))
    model = get_peft_model(plain, ExcitorConfig(target_modules=["0"]))
    assert next(iter(excitor_layers(model).values())).num_heads == 1
    model = get_peft_model(nn.Sequential(nn.Linear(6, 8)), ExcitorConfig(target_modules=["0"], head_dim=2))
    assert next(iter(excitor_layers(model).values())).num_heads == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_fresh_adapter_is_a_base_in_half_precision_bit_for_bit(dtype: torch.dtype) -> None:
    """Its prompts cancel in fp32: had they been rounded to the base's dtype, what is left of them would show."""
    base = make_llama().to(dtype)
    logits = base(TOKENS).logits
    model = get_peft_model(base, ExcitorConfig())
    assert {p.dtype for n, p in model.named_parameters() if "excitor_" in n} == {torch.float32}
    assert torch.equal(model(TOKENS).logits, logits)
