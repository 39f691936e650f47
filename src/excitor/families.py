"""What differs from one architecture to the next, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """Where the keys of an architecture come from.

    Attributes:
        key_projection: Name of the linear layer whose output is the key and nothing else, before any rotation.
    """

    key_projection: str = "k_proj"


SEPARATE = Family()

# By ``config.model_type``. Listed are architectures whose attention uses the output of ``k_proj`` as its key with no
# normalisation in between, so that the term on the projection is exactly the term on the key.
FAMILIES: dict[str, Family] = {
    "gemma": SEPARATE,
    "gemma2": SEPARATE,
    "granite": SEPARATE,
    "llama": SEPARATE,
    "mistral": SEPARATE,
    "mixtral": SEPARATE,
    "phi": SEPARATE,
    "qwen2": SEPARATE,
    "smollm3": SEPARATE,
    "starcoder2": SEPARATE,
}
