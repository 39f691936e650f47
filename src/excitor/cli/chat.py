"""``excitor chat``: a conversation in the terminal."""

import contextlib

import typer

from excitor.cli.decode import (
    Adapter,
    Base,
    Decoding,
    LoadIn4bit,
    LoadIn8bit,
    MaxNewTokens,
    Messages,
    Responder,
    Seed,
    Strength,
    System,
    Temperature,
    TopP,
    load,
)
from excitor.errors import ExcitorError


EXAMPLES = """\b
Example:
  excitor chat --adapter runs/first --strength 0.8"""
COMMANDS = """\
/base         what the base model would have answered to your last message
/strength X   factor on the gates from now on: 0 is the base model, 1 is as trained
/reset        forget the conversation
/exit         leave (or Ctrl-D); Ctrl-C stops an answer"""


def chat(
    adapter: Adapter,
    base: Base = None,
    strength: Strength = 1.0,
    system: System = None,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = 0,
    load_in_4bit: LoadIn4bit = None,
    load_in_8bit: LoadIn8bit = None,
) -> None:
    """Talk with an adapter.

    It sees the whole conversation; when its context is full, the oldest turns are forgotten, and it says so.
    """
    with contextlib.suppress(ImportError):  # no line editing on Windows
        import readline  # noqa: F401

    decoding = Decoding(max_new_tokens, temperature, top_p, seed)
    responder = load(adapter, base, strength, decoding, load_in_4bit, load_in_8bit, system)
    typer.secho(COMMANDS, dim=True)
    history: Messages = []
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            return
        if line == "/exit":
            return
        try:
            if line.startswith("/"):
                _obey(line, responder, history)
            elif line:
                _reply(line, responder, history)
        except ExcitorError as error:
            typer.secho(str(error), fg="red")
        except KeyboardInterrupt:
            typer.secho("\n(stopped; this turn is forgotten)", dim=True)


def _reply(line: str, responder: Responder, history: Messages) -> None:
    turn = {"role": "user", "content": line}
    dropped = 0
    while history and responder.excess([*history, turn]) > 0:
        del history[:2]  # a question and its answer
        dropped += 1
    if dropped:
        typer.secho(f"(the context is full: the oldest {dropped} turns are forgotten)", dim=True)
    answer = responder.answer([*history, turn], stream=True)
    history += [turn, {"role": "assistant", "content": answer}]


def _obey(line: str, responder: Responder, history: Messages) -> None:
    from excitor.strength import set_strength

    match line.split():
        case ["/reset"]:
            history.clear()
        case ["/base"] if history:
            responder.answer(history[:-1], base=True, stream=True)
        case ["/base"]:
            raise ExcitorError("There is no message yet that the base model could answer.")
        case ["/strength", number]:
            try:
                strength = float(number)
            except ValueError:
                raise ExcitorError(f"/strength needs a number of at least 0, not {number!r}.") from None
            set_strength(responder.model, strength)
        case _:
            typer.secho(COMMANDS, dim=True)
