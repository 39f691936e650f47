"""Keeps what an adapter folds to for as long as its parameters stay as they are."""

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from .folded import Folded
from .generator import PromptGenerator
from .processor import PromptProcessor


if TYPE_CHECKING:
    from .fast_path import FastPath


class Kept(NamedTuple):
    """A folded adapter, and the state of its parameters when it was folded.

    The aliases keep the parameters' memory from being given to other tensors, which would have the same addresses.
    """

    folded: Folded
    held: Sequence[Tensor | None]
    parameters: Sequence[Tensor]
    addresses: list[int]
    versions: list[int]
    aliases: list[Tensor]

    def is_of(self, held: Sequence[Tensor | None]) -> bool:
        """Whether it is still what these fold to, the parameters of generator and processor in order."""
        return len(held) == len(self.held) and all(map(operator.is_, held, self.held)) and self.is_fresh()

    def is_fresh(self) -> bool:
        """Whether the parameters that it was made of have the values that they had."""
        return [p._version for p in self.parameters] == self.versions and [
            p.data_ptr() for p in self.parameters
        ] == self.addresses


class FoldCache(dict[str, Kept]):
    """Folded adapters of one layer by adapter name: derived, so never saved, copied or pickled.

    Each use compares the parameters' addresses and version counters, which loading, hot swapping, moving, casting and
    in-place operations change. Steps of fused optimizers do not, so that nothing is kept of an adapter that learns,
    until the next call of ``train`` or ``eval``. Whoever writes through ``parameter.data`` calls :meth:`clear`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fast_path: FastPath | None = None
        self._learning: set[str] = set()

    def folded(self, name: str, generator: PromptGenerator, processor: PromptProcessor) -> Folded:
        """What the adapter folds to now, without gradients."""
        if (kept := self.kept(name, generator, processor)) is not None:
            return kept.folded
        held = *generator._parameters.values(), *processor._parameters.values()
        parameters = [parameter for parameter in held if parameter is not None]
        # A gradient is waiting for an optimizer, and whether that is a fused one cannot be known.
        trusted = name not in self._learning and all(
            type(p) is nn.Parameter and p.grad is None and not p.is_meta and not p.is_inference() for p in parameters
        )
        # What is computed at each look (parametrizations), or no parameter at all, can change unseen.
        trusted = trusted and not any(
            module._modules or any(isinstance(value, Tensor) for value in vars(module).values())
            for module in (generator, processor)
        )
        # Read before folding: another thread may swap the parameters meanwhile.
        state = ([p.data_ptr() for p in parameters], [p._version for p in parameters]) if trusted else None
        # Tensors made in inference mode could not be used outside of it.
        with torch.inference_mode(False), torch.no_grad():
            folded = processor.fold(generator)
        if state is not None:
            self.fast_path = None
            self[name] = Kept(folded, held, parameters, *state, [p.detach() for p in parameters])
        return folded

    def kept(self, name: str, generator: PromptGenerator, processor: PromptProcessor) -> Kept | None:
        """What is kept of the adapter, if it still is what that folds to."""
        kept = self.get(name)  # read once: other threads may run this layer too
        held = *generator._parameters.values(), *processor._parameters.values()
        return kept if kept is not None and kept.is_of(held) else None

    def learns(self, name: str) -> None:
        """Keep nothing of an adapter from now on."""
        self._learning.add(name)
        self.fast_path = None
        self.pop(name, None)  # at once: other threads may run this layer too

    def trust(self) -> None:
        """Let adapters that learned be kept again."""
        self._learning.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.trust()
        self.fast_path = None
        super().clear()

    def __delitem__(self, name: str) -> None:
        self.fast_path = None
        super().__delitem__(name)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return FoldCache, ()
