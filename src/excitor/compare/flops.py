"""What training costs whatever the machine: floating point operations, counted without weights."""

import torch
from peft import get_peft_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, PretrainedConfig

from excitor.compare.experiments import Experiment, fitted


LENGTH = 128  # tokens of a row, if neither the suite nor the base has fewer


def row_length(config: PretrainedConfig, max_length: int | None) -> int:
    """Tokens of the rows that costs are counted and timed for."""
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return min(LENGTH, max_length or LENGTH, context or LENGTH)


def flops(experiment: Experiment, config: PretrainedConfig, length: int = LENGTH) -> int:
    """Operations of a forward and a backward pass per token, of matrix products, two for each multiply-add.

    Nothing is recomputed, and attention is that of the equations, the same for all methods. Tokens that a method puts
    in front of a row cost as much as others, but are not training tokens.

    Args:
        experiment: Resolved for the base.
        config: Of the base.
        length: Tokens of the row that is counted.

    Returns:
        0 for the base itself, which does not train.

    Raises:
        ExcitorError: The method does not fit the base; the message names the experiment.
    """
    if experiment.adapter is None:
        return 0
    with fitted(experiment):
        try:
            with torch.device("meta"):
                return _count(adapted(experiment, config, attn_implementation="eager"), length)
        except NotImplementedError:  # SHiRA draws a mask and counts it, which takes values: random weights will do
            return _count(adapted(experiment, config, attn_implementation="eager"), length)


def adapted(experiment: Experiment, config: PretrainedConfig, **options: object) -> nn.Module:
    """A model of the base's architecture with random weights and the adapter of the experiment, ready to train."""
    base = AutoModelForCausalLM.from_config(config, **options)
    return get_peft_model(base, experiment.method()).train()


def _count(model: nn.Module, length: int) -> int:
    tokens = torch.ones(1, length, dtype=torch.long, device=next(model.parameters()).device)
    with FlopCounterMode(display=False) as counter:
        mask = torch.ones_like(tokens)
        model(input_ids=tokens, attention_mask=mask, labels=tokens, use_cache=False).loss.backward()
    return round(counter.get_total_flops() / length)
