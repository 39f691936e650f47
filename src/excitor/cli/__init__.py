"""The command ``excitor``: a small file for each subcommand, and nothing heavy imported before one runs."""

import errno
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from excitor.cli import (
    ask,
    beliefs,
    caption,
    chat,
    compare,
    demo,
    eval,
    features,
    generate,
    inspect,
    judge,
    score,
    train,
)
from excitor.errors import ExcitorError


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,  # its columns cut long flags short
    pretty_exceptions_enable=False,
    epilog="Every command explains itself: excitor train --help.",
)
for module in (demo, train, eval, judge, generate, chat, caption, ask, inspect, features, beliefs, compare):
    name = module.__name__.rpartition(".")[2]
    app.command(name, epilog=module.EXAMPLES)(getattr(module, name))
app.add_typer(score.app, name="score")


def _print_version(wanted: bool) -> None:
    if wanted:
        needs = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "peft", "trl"))
        typer.echo(f"excitor {version('excitor')} ({needs}, Python {sys.version.split()[0]})")
        raise typer.Exit


@app.callback()
def excitor(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show versions and leave.")
    ] = False,
) -> None:
    """Teach a language model to follow instructions by changing only where attention looks."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and leaves with its exit code.

    A mistake the user can mend, and anything the machine refuses (no file, no permission, no space), is one message on
    stderr and exit code 2; with ``EXCITOR_DEBUG=1`` in the environment it keeps its traceback. Ctrl-C is 130.

    Args:
        arguments: what follows the command's name; ``sys.argv[1:]`` if None.
    """
    if not os.environ.get("EXCITOR_DEBUG"):
        warnings.simplefilter("ignore", FutureWarning)  # what libraries plan to change is no news for a user
    try:
        app(arguments, prog_name="excitor")
    except SystemExit as leave:
        if leave.code == 130:
            _say("Interrupted.", label="")
        raise
    except Exception as error:
        message = _explain(error)
        if message is None or os.environ.get("EXCITOR_DEBUG"):
            raise
        _say(message)
        sys.exit(2)


def _explain(error: Exception) -> str | None:
    """The message for what a user or the machine did wrong; None for an error of ours."""
    # safetensors and torch do not raise OSError when a disk is full
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in str(error):
        return f"No space left on the disk ({error}). Free some or write to another place, then run it again."
    return str(error) if isinstance(error, (ExcitorError, OSError)) else None


def _say(message: str, label: str = "Error: ") -> None:
    Console(stderr=True, soft_wrap=True).print(Text.assemble((label, "bold red"), message))
