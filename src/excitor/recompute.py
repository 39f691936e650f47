"""The term on the keys for training: keeps the layer's input and its low-rank features alone, computes the rest again.

Autograd by itself would keep for every token and layer the scores, the weights and what they are multiplied by, many
times the ``r`` numbers of ``z = x A`` from which all of it can be made again at little cost.
"""

from typing import Any, cast

import torch
from torch import Tensor

from .folded import Folded, folded_term, prompt_weights, row_weights, split_prompts, split_rows
from .folded_pictures import FoldedPictures, folded_term_seeing
from .precision import autocast_dtype, without_autocast


def adapter_term(x: Tensor, a: Tensor, folded: Folded) -> Tensor:
    """The gated term on the keys of a layer's input.

    The product with A runs in A's dtype, or in that of autocast; all that follows in the dtype of ``folded``. Where
    gradients flow, the tensors kept for them are x, z and the arguments. A second differentiation works too, by way of
    autograd's own formulas, which keep more.

    Args:
        x: ``(..., C)``.
        a: Down projection, ``(C, r)``.
        folded: From :func:`excitor.folded.fold`.

    Returns:
        ``(..., G * d)`` in A's dtype.
    """
    dtype = autocast_dtype(x.device) or a.dtype
    tensors = folded.scores, folded.values, folded.null_bias
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, a, *tensors)):
        return cast(Tensor, _Recomputed.apply(x, a, *tensors, folded[3:], dtype))
    with without_autocast(x.device):
        return _term(x, a, folded, dtype)[0]


def adapter_term_seeing(x: Tensor, a: Tensor, folded: Folded, pictures: FoldedPictures) -> Tensor:
    """The same for tokens that see pictures, without gradients.

    Args:
        x: ``(B, M, C)``.
        a: As above.
        folded: As above.
        pictures: The visual prompts of each row.

    Returns:
        ``(B, M, G * d)`` in A's dtype.
    """
    dtype = autocast_dtype(x.device) or a.dtype
    with without_autocast(x.device):
        z = (x.to(dtype) @ a.to(dtype)).to(folded.values.dtype)
        return folded_term_seeing(z, folded, pictures).to(a.dtype)


def _term(x: Tensor, a: Tensor, folded: Folded, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The term, and ``z``, ``(N, r)``."""
    z = (x.reshape(-1, x.shape[-1]).to(dtype) @ a.to(dtype)).to(folded.values.dtype)
    term = folded_term(z, folded)
    return term.view(*x.shape[:-1], term.shape[-1]).to(a.dtype), z


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        a: Tensor,
        scores: Tensor,
        values: Tensor,
        null_bias: Tensor | None,
        counts: tuple[int, int],
        dtype: torch.dtype,
    ) -> Tensor:
        with without_autocast(x.device):
            term, z = _term(x, a, Folded(scores, values, null_bias, *counts), dtype)
        ctx.save_for_backward(x, a, z, scores, values, null_bias)
        ctx.counts, ctx.dtype = counts, dtype
        return term

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, a, z, scores, values, null_bias = ctx.saved_tensors
        folded = Folded(scores, values, null_bias, *ctx.counts)
        with without_autocast(x.device):
            if torch.is_grad_enabled():  # someone will differentiate again
                found = _autograd(ctx.needs_input_grad, x, a, folded, grad, ctx.dtype)
            else:
                found = _gradients(ctx.needs_input_grad, x, a, z, folded, grad, ctx.dtype)
        return *found, None, None


def _gradients(
    needed: tuple[bool, ...], x: Tensor, a: Tensor, z: Tensor, folded: Folded, grad: Tensor, dtype: torch.dtype
) -> tuple[Tensor | None, ...]:
    """Gradients of x, a and the three tensors of ``folded``."""
    heads, _, head_dim = folded.values.shape
    grad = grad.reshape(-1, heads, head_dim).to(z.dtype).transpose(0, 1)  # (G, N, d)
    weights, local = prompt_weights(z, folded)
    values_grad = row_weights(z, weights, folded).permute(1, 2, 0) @ grad if needed[3] else None
    rows_grad, local_rows_grad = split_rows((grad @ folded.values.transpose(1, 2)).transpose(0, 1), z, folded)
    weights_grads = [rows_grad]
    if local_rows_grad is not None:
        weights_grads.append((local_rows_grad * z[:, None, None]).sum(-1))
    if folded.null_bias is not None:
        weights_grads.append(rows_grad.new_zeros(*rows_grad.shape[:2], 1))
    moved = weights * torch.cat(weights_grads, -1)
    prompts_grad = moved - weights * moved.sum(-1, keepdim=True)  # behind the softmax
    scores_grad, local_grad, null_grad = split_prompts(prompts_grad, folded)
    z_grad: Tensor | float = 0.0
    if local is not None and local_rows_grad is not None:
        _, local_weights, _ = split_prompts(weights, folded)
        z_grad = (local_weights[..., None] * local_rows_grad + local_grad[..., None] * local).sum((1, 2))
        scores_grad = torch.cat([scores_grad, (local_grad[..., None] * z[:, None, None]).flatten(2)], -1)
    scores_grad = scores_grad.flatten(1)
    z_grad = (scores_grad @ folded.scores.T + z_grad).to(dtype)
    return (
        (z_grad @ a.to(dtype).T).view(x.shape).to(x.dtype) if needed[0] else None,
        (x.reshape(-1, x.shape[-1]).to(dtype).T @ z_grad).to(a.dtype) if needed[1] else None,
        z.T @ scores_grad if needed[2] else None,
        values_grad,
        null_grad.sum((0, 2)) if needed[4] else None,
    )


def _autograd(
    needed: tuple[bool, ...], x: Tensor, a: Tensor, folded: Folded, grad: Tensor, dtype: torch.dtype
) -> tuple[Tensor | None, ...]:
    """The same by autograd, so that the gradients can be differentiated in turn."""
    term, _ = _term(x, a, folded, dtype)
    tensors = x, a, folded.scores, folded.values, folded.null_bias
    wanted = [tensor for index, tensor in enumerate(tensors) if tensor is not None and needed[index]]
    found = iter(torch.autograd.grad(term, wanted, grad, create_graph=True))
    return tuple(next(found) if needed[index] else None for index in range(len(tensors)))
