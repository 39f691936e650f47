import pytest
import torch
from rich.progress import Progress
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from excitor.errors import ExcitorError
from excitor.evaluate.generation import answer_all, generate_replies
from excitor.evaluate.task import Subject
from tiny import make_llama


TEXTS = {"a": "What is it?", "b": "A much longer question than the other ones, is it not?", "c": "Hm", "d": "Again?"}
SETTINGS = {"max_new_tokens": 12, "batch_size": 2}


@pytest.fixture
def prompts(tokenizer) -> dict[str, list[int]]:
    return {name: tokenizer(text).input_ids for name, text in TEXTS.items()}


def slow_tokens(model, prompt: list[int], stops: set[int]) -> list[int]:
    """One prompt, no padding, no cache, the argmax token by token."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(SETTINGS["max_new_tokens"]):
            token = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token in stops:
                break
            ids.append(token)
    return ids[len(prompt) :]


def slow_replies(model, tokenizer, prompts: dict[str, list[int]], stops: set[int]) -> dict[str, str]:
    tokens = {name: slow_tokens(model, prompt, stops) for name, prompt in prompts.items()}
    return {name: tokenizer.decode(ids, skip_special_tokens=True).strip() for name, ids in tokens.items()}


def test_batches_answer_as_single_prompts_do(llama, tokenizer, prompts):
    llama.generation_config.repetition_penalty = 3.0  # a checkpoint's own settings are not used
    expected = slow_replies(llama, tokenizer, prompts, {2})
    assert len(set(expected.values())) > 1
    replies = generate_replies(llama, tokenizer, prompts, **SETTINGS)
    assert replies == expected
    assert list(replies) == list(prompts)


def test_a_reply_ends_before_the_first_stop_token(llama, tokenizer, prompts):
    whole = slow_tokens(llama, prompts["a"], set())
    stop = next(token for token in whole[3:] if token not in whole[:3])
    llama.generation_config.eos_token_id = [2, stop]
    expected = slow_replies(llama, tokenizer, prompts, {2, stop})
    assert expected["a"] != tokenizer.decode(whole).strip()
    assert generate_replies(llama, tokenizer, prompts, **SETTINGS) == expected
    tokenizer.pad_token = None
    assert generate_replies(llama, tokenizer, prompts, **SETTINGS) == expected


def test_a_prompt_without_room_for_the_reply_is_not_answered(llama, tokenizer, prompts):
    finished = []
    prompts |= {"fits": [5] * 244, "too long": [5] * 245}  # the context is 256
    replies = generate_replies(llama, tokenizer, prompts, on_batch=finished.append, **SETTINGS)
    assert [name for name, reply in replies.items() if reply is None] == ["too long"]
    assert sum(finished) == len(prompts)


def test_nan_logits_name_the_prompt(llama, tokenizer, prompts):
    class Breaks(LlamaRMSNorm):
        def forward(self, hidden_states):
            hidden_states[-1] = float("nan")
            return hidden_states

    llama.model.norm = Breaks(32)
    with (
        Progress(disable=True) as progress,
        pytest.raises(ExcitorError, match="tuned: The model's logits are NaN while it answers a"),
    ):
        answer_all([Subject("tuned", llama)], tokenizer, prompts, progress, "test", **SETTINGS)


def test_every_subject_answers_with_itself_alone(adapted, tokenizer, prompts):
    subjects = [Subject("base", adapted), Subject("tuned", adapted, "default")]
    with Progress(disable=True) as progress:
        replies = answer_all(subjects, tokenizer, prompts, progress, "test", **SETTINGS)
        assert all(task.finished for task in progress.tasks)
    assert replies["base"] != replies["tuned"]
    assert replies["tuned"] == generate_replies(adapted, tokenizer, prompts, **SETTINGS)
    with adapted.disable_adapter():
        assert replies["base"] == generate_replies(adapted, tokenizer, prompts, **SETTINGS)


def test_the_shortest_context_decides_for_all(tokenizer, prompts):
    subjects = [Subject("base", make_llama()), Subject("tuned", make_llama(max_position_embeddings=30))]
    with Progress(disable=True) as progress:
        replies = answer_all(subjects, tokenizer, prompts, progress, "test", **SETTINGS)
    for said in replies.values():
        assert [name for name, reply in said.items() if reply is None] == ["b"]
