"""One dataclass describes a command: every field is a flag and a YAML key, with its default and its help."""

import inspect
import typing
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from excitor.option_file import read_options


Arguments = TypeVar("Arguments")
Config = Annotated[Path | None, typer.Option(help="YAML file with options by name; a flag wins over it.")]


def options_from(arguments: type[Arguments]) -> Callable[[Callable[[Arguments], object]], Callable[..., None]]:
    """Makes ``function(arguments)`` a typer command with a flag for each field of a dataclass, and ``--config``.

    A flag given on the command line wins over the YAML file, which wins over the field's default. Fields have types
    from ``str``, ``int``, ``float``, ``bool``, ``list[str]`` and ``X | None``, and their help in
    ``metadata["help"]``. A list is a flag given several times, a bool is ``--flag`` or ``--no-flag``.

    Args:
        arguments: the dataclass, every field with a default; the decorated function receives an instance of it.
    """

    def decorate(function: Callable[[Arguments], object]) -> Callable[..., None]:
        def command(context: typer.Context, config: Config = None, **values: object) -> None:
            from_file = read_options(config, arguments, "--config") if config else {}
            function(arguments(**(from_file | {key: values[key] for key in values if _is_given(context, key)})))

        hints, defaults = typing.get_type_hints(arguments), arguments()
        flags = [
            _flag(field.name, hints[field.name], getattr(defaults, field.name), field.metadata["help"])
            for field in fields(arguments)  # pyright: ignore[reportArgumentType]
        ]
        signature = inspect.signature(command)
        context, config, _ = signature.parameters.values()
        command.__signature__ = signature.replace(parameters=[context, config, *flags])  # pyright: ignore
        command.__doc__ = function.__doc__
        return command

    return decorate


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _flag(name: str, annotation: object, default: object, help_text: str) -> inspect.Parameter:
    option = typer.Option(help=help_text + " Can be given several times." * (annotation == list[str]))
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, option]
    )
