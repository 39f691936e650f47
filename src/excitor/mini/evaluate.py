"""Exact-match accuracy by greedy generation."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from excitor.mini.lessons import Lessons, Question
from excitor.mini.pages import QUESTION


@torch.no_grad()
def complete(model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], batch_size: int = 256) -> list[str]:
    """Greedy continuations of ``texts`` up to the end token, at most 12 tokens: no right answer is longer."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    replies = [""] * len(texts)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer([texts[row] for row in rows], return_tensors="pt", padding=True, padding_side="left").to(
            model.device
        )
        tokens = model.generate(**batch, max_new_tokens=12, do_sample=False)[:, batch["input_ids"].shape[1] :]
        for row, reply in zip(rows, tokenizer.batch_decode(tokens, skip_special_tokens=True), strict=True):
            replies[row] = reply.strip()
    return replies


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
