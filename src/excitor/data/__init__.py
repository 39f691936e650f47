"""From data files to token ids: sources and formats, templates, masks, and a preview."""

from .encoding import Encoded, encode_examples, encode_prompt, render_prompt
from .preview import preview_example
from .sources import load_examples
from .templates import INSTRUCTION_TEMPLATE, Template, resolve_template
from .text import read_text


__all__ = [
    "INSTRUCTION_TEMPLATE",
    "Encoded",
    "Template",
    "encode_examples",
    "encode_prompt",
    "load_examples",
    "preview_example",
    "read_text",
    "render_prompt",
    "resolve_template",
]
