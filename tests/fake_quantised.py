"""A quantised linear layer without any library: what a backend's layer looks like from the outside."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class FakeQuantisedLinear(nn.Module):
    """int8 weights with a scale per output, as buffers; there is no ``weight`` parameter and nothing to train.

    Like the layers of GPTQ and AWQ it has ``in_features``, ``out_features``, ``qweight`` and a forward pass.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach()
        self.register_buffer("scales", weight.abs().amax(dim=1, keepdim=True) / 127)
        self.register_buffer("qweight", (weight / self.scales).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.qweight.to(x.dtype) * self.scales.to(x.dtype), self.bias)


def fake_quantise(model: PreTrainedModel) -> PreTrainedModel:
    """Replace all linear layers but the head, in place."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, FakeQuantisedLinear(module))
    return model
