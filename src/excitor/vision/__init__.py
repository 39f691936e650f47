"""A frozen language model that sees: features of a frozen vision encoder as prompts of its attention keys."""

import sys


# The command line answers --help before torch is imported: see excitor_cli.py.
if "excitor_cli" not in sys.modules:
    from excitor.vision.configuration import ExcitorVisionConfig
    from excitor.vision.model import ExcitorForConditionalGeneration
    from excitor.vision.processor import ExcitorProcessor

__all__ = ["ExcitorForConditionalGeneration", "ExcitorProcessor", "ExcitorVisionConfig"]
