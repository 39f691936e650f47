"""The term on the keys with everything multiplied out beforehand that no token has a part in.

With ``z = x A`` the scores over global prompts are ``Q_e P_k^T = z (B_h P_h^T)``, so that a token needs no query of
``d`` features, but one product with ``r x K`` numbers per head. A local prompt is ``z L_h``: its score is
``z (B_h L_h^T) z^T`` and what it adds is ``(w z) L_h``. So it counts as ``r`` rows beside the rows of the global
prompts, ``J = K + K_l r`` in all, with the token's features as factors on the way in and on the way out.

:mod:`excitor.functional` is the reference for all of this.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .functional import split_heads


class Folded(NamedTuple):
    """What one adapter of one layer comes to, in fp32 or better.

    ``scores`` is ``(r, G * J)``, scaled by ``1 / (sqrt(d) T)``; ``values`` is ``(G, J, d)`` with the gates in it;
    ``null_bias`` is ``(G,)``, None without a null prompt; the two counts are K and ``K_l``.
    """

    scores: Tensor
    values: Tensor
    null_bias: Tensor | None
    num_prompts: int
    num_local_prompts: int


def fold(
    b: Tensor,
    keys: Tensor,
    values: Tensor,
    gate: Tensor | None,
    null_bias: Tensor | None,
    *,
    num_local_prompts: int,
    temperature: float,
) -> Folded:
    """Multiply out what is the same for every token; differentiable.

    Args:
        b: Up projection of the excitor query, ``(r, G * d)``.
        keys: Rows of the prompts' keys, ``(G, J, d)``: first the global prompts, then r for each local prompt.
        values: Rows of their values, likewise.
        gate: ``(G,)`` or ``(1,)``; None for 1.
        null_bias: Score of the null prompt, ``(G,)``; None without one.
        num_local_prompts: K_l.
        temperature: Of the softmax, T.
    """
    up = split_heads(b, keys.shape[0]).transpose(0, 1)  # (G, r, d)
    scores = up @ keys.transpose(1, 2) / (temperature * math.sqrt(keys.shape[-1]))
    if gate is not None:
        values = gate[:, None, None] * values
    exact = torch.promote_types(b.dtype, torch.float32)
    return Folded(
        scores.to(exact).transpose(0, 1).flatten(1),
        values.to(exact).contiguous(),
        None if null_bias is None else null_bias.to(exact),
        keys.shape[1] - num_local_prompts * len(b),
        num_local_prompts,
    )


def folded_term(z: Tensor, folded: Folded) -> Tensor:
    """The gated term on the keys, ``g K_e``.

    Args:
        z: Low-rank features of N tokens, ``(N, r)``, in the dtype of ``folded``.
        folded: From :func:`fold`.

    Returns:
        ``(N, G * d)``.
    """
    weights, _ = prompt_weights(z, folded)
    rows = row_weights(z, weights, folded)
    return torch.bmm(rows.transpose(0, 1), folded.values).transpose(0, 1).flatten(1)


def folded_gradients(needed: tuple[bool, ...], z: Tensor, folded: Folded, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of z and of the three tensors of ``folded``, from z and the gradient of the term.

    Args:
        needed: Of which of the four; None stands for the others.
        z: As in :func:`folded_term`.
        folded: As in :func:`folded_term`.
        grad: ``(N, G * d)``, of any floating dtype.
    """
    return weighed_gradients(needed, z, folded, grad, *prompt_weights(z, folded))


def weighed_gradients(
    needed: tuple[bool, ...],
    z: Tensor,
    folded: Folded,
    grad: Tensor,
    weights: Tensor,
    local: Tensor | None,
    mean: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """The same where the attention is known.

    Args:
        needed: As in :func:`folded_gradients`.
        z: As in :func:`folded_gradients`.
        folded: As in :func:`folded_gradients`.
        grad: As in :func:`folded_gradients`.
        weights: As from :func:`prompt_weights`.
        local: As from :func:`prompt_weights`.
        mean: Of the gradients of a token's weights, each weighed by its weight, ``(N, G)``; where it attends to these
            prompts alone this is found here.
    """
    heads, _, head_dim = folded.values.shape
    grad = grad.reshape(-1, heads, head_dim).to(z.dtype).transpose(0, 1)  # (G, N, d)
    values_grad = row_weights(z, weights, folded).permute(1, 2, 0) @ grad if needed[2] else None
    rows_grad, local_rows_grad = split_rows((grad @ folded.values.transpose(1, 2)).transpose(0, 1), z, folded)
    weights_grads = [rows_grad]
    if local_rows_grad is not None:
        weights_grads.append((local_rows_grad * z[:, None, None]).sum(-1))
    if folded.null_bias is not None:
        weights_grads.append(rows_grad.new_zeros(*rows_grad.shape[:2], 1))
    moved = weights * torch.cat(weights_grads, -1)
    mean = moved.sum(-1) if mean is None else mean
    prompts_grad = moved - weights * mean[..., None]  # behind the softmax
    scores_grad, local_grad, null_grad = split_prompts(prompts_grad, folded)
    z_grad: Tensor | float = 0.0
    if local is not None and local_rows_grad is not None:
        _, local_weights, _ = split_prompts(weights, folded)
        z_grad = (local_weights[..., None] * local_rows_grad + local_grad[..., None] * local).sum((1, 2))
        scores_grad = torch.cat([scores_grad, (local_grad[..., None] * z[:, None, None]).flatten(2)], -1)
    scores_grad = scores_grad.flatten(1)
    return (
        scores_grad @ folded.scores.T + z_grad if needed[0] else None,
        z.T @ scores_grad if needed[1] else None,
        values_grad,
        null_grad.sum((0, 2)) if needed[3] else None,
    )


def prompt_weights(z: Tensor, folded: Folded) -> tuple[Tensor, Tensor | None]:
    """Attention over the prompts, and what the scores of local prompts are made of.

    Returns:
        ``(N, G, K + K_l)`` or one more with a null prompt, and ``z B_h L_h^T``, ``(N, G, K_l, r)``.
    """
    scores, local = prompt_scores(z, folded)
    return (scores[0] if len(scores) == 1 else torch.cat(scores, -1)).softmax(-1), local


def prompt_scores(z: Tensor, folded: Folded) -> tuple[list[Tensor], Tensor | None]:
    """Scores of the global prompts, of the local ones and of the null prompt, each ``(N, G, ...)`` if there are any.

    What the scores of local prompts are made of comes second, as in :func:`prompt_weights`.
    """
    scores, local = split_rows((z @ folded.scores).view(len(z), *folded.values.shape[:2]), z, folded)
    parts = [scores]
    if local is not None:
        parts.append((local * z[:, None, None]).sum(-1))
    if folded.null_bias is not None:
        parts.append(folded.null_bias.view(1, -1, 1).expand(*scores.shape[:2], 1))
    return parts, local


def row_weights(z: Tensor, weights: Tensor, folded: Folded) -> Tensor:
    """What each row of the values is multiplied by, ``(N, G, J)``: the weights, those of local prompts times z."""
    globals_, locals_, _ = split_prompts(weights, folded)
    if not folded.num_local_prompts:
        return globals_
    return torch.cat([globals_, (locals_.unsqueeze(-1) * z[:, None, None]).flatten(2)], -1)


def split_prompts(weights: Tensor, folded: Folded) -> tuple[Tensor, ...]:
    """Something of each prompt, ``(N, G, K + K_l [+ 1])``: global prompts, local ones, the null prompt or nothing."""
    counts = folded.num_prompts, folded.num_local_prompts
    return torch.split_with_sizes(weights, [*counts, weights.shape[-1] - sum(counts)], -1)


def split_rows(rows: Tensor, z: Tensor, folded: Folded) -> tuple[Tensor, Tensor | None]:
    """Something of each row, ``(N, G, J)``: of global prompts, ``(N, G, K)``, of local ones, ``(N, G, K_l, r)``."""
    if not folded.num_local_prompts:
        return rows, None
    counts = [folded.num_prompts, folded.num_local_prompts * z.shape[1]]
    prompts, local = torch.split_with_sizes(rows, counts, -1)
    return prompts, local.view(*rows.shape[:2], folded.num_local_prompts, z.shape[1])
