"""What the arguments of every command have in common. Imports nothing heavy."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from excitor.errors import ExcitorError


@dataclass
class Arguments(ABC):
    """Base of a command's arguments: a dataclass whose fields are its options, and which names its own faults."""

    def check(self) -> None:
        """Check everything that can be checked without reading a file.

        Raises:
            ExcitorError: Something is missing, out of range or contradictory; the message lists all faults.
        """
        faults = list(self._faults())
        if faults:
            raise ExcitorError("\n".join(faults))

    def to_dict(self) -> dict[str, Any]:
        """All fields by name; made from them again, the arguments are the same."""
        return asdict(self)

    @abstractmethod
    def _faults(self) -> Iterator[str]:
        """A sentence for every fault; yielded by each command."""

    def _at_least(self, bound: int, *names: str) -> Iterator[str]:
        """Faults of numbers that are smaller, not finite or no numbers; None stands for "not given"."""
        for name in names:
            value = getattr(self, name)
            if value is not None and not bound <= value < math.inf:
                yield f"{flag(name)} must be at least {bound}, got {value}."

    def _is_folder(self, name: str) -> Iterator[str]:
        """The fault of a path where a file stands; there may be nothing yet."""
        path = getattr(self, name)
        if path and Path(path).exists() and not Path(path).is_dir():
            yield f"{flag(name)} {path} is a file; it must be a folder."


def bits_faults(load_in_4bit: bool | None, load_in_8bit: bool | None) -> Iterator[str]:
    """The fault of asking for a base in 4 and in 8 bits."""
    if load_in_4bit and load_in_8bit:
        yield "--load-in-4bit and --load-in-8bit are two ways to load one base: give one of them."


def flag(name: str) -> str:
    """A field as on the command line."""
    return "--" + name.replace("_", "-")
