"""Image captions as a task: every subject describes the pictures, and coco-caption's scores are computed."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress
from transformers import PreTrainedTokenizerBase

from excitor.data.encoding import encode_prompt
from excitor.errors import ExcitorError
from excitor.evaluate.bootstrap import estimate
from excitor.evaluate.captions.scores import NAMES, CaptionReport, score_captions
from excitor.evaluate.captions.tokenizer import tokenize
from excitor.evaluate.generation import Inputs, answer_all, no_inputs
from excitor.evaluate.markdown import markdown_table
from excitor.evaluate.metric import Metric
from excitor.evaluate.task import Item, Subject
from excitor.vision.data import load_image_examples, pictures_of
from excitor.vision.images import check_images
from excitor.vision.inputs import PixelInputs, by_name, read_image_processor


LONGEST_CAPTION = 64
PER_IMAGE = ("ROUGE_L", "CIDEr")
# A caption without words is scored as a word that no reference has.
NO_WORDS = ["<no words>"]


class Captions:
    """BLEU, ROUGE-L and CIDEr-D of greedy captions; the base, which sees nothing, is the blind baseline.

    Args:
        annotations: Reference captions, in any form that :func:`excitor.vision.data.load_image_examples` reads; ``#N``
            takes the first N of them.
        vision_model: The encoder whose image processor prepares the pictures.
        images: Folders with the pictures.
        instruction: What is asked about each picture.
        template: How the instruction becomes a prompt; see ``resolve_template``.
        batch_size: Pictures side by side, at most.
    """

    name = "captions"

    def __init__(
        self,
        annotations: str,
        vision_model: str,
        *,
        images: Sequence[str] = (),
        instruction: str,
        template: str = "auto",
        batch_size: int = 16,
    ) -> None:
        self.annotations, self.vision_model, self.images = annotations, vision_model, images
        self.instruction, self.template, self.batch_size = instruction, template, batch_size
        self.references: dict[str, list[list[str]]] = {}
        self._prompt: list[int] = []
        self._inputs: Inputs = no_inputs

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Read the references and open the pictures.

        Raises:
            ExcitorError: A row or a picture cannot be used, or a reference has no words.
        """
        examples = load_image_examples([self.annotations], self.images, caption_instruction=self.instruction)
        pictures = pictures_of(examples)
        check_images(pictures)
        names = {path: Path(path).name for path in pictures}
        if len(set(names.values())) < len(names):
            names = {path: path for path in pictures}
        self.references = {name: [] for name in names.values()}
        for row in examples:
            where = f"{row['source']}, row {row['row']}"  # pyright: ignore
            self._enter(row, names, where)
        numbers = {name: [number] for number, name in enumerate(names.values())}
        self._inputs = by_name(PixelInputs(pictures, read_image_processor(self.vision_model)), numbers)
        self._prompt = encode_prompt([{"role": "user", "content": self.instruction}], tokenizer, self.template)

    def _enter(self, row: Any, names: Mapping[str, str], where: str) -> None:
        if len(row["images"]) != 1:
            raise ExcitorError(f"{where}: a reference is of one picture, but this row has {len(row['images'])}")
        caption = row["completion"] if row["messages"] is None else row["messages"][-1]["content"]
        words = tokenize(caption)
        if not words:
            raise ExcitorError(f"{where}: the caption {caption!r} is empty or has no words")
        self.references[names[row["images"][0]]].append(words)

    def texts(self) -> Iterable[list[int]]:
        """Token ids of the prompt."""
        return [self._prompt]

    def run(
        self, subjects: Sequence[Subject], tokenizer: PreTrainedTokenizerBase, progress: Progress
    ) -> dict[str, list[Item]]:
        """Every subject describes every picture.

        Returns:
            Items with ``reply``, and its ``ROUGE_L`` and ``CIDEr``.

        Raises:
            ExcitorError: Logits are NaN, or there is no room for a caption in the model's context.
        """
        replies = answer_all(
            subjects,
            tokenizer,
            dict.fromkeys(self.references, self._prompt),
            progress,
            self.name,
            max_new_tokens=LONGEST_CAPTION,
            batch_size=self.batch_size,
            template=self.template,
            inputs=self._inputs,
        )
        items = {}
        for subject, said in replies.items():
            if None in said.values():
                raise ExcitorError(
                    f"{subject}: the model's context has no room for a caption of {LONGEST_CAPTION} tokens."
                )
            scores = self._score({name: str(reply) for name, reply in said.items()})["per_image"]
            items[subject] = [{"id": name, "reply": reply, **scores[name]} for name, reply in said.items()]
        return items

    def summarise(self, base: list[Item], subject: list[Item]) -> dict[str, Metric]:
        """The scores by their usual names; and the changes of those that are means over pictures."""
        report = self._score(_replies(subject))
        metrics = {}
        for name in NAMES:
            low, high = report["intervals"].get(name, (-np.inf, np.inf))
            metrics[name] = Metric(report["scores"][name], low, high, higher_is_better=True)
        if subject is not base:
            for name in PER_IMAGE:
                change = [own[name] - before[name] for own, before in zip(subject, base, strict=True)]
                metrics[f"{name} change"] = estimate(change, higher_is_better=True)
        return metrics

    def report(self, items: dict[str, list[Item]]) -> str:
        """A table of the scores, and what was asked."""
        rows = []
        for subject, answered in items.items():
            scores = self._score(_replies(answered))["scores"]
            empty = sum(not tokenize(item["reply"]) for item in answered)
            rows.append((subject, *(f"{scores[name]:.4f}" for name in NAMES), f"{empty:,}"))
        references = sum(map(len, self.references.values()))
        note = (
            f"{len(self.references):,} pictures, {references:,} references; greedy captions of at most "
            f"{LONGEST_CAPTION} tokens, asked for with {self.instruction!r}. The base sees no pictures. CIDEr takes "
            "its document frequencies from these references."
        )
        return f"{markdown_table(('captions', *NAMES, 'without words'), rows)}\n\n{note}"

    def _score(self, replies: Mapping[str, str]) -> CaptionReport:
        candidates = {name: tokenize(reply) or NO_WORDS for name, reply in replies.items()}
        return score_captions(candidates, {name: self.references[name] for name in candidates})


def _replies(items: list[Item]) -> dict[str, str]:
    return {item["id"]: item["reply"] for item in items}
