"""The embedded default: a tiny LLaMA, pre-trained on an invented world, that needs no download.

``BASE_DIR`` holds it in the hub's format, so it is a valid ``--model``; :func:`load_base` loads it in fp32.
"""

from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BASE_DIR = Path(__file__).parent / "base"


def load_base() -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The shipped base in fp32, in evaluation mode, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(BASE_DIR, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(BASE_DIR)
