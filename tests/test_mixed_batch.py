"""Rows of one batch under different adapters: each row must be what its adapter alone gives."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import BartConfig, BartForConditionalGeneration, GenerationConfig

from excitor import ExcitorConfig, ExcitorError, set_strength
from excitor.layer import excitor_layers
from tiny import make_llama


NAMES = ["wide", "__base__", "narrow", "wide", "one_layer"]
TOKENS = torch.randint(3, 259, (5, 9), generator=torch.Generator().manual_seed(1))
GENERATE = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(TOKENS)}
CONFIGS = {
    "wide": ExcitorConfig(init_weights=False, r=8, num_prompts=7, modules_to_save=["lm_head"]),
    "narrow": ExcitorConfig(init_weights=False, r=2, num_prompts=0, num_local_prompts=3, null_prompt=True),
    "one_layer": ExcitorConfig(init_weights=False, top_layers=1, generator="mlp"),
}


def make_model(task_type: str | None = "CAUSAL_LM") -> PeftModel:
    """Three adapters of different shapes on different layers; one of them trains the head too."""
    configs = {name: ExcitorConfig(**(vars(config) | {"task_type": task_type})) for name, config in CONFIGS.items()}
    model = get_peft_model(make_llama(), configs["wide"], "wide")
    for name in ("narrow", "one_layer"):
        model.add_adapter(name, configs[name])
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["wide"].weight.add_(1.0)
    return model.eval()


@pytest.fixture(scope="module", params=["CAUSAL_LM", None])
def model(request: pytest.FixtureRequest) -> PeftModel:
    return make_model(request.param)


def by_adapter(model: PeftModel, call) -> dict[str, torch.Tensor]:
    """What ``call`` gives under each adapter for the whole batch."""
    with model.disable_adapter():
        results = {"__base__": call()}
    for name in model.peft_config:
        model.set_adapter(name)
        results[name] = call()
    model.set_adapter("narrow")  # a row's own adapter must count, not the active one
    return results


def test_each_row_of_a_forward_pass_has_its_own_adapter(model: PeftModel) -> None:
    alone = by_adapter(model, lambda: model(input_ids=TOKENS).logits)
    mixed = model(input_ids=TOKENS, adapter_names=NAMES).logits
    for row, name in enumerate(NAMES):
        torch.testing.assert_close(mixed[row], alone[name][row], atol=1e-5, rtol=1e-5)
        for other in set(NAMES) - {name}:
            assert not torch.allclose(mixed[row], alone[other][row], atol=1e-3), (row, other)


def test_rows_of_the_base_are_the_base_bit_for_bit(model: PeftModel) -> None:
    with model.disable_adapter():
        base = model(input_ids=TOKENS).logits
    assert torch.equal(model(input_ids=TOKENS, adapter_names=["__base__"] * 5).logits, base)
    hidden = model(input_ids=TOKENS, adapter_names=NAMES, output_hidden_states=True).hidden_states[-1][1]
    with model.disable_adapter():
        assert torch.equal(hidden, model(input_ids=TOKENS, output_hidden_states=True).hidden_states[-1][1])


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"cache_implementation": "static"}], ids=str)
def test_each_row_generates_as_its_adapter_alone(model: PeftModel, options: dict) -> None:
    alone = by_adapter(model, lambda: model.generate(input_ids=TOKENS, **GENERATE, **options))
    mixed = model.generate(input_ids=TOKENS, adapter_names=NAMES, **GENERATE, **options)
    for row, name in enumerate(NAMES):
        assert torch.equal(mixed[row], alone[name][row]), name
    assert len({tuple(alone[name][0].tolist()) for name in alone}) > 1


@pytest.mark.parametrize(
    "options", [{"num_beams": 3}, {"generation_config": GenerationConfig(num_beams=3)}], ids=["argument", "config"]
)
@pytest.mark.parametrize("returned", [1, 2])
def test_beam_search_keeps_a_row_with_its_adapter(model: PeftModel, options: dict, returned: int) -> None:
    options = GENERATE | options | {"num_return_sequences": returned}
    alone = by_adapter(model, lambda: model.generate(input_ids=TOKENS, **options).view(5, returned, -1))
    mixed = model.generate(input_ids=TOKENS, adapter_names=NAMES, **options).view(5, returned, -1)
    for row, name in enumerate(NAMES):
        assert torch.equal(mixed[row], alone[name][row]), name


def test_several_samples_of_a_row_keep_its_adapter() -> None:
    """The copies of a row see the same prompt, so under the same adapter their first logits are equal."""
    model = make_model()
    options = GENERATE | {"do_sample": True, "num_return_sequences": 3, "return_dict_in_generate": True}
    scores = model.generate(input_ids=TOKENS, adapter_names=NAMES, output_logits=True, **options).logits[0]
    assert torch.equal(scores.view(5, 3, -1)[:, :1].expand(-1, 3, -1), scores.view(5, 3, -1))


def test_beam_search_of_an_encoder_decoder_model() -> None:
    """The encoder sees each row once, the decoder once for every beam."""
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=60, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=32, init_std=0.5,
    )  # fmt: skip
    fields = {"target_modules": ["k_proj"], "init_weights": False, "task_type": "SEQ_2_SEQ_LM"}
    model = get_peft_model(BartForConditionalGeneration(config), ExcitorConfig(**fields), "narrow")
    model.add_adapter("wide", ExcitorConfig(r=3, **fields))
    model.eval()
    tokens, names = TOKENS[:3] % 60, ["wide", "__base__", "narrow"]
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "num_beams": 2, "do_sample": False}
    alone = by_adapter(model, lambda: model.generate(input_ids=tokens, **options))
    mixed = model.generate(input_ids=tokens, adapter_names=names, **options)
    for row, name in enumerate(names):
        assert torch.equal(mixed[row], alone[name][row]), name


def test_strength_counts_for_each_row() -> None:
    model = make_model()
    set_strength(model, 0.0, "narrow")
    set_strength(model, 0.5, "one_layer")
    mixed = model(input_ids=TOKENS, adapter_names=NAMES).logits
    with model.disable_adapter():
        assert torch.equal(mixed[2], model(input_ids=TOKENS).logits[2])
    model.set_adapter("one_layer")
    torch.testing.assert_close(mixed[4], model(input_ids=TOKENS).logits[4], atol=1e-5, rtol=1e-5)


def test_gradients_reach_each_rows_adapter_alone() -> None:
    """In evaluation mode gradients flow, with gradient checkpointing switched on too."""
    model = make_model()
    model.base_model.set_adapter(["narrow", "one_layer"])
    model.gradient_checkpointing_enable()
    model(input_ids=TOKENS[:2], adapter_names=["narrow", "narrow"]).logits.sum().backward()
    for layer in excitor_layers(model).values():
        assert layer.parts("narrow")[1].A.grad.abs().sum() > 0
    assert all(layer.parts("one_layer")[1].A.grad is None for layer in list(excitor_layers(model).values())[2:])


def test_switched_off_means_off_for_every_row(model: PeftModel) -> None:
    with model.disable_adapter():
        assert torch.equal(model(input_ids=TOKENS, adapter_names=NAMES).logits, model(input_ids=TOKENS).logits)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["wide", "typo", "__base__", "other", "wide"],
            r"non-existing adapter\(s\): other, typo\. .*narrow.*__base__",
        ),
        (["wide", "narrow"], "same as the number of inputs, but got 2 and 5"),
        (["wide"] * 10, "same as the number of inputs, but got 10 and 5"),
        ("wide", "must be a list of names"),
        (["wide", None, "wide", "wide", "wide"], "must be a list of names"),
    ],
)
@pytest.mark.parametrize("call", ["forward", "generate"])
def test_wrong_names_are_one_clear_error(model: PeftModel, names, message: str, call: str) -> None:
    arguments = GENERATE if call == "generate" else {}
    with pytest.raises(ExcitorError, match=message):
        getattr(model, call)(input_ids=TOKENS, adapter_names=names, **arguments)
    assert model(input_ids=TOKENS).logits.isfinite().all()  # no hook is left behind


def test_a_multiple_of_the_rows_is_no_match_without_beams(model: PeftModel) -> None:
    with pytest.raises(ExcitorError, match="but got 5 and 10"):
        model(input_ids=TOKENS.repeat(2, 1), adapter_names=NAMES)


def test_training_mode_is_refused() -> None:
    model = make_model().train()
    with pytest.raises(ExcitorError, match="in training mode"):
        model(input_ids=TOKENS, adapter_names=NAMES)


def test_every_hook_is_removed() -> None:
    model = make_model()
    model(input_ids=TOKENS, adapter_names=NAMES)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("by_name", [True, False])
def test_beams_that_the_model_makes_by_itself_are_no_rows(by_name: bool) -> None:
    model = make_model()
    model.generation_config.num_beams = 2
    given = ((), {"input_ids": TOKENS[:1]}) if by_name else ((TOKENS[:1],), {})
    with pytest.raises(ExcitorError, match="but got 2 and 1 respectively"):
        model.generate(*given[0], **given[1], adapter_names=["wide", "narrow"], max_new_tokens=3)
