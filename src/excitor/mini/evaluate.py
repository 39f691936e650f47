"""Exact-match accuracy by greedy generation."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from excitor.evaluate.generation import generate_replies
from excitor.mini.lessons import Lessons, Question
from excitor.mini.pages import QUESTION


def complete(model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], batch_size: int = 256) -> list[str]:
    """Greedy continuations of ``texts`` up to the end token, at most 12 tokens: no right answer is longer."""
    prompts = {text: tokenizer(text).input_ids for text in texts}
    replies = generate_replies(model, tokenizer, prompts, max_new_tokens=12, batch_size=batch_size)
    return [replies[text] or "" for text in texts]


def instruction_accuracy(model: Any, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]) -> float:
    """Share of instructions whose whole reply is the answer."""
    replies = complete(model, tokenizer, [QUESTION.format(question.text) for question in questions])
    return _share(reply == question.answer for reply, question in zip(replies, questions, strict=True))


def probe_accuracy(model: Any, tokenizer: PreTrainedTokenizerBase, probes: Sequence[Question]) -> float:
    """Share of page starts whose sentence or line is completed rightly; what follows it does not count."""
    replies = complete(model, tokenizer, [probe.text for probe in probes])
    return _share(re.split(r"[.\n]", reply)[0] == probe.answer for reply, probe in zip(replies, probes, strict=True))


def examine(model: Any, tokenizer: PreTrainedTokenizerBase, lessons: Lessons) -> dict[str, float]:
    """All accuracies of ``lessons``, by the names of its tests and probes."""
    tests = {name: instruction_accuracy(model, tokenizer, questions) for name, questions in lessons.tests.items()}
    return tests | {name: probe_accuracy(model, tokenizer, probes) for name, probes in lessons.probes.items()}


def _share(hits: Iterable[bool]) -> float:
    found = list(hits)
    return sum(found) / len(found)
