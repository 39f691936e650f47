"""MMLU as a task: every subject answers every question, chosen by the likelihood of the letters."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

import numpy as np
from rich.progress import Progress
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from excitor.errors import ExcitorError
from excitor.evaluate.bootstrap import estimate
from excitor.evaluate.generation import context_length
from excitor.evaluate.metric import Metric
from excitor.evaluate.mmlu.prompts import Prompt, block, encode_letters, encode_topic
from excitor.evaluate.mmlu.questions import LETTERS, Topic, read_topics
from excitor.evaluate.mmlu.scoring import score_letters
from excitor.evaluate.mmlu.tables import report
from excitor.evaluate.parallel import this_process
from excitor.evaluate.task import Item, Subject


class Mmlu:
    """Accuracy on MMLU as Hendrycks et al. measure it.

    A question follows a few answered ones of its topic; the model's choice is the letter with the largest
    log-likelihood after "Answer:", a space in front of it.

    Args:
        source: Folder of the original CSV files, or a data set of the hub's form; see ``read_topics``.
        split: ``"test"`` or ``"val"``.
        topics: Names of topics; all that the split has when not given.
        shots: Answered questions in front of each; those of the ``dev`` split, in their order.
        batch_size: Questions in a batch, at most.
    """

    name = "mmlu"

    def __init__(
        self,
        source: str,
        *,
        split: str = "test",
        topics: Sequence[str] | None = None,
        shots: int = 5,
        batch_size: int = 16,
    ):
        self.source, self.split, self.asked, self.shots, self.batch_size = source, split, topics, shots, batch_size

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Read all files and see that the letters can be told apart.

        Raises:
            ExcitorError: As ``read_topics`` and ``encode_letters``, or a topic has too few examples.
        """
        if self.shots < 0:
            raise ExcitorError(f"The number of few-shot examples must not be negative, got {self.shots}.")
        self._tokenizer, self.letters = tokenizer, encode_letters(tokenizer)
        self.topics = read_topics(self.source, split=self.split, topics=self.asked)
        for topic in self.topics:
            if len(topic.examples) < self.shots:
                raise ExcitorError(
                    f"{self.source}: topic {topic.name} has {len(topic.examples)} few-shot examples, but {self.shots} "
                    "are asked for."
                )

    def texts(self) -> Iterable[list[int]]:
        """Token ids of the questions with their choices, without examples."""
        return self._tokenizer([block(question) for topic in self.topics for question in topic.questions]).input_ids

    def run(
        self, subjects: Sequence[Subject], tokenizer: PreTrainedTokenizerBase, progress: Progress
    ) -> dict[str, list[Item]]:
        """Answer every question by every subject; all of them read the same prompts in the same batches.

        Raises:
            ExcitorError: A subject's logits are not finite.
        """
        context = min(context_length(subject.model, tokenizer) for subject in subjects)
        questions = [
            (topic, row, prompt)
            for topic in self.topics
            for row, prompt in enumerate(
                encode_topic(topic, tokenizer, self.letters, shots=self.shots, context=context), 1
            )
        ]
        bar = progress.add_task("MMLU", total=len(subjects) * len(questions))
        processes = this_process().num_processes
        return {
            subject.name: self._answer(subject, questions, lambda count: progress.advance(bar, count * processes))
            for subject in subjects
        }

    def _answer(
        self, subject: Subject, questions: list[tuple[Topic, int, Prompt]], advance: Callable[[int], None]
    ) -> list[Item]:
        items: list[Item] = []
        for _, group in groupby(questions, key=lambda question: question[0].name):
            asked = list(group)
            prompts = [prompt for _, _, prompt in asked]
            with subject.active() as model:
                scores = score_letters(model, prompts, self.letters, self.batch_size, advance)
            items += [_item(subject, *question, own) for question, own in zip(asked, scores, strict=True)]
        return items

    def summarise(self, base: list[Item], subject: list[Item]) -> dict[str, Metric]:
        """Accuracy over questions ("accuracy", what Hendrycks et al. report) and over topics ("macro accuracy")."""
        correct, before = (np.array([100.0 * item["correct"] for item in items]) for items in (subject, base))
        sizes = Counter(item["topic"] for item in subject)
        equal_topics = np.array([1 / sizes[item["topic"]] for item in subject])
        metrics = {
            "accuracy": estimate(correct, higher_is_better=True, unit="%"),
            "macro accuracy": estimate(correct, equal_topics, higher_is_better=True, unit="%"),
        }
        if subject is base:
            return metrics
        change = correct - before
        return metrics | {
            "accuracy change": estimate(change, higher_is_better=True, unit="points"),
            "macro accuracy change": estimate(change, equal_topics, higher_is_better=True, unit="points"),
        }

    def report(self, items: dict[str, list[Item]]) -> str:
        """What was measured and how, then accuracy by category and by topic."""
        return report(items, split=self.split, shots=self.shots, letters=self.letters, asked=self.asked)


def _item(subject: Subject, topic: Topic, row: int, prompt: Prompt, log_likelihoods: Tensor) -> Item:
    if not log_likelihoods.isfinite().all():
        raise ExcitorError(
            f"The letters' log-likelihoods by {subject.name!r} are not finite numbers in {topic.name}, row {row}: "
            f"{log_likelihoods.tolist()}. Training may have diverged (try a smaller learning rate), or the precision "
            "is too low (try fp32)."
        )
    answer, choice = topic.questions[row - 1].answer, LETTERS[int(log_likelihoods.argmax())]
    return {
        "id": f"{topic.name}/{row}",
        "topic": topic.name,
        "category": topic.category,
        "answer": answer,
        "choice": choice,
        "correct": answer == choice,
        "log_likelihoods": log_likelihoods.tolist(),
        "shots": prompt.shots,
        "cut_tokens": prompt.cut,
    }
