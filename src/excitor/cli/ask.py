"""``excitor ask``: a question about a picture."""

import json
from typing import Annotated

import typer

from excitor.cli.decode import Adapter, Base, LoadIn4bit, LoadIn8bit, MaxNewTokens, Strength
from excitor.cli.see import AsJson, see
from excitor.errors import ExcitorError


EXAMPLES = """\b
Examples:
  excitor ask photo.jpg "How many dogs are there?" --adapter runs/captions
  excitor ask before.jpg after.jpg "What has changed?" --adapter runs/captions"""


def ask(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="The picture, or several.")],
    question: Annotated[str, typer.Argument(help="What to answer about all of them together.")],
    adapter: Adapter,
    base: Base = None,
    strength: Strength = 1.0,
    max_new_tokens: MaxNewTokens = 128,
    load_in_4bit: LoadIn4bit = None,
    load_in_8bit: LoadIn8bit = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question about pictures with an adapter that was trained on some."""
    if not question.strip():
        raise ExcitorError("The question is empty: there is nothing to answer.")
    questions = [(images, question)]
    [answer] = see(questions, adapter, base, strength, max_new_tokens, 1, load_in_4bit, load_in_8bit)
    if as_json:
        typer.echo(json.dumps({"images": images, "question": question, "answer": answer}, ensure_ascii=False))
    else:
        typer.echo(answer)
