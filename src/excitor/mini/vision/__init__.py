"""The embedded default that sees: drawn scenes and handwritten digits, a tiny vision encoder, a LLaMA of their words.

``ENCODER_DIR`` and ``TEXT_DIR`` hold the two frozen models in the hub's format, so they are a valid ``--vision-model``
and ``--model``. Neither has ever seen a picture together with words.
"""

from pathlib import Path


ENCODER_DIR = Path(__file__).parent / "encoder"
TEXT_DIR = Path(__file__).parent / "text"
