"""The generator: makes the prompts of a layer."""

import torch
from torch import Tensor, nn

from .functional import split_heads


class PromptGenerator(nn.Module):
    """A free table of prompts that every token attends to, the paper's prompts.

    One table serves as prompt keys and prompt values.

    Args:
        num_prompts: K.
        num_heads: Key/value heads, G.
        head_dim: d.
        init_std: Standard deviation of the prompts at the start.
    """

    def __init__(self, num_prompts: int, num_heads: int, head_dim: int, init_std: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.prompts = nn.Parameter(torch.empty(num_prompts, num_heads * head_dim).normal_(0.0, init_std))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Prompt keys and prompt values, each ``(K, G, d)``."""
        prompts = split_heads(self.prompts, self.num_heads)
        return prompts, prompts
