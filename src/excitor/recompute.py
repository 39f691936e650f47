"""The term on the keys for training: keeps the layer's input and its low-rank features alone, computes the rest again.

Autograd by itself would keep for every token and layer the scores, the weights and what they are multiplied by, many
times the ``r`` numbers of ``z = x A`` from which all of it can be made again at little cost.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from .folded import Folded, folded_gradients, folded_term
from .folded_pictures import FoldedPictures, folded_gradients_seeing, folded_term_seeing
from .precision import autocast_dtype, without_autocast


class Backend(NamedTuple):
    """How all that follows on ``z``, ``(N, r)``, is computed.

    ``excited`` takes z, what the adapter folds to, the key, ``(N, G * d)``, and its dtype; it returns the key with the
    term added in that dtype, or the term alone where there is no key. ``gradients`` is
    :func:`excitor.folded.folded_gradients` or gives the same.

    ``seeing`` is the first for tokens that see pictures: it takes z and the key by row, ``(B, M, ...)``, and the
    visual prompts before the key. It also returns what ``seeing_gradients`` wants besides the term, see
    :func:`excitor.folded_pictures.folded_gradients_seeing`.
    """

    excited: Callable[[Tensor, Folded, Tensor | None, torch.dtype], Tensor]
    gradients: Callable[[tuple[bool, ...], Tensor, Folded, Tensor], tuple[Tensor | None, ...]]
    seeing: Callable[[Tensor, Folded, FoldedPictures, Tensor | None, torch.dtype], tuple[Tensor, Tensor]]
    seeing_gradients: Callable[[Tensor, Folded, FoldedPictures, Tensor, Tensor, Tensor], tuple[Tensor | None, ...]]


def excited(z: Tensor, folded: Folded, key: Tensor | None, dtype: torch.dtype) -> Tensor:
    """See :class:`Backend`; differentiable."""
    term = folded_term(z, folded).to(dtype)
    return term if key is None else key + term


def seeing(
    z: Tensor, folded: Folded, pictures: FoldedPictures, key: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See :class:`Backend`; differentiable."""
    term, weights = folded_term_seeing(z, folded, pictures)
    term = term.to(dtype)
    return term if key is None else key + term, weights


FOLDED = Backend(excited, folded_gradients, seeing, folded_gradients_seeing)


def adapter_term(x: Tensor, a: Tensor, folded: Folded, key: Tensor | None = None, backend: Backend = FOLDED) -> Tensor:
    """The gated term on the keys of a layer's input, or the key with it.

    The product with A runs in A's dtype, or in that of autocast; all that follows in the dtype of ``folded``. Where
    gradients flow, the tensors kept for them are x, z and the arguments but for the key. A second differentiation
    works too, by way of autograd's own formulas, which keep more.

    Args:
        x: ``(..., C)``.
        a: Down projection, ``(C, r)``.
        folded: From :func:`excitor.folded.fold`.
        key: ``(..., G * d)``, to add the term to.
        backend: Computes it.

    Returns:
        ``(..., G * d)`` in the dtype of the key, or without one in A's.
    """
    lower = autocast_dtype(x.device)
    dtype = lower or a.dtype
    if torch.is_grad_enabled():
        tensors = folded[:3]
        if any(t is not None and t.requires_grad for t in (x, a, *tensors, key)):
            return cast(Tensor, _Recomputed.apply(x, a, *tensors, key, folded[3:], dtype, backend))
    if lower is None:
        return run(x, a, folded, key, dtype, backend)[0]
    with without_autocast(x.device):
        return run(x, a, folded, key, dtype, backend)[0]


def run(
    x: Tensor, a: Tensor, folded: Folded, key: Tensor | None, dtype: torch.dtype, backend: Backend
) -> tuple[Tensor, Tensor]:
    """The term, or the key with it, and ``z``, without gradients; ``dtype`` is that of the product with A."""
    z = (x.reshape(-1, x.shape[-1]).to(dtype) @ a.to(dtype)).to(folded.values.dtype)
    if key is None:
        out = backend.excited(z, folded, None, a.dtype)
    else:
        out = backend.excited(z, folded, key.reshape(-1, key.shape[-1]), key.dtype)
    return out.view(*x.shape[:-1], out.shape[-1]), z


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        a: Tensor,
        scores: Tensor,
        values: Tensor,
        null_bias: Tensor | None,
        key: Tensor | None,
        counts: tuple[int, int],
        dtype: torch.dtype,
        backend: Backend,
    ) -> Tensor:
        with without_autocast(x.device):
            out, z = run(x, a, Folded(scores, values, null_bias, *counts), key, dtype, backend)
        ctx.save_for_backward(x, a, z, scores, values, null_bias)
        ctx.counts, ctx.dtype, ctx.backend = counts, dtype, backend
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, a, z, scores, values, null_bias = ctx.saved_tensors
        folded = Folded(scores, values, null_bias, *ctx.counts)
        needed = ctx.needs_input_grad
        with without_autocast(x.device):
            if not any(needed[:5]):
                found = (None,) * 5
            elif torch.is_grad_enabled():  # someone will differentiate again
                found = _autograd(needed, x, a, folded, grad, ctx.dtype)
            else:
                found = _gradients(needed, x, a, z, folded, grad, ctx.dtype, ctx.backend)
        return *found, grad if needed[5] else None, None, None, None


def _gradients(
    needed: tuple[bool, ...],
    x: Tensor,
    a: Tensor,
    z: Tensor,
    folded: Folded,
    grad: Tensor,
    dtype: torch.dtype,
    backend: Backend,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, a and the three tensors of ``folded``."""
    wanted = needed[0] or needed[1], *needed[2:5]
    z_grad, *folded_grads = backend.gradients(wanted, z, folded, grad.reshape(len(z), grad.shape[-1]))
    x_grad = a_grad = None
    if z_grad is not None:
        z_grad = z_grad.to(dtype)
        if needed[0]:
            x_grad = (z_grad @ a.to(dtype).T).view(x.shape).to(x.dtype)
        if needed[1]:
            a_grad = (x.reshape(-1, x.shape[-1]).to(dtype).T @ z_grad).to(a.dtype)
    return x_grad, a_grad, *folded_grads


def _autograd(
    needed: tuple[bool, ...], x: Tensor, a: Tensor, folded: Folded, grad: Tensor, dtype: torch.dtype
) -> tuple[Tensor | None, ...]:
    """The same by autograd, so that the gradients can be differentiated in turn."""
    term, _ = run(x, a, folded, None, dtype, FOLDED)
    tensors = x, a, folded.scores, folded.values, folded.null_bias
    wanted = [tensor for index, tensor in enumerate(tensors) if tensor is not None and needed[index]]
    found = iter(torch.autograd.grad(term, wanted, grad.to(term.dtype), create_graph=True))
    return tuple(next(found) if needed[index] else None for index in range(len(tensors)))
