"""Options from a YAML file: every field of a dataclass is a key. Imports nothing heavy."""

import types
import typing
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from excitor.errors import ExcitorError


TYPE_NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a mapping",
    list[str]: "text or a list of texts",
    list[int]: "a list of whole numbers",
    list[float]: "a list of numbers",
    types.NoneType: "null",
}


def read_options(path: Path, arguments: type, given_as: str) -> dict[str, Any]:
    """Reads the values that a YAML file gives to fields of a dataclass; fields it does not name are left out.

    Args:
        path: of the file.
        arguments: the dataclass.
        given_as: the flag that named the file, for messages.

    Raises:
        ExcitorError: the file is missing or no YAML mapping; a key is no field (the nearest right name is given) or
            stands there twice; a value is not of its field's type.
    """
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except OSError as error:
        raise ExcitorError(f"{given_as} {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ExcitorError(f"{given_as} {path} is not YAML: {error}") from error
    if not isinstance(root, yaml.MappingNode):
        raise ExcitorError(f"{given_as} {path} must hold lines like 'model: NAME', one option a line.")

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
        config[name] = as_type(values[key], hints[name], f"{line}: {key!r}")
    return config


def as_type(value: Any, annotation: Any, where: str) -> Any:
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
    if isinstance(value, list):
        for kind in (int, float):
            if list[kind] in accepted:
                return [as_type(one, kind, f"{where}: an entry") for one in value]
    expected = " or ".join(TYPE_NAMES[kind] for kind in accepted)
    raise ExcitorError(f"{where} must be {expected}, but it is {value!r} ({type(value).__name__}).")
