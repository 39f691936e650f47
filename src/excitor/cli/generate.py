"""``excitor generate``: answers to instructions."""

import json
import sys
from typing import Annotated

import typer

from excitor.cli.decode import (
    Adapter,
    Base,
    Decoding,
    LoadIn4bit,
    LoadIn8bit,
    MaxNewTokens,
    Seed,
    Strength,
    System,
    Temperature,
    TopP,
    load,
)
from excitor.errors import ExcitorError


EXAMPLES = """\b
Examples:
  excitor generate --adapter runs/first "Name three rivers." --compare-base
  cat question.txt | excitor generate --adapter runs/first -"""


def generate(
    instructions: Annotated[list[str], typer.Argument(help="What to answer; - reads it from standard input.")],
    adapter: Adapter,
    base: Base = None,
    strength: Strength = 1.0,
    system: System = None,
    compare_base: Annotated[bool, typer.Option("--compare-base", help="Print the base model's answer too.")] = False,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    load_in_4bit: LoadIn4bit = None,
    load_in_8bit: LoadIn8bit = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each instruction.")] = False,
) -> None:
    """Answer instructions with an adapter."""
    instructions = [sys.stdin.read().strip() if text == "-" else text for text in instructions]
    if not all(text.strip() for text in instructions):
        raise ExcitorError("An instruction is empty: there is nothing to answer.")
    decoding = Decoding(max_new_tokens, temperature, top_p, seed)
    responder = load(adapter, base, strength, decoding, load_in_4bit, load_in_8bit, system)
    for instruction in instructions:
        messages = [{"role": "user", "content": instruction}]
        voices = {"base": True, "adapter": False} if compare_base else {"adapter": False}
        if as_json:
            answers = {voice: responder.answer(messages, base=is_base) for voice, is_base in voices.items()}
            typer.echo(json.dumps({"instruction": instruction, "strength": strength, **answers}, ensure_ascii=False))
            continue
        if len(instructions) > 1:
            typer.secho(instruction, bold=True)
        for voice, is_base in voices.items():
            if compare_base:
                typer.secho(f"[{voice}]", dim=True)
            responder.answer(messages, base=is_base, stream=True)
