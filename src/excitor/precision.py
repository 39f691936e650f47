"""Which precision products run in: the adapter's own, unless autocast asks for less."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


# By the names that options have for them; "auto" is how a model is stored.
DTYPES: dict[str, Any] = {"auto": "auto", "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype that autocast would have for a product on a device; None while it is off."""
    if torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return None


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Within it every product runs in the dtype of its factors."""
    return nullcontext() if autocast_dtype(device) is None else torch.autocast(device.type, enabled=False)
