"""Instruction following: replies to held-out rows, compared with the answers the rows hold."""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
from rich.progress import Progress
from transformers import PreTrainedTokenizerBase

from excitor.data.encoding import encode_prompt, pair_messages
from excitor.data.sources import load_examples
from excitor.errors import ExcitorError
from excitor.evaluate.bootstrap import estimate
from excitor.evaluate.generation import answer_all
from excitor.evaluate.markdown import markdown_table
from excitor.evaluate.metric import Metric
from excitor.evaluate.names import short_names
from excitor.evaluate.side_by_side import html_page, markdown_page
from excitor.evaluate.task import Item, Subject


SCORES = {"exact_match": "exact match", "f1": "token F1"}


def normalise(text: str) -> list[str]:
    """The words of a text as SQuAD's scorer compares them: lower case, no ASCII punctuation, no English articles.

    A text with no other words, such as ``+``, is its own only word: different signs are different answers.
    """
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", bare).split() or [text.strip().lower()]


def exact_match(reply: str, answer: str) -> float:
    """1 if both are the same words after `normalise`, else 0."""
    return float(normalise(reply) == normalise(answer))


def token_f1(reply: str, answer: str) -> float:
    """Harmonic mean of precision and recall of the words after `normalise`."""
    said, expected = normalise(reply), normalise(answer)
    shared = sum((Counter(said) & Counter(expected)).values())
    return 2 * shared / (len(said) + len(expected))


class Instructions:
    """Exact match and token F1 of greedy replies to held-out instructions.

    The reply asked for is the last answer of a row; what stands before it is the prompt. A prompt that leaves no room
    for the longest reply in the model's context is not answered: it is counted, and scores 0 for every subject.
    """

    name = "instructions"

    def __init__(
        self, data: Sequence[str], *, template: str = "auto", max_new_tokens: int = 128, batch_size: int = 16
    ) -> None:
        """Nothing is read yet; the arguments are those of ``load_examples`` and ``generate_replies``."""
        self.data = data
        self.template = template
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self._prompts: dict[str, list[int]] = {}
        self._rows: dict[str, Item] = {}
        self._unanswerable = 0

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Read and render the rows.

        Raises:
            ExcitorError: A source or a row cannot be used, a source is given twice, or no row has an answer.
        """
        self._prompts, self._rows, self._unanswerable = {}, {}, 0
        examples = load_examples(self.data)
        files = {path: name for name, path in short_names(list(dict.fromkeys(examples["source"]))).items()}
        for row in cast(Iterable[dict[str, Any]], examples):
            name = f"{files[row['source']]}:{row['row']}"
            is_pair = row["messages"] is None
            messages = pair_messages(row["prompt"], row["completion"], tokenizer) if is_pair else row["messages"]
            last = max((index for index, message in enumerate(messages) if message["role"] == "assistant"), default=0)
            if not last or not messages[last]["content"].strip():
                self._unanswerable += 1
                continue
            if name in self._rows:
                raise ExcitorError(f"{row['source']} is given twice; name each source of instructions once")
            try:
                prompt = encode_prompt(messages[:last], tokenizer, "verbatim" if is_pair else self.template)
            except ExcitorError as error:
                raise ExcitorError(f"{row['source']}, row {row['row']}: {error}") from None
            self._prompts[name] = prompt
            answer = messages[last]["content"].strip()
            source = files[row["source"]]
            self._rows[name] = {"id": name, "source": source, "messages": messages[:last], "answer": answer}
        if not self._rows:
            raise ExcitorError(f"no row of {', '.join(self.data)} has an answer to compare replies with")

    def texts(self) -> Iterable[list[int]]:
        """Token ids of the prompts."""
        return self._prompts.values()

    def run(
        self, subjects: Sequence[Subject], tokenizer: PreTrainedTokenizerBase, progress: Progress
    ) -> dict[str, list[Item]]:
        """Every subject answers every row. An item holds the row, ``reply`` (None: too long) and the two scores.

        Raises:
            ExcitorError: Logits are NaN.
        """
        replies = answer_all(
            subjects,
            tokenizer,
            self._prompts,
            progress,
            self.name,
            max_new_tokens=self.max_new_tokens,
            batch_size=self.batch_size,
            template=self.template,
        )
        return {
            subject: [
                row | {"reply": said[name]} | _score(said[name], row["answer"]) for name, row in self._rows.items()
            ]
            for subject, said in replies.items()
        }

    def summarise(self, base: list[Item], subject: list[Item]) -> dict[str, Metric]:
        """Exact match and token F1 in percent, and their changes from the base in points."""
        metrics = {}
        for key, label in SCORES.items():
            scores = 100 * np.array([item[key] for item in subject])
            metrics[label] = estimate(scores, higher_is_better=True, unit="%")
            if subject is not base:
                change = scores - 100 * np.array([item[key] for item in base])
                metrics[f"{label} change"] = estimate(change, higher_is_better=True, unit="points")
        return metrics

    def report(self, items: dict[str, list[Item]]) -> str:
        """A table by source and subject, and what was not answered or not asked."""
        rows = next(iter(items.values()))
        lines = []
        for source in dict.fromkeys(row["source"] for row in rows):
            for subject, answered in items.items():
                own = [item for item in answered if item["source"] == source]
                means = (f"{100 * np.mean([item[key] for item in own]):.2f}" for key in SCORES)
                lines.append((source, subject, *means, f"{sum(item['reply'] == '' for item in own):,}"))
        notes = [
            f"{len(rows):,} held-out rows; greedy replies of at most {self.max_new_tokens} tokens, words as in SQuAD"
        ]
        if too_long := sum(item["reply"] is None for item in rows):
            notes.append(f"{too_long:,} prompts were too long for the context and score 0")
        if self._unanswerable:
            notes.append(f"{self._unanswerable:,} rows without an answer were not asked")
        table = markdown_table(("text", "subject", "exact match %", "token F1 %", "empty replies"), lines)
        return f"{table}\n\n{'; '.join(notes)}."

    def pages(self, items: dict[str, list[Item]]) -> dict[str, str]:
        """Texts to read, by the name of their file: all replies side by side."""
        return {"replies.md": markdown_page(items), "replies.html": html_page(items)}


def _score(reply: str | None, answer: str) -> dict[str, float]:
    if reply is None:
        return dict.fromkeys(SCORES, 0.0)
    return {"exact_match": exact_match(reply, answer), "f1": token_f1(reply, answer)}
