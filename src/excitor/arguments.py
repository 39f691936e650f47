"""What the arguments of every command have in common. Imports nothing heavy."""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from excitor.errors import ExcitorError


LARGEST_SEED = 2**32 - 1  # what NumPy takes


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

    def _is_seed(self) -> Iterator[str]:
        if not 0 <= self.seed <= LARGEST_SEED:  # pyright: ignore[reportAttributeAccessIssue]
            yield f"--seed must be at least 0 and at most {LARGEST_SEED}, got {self.seed}."  # pyright: ignore

    def _is_folder(self, name: str) -> Iterator[str]:
        if path := getattr(self, name):
            yield from folder_faults(path, flag(name))


def folder_faults(path: str | os.PathLike[str], name: str) -> Iterator[str]:
    """The fault of a folder to write to: a file stands there or above it, or nothing may be written.

    Args:
        path: Of the folder; it may not be there yet.
        name: Of the option that says so.
    """
    folder = Path(path)
    nearest = existing(folder)
    if not nearest.is_dir():
        where = "is a file" if nearest == folder else f"cannot be made: {nearest} is a file"
        yield f"{name} {path} {where}; it must be a folder."
    elif not os.access(nearest, os.W_OK):
        yield f"{name} {path}: no permission to write to {nearest}. Choose another folder."


def check_writable(path: str | os.PathLike[str], name: str = "--out") -> None:
    """Check that a folder may be written to; see :func:`folder_faults`.

    Raises:
        ExcitorError: It may not.
    """
    for fault in folder_faults(path, name):
        raise ExcitorError(fault)


def existing(path: Path) -> Path:
    """The path, or the nearest one above it that exists."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def bits_faults(load_in_4bit: bool | None, load_in_8bit: bool | None) -> Iterator[str]:
    """The fault of asking for a base in 4 and in 8 bits."""
    if load_in_4bit and load_in_8bit:
        yield "--load-in-4bit and --load-in-8bit are two ways to load one base: give one of them."


def flag(name: str) -> str:
    """A field as on the command line."""
    return "--" + name.replace("_", "-")
