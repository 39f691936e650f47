"""Tiny random models of every supported architecture, built from transformers' own configurations."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel


SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,  # large enough for attention to be far from uniform
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GQA = {"num_key_value_heads": 2}
LLAMA4 = GQA | {
    "head_dim": 10,
    "intermediate_size_mlp": 48,
    "num_local_experts": 2,
    "attention_chunk_size": 5,
    "no_rope_layers": [1, 0],
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
SLIDING = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
# Values are smaller than keys, keys are partly rotated.
LATENT = {
    "kv_lora_rank": 12,
    "q_lora_rank": 14,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
}
LATENT_SHAPE = {"width": 12, "key_heads": 4, "head_dim": 6}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 8, "patch_size": 4}
QWEN_VISION = {"depth": 1, "num_heads": 2, "patch_size": 4, "embed_dim": 16, "hidden_size": 32}
QWEN25_VISION = QWEN_VISION | {"hidden_size": 16, "intermediate_size": 16, "out_hidden_size": 32}


@dataclass(frozen=True)
class Variant:
    """A model to build, and the shape that its adapter must have.

    Attributes:
        model_type: Of the configuration class.
        changes: To ``SIZES``.
        text: To the sizes of the text part, in a model of several parts, where ``changes`` are those of the whole.
        width: Of what the excitor query reads, C.
        key_heads: G.
        head_dim: d.
    """

    model_type: str
    changes: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] | None = None
    width: int = 32
    key_heads: int = 2
    head_dim: int = 8


def _mha(model_type: str, **changes: Any) -> Variant:
    return Variant(model_type, changes, key_heads=4)


VARIANTS = {
    "bloom": _mha("bloom"),
    "cohere": Variant("cohere", GQA),
    "cohere with key norm": Variant("cohere", GQA | {"use_qk_norm": True}),
    "cohere2": Variant("cohere2", GQA | SLIDING | {"head_dim": 10}, head_dim=10),
    "deepseek_v2": Variant("deepseek_v2", LATENT, **LATENT_SHAPE),
    "deepseek_v2 without query rank": Variant("deepseek_v2", LATENT | {"q_lora_rank": None}, **LATENT_SHAPE),
    "deepseek_v3": Variant("deepseek_v3", LATENT, **LATENT_SHAPE),
    "deepseek_v3 without query rank": Variant("deepseek_v3", LATENT | {"q_lora_rank": None}, **LATENT_SHAPE),
    "falcon, old": _mha("falcon", multi_query=False, num_kv_heads=4),
    "falcon, old, alibi": _mha("falcon", multi_query=False, num_kv_heads=4, alibi=True),
    "falcon, multi-query": Variant("falcon", {"multi_query": True}, key_heads=1),
    "falcon, multi-query, alibi": Variant("falcon", {"multi_query": True, "alibi": True}, key_heads=1),
    "falcon, new": Variant("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "gemma": Variant("gemma", GQA | {"head_dim": 10}, head_dim=10),
    "gemma2": Variant("gemma2", GQA | SLIDING | {"head_dim": 10, "attn_logit_softcapping": 2.0}, head_dim=10),
    "gemma3": Variant("gemma3_text", GQA | SLIDING | {"head_dim": 10}, head_dim=10),
    "gemma3, multimodal": Variant(
        "gemma3",
        {"mm_tokens_per_image": 4, "vision_config": VISION},
        GQA | SLIDING | {"model_type": "gemma3_text", "head_dim": 10},
        head_dim=10,
    ),
    "gpt2": _mha("gpt2"),
    "gpt2 by layer": _mha("gpt2", scale_attn_by_inverse_layer_idx=True),
    "gpt_neo": _mha("gpt_neo", attention_types=[[["global", "local"], 1]], window_size=6),
    "gpt_neox": _mha("gpt_neox"),
    "gpt_oss": Variant("gpt_oss", GQA | SLIDING | {"head_dim": 10, "num_local_experts": 4}, head_dim=10),
    "gptj": _mha("gptj", rotary_dim=4),
    "granite": Variant("granite", GQA | {"attention_multiplier": 0.2}),
    "idefics3": Variant("idefics3", {"vision_config": VISION}, GQA | {"model_type": "llama"}),
    "llama": Variant("llama", GQA | {"head_dim": 10}, head_dim=10),
    "llama of equal heads": _mha("llama"),
    "llama4": Variant("llama4_text", LLAMA4 | {"use_qk_norm": False}, head_dim=10),
    "llama4 with key norm": Variant("llama4_text", LLAMA4 | {"num_attention_heads": 6}, head_dim=10),
    "llama4 with key norm, half the heads": Variant("llama4_text", LLAMA4, head_dim=10),
    "llama4 with key norm, equal heads": Variant(
        "llama4_text", LLAMA4 | {"num_key_value_heads": 4}, key_heads=4, head_dim=10
    ),
    "llama4, multimodal": Variant(
        "llama4",
        {"vision_config": VISION | {"vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16}},
        LLAMA4,
        head_dim=10,
    ),
    "llava": Variant(
        "llava", {"vision_config": VISION | {"model_type": "clip_vision_model"}}, GQA | {"model_type": "llama"}
    ),
    "ministral": Variant("ministral", GQA | SLIDING | {"head_dim": 10}, head_dim=10),
    "ministral3": Variant("ministral3", GQA | {"head_dim": 10}, head_dim=10),
    "mistral": Variant("mistral", GQA | {"head_dim": 10, "sliding_window": 6}, head_dim=10),
    "mixtral": Variant("mixtral", GQA | {"head_dim": 10, "num_local_experts": 2}, head_dim=10),
    "olmo": Variant("olmo", GQA),
    "olmo2": Variant("olmo2", GQA),
    "olmo3": Variant("olmo3", GQA | SLIDING),
    "olmoe": Variant("olmoe", GQA | MOE),
    "opt": _mha("opt", word_embed_proj_dim=32, ffn_dim=48),
    "phi": Variant("phi", GQA),
    "phi with key norm": Variant("phi", GQA | {"qk_layernorm": True}),
    "phi3": Variant("phi3", GQA | {"sliding_window": 6}),
    "qwen2": Variant("qwen2", GQA | SLIDING | {"use_sliding_window": True}),
    "qwen2_5_vl": Variant("qwen2_5_vl", {"vision_config": QWEN25_VISION}, GQA | MROPE),
    "qwen2_moe": Variant("qwen2_moe", GQA | MOE),
    "qwen2_vl": Variant("qwen2_vl", {"vision_config": QWEN_VISION}, GQA | MROPE),
    "qwen3": Variant("qwen3", GQA | {"head_dim": 10}, head_dim=10),
    "qwen3_moe": Variant("qwen3_moe", GQA | MOE | {"head_dim": 10}, head_dim=10),
    "qwen3_vl": Variant(
        "qwen3_vl",
        {"vision_config": QWEN25_VISION | {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}},
        GQA | {"head_dim": 8, **MROPE},
    ),
    "smollm3": Variant("smollm3", GQA | {"no_rope_layers": [1, 0]}),
    "smolvlm": Variant("smolvlm", {"vision_config": VISION}, GQA | {"model_type": "llama"}),
    "stablelm": Variant("stablelm", GQA),
    "stablelm with key norm": Variant("stablelm", GQA | {"qk_layernorm": True}),
    "starcoder2": Variant("starcoder2", GQA),
}


def make_family(
    name: str, dtype: torch.dtype = torch.float64, changes: dict[str, Any] | None = None, **options: Any
) -> PreTrainedModel:
    """The model of a variant, in evaluation mode.

    Args:
        name: One of ``VARIANTS``.
        dtype: Of its parameters.
        changes: To its configuration.
        **options: To ``from_config``, e.g. ``attn_implementation``.
    """
    variant = VARIANTS[name]
    torch.manual_seed(0)
    config_class = CONFIG_MAPPING[variant.model_type]
    if variant.text is None:
        config, auto = config_class(**(SIZES | variant.changes | (changes or {}))), AutoModelForCausalLM
    else:
        config = config_class(text_config=SIZES | variant.text, **variant.changes)
        auto = AutoModelForImageTextToText
    if dtype == torch.float64:  # grouped matrix products are not written for it
        options["experts_implementation"] = "eager"
    model = auto.from_config(config, **options).to(dtype).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms, biases and sinks start at constants: no two of them may look the same
            torch.nn.init.normal_(parameter, parameter.mean().item(), 0.2)
    return model
