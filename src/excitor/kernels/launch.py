"""Runs the kernels of :mod:`.term` on tensors."""

from typing import Any, cast

import torch
import triton.language as tl
from torch import Tensor

from ..folded import Folded
from .support import interpreted, tile
from .term import backward_kernel, forward_kernel


# Type checkers take kernels for the functions they were made of, which nobody calls.
_FORWARD, _BACKWARD = cast(Any, forward_kernel), cast(Any, backward_kernel)
_OPERANDS = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def excited(z: Tensor, folded: Folded, key: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The key with the gated term added in its own dtype, or the term alone; in one kernel.

    Args:
        z: Low-rank features of N tokens, ``(N, r)``, fp32.
        folded: From :func:`excitor.folded.fold`, fp32.
        key: ``(N, G * d)`` in ``dtype``; None for the term alone.
        dtype: Of the result, fp32, bf16 or fp16.

    Returns:
        ``(N, G * d)``.
    """
    heads, _, head_dim = folded.values.shape
    out = torch.empty(len(z), heads * head_dim, dtype=dtype, device=z.device)
    if not len(z):
        return out
    tokens, constants = sizes(len(z), folded, dtype)
    with torch.cuda.device_of(z):  # Triton launches on the current device
        _FORWARD[(blocks(len(z), tokens) * heads,)](
            out,
            out if key is None else key.contiguous(),
            *inputs(z, folded),
            len(z),
            ADD=key is not None,
            **constants,
        )
    return out


def gradients(needed: tuple[bool, ...], z: Tensor, folded: Folded, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of z and of the three tensors of ``folded``, from z and the gradient of the term.

    One kernel writes the shares of heads and of chunks of tokens, which are then added up in a fixed order.

    Args:
        needed: Of which of the four; None stands for the others.
        z: As in :func:`excited`.
        folded: As in :func:`excited`.
        grad: ``(N, G * d)``, fp32, bf16 or fp16.
    """
    heads = len(folded.values)
    if not len(z):
        shares = z, *(None if t is None else torch.zeros_like(t) for t in folded[:3])
        return tuple(share if need else None for need, share in zip(needed, shares, strict=True))
    tokens, constants = sizes(len(z), folded, grad.dtype)
    chunks = min(blocks(len(z), tokens), max(1, programs(z.device) // heads))
    z_grad = z.new_empty(heads, *z.shape)
    scores_grad = z.new_empty(chunks, *folded.scores.shape)
    values_grad = z.new_empty(chunks, *folded.values.shape)
    null_grad = None if folded.null_bias is None else z.new_empty(chunks, heads)
    with torch.cuda.device_of(z):
        _BACKWARD[(chunks * heads,)](
            grad.contiguous(),
            *inputs(z, folded),
            z_grad,
            scores_grad,
            values_grad,
            z_grad if null_grad is None else null_grad,
            len(z),
            chunks,
            **constants,
        )
    shares = z_grad, scores_grad, values_grad, null_grad
    return tuple(
        share.sum(0) if need and share is not None else None for need, share in zip(needed, shares, strict=True)
    )


def inputs(z: Tensor, folded: Folded) -> tuple[Tensor, ...]:
    """What all kernels begin with: z and the tensors of ``folded``."""
    tensors = z, *folded[:3]
    return tuple(z if tensor is None else tensor.contiguous() for tensor in tensors)  # z: a pointer that is not read


def sizes(length: int, folded: Folded, dtype: torch.dtype) -> tuple[int, dict[str, object]]:
    """Tokens of a block, of ``length`` at hand, and compile-time constants of all kernels."""
    heads, _, head_dim = folded.values.shape
    ranks, rows, features = tile(folded)
    # Scores of half-precision keys may be rounded to 10 bits: 7 or 10 are left of the key in the end.
    exact = dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    tokens = 16 if exact or length <= 16 else 64  # exact products are made in registers, which hold no more
    return tokens, {
        "HEADS": heads,
        "PROMPTS": folded.num_prompts,
        "LOCAL": folded.num_local_prompts,
        "RANK": len(folded.scores),
        "HEAD_DIM": head_dim,
        "NULL": folded.null_bias is not None,
        "T": tokens,
        "R": ranks,
        "J": rows,
        "D": features,
        "PRECISION": "ieee" if exact or torch.version.hip else "tf32",
        "OPERAND": tl.float32 if interpreted() else _OPERANDS[dtype],
        "num_warps": 4,
    }


def blocks(length: int, tokens: int) -> int:
    """Blocks that cover ``length``."""
    return -(-length // tokens)


def programs(device: torch.device) -> int:
    """How many programs keep the device busy: two per multiprocessor."""
    if device.type != "cuda":
        return 4
    return 2 * torch.cuda.get_device_properties(device).multi_processor_count
