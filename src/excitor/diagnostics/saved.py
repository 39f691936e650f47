"""What a forward pass keeps for its backward pass: exact, and the same on every machine."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class SavedTensors:
    """Memory of the tensors kept for a backward pass, each piece of memory counted once.

    Attributes:
        storages: The pieces, by address; they live as long as this object.
    """

    def __init__(self) -> None:
        self.storages: dict[int, torch.UntypedStorage] = {}

    @property
    def bytes(self) -> int:
        """Their size."""
        return sum(storage.nbytes() for storage in self.storages.values())


@contextmanager
def saved_tensors(model: nn.Module) -> Iterator[SavedTensors]:
    """Record what autograd keeps within it, parameters and buffers of ``model`` left out: those exist anyway.

    A backward pass works; a second differentiation does not.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    saved = SavedTensors()

    def keep(tensor: Tensor) -> Tensor:
        for part in (tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,):
            storage = part.untyped_storage()
            if storage.data_ptr() not in own:
                saved.storages[storage.data_ptr()] = storage
        return tensor.detach()  # an output that its own function keeps would otherwise never be freed

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved
