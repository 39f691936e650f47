"""The processor: turns prompts and a layer's input into the gated term on its keys."""

import math

import torch
from torch import Tensor, nn

from .functional import excitor_query, reconstructed_key


class PromptProcessor(nn.Module):
    """Excitor query over the prompts, softmax, weighted sum, gate (paper, section 3.2).

    Args:
        in_features: Width of the layer's input, C.
        rank: r.
        num_heads: Key/value heads, G.
        head_dim: d.
        gate_init_std: Standard deviation of the gates at the start; 0 for an exact identity.
    """

    def __init__(self, in_features: int, rank: int, num_heads: int, head_dim: int, gate_init_std: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.A = nn.Parameter(_fan_in_uniform(in_features, rank))
        self.B = nn.Parameter(_fan_in_uniform(rank, num_heads * head_dim))
        self.gate = nn.Parameter(torch.empty(num_heads).normal_(0.0, gate_init_std))

    def forward(self, x: Tensor, prompt_keys: Tensor, prompt_values: Tensor) -> Tensor:
        """The term on the keys, ``g K_e``.

        Args:
            x: Layer input, ``(..., C)``, any floating dtype.
            prompt_keys: ``(K, G, d)``.
            prompt_values: ``(K, G, d)``.

        Returns:
            ``(..., G * d)`` in the adapter's dtype.
        """
        query = excitor_query(x.to(self.A.dtype), self.A, self.B, self.num_heads)
        extra_key = reconstructed_key(query, prompt_keys, prompt_values)
        return (self.gate[:, None] * extra_key).flatten(-2)


def _fan_in_uniform(rows: int, columns: int) -> Tensor:
    """A ``(rows, columns)`` matrix that maps unit-variance rows to variance 1/3, the default of ``nn.Linear``."""
    bound = 1 / math.sqrt(rows)
    return torch.empty(rows, columns).uniform_(-bound, bound)
