"""Key projections that the user names: in encoders, in encoder-decoder models, and with the layout of a fused one."""

import pytest
import torch
from peft import get_peft_model
from transformers import (
    ApertusConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BertConfig,
    GPT2Config,
    GPTBigCodeConfig,
    LlamaConfig,
    LlamaModel,
    MambaConfig,
    OlmoConfig,
    PretrainedConfig,
    Qwen2Config,
    T5Config,
    ViTConfig,
)

from excitor import ExcitorConfig, ExcitorError
from excitor.layer import excitor_layers
from literal_scores import literal_scores
from tiny_families import SIZES, make_family


TOKENS = torch.arange(3, 3 + 2 * 11).view(2, 11)
ENCODER_DECODER = SIZES | {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
ENCODER_DECODER |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "d_model": 32}
CASES = {
    "t5": (T5Config(vocab_size=64, d_model=32, d_kv=6, d_ff=16, num_layers=2, num_heads=4), "SelfAttention.k", {}, 4),
    "bart": (BartConfig(**ENCODER_DECODER), "self_attn.k_proj", {}, 4),
    "bert": (BertConfig(**SIZES), "key", {}, 2),
    "vit": (ViTConfig(**SIZES, image_size=8, patch_size=4), "k_proj", {}, 2),
    "concatenated": (GPTBigCodeConfig(**SIZES, multi_query=True), "c_attn", {"key_layout": "concatenated"}, 2),
    "interleaved": (GPTBigCodeConfig(**SIZES, multi_query=False), "c_attn", {"key_layout": "interleaved"}, 2),
}


def make(config: PretrainedConfig, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    model = AutoModel.from_config(config, **options).double().eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def inputs(config: PretrainedConfig) -> dict[str, torch.Tensor]:
    if config.model_type == "vit":
        return {"pixel_values": torch.arange(2 * 3 * 8 * 8.0, dtype=torch.double).view(2, 3, 8, 8).cos()}
    return {"input_ids": TOKENS} | ({"decoder_input_ids": TOKENS + 22} if config.is_encoder_decoder else {})


def adapt(model: torch.nn.Module, **changes):
    small = {"r": 3, "num_prompts": 5, "prompt_init_std": 1.0, "gate_init_std": 1.0, "init_weights": True}
    return get_peft_model(model, ExcitorConfig(**small, **changes)).double().eval()


@pytest.mark.parametrize("case", CASES)
def test_named_projections_compute_the_formula(case: str) -> None:
    config, target, changes, layers = CASES[case]
    frozen = make(config, attn_implementation="eager")
    model = adapt(make(config), target_modules=[target], **changes)
    assert len(excitor_layers(model)) == layers
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(parameters) == 5 * layers  # A, B, global and local prompts, gates
    output = model(**inputs(config)).last_hidden_state
    base = frozen(**inputs(config)).last_hidden_state
    with literal_scores(frozen.requires_grad_(False), model):
        expected = frozen(**inputs(config)).last_hidden_state
    assert (expected - base).abs().max() > 0.01
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)
    cotangent = torch.randn_like(output)
    gradients, wanted = (torch.autograd.grad((found * cotangent).sum(), parameters) for found in (output, expected))
    for gradient, own in zip(gradients, wanted, strict=True):
        assert own.abs().max() > 1e-4
        torch.testing.assert_close(gradient, own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", ["t5", "bart"])
def test_encoder_decoder_models_decode_with_a_cache(case: str) -> None:
    config, target, _, _ = CASES[case]
    torch.manual_seed(0)
    base = AutoModelForSeq2SeqLM.from_config(config).eval()
    for parameter in base.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    model = adapt(base, target_modules=[target], task_type="SEQ_2_SEQ_LM").float()
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "decoder_start_token_id": 1}
    options |= {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    cached, uncached = (model.generate(use_cache=use, **options) for use in (True, False))
    assert torch.equal(cached.sequences, uncached.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(uncached.logits), atol=1e-4, rtol=1e-4)
    with model.disable_adapter():
        assert not torch.allclose(model.generate(**options).logits[0], cached.logits[0], atol=0.1)


@pytest.mark.parametrize(
    "config", [CASES[case][0] for case in ("t5", "bart", "bert", "vit")] + [MambaConfig(hidden_size=8)], ids=str
)
def test_without_names_they_are_refused_by_name(config: PretrainedConfig) -> None:
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    message = rf"architecture '{config.model_type}'; known are: .*llama.*target_modules"
    with pytest.raises(ExcitorError, match=message):
        get_peft_model(model, ExcitorConfig())


def test_a_fused_projection_needs_its_layout() -> None:
    with pytest.raises(ExcitorError, match=r"h\.0\.attn\.c_attn has 48 outputs, more than 4 heads.*key_layout"):
        adapt(make(GPTBigCodeConfig(**SIZES)), target_modules=["c_attn"])


def test_sizes_that_do_not_fit_the_layout() -> None:
    with pytest.raises(ExcitorError, match=r"48 outputs does not hold 4 query heads of size 7.*='interleaved'"):
        adapt(make(GPTBigCodeConfig(**SIZES)), target_modules=["c_attn"], key_layout="interleaved", head_dim=7)
    plain = torch.nn.Sequential(torch.nn.Linear(6, 24))
    with pytest.raises(ExcitorError, match="an unknown number of query heads"):
        adapt(plain, target_modules=["0"], key_layout="concatenated", head_dim=2)


def test_adapters_with_different_layouts_do_not_share_a_projection() -> None:
    config = GPTBigCodeConfig(**SIZES, multi_query=False)
    model = adapt(make(config), target_modules=["c_attn"], key_layout="concatenated")
    other = ExcitorConfig(target_modules=["c_attn"], key_layout="interleaved")
    with pytest.raises(ExcitorError, match=r"c_attn carries adapters .* or for another key_layout"):
        model.add_adapter("other", other)


def test_a_layout_that_contradicts_what_is_known() -> None:
    with pytest.raises(ExcitorError, match=r"c_attn of GPT-2 is known to be 'concatenated': leave key_layout out"):
        adapt(make(GPT2Config(**SIZES)), key_layout="interleaved")


def test_keys_that_an_unknown_architecture_normalises() -> None:
    config = ApertusConfig(**SIZES, num_key_value_heads=2)
    with pytest.raises(ExcitorError, match=r"layers\.0\.self_attn\.k_proj is no key projection.*k_norm beside it"):
        adapt(make(config), target_modules=["k_proj"])


def test_an_option_without_an_exact_form() -> None:
    with pytest.raises(ExcitorError, match=r"OLMo with clip_qkv=3\.0 is not supported: it clamps the keys"):
        adapt(make(OlmoConfig(**SIZES, clip_qkv=3.0)))


LAYERED = ["llama", "gpt2", "gpt_neox", "opt", "bloom", "llava", "qwen2_vl", "gemma3, multimodal", "deepseek_v3"]


@pytest.mark.parametrize("selection", [{"top_layers": 1}, {"layers_to_transform": [1]}], ids=str)
@pytest.mark.parametrize("name", LAYERED)
def test_layers_can_be_chosen(name: str, selection: dict) -> None:
    (layer,) = excitor_layers(adapt(make_family(name), **selection))
    assert [part for part in layer.split(".") if part.isdigit()] == ["1"]


def test_layers_can_be_chosen_in_a_model_without_a_head() -> None:
    (layer,) = excitor_layers(adapt(LlamaModel(LlamaConfig(**SIZES)), top_layers=1))
    assert layer == "base_model.model.layers.1.self_attn.k_proj"
    model = LlamaModel(LlamaConfig(**SIZES))
    (layer,) = excitor_layers(adapt(model, top_layers=1, exclude_modules=r"layers\.0\..*"))
    assert layer == "base_model.model.layers.1.self_attn.k_proj"


def test_names_mean_the_text_part_and_a_regular_expression_any_module() -> None:
    layers = excitor_layers(adapt(make_family("llava"), target_modules=["k_proj"]))
    assert all(".language_model." in name for name in layers)
    assert len(layers) == 2
    layers = excitor_layers(adapt(make_family("llava"), target_modules=r".*\.k_proj"))
    towers = [layer for name, layer in layers.items() if "vision" in name]
    assert len(layers) == 3
    assert [(layer.num_heads, layer.head_dim) for layer in towers] == [(2, 8)]  # sizes of the vision tower


def test_head_dim_of_the_user_wins() -> None:
    layers = excitor_layers(adapt(make(Qwen2Config(**SIZES, num_key_value_heads=2)), head_dim=4))
    assert [layer.num_heads for layer in layers.values()] == [4, 4]
