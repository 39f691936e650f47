"""Token losses of a language model, and of an adapter against its own base in one pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor, nn

from excitor.errors import ExcitorError


# Logits are the largest tensors here: a batch holds at most this many of them in the model's dtype, ...
BATCH_LOGITS = 2**28
# ... and at most this many are turned into fp32 probabilities at a time.
CHUNK_LOGITS = 2**25


@dataclass(frozen=True)
class Comparison:
    """An adapter against its base on the same documents.

    Each field has one fp32 tensor per document, in the data set's order, of shape ``[supervised tokens]``.
    """

    base: list[Tensor]
    """Cross-entropy with the adapter off, in nats."""
    adapter: list[Tensor]
    """Cross-entropy with the adapter on, in nats."""
    kl: list[Tensor]
    """KL(base || adapter) over the whole vocabulary, in nats."""
    flipped: list[Tensor]
    """1 where the most likely token is another one than the base's, else 0."""


def token_losses(model: nn.Module, dataset: Dataset, batch_size: int = 16) -> list[Tensor]:
    """Cross-entropy of every supervised token.

    Args:
        model: A causal language model of transformers, with or without PEFT.
        dataset: Columns ``input_ids`` and ``labels`` (-100 where a token is not supervised).
        batch_size: Rows in a batch, at most; fewer where the logits would take too much memory.

    Returns:
        One fp32 tensor on the CPU per row, in the data set's order, of shape ``[supervised tokens]``, in nats.

    Raises:
        ExcitorError: The model gives logits that are not finite.
    """
    losses: list[Tensor] = [torch.empty(0)] * len(dataset)
    with _evaluating(model):
        for batch in _batches(model, dataset, batch_size):
            logits = batch.logits(model)
            values = [_cross_entropy(_log_probs(logits[at], "model"), target) for at, target in batch.chunks(logits)]
            batch.scatter(torch.cat(values), losses)
    return losses


def compare_with_base(model: PeftModel, dataset: Dataset, batch_size: int = 16) -> Comparison:
    """Run every batch through the model with the adapter off and on. No second copy of the base is needed.

    Args:
        model: A PEFT model with an active adapter of any method.
        dataset: Columns ``input_ids`` and ``labels`` (-100 where a token is not supervised).
        batch_size: Rows in a batch, at most; fewer where the logits would take too much memory.

    Raises:
        ExcitorError: The base or the adapter gives logits that are not finite.
    """
    result = Comparison(*([torch.empty(0)] * len(dataset) for _ in range(4)))
    with _evaluating(model):
        for batch in _batches(model, dataset, batch_size):
            with model.disable_adapter():
                base_logits = batch.logits(model)
            adapter_logits = batch.logits(model)
            measured = []
            for at, target in batch.chunks(base_logits):
                base = _log_probs(base_logits[at], "base model")
                adapter = _log_probs(adapter_logits[at], "adapter")
                measured.append(
                    torch.stack(
                        [
                            _cross_entropy(base, target),
                            _cross_entropy(adapter, target),
                            (base.exp() * (base - adapter)).sum(-1),
                            (base.argmax(-1) != adapter.argmax(-1)).float(),
                        ]
                    )
                )
            fields = (result.base, result.adapter, result.kl, result.flipped)
            for values, out in zip(torch.cat(measured, dim=1), fields, strict=True):
                batch.scatter(values, out)
    return result


@dataclass(frozen=True)
class _Batch:
    rows: list[int]  # places in the data set
    input_ids: Tensor  # [B, T]
    attention_mask: Tensor  # [B, T]
    labels: Tensor  # [B, T]

    def logits(self, model: nn.Module) -> Tensor:
        return model(input_ids=self.input_ids, attention_mask=self.attention_mask, use_cache=False).logits

    @property
    def scored(self) -> Tensor:
        """Where the *next* token is supervised: [B, T - 1]."""
        return self.labels[:, 1:] != -100

    def chunks(self, logits: Tensor) -> Iterator[tuple[tuple[Tensor, Tensor], Tensor]]:
        """Pairs of an index into the logits, giving [n, vocabulary], and the [n] tokens that follow."""
        rows, positions = self.scored.nonzero(as_tuple=True)
        targets = self.labels[rows, positions + 1]
        size = max(1, CHUNK_LOGITS // logits.shape[-1])
        for part in zip(rows.split(size), positions.split(size), targets.split(size), strict=True):
            yield (part[0], part[1]), part[2]

    def scatter(self, values: Tensor, out: list[Tensor]) -> None:
        """Give each document its part of ``values``, which holds the batch's scored positions row by row."""
        parts = values.cpu().split(self.scored.sum(dim=1).tolist())
        for row, part in zip(self.rows, parts, strict=True):
            out[row] = part.clone()


def _batches(model: nn.Module, dataset: Dataset, batch_size: int) -> Iterator[_Batch]:
    """Rows of similar length together, longest first, so that memory runs out at once or never."""
    device = next(model.parameters()).device
    vocabulary = model.get_output_embeddings().weight.shape[0]  # type: ignore[operator]
    columns = [
        (torch.tensor(ids), torch.tensor(labels))
        for ids, labels in zip(dataset["input_ids"], dataset["labels"], strict=True)
    ]
    # The first token is never predicted; a row with no other supervised token would only cost time.
    order = sorted(
        (row for row, (_, labels) in enumerate(columns) if (labels[1:] != -100).any()),
        key=lambda row: -len(columns[row][0]),
    )
    start = 0
    while start < len(order):
        longest = len(columns[order[start]][0])
        rows = order[start : start + max(1, min(batch_size, BATCH_LOGITS // (longest * vocabulary)))]
        start += len(rows)
        input_ids = torch.zeros(len(rows), longest, dtype=torch.long)
        labels = torch.full_like(input_ids, -100)
        mask = torch.zeros_like(input_ids)
        for place, row in enumerate(rows):
            ids, targets = columns[row]
            input_ids[place, : len(ids)] = ids
            labels[place, : len(ids)] = targets
            mask[place, : len(ids)] = 1
        yield _Batch(rows, input_ids.to(device), mask.to(device), labels.to(device))


def _log_probs(logits: Tensor, name: str) -> Tensor:
    if not logits.isfinite().all():
        raise ExcitorError(
            f"The {name} gives logits that are not finite numbers, so nothing can be measured. "
            "Training may have diverged (try a smaller learning rate), or the precision is too low (try fp32)."
        )
    return logits.float().log_softmax(dim=-1)


def _cross_entropy(log_probs: Tensor, target: Tensor) -> Tensor:
    return -log_probs.gather(-1, target[:, None]).squeeze(-1)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
