import pytest

from excitor.errors import ExcitorError
from excitor.evaluate.mmlu.prompts import encode_letters, encode_topic, prompt_text
from excitor.evaluate.mmlu.questions import Question, Topic


def test_the_prompt_is_that_of_hendrycks_et_al():
    topic = Topic(
        "college_physics",
        [Question("One?", ("a", "b", "c", "d"), "C"), Question("Two?", ("e", "f", "g", "h"), "A")],
        [Question("Three?", ("1", "2", "3", "4"), "B")],
    )
    assert prompt_text(topic, topic.questions[0], 1) == (
        "The following are multiple choice questions (with answers) about  college physics.\n\n"
        "One?\nA. a\nB. b\nC. c\nD. d\nAnswer: C\n\n"
        "Three?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:"
    )
    assert prompt_text(topic, topic.questions[0], 2).count("Answer: A\n\nThree?") == 1


def test_letters_and_prompts_join_to_what_the_tokenizer_makes_of_both(any_tokenizer, topic):
    letters = encode_letters(any_tokenizer)
    prompts = encode_topic(topic, any_tokenizer, letters, shots=5, context=10_000)
    for question, prompt in zip(topic.questions, prompts, strict=True):
        for letter, tokens in zip("ABCD", letters.tokens, strict=True):
            text = f"{prompt_text(topic, question, 5)} {letter}"
            assert [*prompt.ids, *tokens] == any_tokenizer(text).input_ids


def test_letters_the_tokenizer_cannot_tell_apart_are_refused(tokenizer):
    tokenizer.backend_tokenizer.model = type(tokenizer.backend_tokenizer.model)(
        vocab={"<unk>": 0, "Ġ": 1, "A": 2, "B": 3}, merges=[], unk_token="<unk>"
    )
    with pytest.raises(ExcitorError, match="a letter comes last and has a token of its own"):
        encode_letters(tokenizer)


def test_examples_are_dropped_one_by_one_until_the_prompt_fits(tokenizer, topic):
    letters = encode_letters(tokenizer)
    length = {
        kept: [len(tokenizer(prompt_text(topic, question, kept)).input_ids) for question in topic.questions]
        for kept in range(6)
    }
    context = sorted(length[3])[3]
    prompts = encode_topic(topic, tokenizer, letters, shots=5, context=context)
    for place, prompt in enumerate(prompts):
        assert prompt.shots == max(kept for kept in length if length[kept][place] <= context)
        assert len(prompt.ids) == length[prompt.shots][place]
        assert prompt.cut == 0
    assert len({prompt.shots for prompt in prompts}) > 1


def test_a_question_too_long_without_examples_loses_its_start(tokenizer, topic):
    letters = encode_letters(tokenizer)
    whole = encode_topic(topic, tokenizer, letters, shots=0, context=10_000)
    for prompt, full in zip(encode_topic(topic, tokenizer, letters, shots=5, context=60), whole, strict=True):
        assert prompt.ids == full.ids[-60:]
        assert (prompt.shots, prompt.cut) == (0, len(full.ids) - 60)
