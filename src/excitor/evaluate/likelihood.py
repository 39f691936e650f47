"""Token losses of several models on the same documents, and how far each is from the first of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset
from torch import Tensor

from excitor.errors import NonFiniteError
from excitor.evaluate.task import Subject


# Logits are the largest tensors here: a batch holds at most this many of them in the model's dtype, ...
BATCH_LOGITS = 2**28
# ... and at most this many are turned into fp32 probabilities at a time.
CHUNK_LOGITS = 2**25


@dataclass(frozen=True)
class Scores:
    """A subject on all documents: fp32 tensors on the CPU, one per document, of shape ``[supervised tokens]``."""

    loss: list[Tensor]
    """Cross-entropy, in nats."""
    kl: list[Tensor]
    """KL(base || subject) over the whole vocabulary, in nats."""
    flipped: list[Tensor]
    """1 where the most likely token is another one than the base's, else 0."""


def compare(
    subjects: Sequence[Subject],
    dataset: Dataset,
    batch_size: int = 16,
    advance: Callable[[int], object] = lambda documents: None,
    name_of: Callable[[int], str] = lambda place: f"document {place + 1}",
    share: Callable[[Sequence[list[int]]], Sequence[list[int]]] = lambda batches: batches,
    inputs: Callable[[Sequence[int]], Mapping[str, Tensor]] = lambda rows: {},
) -> dict[str, Scores]:
    """Run every batch through all subjects. The base's logits are computed once and shared.

    Args:
        subjects: The base first. Where their vocabularies are padded to different sizes, the entries that only some
            of them have are left out for all.
        dataset: Columns ``input_ids`` and ``labels`` (-100 where a token is not supervised).
        batch_size: Rows in a batch, at most; fewer where the logits would take too much memory.
        advance: Told the number of documents in each finished batch.
        name_of: What a document is called in a message, by its place in the data set.
        share: Picks the batches to run; documents in others get no scores.
        inputs: What the models are given of some documents beside their tokens, such as pictures.

    Returns:
        Scores by subject name, documents in the data set's order; the base's own KL and flips are 0.

    Raises:
        NonFiniteError: A subject gives logits that are not finite; the message names it and the document.
    """
    base, *others = subjects
    vocabulary = min(_vocabulary(subject) for subject in subjects)
    scores = {subject.name: Scores(*([torch.empty(0)] * len(dataset) for _ in range(3))) for subject in subjects}
    columns = [
        (torch.tensor(ids), torch.tensor(labels))
        for ids, labels in zip(dataset["input_ids"], dataset["labels"], strict=True)
    ]
    for rows in share(_plan(columns, batch_size, vocabulary)):
        batch = _Batch.of(rows, columns, inputs(rows), base.model.device)
        base_logits = batch.logits(base, vocabulary)
        batch.score(base_logits, base_logits, base.name, name_of, scores[base.name])
        for subject in others:
            batch.score(base_logits, batch.logits(subject, vocabulary), subject.name, name_of, scores[subject.name])
        advance(len(batch.rows))
    return scores


@dataclass(frozen=True)
class _Batch:
    rows: list[int]  # places in the data set
    input_ids: Tensor  # [B, T]
    attention_mask: Tensor  # [B, T]
    labels: Tensor  # [B, T]
    inputs: dict[str, Tensor]

    @classmethod
    def of(
        cls,
        rows: list[int],
        columns: Sequence[tuple[Tensor, Tensor]],
        inputs: Mapping[str, Tensor],
        device: torch.device,
    ) -> "_Batch":
        """Rows padded on the right."""
        input_ids = torch.zeros(len(rows), max(len(columns[row][0]) for row in rows), dtype=torch.long)
        labels = torch.full_like(input_ids, -100)
        mask = torch.zeros_like(input_ids)
        for place, row in enumerate(rows):
            ids, targets = columns[row]
            input_ids[place, : len(ids)] = ids
            labels[place, : len(ids)] = targets
            mask[place, : len(ids)] = 1
        given = {name: tensor.to(device) for name, tensor in inputs.items()}
        return cls(rows, input_ids.to(device), mask.to(device), labels.to(device), given)

    def logits(self, subject: Subject, vocabulary: int) -> Tensor:
        """[B, T, vocabulary]; virtual tokens that a prompt method puts in front have logits too, not wanted here."""
        with subject.active() as model:
            given = {"input_ids": self.input_ids, "attention_mask": self.attention_mask} | self.inputs
            logits = model(**given, use_cache=False).logits
        return logits[:, -self.input_ids.shape[1] :, :vocabulary]

    def score(
        self, base_logits: Tensor, logits: Tensor, name: str, name_of: Callable[[int], str], scores: Scores
    ) -> None:
        """Compare two models' logits at the scored positions and give each document its part."""
        rows, positions = (self.labels[:, 1:] != -100).nonzero(as_tuple=True)
        targets = self.labels[rows, positions + 1]
        size = max(1, CHUNK_LOGITS // logits.shape[-1])
        measured = []
        for row, position, target in zip(rows.split(size), positions.split(size), targets.split(size), strict=True):
            base = base_logits[row, position].float().log_softmax(dim=-1)
            own = base if logits is base_logits else logits[row, position].float().log_softmax(dim=-1)
            broken = ~own.isfinite().all(dim=-1)
            if broken.any():
                raise NonFiniteError(
                    f"The logits of {name!r} are not finite numbers in {name_of(self.rows[int(row[broken][0])])}, so "
                    "nothing can be measured. Training may have diverged (try a smaller learning rate), or the "
                    "precision is too low (try fp32)."
                )
            loss = -own.gather(-1, target[:, None]).squeeze(-1)
            kl = (base.exp() * (base - own)).sum(-1)
            flipped = (base.argmax(-1) != own.argmax(-1)).float()
            measured.append(torch.stack([loss, kl, flipped]))
        parts = torch.cat(measured, dim=1).cpu().split(torch.bincount(rows, minlength=len(self.rows)).tolist(), dim=1)
        for place, part in zip(self.rows, parts, strict=True):
            scores.loss[place], scores.kl[place], scores.flipped[place] = part.clone()


def _plan(columns: Sequence[tuple[Tensor, Tensor]], batch_size: int, vocabulary: int) -> list[list[int]]:
    """Rows of similar length together, longest first, so that memory runs out at once or never."""
    # The first token is never predicted; a row with no other supervised token would only cost time.
    order = sorted(
        (row for row, (_, labels) in enumerate(columns) if (labels[1:] != -100).any()),
        key=lambda row: -len(columns[row][0]),
    )
    batches: list[list[int]] = []
    while order:
        longest = len(columns[order[0]][0])
        size = max(1, min(batch_size, BATCH_LOGITS // (longest * vocabulary)))
        batches.append(order[:size])
        order = order[size:]
    return batches


def _vocabulary(subject: Subject) -> int:
    return subject.model.get_output_embeddings().weight.shape[0]  # type: ignore[union-attr]
