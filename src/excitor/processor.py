"""The processor: turns prompts and a layer's input into the gated term on its keys."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .folded import Folded, fold
from .folded_pictures import FoldedPictures, fold_pictures
from .functional import Prompts, prompt_weights, reconstructed_key, split_heads
from .generator import PromptGenerator
from .precision import without_autocast


class PromptProcessor(nn.Module):
    """Excitor query over the prompts, softmax, weighted sum, gate (paper, section 3.2).

    Args:
        in_features: Width of the layer's input, C.
        rank: r.
        num_heads: Key/value heads, G.
        head_dim: d.
        num_gates: G for a gate per key head (the paper's), 1 for one per layer, 0 for none.
        gate_init: Mean of the gates at the start.
        gate_init_std: Their standard deviation at the start.
        null_prompt: Adds a prompt with value zero and a learnable score per key head, so that a token can choose to
            leave its key alone. Not in the paper.
        temperature: Of the softmax over the prompts; 1 in the paper.
    """

    def __init__(
        self,
        in_features: int,
        rank: int,
        num_heads: int,
        head_dim: int,
        *,
        num_gates: int,
        gate_init: float,
        gate_init_std: float,
        null_prompt: bool = False,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.rank, self.num_heads = rank, num_heads
        self.temperature = temperature
        self.A = nn.Parameter(_fan_in_uniform(in_features, rank))
        self.B = nn.Parameter(_fan_in_uniform(rank, num_heads * head_dim))
        self.gate = nn.Parameter(torch.empty(num_gates).normal_(gate_init, gate_init_std)) if num_gates else None
        self.null_bias = nn.Parameter(torch.zeros(num_heads)) if null_prompt else None

    def features(self, x: Tensor) -> Tensor:
        """Low-rank features of a layer's input in the adapter's dtype, ``z = x A``: ``(..., C)`` to ``(..., r)``."""
        return x.to(self.A.dtype) @ self.A

    def weights(self, features: Tensor, groups: Sequence[Prompts]) -> Tensor:
        """Attention over the prompts, ``(..., G, K)``, the null prompt last."""
        return prompt_weights(self._query(features), groups, self.null_bias, self.temperature)

    def forward(self, features: Tensor, groups: Sequence[Prompts]) -> Tensor:
        """The term on the keys, ``g K_e``.

        Args:
            features: ``z``, ``(..., r)``.
            groups: The prompts.

        Returns:
            ``(..., G * d)`` in the adapter's dtype.
        """
        extra_key = reconstructed_key(self._query(features), groups, self.null_bias, self.temperature)
        return (extra_key if self.gate is None else self.gate[:, None] * extra_key).flatten(-2)

    def term(self, x: Tensor, generator: PromptGenerator, visual: Prompts | None = None) -> Tensor:
        """The term of a layer's input, ``(..., C)`` to ``(..., G * d)``, as the equations are written.

        Args:
            x: The layer's input.
            generator: Makes the learnable prompts.
            visual: Prompts of the pictures that the batch comes with.
        """
        features = self.features(x)
        groups = generator(features)
        return self(features, groups if visual is None else [*groups, visual])

    def fold(self, generator: PromptGenerator) -> Folded:
        """Everything behind ``z = x A`` multiplied out, for the prompts of ``generator``; differentiable."""
        with without_autocast(self.B.device):
            return fold(
                self.B,
                *generator.rows(),
                self.gate,
                self.null_bias,
                num_local_prompts=generator.num_local_prompts,
                temperature=self.temperature,
            )

    def fold_pictures(self, prompts: Prompts) -> FoldedPictures:
        """The same for the visual prompts of each row of a batch."""
        with without_autocast(self.B.device):
            return fold_pictures(self.B, prompts, self.gate, temperature=self.temperature)

    def gates(self) -> Tensor:
        """The gate of each key head, ``(G,)``."""
        gate = self.A.new_ones(1) if self.gate is None else self.gate
        return gate.expand(self.num_heads)

    def _query(self, features: Tensor) -> Tensor:
        return split_heads(features @ self.B, self.num_heads)


def _fan_in_uniform(rows: int, columns: int) -> Tensor:
    """A ``(rows, columns)`` matrix that maps unit-variance rows to variance 1/3, the default of ``nn.Linear``."""
    bound = 1 / math.sqrt(rows)
    return torch.empty(rows, columns).uniform_(-bound, bound)
