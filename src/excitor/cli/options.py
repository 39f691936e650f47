"""One dataclass describes a command: every field is a flag and a YAML key, with its default and its help."""

import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import yaml

from excitor.errors import ExcitorError


Arguments = TypeVar("Arguments")
Config = Annotated[Path | None, typer.Option(help="YAML file with options by name; a flag wins over it.")]

TYPE_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list[str]: "text or a list of texts",
    types.NoneType: "null",
}


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
            from_file = read_config(config, arguments) if config else {}
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


def read_config(path: Path, arguments: type) -> dict[str, Any]:
    """Reads the values that a YAML file gives to fields of a dataclass; fields it does not name are left out.

    Raises:
        ExcitorError: the file is missing or no YAML mapping; a key is no field (the nearest right name is given) or
            stands there twice; a value is not of its field's type.
    """
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except OSError as error:
        raise ExcitorError(f"--config {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ExcitorError(f"--config {path} is not YAML: {error}") from error
    if not isinstance(root, yaml.MappingNode):
        raise ExcitorError(f"--config {path} must hold lines like 'model: NAME', one option a line.")

    hints = typing.get_type_hints(arguments)
    config: dict[str, Any] = {}
    # The nodes still hold what loading drops without a word: lines, and keys that stand there twice.
    for node, _ in root.value:
        key, line = node.value, f"{path}, line {node.start_mark.line + 1}"
        name = str(key).replace("-", "_")
        if name not in hints:
            nearest = get_close_matches(name, hints, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"the keys are {', '.join(hints)}."
            raise ExcitorError(f"{line}: unknown key {key!r}; {hint}")
        if name in config:
            raise ExcitorError(f"{line}: the key {key!r} is given a second time.")
        config[name] = _convert(values[key], hints[name], f"{line}: {key!r}")
    return config


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _flag(name: str, annotation: object, default: object, help_text: str) -> inspect.Parameter:
    option = typer.Option(help=help_text + " Can be given several times." * (annotation == list[str]))
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, option]
    )


def _convert(value: object, annotation: object, where: str) -> object:
    """``value`` as the annotation wants it: a number of ``1e-3`` (text to PyYAML), a list of a single text."""
    accepted = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    if type(value) in accepted:
        return value
    if float in accepted and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if list[str] in accepted:
        texts = value if isinstance(value, list) else [value]
        if all(isinstance(text, str) for text in texts):
            return texts
    expected = " or ".join(TYPE_NAMES[kind] for kind in accepted)
    raise ExcitorError(f"{where} must be {expected}, but it is {value!r} ({type(value).__name__}).")
