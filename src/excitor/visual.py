"""Visual prompts: what a layer makes of the features of the pictures that a row of the batch comes with.

The features are no tokens: they never enter the sequence, and no layer of the language model sees them but through the
extra key. A row without a picture has no visual prompts, and its keys are those of a model without vision.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Self

import torch
from torch import Tensor, nn

from .errors import ExcitorError
from .folded_pictures import FoldedPictures
from .functional import Prompts, split_heads
from .precision import without_autocast
from .processor import PromptProcessor


class VisualPrompts(nn.Module):
    """Key and value map of one layer, ``P_k = F W_k`` and ``P_v = F W_v`` (paper, section 3.3).

    Args:
        width: Width of the features, D.
        num_heads: Key/value heads, G.
        head_dim: d.
        rank: Width of a trunk that both maps start from, ``F W``; without it each is a full ``D x G d`` matrix.
        init_std: Standard deviation of keys and values at the start, for features of variance 1.
        silent: Values start at zero instead.
    """

    def __init__(
        self, width: int, num_heads: int, head_dim: int, *, rank: int | None, init_std: float, silent: bool = False
    ) -> None:
        super().__init__()
        self.width, self.num_heads = width, num_heads
        self.trunk = nn.Parameter(torch.randn(width, rank) / math.sqrt(width)) if rank else None
        inner = rank or width
        shape, std = (inner, num_heads * head_dim), init_std / math.sqrt(inner)
        self.key_map = nn.Parameter(torch.empty(shape).normal_(0.0, std))
        self.value_map = nn.Parameter(torch.empty(shape).normal_(0.0, 0.0 if silent else std))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values ``(R, T, G, d)`` for features ``(R, T, D)``, in the maps' dtype.

        Raises:
            ExcitorError: The features have another width.
        """
        if features.shape[-1] != self.width:
            raise ExcitorError(
                f"the picture features are {features.shape[-1]} wide, but the adapter was made for an encoder of "
                f"width {self.width} (vision_width): use the encoder that it was trained with."
            )
        features = features.to(self.key_map.device, self.key_map.dtype)
        if self.trunk is not None:
            features = features @ self.trunk
        keys, values = features @ self.key_map, features @ self.value_map
        return split_heads(keys, self.num_heads), split_heads(values, self.num_heads)


class Pictures:
    """Features of the pictures of a batch.

    Args:
        features: ``(R, T, D)``, for each of R rows those of all its pictures, padded at the end.
        mask: ``(R, T)``, True where there is a feature; None where all are.
    """

    def __init__(self, features: Tensor, mask: Tensor | None = None) -> None:
        self.features, self.mask = features, mask
        self._folded: dict[int, FoldedPictures] = {}

    @classmethod
    def of_rows(cls, features: Tensor, counts: Tensor) -> Self | None:
        """Distribute features over rows.

        Args:
            features: Of N pictures, one row's after another's, ``(N, V, D)``.
            counts: How many belong to each of R rows, ``(R,)``; their sum is N.

        Returns:
            None if no row has a picture.
        """
        per_row = counts.tolist()
        most = max(per_row, default=0)
        if most == 0:
            return None
        if min(per_row) == most:
            return cls(features.reshape(len(per_row), -1, features.shape[-1]))
        own = torch.arange(most, device=features.device) < counts.to(features.device)[:, None]  # (R, most)
        padded = features.new_zeros(*own.shape, *features.shape[1:])
        padded[own] = features
        return cls(padded.flatten(1, 2), own.repeat_interleave(features.shape[1], dim=1))

    def prompts(self, maps: VisualPrompts, batch: int) -> Prompts:
        """The visual prompts of one layer.

        Args:
            maps: The layer's.
            batch: Rows at hand: R, or a multiple of it where ``generate`` has made copies of each row (beams).

        Returns:
            Keys and values ``(batch, 1, T, G, d)``, mask ``(batch, 1, T)``.

        Raises:
            ExcitorError: ``batch`` is no multiple of R, or the features have another width than the maps are for.
        """
        rows = len(self.features)
        if batch % rows:
            raise ExcitorError(
                f"there are pictures for {rows} rows, but the batch has {batch}: give num_images a row."
            )
        keys, values = (self._copies(made, batch)[:, None] for made in maps(self.features))
        mask = None if self.mask is None else self._copies(self.mask.to(keys.device), batch)[:, None]
        return Prompts(keys, values, mask)

    def folded(self, maps: VisualPrompts, processor: PromptProcessor, batch: int) -> FoldedPictures:
        """The same multiplied out; without gradients made once, so that a decoding step finds those of the last."""
        if torch.is_grad_enabled():
            return processor.fold_pictures(self.prompts(maps, batch))
        kept = self._folded.get(id(maps))
        if kept is None or len(kept.values) != batch:
            with without_autocast(maps.key_map.device):
                kept = self._folded[id(maps)] = processor.fold_pictures(self.prompts(maps, batch))
        return kept

    def select(self, rows: Tensor, batch: int) -> "Pictures":
        """Those of some rows, of ``batch`` in all."""
        rows = rows.to(self.features.device)
        mask = None if self.mask is None else self._copies(self.mask, batch)[rows]
        return Pictures(self._copies(self.features, batch)[rows], mask)

    @staticmethod
    def _copies(of_rows: Tensor, batch: int) -> Tensor:
        return of_rows if len(of_rows) == batch else of_rows.repeat_interleave(batch // len(of_rows), dim=0)


_SEEN: ContextVar[Pictures | None] = ContextVar("pictures", default=None)


def seen() -> Pictures | None:
    """The pictures that layers see now."""
    return _SEEN.get()


@contextmanager
def seeing(pictures: Pictures | None) -> Iterator[None]:
    """Within it, and in this thread, every adapted layer with visual prompts sees these pictures, or none."""
    token = _SEEN.set(pictures)
    try:
        yield
    finally:
        _SEEN.reset(token)
