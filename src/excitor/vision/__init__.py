"""A frozen language model that sees: features of a frozen vision encoder as prompts of its attention keys."""

from excitor.vision.configuration import ExcitorVisionConfig
from excitor.vision.model import ExcitorForConditionalGeneration
from excitor.vision.processor import ExcitorProcessor


__all__ = ["ExcitorForConditionalGeneration", "ExcitorProcessor", "ExcitorVisionConfig"]
