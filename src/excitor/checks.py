"""Checks of the fields of configurations: each raises an :class:`ExcitorError` with the name, the range, the value."""

import math
import re
from typing import cast

from .errors import ExcitorError


def check_count(name: str, value: object, least: int) -> None:
    """Refuse what is no whole number of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ExcitorError(f"{name} must be a whole number of at least {least}, got {value!r}.")


def check_pattern(name: str, pattern: object, least: int) -> None:
    """Refuse what does not map regular expressions to whole numbers of at least ``least``."""
    if not isinstance(pattern, dict):
        raise ExcitorError(f"{name} must map module names or regular expressions to whole numbers, got {pattern!r}.")
    for key, value in cast(dict[object, object], pattern).items():
        try:
            re.compile(cast(str, key))
        except (re.error, TypeError) as error:
            raise ExcitorError(f"{name} has {key!r}, which is no regular expression: {error}.") from error
        check_count(f"{name}[{key!r}]", value, least)


def check_number(name: str, value: object, above: float = -math.inf, at_least: float = -math.inf) -> None:
    """Refuse what is no finite number in the range."""
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not math.isfinite(value)
        or not (value > above and value >= at_least)
    ):
        bound = f" above {above}" if above > -math.inf else f" of at least {at_least}" if at_least > -math.inf else ""
        raise ExcitorError(f"{name} must be a finite number{bound}, got {value!r}.")


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Refuse what is none of the choices."""
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        raise ExcitorError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}.")
