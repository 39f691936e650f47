"""Tiny random stand-ins for the hub's models and data sets that PEFT's tests name, in folders of the same names."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast


VOCABULARY = 1000
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,  # wide enough for an adapter to be seen in the outputs
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OPT = SIZES | {"ffn_dim": 24, "word_embed_proj_dim": 16, "init_std": 0.2, "max_position_embeddings": 100}
GPT = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 3, "n_head": 4, "initializer_range": 0.2} | {
    name: SIZES[name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")
}
BART = SIZES | {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "init_std": 0.2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}
T5 = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4} | {
    "decoder_start_token_id": 0
}
BERT = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}

# Hub name: class of the model, sizes. The classes are those that the names announce.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": ("OPTForCausalLM", OPT),
    "peft-internal-testing/opt-125m": ("OPTForCausalLM", OPT),
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": ("GPT2LMHeadModel", GPT),
    "hf-internal-testing/tiny-random-gpt2": ("GPT2LMHeadModel", GPT),
    "peft-internal-testing/tiny-random-GPTJForCausalLM": ("GPTJForCausalLM", GPT | {"rotary_dim": 4}),
    "trl-internal-testing/tiny-random-LlamaForCausalLM": ("LlamaForCausalLM", SIZES),
    "peft-internal-testing/tiny-random-LlamaForCausalLM": ("LlamaForCausalLM", SIZES),
    "hf-internal-testing/tiny-random-MistralForCausalLM": ("MistralForCausalLM", SIZES),
    "peft-internal-testing/tiny-dummy-qwen2": ("Qwen2ForCausalLM", SIZES),
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": ("Gemma3ForCausalLM", SIZES | {"head_dim": 4}),
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration-calibrated": ("T5ForConditionalGeneration", T5),
    "peft-internal-testing/tiny-random-t5": ("T5ForConditionalGeneration", T5),
    "peft-internal-testing/tiny-random-BartForConditionalGeneration": ("BartForConditionalGeneration", BART),
    "peft-internal-testing/tiny-random-BertModel": ("BertModel", BERT),
    "peft-internal-testing/tiny-random-RobertaModel": ("RobertaModel", BERT),
    "peft-internal-testing/tiny-random-DebertaModel": ("DebertaModel", BERT),
    "peft-internal-testing/tiny-random-DebertaV2Model": ("DebertaV2Model", BERT),
    "peft-internal-testing/tiny-random-BertForSequenceClassification": ("BertForSequenceClassification", BERT),
    "peft-internal-testing/tiny-random-RobertaForSequenceClassification": ("RobertaForSequenceClassification", BERT),
    "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2": ("LlamaForSequenceClassification", SIZES),
}
QUOTES = "ybelkada/english_quotes_copy"


def make(root: Path, report: Callable[[str], None]) -> None:
    """Write the folders that are missing under ``root``; PEFT's tests are then run from there."""
    tokenizer = _tokenizer()
    for name, (class_name, sizes) in MODELS.items():
        folder = root / name
        if not (folder / "config.json").exists():
            report(f"making {name}")
            _model(class_name, sizes).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    quotes = root / QUOTES
    quotes.mkdir(parents=True, exist_ok=True)
    words = ["keys", "say", "where", "attention", "looks", "and", "values", "what", "it", "finds", "there"]
    rows = [
        {"quote": " ".join(words[start % 5 : start % 5 + 6]), "author": "nobody", "tags": [words[start % 11]]}
        for start in range(64)
    ]
    (quotes / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _model(class_name: str, sizes: dict[str, Any]) -> PreTrainedModel:
    model_class: type[PreTrainedModel] = getattr(transformers, class_name)
    config_class: type[PreTrainedConfig] = model_class.config_class
    torch.manual_seed(0)
    return model_class(config_class(**sizes))


def _tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte after four special ones."""
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {token: index for index, token in enumerate(specials + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
    )
