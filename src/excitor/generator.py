"""The generator: makes the prompts of a layer."""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from .functional import Prompts, local_prompts, split_heads


MLP_WIDTH = 64  # of the seed embeddings and of the hidden layer
_TANH_STD = 0.628  # standard deviation of tanh(x) for x from N(0, 1)


class PromptGenerator(nn.Module, ABC):
    """Global prompts, which every token attends to, and local prompts, which each token makes for itself.

    Args:
        num_prompts: Global prompts, K; may be 0 where there are local ones.
        num_local_prompts: Local prompts, K_l. They differ from the start: equal ones would get equal gradients and
            stay equal for ever.
        num_heads: Key/value heads, G.
        head_dim: d.
        rank: Size of the features that local prompts are made from, r.
        init_std: Standard deviation of the prompts at the start; of the local ones for features of variance 1.
        separate_values: Prompts have a value of their own beside their key; the paper uses one table for both.
    """

    def __init__(
        self,
        num_prompts: int,
        num_heads: int,
        head_dim: int,
        *,
        rank: int,
        init_std: float,
        num_local_prompts: int = 0,
        separate_values: bool = False,
    ) -> None:
        super().__init__()
        self.num_prompts, self.num_local_prompts = num_prompts, num_local_prompts
        self.num_heads, self.head_dim = num_heads, head_dim
        self.separate_values = separate_values
        if num_local_prompts:
            shape, std = (rank, num_local_prompts * num_heads * head_dim), init_std / math.sqrt(rank)
            self.local = nn.Parameter(torch.empty(shape).normal_(0.0, std))
            if separate_values:
                self.local_values = nn.Parameter(torch.empty(shape).normal_(0.0, std))

    @abstractmethod
    def tables(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the global prompts, each ``(K, G * d)``; the same tensor unless values are separate."""

    def forward(self, features: Tensor) -> list[Prompts]:
        """The groups of prompts for tokens with the low-rank ``features`` ``z = x A``, ``(..., r)``."""
        groups = []
        if self.num_prompts:
            keys, values = self.tables()
            groups.append(Prompts(split_heads(keys, self.num_heads), split_heads(values, self.num_heads)))
        if self.num_local_prompts:
            keys = local_prompts(features, self.local, self.num_heads, self.head_dim)
            values = keys
            if self.separate_values:
                values = local_prompts(features, self.local_values, self.num_heads, self.head_dim)
            groups.append(Prompts(keys, values))
        return groups

    def rows(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the prompts as :func:`excitor.folded.fold` takes them, each ``(G, K + K_l r, d)``."""
        # An empty table stands for no prompts at all, of a layer that has visual ones alone.
        keys, values = self.tables() if self.num_prompts or not self.num_local_prompts else (None, None)
        key_rows = self._rows(keys, self.local if self.num_local_prompts else None)
        if not self.separate_values:
            return key_rows, key_rows
        return key_rows, self._rows(values, self.local_values if self.num_local_prompts else None)

    def _rows(self, table: Tensor | None, local: Tensor | None) -> Tensor:
        parts = [] if table is None else [table]
        if local is not None:
            parts.append(local.unflatten(1, (self.num_local_prompts, -1)).transpose(0, 1).flatten(0, 1))
        return split_heads(torch.cat(parts) if len(parts) > 1 else parts[0], self.num_heads).transpose(0, 1)


class PromptTable(PromptGenerator):
    """Global prompts are free parameters, as in the paper.

    Args:
        *args: As for :class:`PromptGenerator`.
        init_std: As for :class:`PromptGenerator`.
        **kwargs: As for :class:`PromptGenerator`.
    """

    prompts: nn.Parameter
    value_prompts: nn.Parameter

    def __init__(self, *args: Any, init_std: float, **kwargs: Any) -> None:
        super().__init__(*args, init_std=init_std, **kwargs)
        shape = self.num_prompts, self.num_heads * self.head_dim
        self.prompts = nn.Parameter(torch.empty(shape).normal_(0.0, init_std))
        if self.separate_values:
            self.value_prompts = nn.Parameter(torch.empty(shape).normal_(0.0, init_std))

    def tables(self) -> tuple[Tensor, Tensor]:
        """See :meth:`PromptGenerator.tables`."""
        return self.prompts, self.value_prompts if self.separate_values else self.prompts


class PromptMLP(PromptGenerator):
    """Global prompts are made by a small MLP from seed embeddings that all layers share.

    For training only: :func:`excitor.materialize.materialize` turns it into a table.

    Args:
        *args: As for :class:`PromptGenerator`.
        init_std: As for :class:`PromptGenerator`.
        seeds: Seed embeddings of the other layers, ``(K, MLP_WIDTH)``; new ones when not given.
        **kwargs: As for :class:`PromptGenerator`.
    """

    def __init__(self, *args: Any, init_std: float, seeds: nn.Parameter | None = None, **kwargs: Any) -> None:
        super().__init__(*args, init_std=init_std, **kwargs)
        width = self.num_heads * self.head_dim * (2 if self.separate_values else 1)
        self.seeds = nn.Parameter(torch.randn(self.num_prompts, MLP_WIDTH)) if seeds is None else seeds
        self.inner = nn.Parameter(torch.randn(MLP_WIDTH, MLP_WIDTH) / math.sqrt(MLP_WIDTH))
        self.outer = nn.Parameter(torch.randn(MLP_WIDTH, width) * init_std / (_TANH_STD * math.sqrt(MLP_WIDTH)))

    def tables(self) -> tuple[Tensor, Tensor]:
        """See :meth:`PromptGenerator.tables`."""
        made = torch.tanh(self.seeds @ self.inner) @ self.outer
        if not self.separate_values:
            return made, made
        keys, values = made.chunk(2, dim=-1)
        return keys, values
