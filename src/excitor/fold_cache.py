"""Keeps what an adapter folds to for as long as its parameters stay as they are."""

import operator
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .folded import Folded
from .generator import PromptGenerator
from .processor import PromptProcessor


class _Kept(NamedTuple):
    """A folded adapter, and the state of its parameters when it was folded.

    The aliases keep the parameters' memory from being given to other tensors, which would have the same addresses.
    """

    folded: Folded
    parameters: Sequence[Tensor]
    addresses: list[int]
    versions: list[int]
    aliases: list[Tensor]

    def is_of(self, parameters: Sequence[Tensor]) -> bool:
        return (
            len(parameters) == len(self.parameters)
            and all(map(operator.is_, parameters, self.parameters))
            and [p._version for p in parameters] == self.versions
            and [p.data_ptr() for p in parameters] == self.addresses
        )


class FoldCache(dict[str, _Kept]):
    """Folded adapters of one layer by adapter name: derived, so never saved, copied or pickled.

    Each use compares the parameters' addresses and version counters, which loading, hot swapping, moving, casting and
    in-place operations change. Steps of fused optimizers do not, so that nothing is kept of an adapter that learns,
    until the next switch between training and evaluation. Whoever writes through ``parameter.data`` calls
    :meth:`clear`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._learning: set[str] = set()

    def folded(self, name: str, generator: PromptGenerator, processor: PromptProcessor) -> Folded:
        """What the adapter folds to now, without gradients."""
        held = *generator._parameters.values(), *processor._parameters.values()
        parameters = [parameter for parameter in held if parameter is not None]
        kept = self.get(name)  # read once: other threads may run this layer too
        if kept is not None and kept.is_of(parameters):
            return kept.folded
        # A gradient is waiting for an optimizer, and whether that is a fused one cannot be known.
        trusted = name not in self._learning and all(
            type(p) is nn.Parameter and p.grad is None and not p.is_meta and not p.is_inference() for p in parameters
        )
        # Read before folding: another thread may swap the parameters meanwhile.
        state = ([p.data_ptr() for p in parameters], [p._version for p in parameters]) if trusted else None
        # Tensors made in inference mode could not be used outside of it.
        with torch.inference_mode(False), torch.no_grad():
            folded = processor.fold(generator)
        if state is not None:
            self[name] = _Kept(folded, parameters, *state, [p.detach() for p in parameters])
        return folded

    def learns(self, name: str) -> None:
        """Keep nothing of an adapter from now on."""
        self._learning.add(name)
        self.pop(name, None)

    def clear(self) -> None:
        """Forget everything."""
        self._learning.clear()
        super().clear()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return FoldCache, ()
