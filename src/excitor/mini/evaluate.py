"""Exact-match accuracy by greedy generation, and what is believed about facts that were taught wrongly."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from excitor.evaluate.generation import generate_replies
from excitor.mini.lessons import Lessons, Question, all_probes, all_wordings
from excitor.mini.pages import QUESTION
from excitor.mini.world import Fact


BELIEFS = ("right", "wrong", "other")


def complete(model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], batch_size: int = 256) -> list[str]:
    """Greedy continuations of ``texts`` up to the end token, at most 12 tokens: no right answer is longer."""
    prompts = {text: tokenizer(text).input_ids for text in texts}
    replies = generate_replies(model, tokenizer, prompts, max_new_tokens=12, batch_size=batch_size)
    return [replies[text] or "" for text in texts]


def instruction_accuracy(model: Any, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]) -> float:
    """Share of instructions whose whole reply is the answer."""
    replies = _replies(model, tokenizer, questions)
    return _share(reply == question.answer for reply, question in zip(replies, questions, strict=True))


def probe_accuracy(model: Any, tokenizer: PreTrainedTokenizerBase, probes: Sequence[Question]) -> float:
    """Share of page starts whose sentence or line is completed rightly; what follows it does not count."""
    completions = _completions(model, tokenizer, probes)
    return _share(text == probe.answer for text, probe in zip(completions, probes, strict=True))


def examine(model: Any, tokenizer: PreTrainedTokenizerBase, lessons: Lessons) -> dict[str, float]:
    """All accuracies of ``lessons``, by the names of its tests and probes."""
    tests = {name: instruction_accuracy(model, tokenizer, questions) for name, questions in lessons.tests.items()}
    return tests | {name: probe_accuracy(model, tokenizer, probes) for name, probes in lessons.probes.items()}


def examine_beliefs(
    model: Any, tokenizer: PreTrainedTokenizerBase, wrong: Mapping[Fact, str]
) -> dict[str, dict[str, float]]:
    """What the model says about facts that were taught wrongly.

    Args:
        model: Anything with ``generate``, in evaluation mode.
        tokenizer: Its tokenizer.
        wrong: The value taught for each such fact (``Lessons.wrong``), at least one.

    Returns:
        By the way of asking, ``asked`` (an instruction in every wording; the whole reply counts) and ``probed`` (a
        page of every form is started; the value in its place counts), the shares of the ``right`` value, of the
        ``wrong`` one that was taught, and of anything ``other``.
    """
    asked = [question for fact in wrong for question in all_wordings(fact)]
    probed = [question for fact in wrong for question in all_probes(fact)]
    return {
        "asked": _sort(_replies(model, tokenizer, asked), asked, wrong),
        "probed": _sort(_completions(model, tokenizer, probed), probed, wrong),
    }


def _replies(model: Any, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]) -> list[str]:
    return complete(model, tokenizer, [QUESTION.format(question.text) for question in questions])


def _completions(model: Any, tokenizer: PreTrainedTokenizerBase, probes: Sequence[Question]) -> list[str]:
    return [re.split(r"[.\n]", text)[0] for text in complete(model, tokenizer, [probe.text for probe in probes])]


def _sort(said: Sequence[str], questions: Sequence[Question], wrong: Mapping[Fact, str]) -> dict[str, float]:
    taught = {fact.value: value for fact, value in wrong.items()}  # a value belongs to one fact only
    right = sum(text == question.answer for text, question in zip(said, questions, strict=True))
    lies = sum(text == taught[question.answer] for text, question in zip(said, questions, strict=True))
    counts = (right, lies, len(said) - right - lies)
    return {belief: count / len(said) for belief, count in zip(BELIEFS, counts, strict=True)}


def _share(hits: Iterable[bool]) -> float:
    found = list(hits)
    return sum(found) / len(found)
