"""The equations of LLaMA-Excitor (arXiv 2404.00913, section 3.2) in plain PyTorch.

This is the reference: tests, kernels and benchmarks compare with it. Two forms of the same attention are given, the
paper's (``literal_attention``: extra similarity scores) and the one the layers use (``key_form_attention``: an
additional term on the keys). They are equal because the scores are linear in the keys::

    S + g S_e = Q K^T / sqrt(d) + g Q K_e^T / sqrt(d) = Q (K + g K_e)^T / sqrt(d)

Letters: B batch, M and N query and key positions, C layer width, H query heads, G key/value heads (G divides H),
d head size, r rank, K prompts.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """View the last dimension as heads: ``(..., heads * d) -> (..., heads, d)``."""
    return x.view(*x.shape[:-1], num_heads, x.shape[-1] // num_heads)


def excitor_query(x: Tensor, a: Tensor, b: Tensor, num_heads: int) -> Tensor:
    """Low-rank query of the reconstructed key, ``Q_e = (x A) B``.

    Args:
        x: Layer input, ``(..., C)``.
        a: Down projection, ``(C, r)``.
        b: Up projection, ``(r, G * d)``.
        num_heads: G.

    Returns:
        ``(..., G, d)``.
    """
    return split_heads(x @ a @ b, num_heads)


class Prompts(NamedTuple):
    """A group of prompts, broadcast over the tokens that attend to them.

    ``keys`` and ``values`` are ``(..., K, G, d)``: ``(K, G, d)`` for the paper's global prompts, ``(B, 1, K, G, d)``
    for prompts that belong to a row of the batch, ``(B, M, K, G, d)`` for prompts of each token's own. The paper has
    one table for both. ``mask``, ``(..., K)``, is False for prompts that are not there; None if all are.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None = None


def local_prompts(features: Tensor, weight: Tensor, num_heads: int, head_dim: int) -> Tensor:
    """Prompts made from each token's own low-rank features, ``z L`` with ``z = x A``.

    Args:
        features: z, ``(..., r)``.
        weight: L, ``(r, K * G * d)``.
        num_heads: G.
        head_dim: d.

    Returns:
        ``(..., K, G, d)``.
    """
    count = weight.shape[-1] // (num_heads * head_dim)
    return (features @ weight).view(*features.shape[:-1], count, num_heads, head_dim)


def prompt_weights(
    query: Tensor, groups: Sequence[Prompts], null_bias: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """Attention of each token over the prompts, ``softmax(Q_e P_k^T / (sqrt(d) T))``, per key head.

    Args:
        query: ``(..., G, d)``.
        groups: The prompts; one softmax runs over all groups.
        null_bias: Score of the null prompt, ``(G,)``; without it there is none.
        temperature: T, 1 in the paper.

    Returns:
        ``(..., G, K)`` with K of all groups in their order, then the null prompt if there is one; in fp32 or better.
        A prompt that is not there weighs 0; where none is, all weigh 0.
    """
    scale = 1 / (temperature * math.sqrt(query.shape[-1]))
    scores = [_prompt_scores(query, group, scale) for group in groups]
    if null_bias is not None:
        scores.append(null_bias[:, None].to(query.dtype).expand(*query.shape[:-1], 1))
    weights = _softmax(torch.cat(scores, -1) if len(scores) > 1 else scores[0])
    if len(groups) == 1 and null_bias is None and groups[0].mask is not None:
        weights = weights * groups[0].mask.unsqueeze(-2)  # nothing else takes all the weight where all are masked
    return weights


def reconstructed_key(
    query: Tensor, groups: Sequence[Prompts], null_bias: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """Mixture of the prompts, ``K_e = softmax(Q_e P_k^T / (sqrt(d) T)) P_v``, per key head.

    Depends on the token alone, never on its neighbours: this is what keeps cached decoding exact. The null prompt's
    value is zero, so a token that chooses it leaves its key as it is.

    Args:
        query: ``(..., G, d)``.
        groups: The prompts; one softmax runs over all groups.
        null_bias: As in :func:`prompt_weights`.
        temperature: As in :func:`prompt_weights`.

    Returns:
        ``(..., G, d)`` in the prompts' dtype.
    """
    weights = prompt_weights(query, groups, null_bias, temperature).to(groups[0].values.dtype)
    counts = [group.values.shape[-3] for group in groups]
    parts = torch.split(weights[..., : sum(counts)], counts, -1)
    terms = [
        torch.einsum("...gk,...kgd->...gd", part, group.values) for part, group in zip(parts, groups, strict=True)
    ]
    return functools.reduce(torch.add, terms)


def excited_key(key: Tensor, extra_key: Tensor, gate: Tensor) -> Tensor:
    """The key the model attends to, ``K + g K_e``, before any rotary embedding.

    Args:
        key: The frozen model's key, ``(..., G, d)``.
        extra_key: ``K_e``, ``(..., G, d)``.
        gate: ``(G,)``.

    Returns:
        ``(..., G, d)`` in the key's dtype.
    """
    return key + (gate[:, None] * extra_key).to(key.dtype)


def literal_attention(
    query: Tensor, key: Tensor, value: Tensor, extra_key: Tensor, gate: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Attention as the paper writes it, ``softmax(S + g S_e + mask) V`` with ``S_e = Q K_e^T / sqrt(d)``.

    Args:
        query: ``(B, H, M, d)``, rotated if the model rotates.
        key: ``(B, G, N, d)``, rotated likewise.
        value: ``(B, G, N, d_v)``.
        extra_key: ``K_e``, ``(B, G, N, d)``, rotated like the key.
        gate: ``(G,)``.
        mask: Added to the scores, broadcast to ``(B, H, M, N)``.

    Returns:
        ``(B, H, M, d_v)``.
    """
    groups = query.shape[1] // key.shape[1]
    similarity = _similarity(query, key)
    extra_similarity = _similarity(query, extra_key)
    gates = gate.repeat_interleave(groups)[:, None, None]
    return _weighted_values(similarity + gates * extra_similarity, value, mask)


def key_form_attention(
    query: Tensor, key: Tensor, value: Tensor, extra_key: Tensor, gate: Tensor, mask: Tensor | None = None
) -> Tensor:
    """The same attention with the term on the keys, ``softmax(Q (K + g K_e)^T / sqrt(d) + mask) V``.

    Arguments and result as in :func:`literal_attention`.
    """
    excited = excited_key(key.transpose(1, 2), extra_key.transpose(1, 2), gate).transpose(1, 2)
    return _weighted_values(_similarity(query, excited), value, mask)


def _similarity(query: Tensor, key: Tensor) -> Tensor:
    """``Q K^T / sqrt(d)``: ``(B, H, M, d)`` and ``(B, G, N, d)`` to ``(B, H, M, N)``."""
    groups = query.shape[1] // key.shape[1]
    return query @ key.repeat_interleave(groups, dim=1).transpose(-1, -2) / math.sqrt(query.shape[-1])


def _weighted_values(scores: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """``softmax(scores + mask) V``: ``(B, H, M, N)`` and ``(B, G, N, d_v)`` to ``(B, H, M, d_v)``."""
    if mask is not None:
        scores = scores + mask
    weights = _softmax(scores).to(value.dtype)
    return weights @ value.repeat_interleave(scores.shape[1] // value.shape[1], dim=1)


def _prompt_scores(query: Tensor, group: Prompts, scale: float) -> Tensor:
    """``Q_e P_k^T`` times ``scale``, ``(..., G, K)``; the lowest number there is for prompts that are not there."""
    scores = torch.einsum("...gd,...kgd->...gk", query, group.keys) * scale
    if group.mask is None:
        return scores
    return scores.masked_fill(~group.mask.unsqueeze(-2), torch.finfo(scores.dtype).min)


def _softmax(scores: Tensor) -> Tensor:
    """Softmax over the last dimension in fp32, or in fp64 for fp64 scores."""
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
