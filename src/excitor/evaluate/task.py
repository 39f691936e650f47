"""What is measured (subjects), how (tasks), and what comes out (items and metrics)."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from peft import PeftModel
from rich.progress import Progress
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from excitor.evaluate.metric import Metric


Item = dict[str, Any]
"""What is known of one question or document; JSON can hold it. Its ``id`` (str) is unique within a task."""


@dataclass(frozen=True)
class Subject:
    """One thing that is measured: the base, an adapter, a merged or a fully fine-tuned model."""

    name: str
    """"base", or the name of the adapter's or the model's folder."""
    model: PreTrainedModel | PeftModel
    """Subjects may share it: the base is any of its adapters' models with all adapters off."""
    adapter: str | None = None
    """Name of the PEFT adapter to switch on; None switches all of them off."""

    @contextmanager
    def active(self) -> Iterator[nn.Module]:
        """The model with exactly this subject switched on, in evaluation mode and without gradients."""
        was_training = self.model.training
        if was_training:
            self.model.eval()
        try:
            with torch.no_grad(), self._switched():
                yield self.model
        finally:
            if was_training:
                self.model.train()

    def _switched(self) -> AbstractContextManager[Any]:
        if not isinstance(self.model, PeftModel):
            return nullcontext()
        if self.adapter is None:
            return self.model.disable_adapter()
        if self.model.active_adapter != self.adapter:
            self.model.set_adapter(self.adapter, inference_mode=True)
        return nullcontext()


class Task(Protocol):
    """Something to measure subjects by.

    Two further methods are looked for: ``texts() -> Iterable[list[int]]``, the token ids of what will be read, known
    after `check` (to warn of unknown characters), and ``pages(items) -> dict[str, str]``, texts by file name to write
    beside the results.
    """

    name: str
    """As in the names of files: "forgetting", "mmlu", ..."""

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Read all input, before weights are loaded.

        Raises:
            ExcitorError: Something in it cannot be used; the message names file and row.
        """
        ...

    def run(
        self, subjects: Sequence[Subject], tokenizer: PreTrainedTokenizerBase, progress: Progress
    ) -> dict[str, list[Item]]:
        """Measure all subjects on the same items.

        Args:
            subjects: The base first, where there is one.
            tokenizer: That of all subjects.
            progress: Where to add a bar.

        Returns:
            Items by the subject's name, in the same order for all.

        Raises:
            ExcitorError: A subject's numbers are not finite.
        """
        ...

    def summarise(self, base: list[Item], subject: list[Item]) -> dict[str, Metric]:
        """Metrics of a subject, changes by paired bootstrap; for the base itself both lists are the same object."""
        ...

    def report(self, items: dict[str, list[Item]]) -> str:
        """A section of Markdown, shown below the summary: tables by subject and category."""
        ...
