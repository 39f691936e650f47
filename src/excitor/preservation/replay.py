"""Replay text: what the base is held to while something else is learned."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from excitor.data import read_text
from excitor.evaluate.sampling import sample_from_base
from excitor.evaluate.task import Subject
from excitor.preservation.weights import split_weight


# Likely text alone would leave the unlikely unprotected, and the other way round.
TEMPERATURES = (0.7, 1.0, 1.3)


@dataclass(frozen=True)
class ReplayText:
    """Documents as token ids, and how often each is drawn, relative to the others."""

    documents: list[list[int]]
    weights: list[float]

    def batch(self, size: int, seed: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Draw documents, each at most once.

        Args:
            size: How many; all when there are fewer.
            seed: The same numbers give the same batch: a run that is resumed needs no state.

        Returns:
            ``input_ids`` and ``attention_mask``, int64 ``(B, T)``, padded with 0 on the right.
        """
        chances = np.array(self.weights) / sum(self.weights)
        rng = np.random.default_rng(seed)
        rows = rng.choice(len(chances), min(size, len(chances)), replace=False, p=chances)
        texts = [torch.tensor(self.documents[row]) for row in rows]
        ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
        lengths = torch.tensor([len(text) for text in texts])
        return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()

    def to_json(self) -> str:
        """The text as a line of JSON."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "ReplayText":
        """What :meth:`to_json` wrote."""
        return cls(**json.loads(text))


def read_replay(
    sources: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, documents: int, length: int
) -> ReplayText:
    """Read replay text from files.

    Args:
        sources: As for :func:`excitor.data.read_text`, each with an optional weight: ``FILE@2`` is drawn twice as
            often as a file without one, however many documents they have.
        tokenizer: Of the model.
        documents: Most documents from each source.
        length: Most tokens in a document.

    Raises:
        ExcitorError: A source cannot be read, or a weight is no number above 0.
    """
    texts: list[list[int]] = []
    weights: list[float] = []
    for source in sources:
        name, weight = split_weight(source)
        own = read_text([name], tokenizer, max_length=length, max_documents=documents)["input_ids"][:]
        texts += own
        weights += [weight / len(own)] * len(own)
    return ReplayText(texts, weights)


def sample_replay(
    base: Subject, tokenizer: PreTrainedTokenizerBase, *, documents: int, length: int, seed: int
) -> ReplayText:
    """Have the base write its own replay text, an equal share at each of ``TEMPERATURES``.

    Args:
        base: The base model.
        tokenizer: Of the model.
        documents: How many.
        length: Most tokens in a document.
        seed: The first of as many seeds as there are temperatures.

    Raises:
        ExcitorError: The tokenizer has no token to start with.
    """
    texts: list[list[int]] = []
    for number, temperature in enumerate(TEMPERATURES):
        share = len(range(number, documents, len(TEMPERATURES)))
        settings = {"documents": share, "length": length, "seed": seed + number, "temperature": temperature}
        texts += sample_from_base(base, tokenizer, **settings)["input_ids"][:]
    return ReplayText(texts, [1.0] * len(texts))
