import gc
import weakref

import torch
from torch import nn

from excitor.diagnostics.saved import saved_tensors


def test_each_piece_of_memory_is_counted_once_and_the_models_own_not_at_all() -> None:
    model, x = nn.Linear(4, 3), torch.randn(5, 4)
    with saved_tensors(model) as saved:
        output = model(x)  # keeps x for the gradient of the weight
        doubled = output * output  # keeps its output, twice
    assert saved.bytes == 4 * (x.numel() + output.numel())
    assert doubled.requires_grad


def test_gradients_are_as_without_it() -> None:
    x = torch.randn(5, 4, requires_grad=True)
    with saved_tensors(nn.Identity()):
        found = torch.autograd.grad(x.softmax(-1).square().sum(), x)
    torch.testing.assert_close(found, torch.autograd.grad(x.softmax(-1).square().sum(), x))


def test_nothing_outlives_it() -> None:
    """A function that keeps its own output, as softmax does, must not keep itself alive."""
    x = torch.randn(5, 4, requires_grad=True)
    with saved_tensors(nn.Identity()) as saved:
        output = x.softmax(-1)
    kept = weakref.ref(output)
    del output, saved
    gc.collect()
    assert kept() is None
