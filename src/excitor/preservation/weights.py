"""How much each preservation loss counts, and each replay text."""

import math
from dataclasses import dataclass
from pathlib import Path

from excitor.errors import ExcitorError


@dataclass(frozen=True)
class Weights:
    """Factors of the losses; a loss of weight 0 is not computed. Their formulas are in docs/preservation.md."""

    kl: float = 0.0
    """Of KL(base || adapted) on replay text, nats per token."""
    prompt_kl: float = 0.0
    """Of the same on the tokens of the instructions that are not supervised."""
    key_drift: float = 0.0
    """Of |g K_e| / |K| on replay text. Excitor only."""
    hidden_drift: float = 0.0
    """Of |h - h_base| / |h_base| on replay text."""
    gate: float = 0.0
    """Of the mean |g|. Excitor only."""

    @property
    def on_replay(self) -> bool:
        """Whether replay text is needed."""
        return bool(self.kl or self.key_drift or self.hidden_drift)

    @property
    def for_excitor_only(self) -> list[str]:
        """Names of the losses in use that no other method has."""
        return [name for name in ("key_drift", "gate") if getattr(self, name)]

    def __bool__(self) -> bool:
        return self != Weights()


LEVELS = {"off": Weights(), "light": Weights(kl=0.3), "strong": Weights(kl=1.0, prompt_kl=0.1)}
"""What ``--keep`` stands for."""


def split_weight(source: str) -> tuple[str, float]:
    """``FILE@2`` as ``("FILE", 2.0)``; without a weight it is 1.

    Raises:
        ExcitorError: What follows the ``@`` is no number above 0.
    """
    name, mark, weight = source.rpartition("@")
    if not mark or Path(source).exists():
        return source, 1.0
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ExcitorError(f"--replay {source}: after '@' there must be a weight above 0, got {weight!r}.")
    return name, value
