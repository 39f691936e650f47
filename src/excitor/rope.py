"""Terms that rotary embeddings leave alone, in models that rotate keys; the paper's equations have no rotation.

A term is added to the key before the model rotates it. Turned back by the same angles beforehand, it comes out of the
rotation as it was: caches, fused attention and everything else behind the key stay what they are.
"""

import threading
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ExcitorError


ROPE = ("before", "after")

# By ``config.model_type``: attention is called with ``position_embeddings=(cos, sin)`` and rotates whole heads by
# them, the first half of a head with the second.
ROTATE_HALVES = frozenset(
    (
        *("gemma", "gemma2", "gemma3_text", "granite", "llama", "ministral", "ministral3", "mistral", "mixtral"),
        *("olmo", "olmo2", "olmo3", "olmoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "starcoder2"),
    )
)


class Rotation:
    """How an attention rotates the keys of the forward pass that is under way.

    Args:
        attention: The module that is called with the angles.
    """

    def __init__(self, attention: nn.Module) -> None:
        self._under_way = _Angles()
        self.hook = attention.register_forward_pre_hook(self._read, with_kwargs=True)

    def undo(self, term: Tensor, num_heads: int) -> Tensor:
        """What becomes ``term`` when it is rotated as the keys are.

        Args:
            term: ``(B, M, G * d)``.
            num_heads: G.

        Raises:
            ExcitorError: The attention was called without angles, or rows of the batch with angles of their own are
                missing, as in a batch of several adapters.
        """
        angles = self._under_way.angles
        if angles is None:
            raise ExcitorError(
                "rope='after' needs an attention that is called with position_embeddings, and this model's was not: "
                "use rope='before'."
            )
        cos, sin = (angle.to(term.dtype).unsqueeze(-2) for angle in angles)  # (1 or B, M, 1, d)
        if cos.shape[0] not in (1, term.shape[0]):
            raise ExcitorError(
                "rope='after' cannot run several adapters in one batch whose rows have positions of their own, as "
                "padding on the left gives them: run each adapter alone, or pad on the right."
            )
        heads = term.unflatten(-1, (num_heads, -1))
        first, second = heads.chunk(2, dim=-1)
        quarter_back = torch.cat([second, -first], dim=-1)
        # Some models stretch what they rotate: hence the division.
        return ((heads * cos + quarter_back * sin) / (cos.square() + sin.square())).flatten(-2)

    def _read(self, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._under_way.angles = kwargs.get("position_embeddings")


class _Angles(threading.local):
    """Of the pass under way in this thread; copies and pickles start without, as they belong to no pass."""

    angles: tuple[Tensor, Tensor] | None = None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Angles, ()


def check_rotation(model_type: str | None) -> None:
    """Refuse a model whose rotation is not known.

    Args:
        model_type: Of its configuration.

    Raises:
        ExcitorError: It is not known.
    """
    if model_type not in ROTATE_HALVES:
        raise ExcitorError(
            f"rope='after' is not known for architecture {model_type!r}, only for {', '.join(sorted(ROTATE_HALVES))}: "
            "use rope='before', the default."
        )
