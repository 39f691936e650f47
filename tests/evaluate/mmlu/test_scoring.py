import pytest
import torch
from peft import AdaptionPromptConfig, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

import excitor
from excitor.evaluate.mmlu.prompts import count_shared, encode_letters, encode_topic, prompt_text
from excitor.evaluate.mmlu.scoring import score_letters
from tiny import make_llama


SHAPE = {"vocab_size": 263, "hidden_size": 32, "num_hidden_layers": 2, "initializer_range": 0.2}


def slowly(model, tokenizer, topic, prompts, letters):
    """One pass for each letter of each question, nothing shared, nothing padded."""
    scores = []
    for question, prompt in zip(topic.questions, prompts, strict=True):
        text = prompt_text(topic, question, prompt.shots)
        for letter, tokens in zip("ABCD", letters.tokens, strict=True):
            ids = torch.tensor([tokenizer(f"{text} {letter}").input_ids])
            log_probs = model(ids).logits[0, -len(tokens) - 1 : -1].log_softmax(dim=-1)
            scores.append(sum(log_probs[step, token] for step, token in enumerate(tokens)))
    return torch.stack(scores).view(-1, 4)


@torch.no_grad()
def check(model, tokenizer, topic, context=2000):
    letters = encode_letters(tokenizer)
    prompts = encode_topic(topic, tokenizer, letters, shots=5, context=context)
    model.eval()
    expected = slowly(model, tokenizer, topic, prompts, letters)
    scores = score_letters(model, prompts, letters, batch_size=4)
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
    assert scores.argmax(dim=1).equal(expected.argmax(dim=1))
    return prompts, scores


def test_the_choices_are_those_of_the_plain_loop(long_llama, any_tokenizer, topic):
    _, scores = check(long_llama, any_tokenizer, topic)
    assert scores.std(dim=0).min() > 0.01  # the questions do matter


def test_the_choices_are_the_same_where_examples_were_dropped(long_llama, any_tokenizer, topic):
    prompts, _ = check(long_llama, any_tokenizer, topic, context=380)
    assert len({prompt.shots for prompt in prompts}) > 1


@pytest.mark.parametrize(
    "config",
    [
        excitor.ExcitorConfig(num_prompts=4, init_weights=False),
        LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"),
        AdaptionPromptConfig(adapter_len=4, adapter_layers=2, task_type="CAUSAL_LM"),
        PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    ],
    ids=lambda config: config.peft_type.value,
)
def test_any_peft_method_is_scored_as_by_the_plain_loop(tokenizer, topic, config):
    # PEFT's adaption prompt knows no other size of heads
    llama = make_llama(vocab_size=263, max_position_embeddings=1024, head_dim=8)
    model = get_peft_model(llama, config)
    _, adapter = check(model, tokenizer, topic)
    with model.disable_adapter():
        _, base = check(model, tokenizer, topic)
    if not isinstance(config, AdaptionPromptConfig):  # a fresh one is an identity
        assert not torch.allclose(adapter, base, atol=1e-3)


@pytest.mark.parametrize(
    "model",
    [
        lambda: MistralForCausalLM(
            MistralConfig(
                **SHAPE, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2, sliding_window=64
            )
        ),
        lambda: GPT2LMHeadModel(GPT2Config(vocab_size=263, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)),
        lambda: MambaForCausalLM(MambaConfig(**SHAPE, state_size=4)),
    ],
    ids=["sliding window", "learned positions", "no keys"],
)
def test_any_kind_of_memory_is_scored_as_by_the_plain_loop(model, tokenizer, topic):
    torch.manual_seed(0)
    check(model(), tokenizer, topic, context=1024)


@torch.no_grad()
def test_what_prompts_share_is_read_once(long_llama, tokenizer, topic):
    shapes = []
    long_llama.model.embed_tokens.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    letters = encode_letters(tokenizer)
    prompts = encode_topic(topic, tokenizer, letters, shots=5, context=2000)
    told = []
    score_letters(long_llama, prompts, letters, 4, told.append)
    prefix, *batches = shapes
    assert prefix == (1, count_shared([prompt.ids for prompt in prompts]))
    assert prefix[1] > len(tokenizer(prompt_text(topic, topic.examples[0], 3)).input_ids)
    lengths = sorted((len(prompt.ids) - prefix[1] for prompt in prompts), reverse=True)
    assert batches == [(4, lengths[0]), (2, lengths[4])]
    assert told == [4, 2]


def test_a_single_question_needs_no_prefix(long_llama, tokenizer, topic):
    letters = encode_letters(tokenizer)
    prompts = encode_topic(topic, tokenizer, letters, shots=5, context=2000)
    with torch.no_grad():
        together = score_letters(long_llama, prompts, letters)
        alone = torch.cat([score_letters(long_llama, [prompt], letters) for prompt in prompts])
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)
