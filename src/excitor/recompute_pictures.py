"""The term on the keys of tokens that see pictures, as :mod:`excitor.recompute` has it for those that see none."""

from typing import Any, cast

import torch
from torch import Tensor

from .folded import Folded
from .folded_pictures import FoldedPictures, folded_term_seeing
from .precision import autocast_dtype, without_autocast
from .recompute import FOLDED, Backend


def adapter_term_seeing(
    x: Tensor,
    a: Tensor,
    folded: Folded,
    pictures: FoldedPictures,
    key: Tensor | None,
    dtype: torch.dtype,
    backend: Backend = FOLDED,
) -> Tensor:
    """The gated term on the keys of a layer's input, or where no gradients flow the key with it.

    Where they flow, what is kept for them includes the visual prompts, and with plain operations the attention of each
    token over them: to be run within a checkpoint. A second differentiation goes by autograd's own formulas.

    Args:
        x: ``(B, ..., C)``.
        a: Down projection, ``(C, r)``.
        folded: The learnable prompts.
        pictures: The visual prompts of each row.
        key: ``(B, ..., G * d)`` in ``dtype``; None for the term alone.
        dtype: Of the result.
        backend: Computes it.

    Returns:
        ``(B, ..., G * d)``.
    """
    product = autocast_dtype(x.device) or a.dtype
    with without_autocast(x.device):
        z = (x.flatten(1, -2).to(product) @ a.to(product)).to(folded.values.dtype)
        tensors = z, *folded[:3], *pictures
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            out = cast(Tensor, _Seen.apply(*tensors, folded[3:], dtype, backend))
        else:
            out, _ = backend.seeing(z, folded, pictures, None if key is None else key.flatten(1, -2), dtype)
    return out.view(*x.shape[:-1], out.shape[-1])


class _Seen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, counts, dtype, backend = arguments
        term, kept = backend.seeing(*_parts(tensors, counts), None, dtype)
        ctx.save_for_backward(*tensors, term, kept)
        ctx.counts, ctx.backend = counts, backend
        return term

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, term, kept = ctx.saved_tensors
        parts = _parts(tensors, ctx.counts)
        needed = ctx.needs_input_grad[:6]
        with without_autocast(grad.device):
            if torch.is_grad_enabled():  # someone will differentiate again
                term, _ = folded_term_seeing(*parts)
                wanted = [tensor for tensor, need in zip(tensors, needed, strict=False) if need]
                found = torch.autograd.grad(term, wanted, grad.to(term.dtype), create_graph=True, allow_unused=True)
                own = iter(found)
                gradients = [next(own) if need else None for need in needed]
            else:
                made = ctx.backend.seeing_gradients(*parts, term, kept, grad)
                gradients = [gradient if need else None for gradient, need in zip(made, needed, strict=True)]
        return *gradients, None, None, None, None


def _parts(tensors: list[Any], counts: tuple[int, int]) -> tuple[Tensor, Folded, FoldedPictures]:
    z, scores, values, null_bias, *pictures = tensors
    return z, Folded(scores, values, null_bias, *counts), FoldedPictures(*pictures)
