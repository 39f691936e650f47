import pytest

from data.odd_tokenizers import CHATML, with_bos, with_template
from excitor.data import render_prompt, resolve_template
from excitor.errors import ExcitorError
from tiny import make_tokenizer


TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hi. "},
    {"role": "assistant", "content": "\nHello."},
    {"role": "user", "content": "Bye."},
    {"role": "assistant", "content": "See you."},
]
NO_END = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
NO_END += "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
# Drops the thoughts of all answers but the last, as reasoning models' templates do.
THINKING = CHATML.replace(
    "message.role + '\n' +",
    "message.role + '\n' + ('<think></think>' if loop.last and message.role == 'assistant' else '') +",
)
COUNTS = "{{ messages | length }}" + CHATML
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def answers(tokenizer, template="auto"):
    text, spans = resolve_template(tokenizer, template).conversation(TALK)
    assert spans[-1][1] == len(text)
    return [text[start:end] for start, end in spans]


def test_the_instruction_template_reads_as_documented(tokenizer):
    text, _ = resolve_template(tokenizer, "instruction").conversation(TALK)
    assert text == (
        "Be short.\n\n### Instruction:\nHi.\n\n### Response:\nHello.</s>\n\n"
        "### Instruction:\nBye.\n\n### Response:\nSee you.</s>"
    )


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, ["Hello.</s>", "See you.</s>"]),
        (CHATML, ["\nHello.<|im_end|>", "See you.<|im_end|>"]),
        (THINKING, ["\nHello.<|im_end|>", "<think></think>See you.<|im_end|>"]),
        (MARKED, ["\nHello.<|im_end|>", "See you.<|im_end|>"]),
        (NO_END, ["\nHello.\n", "See you.\n</s>"]),
    ],
    ids=["instruction", "ChatML", "thinking", "marked", "no end token"],
)
def test_answers_are_located(template, expected):
    tokenizer = make_tokenizer() if template is None else with_template(template)
    assert answers(tokenizer) == expected


def test_auto_takes_the_chat_template_where_there_is_one(tokenizer):
    assert resolve_template(tokenizer).name == "instruction"
    assert resolve_template(with_template(CHATML)).name == "chat"
    assert resolve_template(with_template(CHATML), "instruction").name == "instruction"


def test_the_prompt_starts_with_bos_if_the_tokenizer_adds_it(tokenizer):
    assert render_prompt(TALK[:2], with_bos()).startswith("<s>Be short.")
    assert render_prompt(TALK[:2], tokenizer).startswith("Be short.")


def test_stop_token():
    assert resolve_template(with_template(CHATML)).stop_token == "<|im_end|>"
    assert resolve_template(with_template(NO_END)).stop_token == "</s>"


def test_a_template_that_rewrites_the_past_is_an_error():
    with pytest.raises(ExcitorError, match=r"differently once it goes on.*--template instruction"):
        answers(with_template(COUNTS))


def test_a_template_may_refuse_a_conversation():
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system text, please') }}{% endif %}" + CHATML
    )
    with pytest.raises(ExcitorError, match="refuses this conversation: no system text, please"):
        answers(with_template(template))


def test_the_instruction_template_has_no_tools(tokenizer):
    with pytest.raises(ExcitorError, match="no place for the role tool"):
        render_prompt([{"role": "tool", "content": "4"}], tokenizer)


def test_mistaken_choices(tokenizer):
    with pytest.raises(ExcitorError, match="must be one of auto, chat, instruction, verbatim, got 'alpaca'"):
        resolve_template(tokenizer, "alpaca")
    with pytest.raises(ExcitorError, match="has no chat template; use --template instruction, or auto"):
        resolve_template(tokenizer, "chat")
    tokenizer.eos_token = None
    with pytest.raises(ExcitorError, match="has no EOS token"):
        resolve_template(tokenizer, "instruction")
