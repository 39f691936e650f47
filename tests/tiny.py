"""Tiny random models and tokenizers, made here: no test needs a network."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


SPECIALS = ["<pad>", "<s>", "</s>"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte (256) after three special tokens; decodes exactly."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(SPECIALS + alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=256
    )


def make_llama(**changes) -> LlamaForCausalLM:
    """A random LLaMA of 3 layers, 4 query heads on 2 key heads; ``head_dim`` is not ``hidden_size / heads``."""
    values = {
        "vocab_size": 259,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,  # large enough for attention to be far from uniform
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**(values | changes))).eval()


def make_encoder(**changes) -> CLIPVisionModel:
    """A random CLIP vision tower: 24 wide, a class token and 4 patches of a picture of 16 x 16."""
    values = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 16,
        "patch_size": 8,
    }
    torch.manual_seed(0)
    return CLIPVisionModel(CLIPVisionConfig(**(values | changes))).eval()
