"""Which examples make a batch, and what of a run is lost to making it."""

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.trainer_pt_utils import LengthGroupedSampler


class GroupedByLength(LengthGroupedSampler):
    """transformers' sampler, with an order that the seed and the epoch alone decide.

    Its own draws from the global generator: a resumed run would meet that in another state, and take other batches.

    Args:
        batch_size: Examples of an optimizer step on one device.
        lengths: Of each example, in tokens.
        seed: Of the run.
    """

    def __init__(self, batch_size: int, lengths: Sequence[int], seed: int) -> None:
        super().__init__(batch_size, lengths=list(lengths))
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before each pass."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        mixed = random.Random(f"{self._seed} {self._epoch}")  # a sum would give seed 1 what seed 0 has an epoch later
        self.generator = torch.Generator().manual_seed(mixed.getrandbits(32))
        return super().__iter__()


class BatchCosts:
    """Time spent waiting for batches, and padding in them, since it was last asked; of this process."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._positions = 0
        self._tokens: list[Tensor] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around whatever fetches batches."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - started

    def count(self, batches: Iterable[dict[str, Any]]) -> None:
        """Count the padding of batches; one without ``attention_mask`` has none."""
        for batch in batches:
            mask = batch.get("attention_mask")
            if mask is not None:
                self._positions += mask.numel()
                self._tokens.append(mask.sum())  # its value is not asked for here: a GPU would have to be waited for

    def take(self) -> dict[str, float]:
        """``data_seconds``, and ``padding``: the share of all positions that held none of an example's tokens."""
        tokens = sum(int(count) for count in self._tokens)
        taken = {
            "data_seconds": self._seconds,
            "padding": 1 - tokens / self._positions if self._positions else 0.0,
        }
        self._seconds, self._positions, self._tokens = 0.0, 0, []
        return taken
