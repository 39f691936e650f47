"""What differs from one architecture to the next, as data.

The term has to reach the key as attention is handed it, behind everything that is not linear. Three facts decide how:
which projection makes the keys, where in its output they stand, and whether a norm follows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


# Where the key stands in the output of the projection that makes it; H query heads, G key heads:
LAYOUTS: Mapping[str, str] = {
    "key": "the whole output is the key",
    "concatenated": "all queries, all keys, all values, one after another",
    "interleaved": "for each key head: its queries, its key, its value",
    "latent": "for each head: the part of its key that is not rotated, its value",
}

# What the norm of the keys returns, for B rows of M tokens and G key heads of size d:
NORM_SHAPES: Mapping[str, str] = {
    "flat": "(B, M, G * d)",
    "heads": "(B, M, G, d)",
    "heads first": "(B, G, M, d)",
    "rotated": "(B, M, heads, d), of queries and keys in turn, after the rotary embedding",
}


@dataclass(frozen=True)
class KeyNorm:
    """A norm between the key projection and the scores.

    Attributes:
        name: Of the module, next to the projection. Where a model or a layer has none, the keys are not normalised.
        shape: Of what it returns, one of ``NORM_SHAPES``.
    """

    name: str
    shape: str


@dataclass(frozen=True)
class Family:
    """Where the keys of an architecture come from.

    Attributes:
        title: Its common name.
        key_projection: Ending of the name of the linear layer that makes the keys; it carries the adapter.
        layout: Of its output, one of ``LAYOUTS``.
        key_norm: The norm of the keys, if the architecture has one.
        head_dim: Field of the configuration with the size of a key head, where it is not hidden_size / heads.
        inexact: Options with which the term cannot be added exactly: field of the configuration, and why.
    """

    title: str
    key_projection: str = "k_proj"
    layout: str = "key"
    key_norm: KeyNorm | None = None
    head_dim: str = "head_dim"
    inexact: Mapping[str, str] = field(default_factory=dict)


_PER_HEAD = KeyNorm("k_norm", "heads")
_PER_HEAD_FIRST = KeyNorm("k_norm", "heads first")
_WHOLE = KeyNorm("k_norm", "flat")
_LAYERNORM = KeyNorm("k_layernorm", "heads first")
_CLIPPED = {"clip_qkv": "it clamps the keys between their projection and the scores"}

# By ``config.model_type``, of the text part in a model of several parts.
FAMILIES: dict[str, Family] = {
    "bloom": Family("BLOOM", "query_key_value", "interleaved"),
    "cohere": Family("Command R", key_norm=_PER_HEAD),
    "cohere2": Family("Command R7B, Command A"),
    "deepseek_v2": Family("DeepSeek-V2", "kv_b_proj", "latent", head_dim="qk_nope_head_dim"),
    "deepseek_v3": Family("DeepSeek-V3, R1", "kv_b_proj", "latent", head_dim="qk_nope_head_dim"),
    "falcon": Family("Falcon", "query_key_value", "interleaved"),
    "gemma": Family("Gemma"),
    "gemma2": Family("Gemma 2"),
    "gemma3_text": Family("Gemma 3", key_norm=_PER_HEAD_FIRST),
    "gpt2": Family("GPT-2", "attn.c_attn", "concatenated"),
    "gpt_neo": Family("GPT-Neo"),
    "gpt_neox": Family("GPT-NeoX, Pythia", "query_key_value", "interleaved"),
    "gpt_oss": Family("gpt-oss"),
    "gptj": Family("GPT-J"),
    "granite": Family("Granite"),
    "llama": Family("LLaMA 1 to 3"),
    "llama4_text": Family("LLaMA 4", key_norm=KeyNorm("qk_norm", "rotated")),
    "ministral": Family("Ministral"),
    "ministral3": Family("Ministral 3"),
    "mistral": Family("Mistral"),
    "mixtral": Family("Mixtral"),
    "olmo": Family("OLMo", inexact=_CLIPPED),
    "olmo2": Family("OLMo 2", key_norm=_WHOLE),
    "olmo3": Family("OLMo 3", key_norm=_WHOLE),
    "olmoe": Family("OLMoE", key_norm=_WHOLE, inexact=_CLIPPED),
    "opt": Family("OPT"),
    "phi": Family("Phi 1 and 2", key_norm=_LAYERNORM),
    "phi3": Family("Phi-3, Phi-4", "qkv_proj", "concatenated"),
    "qwen2": Family("Qwen2, Qwen2.5"),
    "qwen2_5_vl_text": Family("Qwen2.5-VL"),
    "qwen2_moe": Family("Qwen2-MoE"),
    "qwen2_vl_text": Family("Qwen2-VL"),
    "qwen3": Family("Qwen3", key_norm=_PER_HEAD),
    "qwen3_moe": Family("Qwen3-MoE", key_norm=_PER_HEAD),
    "qwen3_vl_text": Family("Qwen3-VL", key_norm=_PER_HEAD),
    "smollm3": Family("SmolLM3"),
    "stablelm": Family("StableLM", key_norm=_LAYERNORM),
    "starcoder2": Family("StarCoder2"),
}
