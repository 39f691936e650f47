"""All the ways in which an adapter's parameters change."""

from collections.abc import Callable

import torch
from torch import nn

from excitor import ExcitorLayer


@torch.no_grad()
def assign_data(layer: ExcitorLayer) -> None:
    for parameter in layer.parameters():
        parameter.data = parameter.data + 1


@torch.no_grad()
def add_in_place(layer: ExcitorLayer) -> None:
    layer.parts("default")[1].gate.add_(1)


def replace_a_parameter(layer: ExcitorLayer) -> None:
    processor = layer.parts("default")[1]
    processor.B = nn.Parameter(processor.B.detach() + 1)


def load(layer: ExcitorLayer) -> None:
    layer.load_state_dict({key: tensor + 1 for key, tensor in layer.state_dict().items()})


def assign(layer: ExcitorLayer) -> None:
    layer.load_state_dict({key: tensor + 1 for key, tensor in layer.state_dict().items()}, assign=True)


def step(kind: type[torch.optim.Optimizer], **options) -> Callable[[ExcitorLayer], None]:
    def change(layer: ExcitorLayer) -> None:
        x = torch.linspace(-1, 1, layer.in_features, dtype=layer.get_base_layer().weight.dtype).view(1, -1)
        optimizer = kind(layer.parameters(), lr=0.1, **options)
        layer(x).square().sum().backward()
        optimizer.step()

    change.__name__ = f"{kind.__name__} {options}"
    return change


CHANGES = [
    assign_data,
    add_in_place,
    replace_a_parameter,
    load,
    assign,
    step(torch.optim.SGD, foreach=False),
    step(torch.optim.AdamW, foreach=True),
    step(torch.optim.AdamW, fused=True),
]
