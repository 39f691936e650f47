"""Runs the kernels of :mod:`.seeing` on tensors."""

from typing import Any, cast

import torch
from torch import Tensor

from ..folded import Folded
from ..folded_pictures import FoldedPictures
from .launch import blocks, inputs, programs, sizes
from .seeing import backward_kernel, forward_kernel, visual_backward_kernel
from .support import visual_tile


_FORWARD, _BACKWARD = cast(Any, forward_kernel), cast(Any, backward_kernel)
_VISUAL_BACKWARD = cast(Any, visual_backward_kernel)
_OF_VISUAL_PROMPTS = ("HEADS", "RANK", "HEAD_DIM", "MASK", "T", "R", "D", "V", "PRECISION", "OPERAND", "num_warps")


def excited(
    z: Tensor, folded: Folded, pictures: FoldedPictures, key: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The key with the gated term added in its own dtype, or the term alone; in one kernel.

    Args:
        z: Low-rank features, ``(B, M, r)``, fp32.
        folded: The learnable prompts, fp32; there may be none.
        pictures: The visual ones, fp32.
        key: ``(B, M, G * d)`` in ``dtype``; None for the term alone.
        dtype: Of the result, fp32, bf16 or fp16.

    Returns:
        ``(B, M, G * d)``, and what :func:`gradients` needs, ``(G, B * M)`` in fp32.
    """
    batch, length, _ = z.shape
    heads, _, head_dim = folded.values.shape
    out = torch.empty(batch, length, heads * head_dim, dtype=dtype, device=z.device)
    denominator = z.new_empty(heads, batch * length)
    if not batch * length:
        return out, denominator
    tokens, constants = _sizes(length, folded, pictures, dtype)
    with torch.cuda.device_of(z):
        _FORWARD[(batch * blocks(length, tokens) * heads,)](
            out,
            denominator,
            out if key is None else key.contiguous(),
            *inputs(z, folded),
            *_visual_inputs(pictures),
            length,
            pictures.values.shape[2],
            batch * length,
            ADD=key is not None,
            **constants,
        )
    return out, denominator


def gradients(
    z: Tensor, folded: Folded, pictures: FoldedPictures, term: Tensor, denominator: Tensor, grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of z, of the three tensors of ``folded`` and of scores and values of ``pictures``.

    A kernel goes over the tokens and writes the shares of heads and of chunks of tokens, which are then added up in a
    fixed order; another goes over the visual prompts, each of which belongs to one program.

    Args:
        z: As in :func:`excited`.
        folded: As in :func:`excited`.
        pictures: As in :func:`excited`.
        term: From :func:`excited`, without a key.
        denominator: From :func:`excited`.
        grad: ``(B, M, G * d)`` in the dtype of the term.
    """
    batch, length, _ = z.shape
    heads, count = pictures.values.shape[1:3]
    if not batch * length:
        tensors = z, *folded[:3], *pictures[:2]
        return tuple(None if t is None else torch.zeros_like(t) for t in tensors)
    tokens, constants = _sizes(length, folded, pictures, grad.dtype)
    num_blocks = batch * blocks(length, tokens)
    chunks = min(num_blocks, max(1, programs(z.device) // heads))
    grad, visual = grad.contiguous(), _visual_inputs(pictures)
    mean = torch.empty_like(denominator)
    z_grad = z.new_empty(heads, *z.shape)
    scores_grad = z.new_empty(chunks, *folded.scores.shape)
    values_grad = z.new_empty(chunks, *folded.values.shape)
    null_grad = None if folded.null_bias is None else z.new_empty(chunks, heads)
    visual_scores_grad, visual_values_grad = torch.empty_like(visual[0]), torch.empty_like(visual[1])
    with torch.cuda.device_of(z):
        _BACKWARD[(chunks * heads,)](
            grad,
            term.contiguous(),
            denominator,
            *inputs(z, folded),
            *visual,
            mean,
            z_grad,
            scores_grad,
            values_grad,
            z_grad if null_grad is None else null_grad,
            length,
            count,
            batch * length,
            num_blocks,
            chunks,
            **constants,
        )
        if count:
            num_tiles = blocks(count, cast(int, constants["V"]))
            _VISUAL_BACKWARD[(batch * num_tiles * heads,)](
                grad,
                mean,
                denominator,
                z.contiguous(),
                *visual,
                visual_scores_grad,
                visual_values_grad,
                length,
                count,
                batch * length,
                num_tiles,
                **{name: constants[name] for name in _OF_VISUAL_PROMPTS},
            )
    shares = z_grad, scores_grad, values_grad, null_grad
    return *(None if share is None else share.sum(0) for share in shares), visual_scores_grad, visual_values_grad


def _visual_inputs(pictures: FoldedPictures) -> tuple[Tensor, ...]:
    scores, values = pictures.scores.contiguous(), pictures.values.contiguous()
    if pictures.mask is None:
        return scores, values, scores  # a pointer that is not read
    return scores, values, pictures.mask.contiguous().view(torch.uint8)


def _sizes(length: int, folded: Folded, pictures: FoldedPictures, dtype: torch.dtype) -> tuple[int, dict[str, object]]:
    """Tokens of a block, and compile-time constants."""
    tokens, constants = sizes(length, folded, dtype)
    return tokens, constants | {"MASK": pictures.mask is not None, "V": visual_tile(folded)}
