"""``excitor caption``: what is in pictures."""

import json
from typing import Annotated

import typer

from excitor.cli.decode import Adapter, Base, LoadIn4bit, LoadIn8bit, MaxNewTokens, Strength
from excitor.cli.see import AsJson, BatchSize, see, trained_instruction
from excitor.errors import ExcitorError


EXAMPLES = """\b
Example:
  excitor caption holiday/*.jpg --adapter runs/captions"""


def caption(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Pictures to describe.")],
    adapter: Adapter,
    instruction: Annotated[
        str | None, typer.Option(help="What is asked about each picture; as in training, if not given.")
    ] = None,
    base: Base = None,
    strength: Strength = 1.0,
    max_new_tokens: MaxNewTokens = 64,
    batch_size: BatchSize = 16,
    load_in_4bit: LoadIn4bit = None,
    load_in_8bit: LoadIn8bit = None,
    as_json: AsJson = False,
) -> None:
    """Describe pictures with an adapter that was trained on some."""
    if instruction is not None and not instruction.strip():
        raise ExcitorError("--instruction is empty: leave it out to ask as in training.")
    asked = instruction or trained_instruction(adapter)
    questions = [([image], asked) for image in images]
    captions = see(questions, adapter, base, strength, max_new_tokens, batch_size, load_in_4bit, load_in_8bit)
    for image, text in zip(images, captions, strict=True):
        if as_json:
            typer.echo(json.dumps({"image": image, "caption": text}, ensure_ascii=False))
        else:
            typer.echo(text if len(images) == 1 else f"{image}: {text}")
