"""ScienceQA as a task: every subject answers the questions in words, and a choice is read from its answer."""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.progress import Progress
from transformers import PreTrainedTokenizerBase

from excitor.data.encoding import encode_prompt
from excitor.errors import ExcitorError
from excitor.evaluate.bootstrap import estimate
from excitor.evaluate.generation import answer_all
from excitor.evaluate.markdown import markdown_table
from excitor.evaluate.metric import Metric
from excitor.evaluate.scienceqa import COLUMNS, Format, Problem, build_prompt, build_target, extract_answer, score
from excitor.evaluate.scienceqa_files import SPLITS_FILE, problems_file, read_problems, select_split
from excitor.evaluate.task import Item, Subject


# Where the answer stands first, what follows it cannot change the score.
LONGEST_REPLY = {"QCM-A": 32, "QCM-ALE": 32, "QCM-LEA": 256}


class ScienceQA:
    """Accuracy of greedy answers on ScienceQA's questions.

    A question with an image is asked with the image, or with a caption in its place, if wanted; else it is counted. An
    answer from which no choice can be read has failed: it is counted and is wrong. So is a question that leaves no
    room for the longest answer in the model's context. After examples, an answer ends with its line, as in the
    official code: examples are answered in one line, and a model that copies them goes on with questions of its own.

    Args:
        folder: Holds ``problems.json``, or one ``problems*.json[.gz]``, and ``pid_splits.json``.
        split: A split of that file: ``"test"``, ``"val"``, ``"minival"``, ...
        format: How examples answer, and where in a reply the answer is expected: the letter alone (``"QCM-A"``),
            before its explanation (``"QCM-ALE"``), or after it (``"QCM-LEA"``).
        shots: Solved text questions of the train split in front of each question.
        captions: Whether to ask questions with an image whose problem has a caption, which joins the context.
        vision_model: The encoder whose image processor prepares the images, which are shown then; None to show none.
        template: How the question becomes a prompt; see ``resolve_template``.
        max_new_tokens: Longest answer; by default 32 tokens, 256 for ``"QCM-LEA"``.
        batch_size: Questions side by side, at most.
        seed: Of the choice of examples.
    """

    name = "scienceqa"

    def __init__(
        self,
        folder: str,
        *,
        split: str = "test",
        format: str = "QCM-A",
        shots: int = 0,
        captions: bool = False,
        vision_model: str | None = None,
        template: str = "auto",
        max_new_tokens: int | None = None,
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        self.folder, self.split, self.format, self.shots = Path(folder), split, format, shots
        self.captions, self.vision_model = captions, vision_model
        self.template, self.max_new_tokens, self.batch_size, self.seed = template, max_new_tokens, batch_size, seed
        self.problems: dict[str, Problem] = {}
        self.prompts: dict[str, list[int]] = {}
        self.images = 0
        self._show: dict[str, Any] = {}

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Read the files and render the questions.

        Raises:
            ExcitorError: A file is missing or damaged, a problem has a value that no problem has, the split is unknown
                or has no text question, the train split has too few for the examples, or the format is unknown.
        """
        if self.format not in LONGEST_REPLY:
            raise ExcitorError(f"the format of ScienceQA is one of {', '.join(LONGEST_REPLY)}, not {self.format!r}")
        if self.shots < 0:
            raise ExcitorError(f"the number of few-shot examples must not be negative, got {self.shots}")
        everything, splits = read_problems(problems_file(self.folder)), self.folder / SPLITS_FILE
        chosen = select_split(everything, self.split, splits)
        asked = {
            pid: problem
            for pid, problem in chosen.items()
            if not problem["image"] or self.vision_model or (self.captions and problem.get("caption"))
        }
        if not asked:
            raise ExcitorError(
                f"{splits}: none of the {len(chosen):,} questions of split {self.split!r} is without image"
                + " or has a caption" * self.captions
            )
        self.problems, self.images = asked, len(chosen) - len(asked)
        examples = self._examples(everything, splits)
        self.prompts = {}
        for pid, problem in self.problems.items():
            question = "\n\n".join([*examples, build_prompt(problem, caption=self.captions)])
            self.prompts[pid] = encode_prompt([{"role": "user", "content": question}], tokenizer, self.template)

        if self.vision_model:
            self._show = {"inputs": self._shown(self.vision_model)}

    def _shown(self, vision_model: str) -> Any:
        """The images of the problems that have one, all of which must be there."""
        from excitor.vision.data.scienceqa import IMAGES, image_name
        from excitor.vision.images import check_images
        from excitor.vision.inputs import PixelInputs, by_name, read_image_processor

        names = {pid: name for pid, problem in self.problems.items() if (name := image_name(pid, problem))}
        pictures = {str(self.folder / IMAGES / name): f"problem {pid}" for pid, name in names.items()}
        check_images(pictures)
        numbers = {pid: number for number, pid in enumerate(names)}
        rows = {pid: [numbers[pid]] if pid in numbers else [] for pid in self.problems}
        return by_name(PixelInputs(pictures, read_image_processor(vision_model)), rows)

    def texts(self) -> Iterable[list[int]]:
        """Token ids of the prompts."""
        return self.prompts.values()

    def run(
        self, subjects: Sequence[Subject], tokenizer: PreTrainedTokenizerBase, progress: Progress
    ) -> dict[str, list[Item]]:
        """Every subject answers every question.

        Returns:
            Items with ``reply`` (None: the question was too long), ``predicted`` (index of the choice; None: failed),
            ``answer`` (index) and ``correct``.

        Raises:
            ExcitorError: Logits are NaN.
        """
        replies = answer_all(
            subjects,
            tokenizer,
            self.prompts,
            progress,
            "ScienceQA",
            max_new_tokens=self.max_new_tokens or LONGEST_REPLY[self.format],
            batch_size=self.batch_size,
            template=self.template,
            **self._show,
        )
        return {
            subject: [_item(pid, problem, self._whole_answer(said[pid])) for pid, problem in self.problems.items()]
            for subject, said in replies.items()
        }

    def summarise(self, base: list[Item], subject: list[Item]) -> dict[str, Metric]:
        """Accuracy and share of failed answers in percent, and the change of accuracy in points."""
        correct, before = (np.array([100.0 * item["correct"] for item in items]) for items in (subject, base))
        failed = np.array([100.0 * (item["predicted"] is None) for item in subject])
        metrics = {
            "accuracy": estimate(correct, higher_is_better=True, unit="%"),
            "failed": estimate(failed, higher_is_better=False, unit="%"),
        }
        if subject is not base:
            metrics["accuracy change"] = estimate(correct - before, higher_is_better=True, unit="points")
        return metrics

    def report(self, items: dict[str, list[Item]]) -> str:
        """The usual table by subject, with counts, failed answers, and what was not asked."""
        rows = []
        for subject, answered in items.items():
            predictions = {item["id"]: -1 if item["predicted"] is None else item["predicted"] for item in answered}
            result = score(predictions, self.problems)
            cells = [result["columns"][column] for column in COLUMNS]
            rows.append(
                [
                    subject,
                    *("-" if cell["accuracy"] is None else f"{cell['accuracy']:.2f}" for cell in cells),
                    f"{result['columns']['Avg']['correct']:,}/{len(self.problems):,}",
                    f"{len(result['failed']):,}",
                ]
            )
        captioned = sum(bool(problem["image"]) for problem in self.problems.values())
        notes = [
            f"{len(self.problems):,} questions of split {self.split!r}, {self.format}, {self.shots}-shot, greedy.",
            "An answer that names no choice has failed and counts as wrong.",
        ]
        if captioned and self.vision_model:
            notes.append(f"{captioned:,} of them have an image, which was shown.")
        elif captioned:
            notes.append(f"{captioned:,} of them have an image, for which a caption stood.")
        if self.images:
            notes.append(f"{self.images:,} further questions have an image and were not asked.")
        if too_long := sum(item["reply"] is None for item in next(iter(items.values()))):
            notes.append(f"{too_long:,} questions were too long for the context and count as failed.")
        return f"{markdown_table(('%', *COLUMNS, 'correct', 'FAILED'), rows)}\n\n{' '.join(notes)}"

    def _whole_answer(self, reply: str | None) -> str | None:
        return reply.partition("\n")[0] if reply and self.shots else reply

    def _examples(self, problems: dict[str, Problem], splits: Path) -> list[str]:
        if not self.shots:
            return []
        train = select_split(problems, "train", splits)
        usable = [pid for pid, problem in train.items() if not problem["image"] and pid not in self.problems]
        if len(usable) < self.shots:
            raise ExcitorError(f"{splits}: split 'train' has {len(usable)} text questions for {self.shots} examples")
        chosen = (problems[pid] for pid in random.Random(self.seed).sample(usable, self.shots))
        return [f"{build_prompt(problem)} {build_target(problem, cast(Format, self.format))}" for problem in chosen]


def _item(pid: str, problem: Problem, reply: str | None) -> Item:
    predicted = None if reply is None else extract_answer(reply, problem["choices"])
    return {
        "id": pid,
        "reply": reply,
        "predicted": predicted,
        "answer": problem["answer"],
        "correct": predicted == problem["answer"],
    }
