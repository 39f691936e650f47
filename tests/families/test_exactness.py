"""In every architecture the adapted model computes the paper's formula, in its outputs and in every gradient."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model

from excitor import ExcitorConfig
from excitor.families import FAMILIES
from excitor.keys import text_config
from excitor.layer import excitor_layers
from literal_scores import literal_scores
from tiny_families import VARIANTS, make_family


TOKENS = torch.arange(3, 3 + 2 * 11).view(2, 11)
# Where transformers' fused attention computes something else than its eager one, with or without an adapter: ALiBi of
# Falcon, and, in older versions, the cap on Gemma 2's scores.
FUSED_DIFFERS = ("falcon, old, alibi", "falcon, multi-query, alibi", "gemma2")
EVERY = pytest.mark.parametrize("name", VARIANTS)


def adapt(base, **changes) -> PeftModel:
    torch.manual_seed(1)
    small = {"r": 3, "num_prompts": 5, "prompt_init_std": 1.0, "gate_init_std": 1.0, "init_weights": True}
    return get_peft_model(base, ExcitorConfig(**(small | changes))).double().eval()


@EVERY
def test_outputs_and_gradients_are_those_of_extra_scores(name: str) -> None:
    frozen = make_family(name, attn_implementation="eager").requires_grad_(False)
    model = adapt(make_family(name, attn_implementation="eager" if name in FUSED_DIFFERS else None))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    logits = model(input_ids=TOKENS).logits
    cotangent = torch.randn_like(logits)
    gradients = torch.autograd.grad((logits * cotangent).sum(), parameters)
    with literal_scores(frozen, model):
        expected = frozen(input_ids=TOKENS).logits
    assert (expected - frozen(input_ids=TOKENS).logits).abs().max() > 0.01
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    expected_gradients = torch.autograd.grad((expected * cotangent).sum(), parameters)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        largest = wanted.abs().max().item()
        assert largest > 1e-4
        # Some models compute a softmax in fp32: what it rounds goes with the largest entries.
        torch.testing.assert_close(gradient, wanted, atol=1e-5 * max(1.0, largest), rtol=1e-5)


@EVERY
def test_the_adapter_has_the_shape_of_the_keys(name: str) -> None:
    variant = VARIANTS[name]
    model = adapt(make_family(name))
    width, keys = variant.width, variant.key_heads * variant.head_dim
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trainable == 2 * (3 * (width + keys) + 5 * keys + 3 * 2 * keys + variant.key_heads)
    assert not any("vision" in layer or "visual" in layer for layer in excitor_layers(model))


@EVERY
def test_a_fresh_adapter_and_one_switched_off_are_the_base_bit_for_bit(name: str, tmp_path) -> None:
    model = make_family(name)
    names = list(model.state_dict())
    base = model(input_ids=TOKENS).logits
    assert torch.equal(adapt(copy.deepcopy(model), gate_init=0.0, gate_init_std=0.0)(input_ids=TOKENS).logits, base)
    model = adapt(model)
    expected = model(input_ids=TOKENS).logits
    with model.disable_adapter():
        assert torch.equal(model(input_ids=TOKENS).logits, base)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_family(name), tmp_path).double()
    torch.testing.assert_close(loaded(input_ids=TOKENS).logits, expected, atol=1e-5, rtol=0)
    unloaded = model.unload()
    assert torch.equal(unloaded(input_ids=TOKENS).logits, base)
    assert list(unloaded.state_dict()) == names
    assert not any(
        type(getattr(hook, "__self__", None)).__module__ == "excitor.placement"
        for module in unloaded.modules()
        for hook in module._forward_hooks.values()
    )


@EVERY
def test_decoding_with_a_cache_and_with_padding(name: str) -> None:
    model = adapt(make_family(name, torch.float32)).float()  # in fp64 some masks overflow in a softmax in fp32
    model.base_model.model.generation_config.eos_token_id = None
    cached = generate(model, TOKENS[:1])
    assert_same(cached, generate(model, TOKENS[:1], use_cache=False))
    rows = [TOKENS[0], TOKENS[1, :4]]
    padded = torch.stack([torch.nn.functional.pad(row, (11 - len(row), 0), value=0) for row in rows])
    mask = torch.stack([torch.arange(11) >= 11 - len(row) for row in rows]).long()
    tokens, logits = generate(model, padded, mask)
    assert_same((tokens[:1], logits[:1]), cached)
    assert_same((tokens[1:, 7:], logits[1:]), generate(model, rows[1][None]))


def generate(model: PeftModel, tokens: torch.Tensor, mask: torch.Tensor | None = None, **options):
    mask = torch.ones_like(tokens) if mask is None else mask
    found = model.generate(
        input_ids=tokens,
        attention_mask=mask,
        max_new_tokens=5,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    return found.sequences, torch.stack(found.logits, dim=1)


def assert_same(found: tuple[torch.Tensor, torch.Tensor], expected: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], atol=1e-5, rtol=0)


def test_every_family_is_tested() -> None:
    assert {text_config(make_family(name)).model_type for name in VARIANTS} == set(FAMILIES)
