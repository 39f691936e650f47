"""Where the attention of one head moved from and to, token by token."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor

from excitor.diagnostics.attention import Observation, active_layers, attention_of, measurable, observe
from excitor.diagnostics.measure import check_documents
from excitor.errors import ExcitorError


@dataclass(frozen=True)
class Move:
    """Attention that a token took from one token and gave to another; positions in the document.

    Attributes:
        at: The token that attends.
        source: The one that lost most of its attention.
        target: The one that gained most.
        amount: The smaller of loss and gain, at most the total variation of the row.
    """

    at: int
    source: int
    target: int
    amount: float


@dataclass(frozen=True)
class AttentionMap:
    """Attention of one head over one document of M tokens.

    Attributes:
        layer: Index of the layer in the model.
        head: Query head.
        before: Without the adapter in this layer, ``(M, M)``, rows over the attended tokens.
        after: With it.
    """

    layer: int
    head: int
    before: Tensor
    after: Tensor

    @property
    def change(self) -> Tensor:
        """``after - before``; each row sums to 0."""
        return self.after - self.before

    def largest_moves(self, count: int) -> list[Move]:
        """The largest move of each row, the largest ones first; rows that did not move are left out."""
        loss, source = self.change.min(-1)
        gain, target = self.change.max(-1)
        amount = torch.minimum(-loss, gain)
        rows = amount.argsort(descending=True, stable=True)[:count].tolist()
        return [Move(row, int(source[row]), int(target[row]), amount[row].item()) for row in rows if amount[row] > 0]


def attention_map(model: PeftModel, ids: Sequence[int], layer: int, head: int) -> AttentionMap:
    """Attention of a head with and without the active adapter's term in its layer, on the same input.

    Args:
        model: As for :func:`excitor.diagnostics.measure.measure`.
        ids: The document.
        layer: Index of the layer in the model.
        head: Query head.

    Raises:
        ExcitorError: The layer is not adapted, it has no such head, or as for ``measure``.
    """
    check_place(model, layer, head)
    check_documents(model, [ids])
    seen: list[AttentionMap] = []

    def see(observation: Observation) -> None:
        if attention_of(model, observation.name).layer_idx == layer:
            seen.append(AttentionMap(layer, head, observation.before[head].cpu(), observation.after[head].cpu()))

    with measurable(model):
        observe(model, ids, see)
    return seen[0]


def check_place(model: PeftModel, layer: int | None, head: int | None) -> None:
    """Refuse a layer that is not adapted, or a query head that is not there; None is any.

    Raises:
        ExcitorError: The message says which ones there are.
    """
    adapted = [attention_of(model, name).layer_idx for name in active_layers(model)]
    if layer is not None and layer not in adapted:
        raise ExcitorError(f"Layer {layer} is not adapted; the adapted layers are {', '.join(map(str, adapted))}.")
    heads = model.config.get_text_config().num_attention_heads
    if head is not None and not 0 <= head < heads:
        raise ExcitorError(f"There is no query head {head}; the model has 0 to {heads - 1}.")
