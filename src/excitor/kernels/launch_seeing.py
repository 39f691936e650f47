"""Runs the kernels of :mod:`.seeing` on tensors."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..folded import Folded
from ..folded_pictures import FoldedPictures
from .launch import block_of_tokens, programs
from .seeing import forward_kernel, picture_backward_kernel, token_backward_kernel
from .support import tile


# Type checkers take kernels for the functions they were made of, which nobody calls.
_FORWARD, _OF_TOKENS, _OF_PICTURES = (
    cast(Any, kernel) for kernel in (forward_kernel, token_backward_kernel, picture_backward_kernel)
)


def term_seeing(z: Tensor, folded: Folded, pictures: FoldedPictures, dtype: torch.dtype) -> Tensor:
    """:func:`excitor.folded_pictures.folded_term_seeing` in one kernel forward and two backward.

    Kept for the backward pass are the arguments, the result and a number a token and head. A second differentiation
    raises ``RuntimeError``.

    Args:
        z: ``(B, M, r)``, fp32, as all tensors here.
        folded: The learnable prompts; there may be none.
        pictures: The visual ones.
        dtype: Of the layer's input: products are exact where it is fp32, as in :mod:`.launch`.

    Returns:
        ``(B, M, G * d)``, fp32.
    """
    mask = None if pictures.mask is None else pictures.mask.to(z.device, torch.uint8)
    return cast(Tensor, _Seeing.apply(z, *folded[:3], *pictures[:2], mask, folded[3:], dtype))


class _Seeing(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        scores: Tensor,
        values: Tensor,
        null_bias: Tensor | None,
        seen_scores: Tensor,
        seen_values: Tensor,
        seen_mask: Tensor | None,
        counts: tuple[int, int],
        dtype: torch.dtype,
    ) -> Tensor:
        heads, _, head_dim = values.shape
        given = [
            None if t is None else t.contiguous() for t in (z, scores, values, null_bias, seen_scores, seen_values)
        ]
        out = torch.empty(*z.shape[:2], heads * head_dim, dtype=z.dtype, device=z.device)
        lse = torch.empty(*z.shape[:2], heads, dtype=z.dtype, device=z.device)
        if out.numel():
            blocks, sizes = _sizes(z, Folded(scores, values, null_bias, *counts), seen_mask, dtype)
            with torch.cuda.device_of(z):  # Triton launches on the current device
                _FORWARD[(blocks * heads,)](
                    out, lse, *_pointers(*given, seen_mask), z.shape[1], seen_values.shape[2], **sizes
                )
        ctx.save_for_backward(*given, seen_mask, out, lse)
        ctx.counts, ctx.dtype = counts, dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *given, seen_mask, out, lse = ctx.saved_tensors
        z, scores, values, null_bias, seen_scores, seen_values = given
        needed = ctx.needs_input_grad[:6]
        heads, _, head_dim = values.shape
        if not out.numel():
            return *(None if t is None else torch.zeros_like(t) for t in given), None, None, None
        grad = grad.to(z.dtype).contiguous()
        mean = (grad * out).view(*lse.shape, head_dim).sum(-1)
        blocks, sizes = _sizes(z, Folded(scores, values, null_bias, *ctx.counts), seen_mask, ctx.dtype)
        length, count = z.shape[1], seen_values.shape[2]
        pictures = _pointers(seen_scores, seen_values, seen_mask)
        found: list[Tensor | None] = [None] * 6
        with torch.cuda.device_of(z):
            if any(needed[:4]):
                chunks = min(blocks, max(1, programs(z.device) // heads))
                shares = [z.new_empty(heads, *z.shape), *(z.new_empty(chunks, *t.shape) for t in (scores, values))]
                null_share = None if null_bias is None else z.new_empty(chunks, heads)
                _OF_TOKENS[(chunks * heads,)](
                    *(grad, lse, mean, *_pointers(*given[:4]), *pictures, *_pointers(*shares, null_share)),
                    *(len(z) * length, length, count, blocks, chunks),
                    **sizes,
                )
                found[:4] = [None if share is None else share.sum(0) for share in (*shares, null_share)]
            if any(needed[4:]) and count:
                found[4:] = torch.empty_like(seen_scores), torch.empty_like(seen_values)
                tiles = -(-count // cast(int, sizes["V"]))
                for name in ("PROMPTS", "LOCAL", "NULL", "J"):
                    sizes.pop(name)
                _OF_PICTURES[(len(z) * tiles * heads,)](
                    grad, lse, mean, z, *pictures, *found[4:], length, count, **sizes
                )
        return *(share if need else None for need, share in zip(needed, found, strict=True)), None, None, None


def _pointers(first: Tensor, *others: Tensor | None) -> tuple[Tensor, ...]:
    """All of them; the first in place of those that are not there, and are not read."""
    return first, *(first if tensor is None else tensor for tensor in others)


def _sizes(z: Tensor, folded: Folded, seen_mask: Tensor | None, dtype: torch.dtype) -> tuple[int, dict[str, object]]:
    """Number of blocks of tokens, and compile-time constants of the kernels."""
    heads, _, head_dim = folded.values.shape
    ranks, rows, features = tile(folded)
    tokens, precision = block_of_tokens(z.shape[1], dtype)
    return len(z) * -(-z.shape[1] // tokens), {
        "HEADS": heads,
        "PROMPTS": folded.num_prompts,
        "LOCAL": folded.num_local_prompts,
        "RANK": z.shape[2],
        "HEAD_DIM": head_dim,
        "NULL": folded.null_bias is not None,
        "MASK": seen_mask is not None,
        "T": tokens,
        "R": ranks,
        "J": rows,
        "D": features,
        "V": 32 if features > 64 else 64,
        "PRECISION": precision,
        "num_warps": 4,
    }
