"""How a fresh adapter starts: without any effect, or, for tests, with a visible one in all its parts."""

import torch

from .generator import PromptGenerator, PromptMLP, PromptTable
from .processor import PromptProcessor


@torch.no_grad()
def silence(generator: PromptTable | PromptMLP, processor: PromptProcessor) -> None:
    """Start without any effect, with gates that are not zero.

    Separate values at zero give a term of exactly zero. With one table for both, B = 0 makes all prompts weigh the
    same, and prompts that sum to zero cancel, but for rounding.
    """
    if generator.separate_values:
        if isinstance(generator, PromptMLP):
            generator.outer.chunk(2, dim=-1)[1].zero_()
        else:
            generator.value_prompts.zero_()
        if generator.num_local_prompts:
            generator.local_values.zero_()
        return
    if not generator.num_prompts and not generator.num_local_prompts:
        return  # visual prompts alone have values of their own
    processor.B.zero_()
    if isinstance(generator, PromptTable):
        generator.prompts.sub_(generator.prompts.mean(dim=0))
    if generator.num_local_prompts:
        each = generator.local.unflatten(-1, (generator.num_local_prompts, -1))
        each.sub_(each.mean(dim=1, keepdim=True))


@torch.no_grad()
def randomize(generator: PromptGenerator, processor: PromptProcessor) -> None:
    """Draw what would start at a constant from N(0, 1): a fresh adapter visibly acts, and in all its parts."""
    for name in ("gate", "null_bias"):
        if (parameter := getattr(processor, name)) is not None:
            parameter.normal_()
    for name in ("local", "local_values"):
        if hasattr(generator, name):
            getattr(generator, name).normal_()
