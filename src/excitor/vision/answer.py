"""Answers about pictures: batched, greedy, cached; each picture is encoded once."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from excitor.data.encoding import encode_prompt
from excitor.errors import ExcitorError
from excitor.evaluate.generation import context_length, generate_replies
from excitor.vision.inputs import PixelInputs, by_name
from excitor.vision.processor import strip_placeholders


def answer_about(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    image_processor: Any,
    questions: Sequence[tuple[Sequence[str], str]],
    *,
    template: str = "auto",
    max_new_tokens: int = 128,
    batch_size: int = 16,
) -> list[str]:
    """Answer questions about pictures with the likeliest tokens.

    Args:
        model: An adapted :class:`~excitor.vision.model.ExcitorForConditionalGeneration`, in evaluation mode.
        tokenizer: Of the language model.
        image_processor: Of the vision encoder.
        questions: Each the paths of its pictures, which may be none, and the text.
        template: How a question becomes a prompt; as in training.
        max_new_tokens: Longest answer.
        batch_size: Questions side by side.

    Returns:
        The answers, in the order of the questions.

    Raises:
        ExcitorError: A picture cannot be used, a question has another number of ``<image>`` than of pictures, or it
            is too long for the model's context.
    """
    pictures: dict[str, str] = {}
    for number, (paths, _) in enumerate(questions, 1):
        for path in paths:
            pictures.setdefault(path, f"question {number}")
    numbers = {path: number for number, path in enumerate(pictures)}
    prompts: dict[str, list[int]] = {}
    rows: dict[str, list[int]] = {}
    for number, (paths, text) in enumerate(questions, 1):
        name = f"question {number}"
        asked = strip_placeholders(text, len(paths), name)
        prompts[name] = encode_prompt([{"role": "user", "content": asked}], tokenizer, template)
        rows[name] = [numbers[path] for path in paths]
    replies = generate_replies(
        model,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        template=template,
        inputs=by_name(PixelInputs(pictures, image_processor), rows),
    )
    answers = []
    for name, reply in replies.items():
        if reply is None:
            raise ExcitorError(
                f"{name} has {len(prompts[name])} tokens, which with {max_new_tokens} new ones is more than the "
                f"model's context of {context_length(model, tokenizer)}: shorten it or lower --max-new-tokens."
            )
        answers.append(reply)
    return answers
