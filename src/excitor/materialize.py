"""Prompts made by an MLP, written out as a table: all that inference needs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import nn

from .config import ExcitorConfig
from .generator import PromptMLP, PromptTable
from .layer import ExcitorLayer


@torch.no_grad()
def to_table(generator: PromptMLP) -> PromptTable:
    """A table with the prompts that ``generator`` makes now, and the same local prompts."""
    table = PromptTable(
        generator.num_prompts,
        generator.num_heads,
        generator.head_dim,
        rank=generator.local.shape[0] if generator.num_local_prompts else 0,
        num_local_prompts=generator.num_local_prompts,
        separate_values=generator.separate_values,
        init_std=0.0,
    ).to(generator.seeds.device, generator.seeds.dtype)
    keys, values = generator.tables()
    held = dict(generator.named_parameters())
    held |= {"prompts": keys, "value_prompts": values}
    table.load_state_dict({name: held[name] for name in table.state_dict()})
    return table.requires_grad_(generator.seeds.requires_grad)


def materialize(model: nn.Module, adapter_name: str = "default") -> None:
    """Replace the MLPs that make the prompts of an adapter by the tables they make; nothing to do for tables.

    The outputs of the model stay the same, bit for bit.
    """
    for layer in model.modules():
        if isinstance(layer, ExcitorLayer) and adapter_name in layer.excitor_generator:
            generator = layer.excitor_generator[adapter_name]
            if isinstance(generator, PromptMLP):
                layer.excitor_generator[adapter_name] = to_table(generator)
    config = getattr(model, "peft_config", {}).get(adapter_name)
    if isinstance(config, ExcitorConfig):
        config.generator = "table"


@contextmanager
def materialized(model: PeftModel, adapter_name: str = "default") -> Iterator[None]:
    """Within it the adapter stands as :func:`materialize` would leave it; afterwards it trains on as before."""
    layers = [
        layer
        for layer in model.modules()
        if isinstance(layer, ExcitorLayer) and adapter_name in layer.excitor_generator
    ]
    generators = [layer.excitor_generator[adapter_name] for layer in layers]
    config = model.peft_config[adapter_name]
    kind = config.generator if isinstance(config, ExcitorConfig) else None
    materialize(model, adapter_name)
    try:
        yield
    finally:
        for layer, generator in zip(layers, generators, strict=True):
            layer.excitor_generator[adapter_name] = generator
        if isinstance(config, ExcitorConfig) and kind:
            config.generator = kind
