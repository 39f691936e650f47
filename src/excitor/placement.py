"""Where the term meets the key: in the output of the key projection, or behind the norm that follows it."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .errors import ExcitorError


class Placement(ABC):
    """What becomes of the output of a key projection and the terms that belong to it.

    Args:
        key_features: Width of the key of one token, ``G * d``.

    Attributes:
        watch: Is told the tensor that holds the key, before and after the terms were added; :meth:`key` reads them.
    """

    watch: Callable[[Tensor, Tensor], None] | None = None

    def __init__(self, key_features: int) -> None:
        self.key_features = key_features

    @property
    def is_output(self) -> bool:
        """Whether the projection's output is the key and nothing else, and terms are added to it at once."""
        return False

    @abstractmethod
    def leave(self, output: Tensor, terms: Sequence[Tensor]) -> Tensor:
        """What leaves the projection.

        Args:
            output: Of the frozen projection.
            terms: One for each adapter at work, ``(..., G * d)``; without any the base must stay bit for bit.
        """

    def follow(self, norm: nn.Module) -> RemovableHandle:
        """Add the terms behind this module from now on, until the handle is removed."""
        return norm.register_forward_hook(self.enter)

    def enter(self, norm: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Forward hook of the norm, where there is one."""
        return output

    @abstractmethod
    def key(self, tensor: Tensor) -> Tensor:
        """The key, ``(..., G * d)``, in a tensor that ``watch`` was told of."""

    def same_as(self, other: "Placement") -> bool:
        """Whether a term of the one is a term of the other: adapters of one projection share its placement."""
        return type(self) is type(other) and self.key_features == other.key_features

    def told(self, before: Tensor, after: Tensor) -> Tensor:
        """The key with its terms, which ``watch`` is told of."""
        if self.watch is not None:
            self.watch(before, after)
        return after


class InProjection(Placement):
    """The key is a part of the projection's output: of ``groups`` equal blocks, ``width`` features from ``start``.

    Args:
        out_features: Of the projection.
        groups: Number of blocks.
        start: First feature of the key in each block.
        width: Features of the key in each block.
    """

    def __init__(self, out_features: int, groups: int = 1, start: int = 0, width: int | None = None) -> None:
        block = out_features // groups
        self.groups, self.start, self.width = groups, start, block if width is None else width
        super().__init__(groups * self.width)
        self._parts = [start, self.width, block - start - self.width]

    @property
    def is_output(self) -> bool:
        """See :attr:`Placement.is_output`."""
        return self._parts == [0, self.width, 0]

    def leave(self, output: Tensor, terms: Sequence[Tensor]) -> Tensor:
        """The output with the terms added to its key."""
        if not terms:
            return self.told(output, output)
        if self.is_output:
            return self.told(output, _add(output, terms))
        before, key, after = output.unflatten(-1, (self.groups, -1)).split(self._parts, dim=-1)
        key = _add(key, [term.unflatten(-1, (self.groups, -1)) for term in terms])
        return self.told(output, torch.cat([before, key, after], dim=-1).flatten(-2))

    def key(self, tensor: Tensor) -> Tensor:
        """See :meth:`Placement.key`."""
        return tensor.unflatten(-1, (self.groups, -1)).narrow(-1, self.start, self.width).flatten(-2)

    def same_as(self, other: Placement) -> bool:
        """See :meth:`Placement.same_as`."""
        return isinstance(other, InProjection) and (self.groups, self._parts) == (other.groups, other._parts)


class _Handed(threading.local):
    """Terms on their way from a projection to the norm behind it.

    Each thread has its own: a server, or ``nn.DataParallel``, runs one model in several threads at the same time.
    Copies and pickles start empty, as what is under way belongs to a forward pass, not to the model.
    """

    terms: Sequence[Tensor] = ()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Handed, ()


class BehindNorm(Placement):
    """A module normalises the key; a forward hook on it adds what the projection has handed over just before.

    Args:
        key_features: Width of the key of one token, ``G * d``.
        shape: Of what the norm returns: ``"flat"``, ``"heads"`` or ``"heads first"``, see ``families.NORM_SHAPES``.
    """

    def __init__(self, key_features: int, shape: str) -> None:
        super().__init__(key_features)
        self._shape = shape
        self._handed = _Handed()

    def leave(self, output: Tensor, terms: Sequence[Tensor]) -> Tensor:
        """The output as it is; the terms wait for the norm."""
        self._handed.terms = terms
        return output

    def enter(self, norm: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """See :meth:`Placement.enter`."""
        terms, self._handed.terms = self._handed.terms, ()
        if self._shape == "heads first":
            terms = [term.unflatten(-1, (output.shape[1], -1)).transpose(1, 2) for term in terms]
        elif self._shape == "heads":
            terms = [term.unflatten(-1, output.shape[-2:]) for term in terms]
        return self.told(output, _add(output, terms))

    def key(self, tensor: Tensor) -> Tensor:
        """See :meth:`Placement.key`."""
        if self._shape == "heads first":
            tensor = tensor.transpose(1, 2)
        return tensor if self._shape == "flat" else tensor.flatten(-2)


class BehindRotatedNorm(Placement):
    """One module normalises queries and keys, head by head, after the rotary embedding (LLaMA 4).

    The term has to be rotated as the key is, but not normalised. So it travels with the key as further heads, which
    attention rotates like any others, and a forward hook on the norm adds them to the normalised key.

    Args:
        key_features: Width of the key of one token, ``G * d``.
        num_heads: Key heads, G.
        num_query_heads: H.
    """

    def __init__(self, key_features: int, num_heads: int, num_query_heads: int) -> None:
        super().__init__(key_features)
        self._num_heads = num_heads
        self._like_queries = num_heads == num_query_heads
        # The norm sees the queries too: a key with its term is known by its number of heads, which must not be theirs.
        self._carried = (3 if num_query_heads == 2 * num_heads else 2) * num_heads

    def leave(self, output: Tensor, terms: Sequence[Tensor]) -> Tensor:
        """The output, and the terms beside it."""
        # A key without a term goes alone, unless it has to be told from as many queries for someone who watches.
        if not terms and (self.watch is None or not self._like_queries):
            return output
        term = _add(torch.zeros_like(output), terms)
        padding = [torch.zeros_like(output)] * (self._carried // self._num_heads - 2)
        return torch.cat([output, term, *padding], dim=-1)

    def enter(self, norm: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """See :meth:`Placement.enter`."""
        if output.shape[-2] != self._carried:  # queries, or a key without a term
            is_key = output.shape[-2] == self._num_heads and not self._like_queries
            return self.told(output, output) if is_key else output
        key, term = output[..., : self._num_heads, :], args[0][..., self._num_heads : 2 * self._num_heads, :]
        return self.told(key, key + term)

    def key(self, tensor: Tensor) -> Tensor:
        """See :meth:`Placement.key`."""
        return tensor.flatten(-2)


def in_layout(layout: str, out_features: int, heads: int | None, head_dim: int) -> InProjection:
    """The place of the key in a projection of a layout that ``families.LAYOUTS`` describes.

    Args:
        layout: Its name.
        out_features: Of the projection.
        heads: Query heads, H; the layouts of fused projections need it.
        head_dim: d.

    Raises:
        ExcitorError: The sizes do not fit the layout.
    """
    if layout == "key":
        return InProjection(out_features)
    if layout == "latent" and heads:
        return InProjection(out_features, heads, 0, head_dim)
    key_heads, rest = divmod(out_features - (heads or 0) * head_dim, 2 * head_dim)
    if not heads or rest or key_heads < 1 or heads % key_heads:
        raise ExcitorError(
            f"a projection of {out_features} outputs does not hold {heads or 'an unknown number of'} query heads of "
            f"size {head_dim} and key and value heads beside them: key_layout={layout!r} and head_dim must be those "
            "of the model, and its configuration must have num_attention_heads."
        )
    if layout == "concatenated":
        return InProjection(out_features, 1, heads * head_dim, key_heads * head_dim)
    return InProjection(out_features, key_heads, heads // key_heads * head_dim, head_dim)


def _add(key: Tensor, terms: Sequence[Tensor]) -> Tensor:
    for term in terms:
        key = key + term.to(key.dtype)
    return key
