"""The term on the keys of tokens that see pictures: as :mod:`excitor.folded`, with prompts of each row besides."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .folded import Folded, prompt_scores, row_weights
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


def folded_term_seeing(z: Tensor, folded: Folded, pictures: FoldedPictures) -> Tensor:
    """The gated term on the keys, ``g K_e``, of tokens that attend to learnable and to visual prompts.

    Args:
        z: Low-rank features, ``(B, M, r)``, in the dtype of ``folded``.
        folded: The learnable prompts; there may be none.
        pictures: The visual ones.

    Returns:
        ``(B, M, G * d)``.
    """
    batch, length, _ = z.shape
    heads, count = pictures.values.shape[1:3]
    flat = z.flatten(0, 1)
    learnable, _ = prompt_scores(flat, folded)
    seen = torch.bmm(z, pictures.scores).view(batch, length, heads, count)
    if pictures.mask is not None:
        seen = seen.masked_fill(~pictures.mask[:, None, None], torch.finfo(seen.dtype).min)
    weights = torch.cat([seen.flatten(0, 1), *learnable], -1).softmax(-1)
    own, others = weights[..., :count].view(batch, length, heads, count), weights[..., count:]
    if pictures.mask is not None:
        own = own * pictures.mask[:, None, None]  # where all are masked, nothing else may take all the weight
    term = (own.transpose(1, 2) @ pictures.values).transpose(1, 2).flatten(2)
    if not folded.values.shape[1]:
        return term
    rows = row_weights(flat, others, folded)
    return term + torch.bmm(rows.transpose(0, 1), folded.values).transpose(0, 1).reshape(batch, length, -1)
