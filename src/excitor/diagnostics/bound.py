"""How far attention can move at most, from the sizes of gates, prompts and queries alone.

A row of attention is ``a = softmax(s)``; the adapter makes it ``a' = softmax(s + e)``, where ``|e_j| <= b`` for every
token ``j``. Let ``A`` be the tokens that gain, ``p`` and ``p'`` their share before and after. The odds of ``A`` are
multiplied by a mean of ``exp(e_j)`` over ``A``, at most ``exp(b)``, over a mean over the other tokens, at least
``exp(-b)``. So with the logistic function ``f``, ``p = f(t)`` becomes at most ``f(t + 2b)``, and the total variation
``p' - p`` is largest at ``t = -b``: ``f(b) - f(-b) = tanh(b / 2)``.
"""

import torch
from torch import Tensor

from excitor.layer import ExcitorLayer


def shift_bound(query_norms: Tensor, reach: Tensor) -> Tensor:
    """The most that each attention row can move in total variation, ``tanh(b / 2)``.

    Args:
        query_norms: ``|q| / sqrt(d)`` (or as the model scales it) of each query, ``(H, M)``.
        reach: Most that the keys can be changed by, ``(G,)``; rotary embeddings do not change lengths.

    Returns:
        ``(H, M)``.
    """
    by_query_head = reach.repeat_interleave(query_norms.shape[0] // reach.shape[0])
    return torch.tanh(query_norms * by_query_head[:, None] / 2)


def reach(layer: ExcitorLayer, adapter_name: str, hidden: Tensor) -> Tensor:
    """Longest term that the adapter can add to a key: strength, times the gate, times the longest prompt value.

    ``K_e`` is a weighted mean of the prompts' values, and no longer than the longest of them. The null prompt's value
    is zero.

    Args:
        layer: A key projection.
        adapter_name: Which of its adapters.
        hidden: Input of the layer, ``(M, C)``, of which local prompts are made.

    Returns:
        ``(G,)``, in fp32.
    """
    generator, processor = layer.parts(adapter_name)
    groups = generator(processor.features(hidden))
    longest = [group.values.float().norm(dim=-1).flatten(end_dim=-2).amax(0) for group in groups]
    strength = layer.excitor_strength[adapter_name]
    return strength * processor.gates().float().abs() * torch.stack(longest).amax(0)
