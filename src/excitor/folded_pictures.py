"""The term on the keys of tokens that see pictures: as :mod:`excitor.folded`, with prompts of each row besides."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .folded import Folded, prompt_scores, row_weights, weighed_gradients
from .functional import Prompts, split_heads


class FoldedPictures(NamedTuple):
    """What the visual prompts of one layer come to, in fp32 or better.

    ``scores`` is ``(B, r, G * T)``, scaled by ``1 / (sqrt(d) T')`` with the temperature T'; ``values`` is
    ``(B, G, T, d)`` with the gates in it; ``mask`` is ``(B, T)``, False where no prompt is, None if all are there.
    """

    scores: Tensor
    values: Tensor
    mask: Tensor | None


def fold_pictures(b: Tensor, prompts: Prompts, gate: Tensor | None, *, temperature: float) -> FoldedPictures:
    """Multiply out what is the same for every token of a row.

    Args:
        b: Up projection of the excitor query, ``(r, G * d)``.
        prompts: Keys and values ``(B, 1, T, G, d)``, mask ``(B, 1, T)``.
        gate: ``(G,)`` or ``(1,)``; None for 1.
        temperature: Of the softmax.
    """
    # (B, G, T, d); autocast may have made them in a lower precision than B has.
    keys, values = (made[:, 0].transpose(1, 2).to(b.dtype) for made in prompts[:2])
    up = split_heads(b, keys.shape[1]).transpose(0, 1)  # (G, r, d)
    scores = up @ keys.transpose(2, 3) / (temperature * math.sqrt(keys.shape[-1]))  # (B, G, r, T)
    if gate is not None:
        values = gate[:, None, None] * values
    exact = torch.promote_types(b.dtype, torch.float32)
    return FoldedPictures(
        scores.to(exact).transpose(1, 2).flatten(2),
        values.to(exact).contiguous(),
        None if prompts.mask is None else prompts.mask[:, 0],
    )


def folded_term_seeing(z: Tensor, folded: Folded, pictures: FoldedPictures) -> tuple[Tensor, Tensor]:
    """The gated term on the keys, ``g K_e``, of tokens that attend to learnable and to visual prompts.

    Args:
        z: Low-rank features, ``(B, M, r)``, in the dtype of ``folded``.
        folded: The learnable prompts; there may be none.
        pictures: The visual ones.

    Returns:
        ``(B, M, G * d)``, and attention over visual prompts, learnable ones and the null prompt, ``(B, G, M, ...)``.
    """
    batch, length, _ = z.shape
    count, flat = pictures.values.shape[2], z.flatten(0, 1)
    seen = z[:, None] @ _by_head(pictures)
    if pictures.mask is not None:
        seen = seen.masked_fill(~pictures.mask[:, None, None], torch.finfo(seen.dtype).min)
    learnable = [scores.view(batch, length, *scores.shape[1:]) for scores in prompt_scores(flat, folded)[0]]
    weights = torch.cat([seen, *(scores.transpose(1, 2) for scores in learnable)], -1).softmax(-1)
    if pictures.mask is not None:  # where all are masked, nothing else may take all the weight
        weights = weights * nn.functional.pad(pictures.mask, (0, weights.shape[-1] - count), value=True)[:, None, None]
    term = (weights[..., :count] @ pictures.values).transpose(1, 2).flatten(2)
    if folded.values.shape[1]:
        rows = row_weights(flat, _by_token(weights[..., count:]), folded)
        term = term + torch.bmm(rows.transpose(0, 1), folded.values).transpose(0, 1).reshape(term.shape)
    return term, weights


def folded_gradients_seeing(
    z: Tensor, folded: Folded, pictures: FoldedPictures, term: Tensor, weights: Tensor, grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of z, of the three tensors of ``folded`` and of scores and values of ``pictures``.

    Args:
        z: As in :func:`folded_term_seeing`.
        folded: As in :func:`folded_term_seeing`.
        pictures: As in :func:`folded_term_seeing`.
        term: From :func:`folded_term_seeing`, of any floating dtype.
        weights: From :func:`folded_term_seeing`.
        grad: ``(B, M, G * d)``, of any floating dtype.
    """
    heads, count = pictures.values.shape[1:3]
    grad = grad.to(z.dtype)
    by_head = split_heads(grad, heads).transpose(1, 2)  # (B, G, M, d)
    mean = split_heads(grad * term, heads).sum(-1)  # (B, M, G)
    own = weights[..., :count]
    values_grad = own.transpose(2, 3) @ by_head
    own_grad = own * (by_head @ pictures.values.transpose(2, 3) - mean.transpose(1, 2)[..., None])
    scores_grad = (z[:, None].transpose(2, 3) @ own_grad).transpose(1, 2).flatten(2)
    z_grad = (own_grad @ _by_head(pictures).transpose(2, 3)).sum(1)
    needed, flat = (True, True, True, folded.null_bias is not None), z.flatten(0, 1)
    found: tuple[Tensor | None, ...] = (None, torch.zeros_like(folded.scores), torch.zeros_like(folded.values), None)
    if weights.shape[-1] > count:
        others, (_, local) = _by_token(weights[..., count:]), prompt_scores(flat, folded)
        found = weighed_gradients(needed, flat, folded, grad.flatten(0, 1), others, local, mean.flatten(0, 1))
    if found[0] is not None:
        z_grad = z_grad + found[0].view(z.shape)
    return z_grad, *found[1:], scores_grad, values_grad


def _by_head(pictures: FoldedPictures) -> Tensor:
    """The scores as ``(B, G, r, T)``."""
    return pictures.scores.unflatten(2, pictures.values.shape[1:3]).transpose(1, 2)


def _by_token(weights: Tensor) -> Tensor:
    """``(B, G, M, ...)`` as ``(B * M, G, ...)``."""
    return weights.transpose(1, 2).flatten(0, 1)
