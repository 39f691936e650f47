"""The preservation losses as functions of tensors and models."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from excitor.layer import excitor_layers
from excitor.placement import Placement


def kl_to_base(base_logits: Tensor, logits: Tensor, mask: Tensor) -> Tensor:
    """Mean of KL(base || adapted) over the positions in ``mask``, in nats.

    On text that the base wrote itself at temperature 1 this is, on average, the rise of its cross-entropy.

    Args:
        base_logits: ``(B, T, V)``, without gradient.
        logits: ``(B, T, V)``.
        mask: ``(B, T)``, bool; with no position at all the loss is 0.

    Returns:
        A scalar in fp32.
    """
    base = base_logits[mask].float().log_softmax(-1)
    own = logits[mask].float().log_softmax(-1)
    return F.kl_div(own, base, reduction="sum", log_target=True) / mask.sum().clamp(min=1)


def relative_size(changes: Sequence[Tensor], references: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Mean over layers and tokens of ``|change| / |reference|``.

    References count as constants: a loss on this must not be lowered by blowing them up.

    Args:
        changes: ``(B, T, C)`` for each layer.
        references: ``(B, T, C)`` for each layer.
        mask: ``(B, T)``, bool: the tokens that count.

    Returns:
        A scalar in fp32.
    """
    ratios = [
        change[mask].float().norm(dim=-1) / reference.detach()[mask].float().norm(dim=-1)
        for change, reference in zip(changes, references, strict=True)
    ]
    return torch.stack(ratios).mean()


def gate_size(model: nn.Module) -> Tensor:
    """Mean |g| over the gates of a model's active Excitor adapters: a scalar.

    Raises:
        ExcitorError: The model carries no Excitor adapter.
    """
    gates = [
        layer.parts(name)[1].gates()
        for layer in excitor_layers(model).values()
        for name in layer.active_adapters
        if name in layer.excitor_processor
    ]
    return torch.cat(gates).abs().mean()


@contextmanager
def recorded_keys(model: nn.Module) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Collects the keys of the forward passes inside the block, where the terms enter: ``K``, and ``K + g K_e``.

    After the block each list holds ``(B, T, G * d)`` per adapted layer. Inside it nothing is computed on them: with
    activation checkpointing, what is computed inside a layer has to be computed again in the same way, by then without
    the recording.

    Raises:
        ExcitorError: The model carries no Excitor adapter.
    """
    seen: list[tuple[Placement, Tensor, Tensor]] = []
    placements = [layer.placement for layer in excitor_layers(model).values()]
    plain: list[Tensor] = []
    excited: list[Tensor] = []
    for placement in placements:
        placement.watch = partial(_append, seen, placement)
    try:
        yield plain, excited
    finally:
        for placement in placements:
            placement.watch = None
    for placement, before, after in seen:
        for keys, tensor in ((plain, before), (excited, after)):
            keys.append(placement.key(tensor).flatten(1, -2))  # some latents have one head: (B, 1, T, G * d)


def _append(seen: list[tuple[Placement, Tensor, Tensor]], placement: Placement, before: Tensor, after: Tensor) -> None:
    seen.append((placement, before, after))
