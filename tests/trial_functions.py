"""Trials of their own kind, in a module that a new process can import: it knows `tests/`, but no package `tests`."""

import os
import time
from pathlib import Path

from excitor.errors import ExcitorError


def note(path: Path) -> None:
    path.write_text(str(os.getpid()))


def die(path: Path) -> None:
    """What the kernel does to a process that takes too much memory."""
    if path.name == "0":
        os._exit(9)
    time.sleep(60)


def fail(path: Path) -> None:
    if path.name == "0":
        raise ExcitorError("no such data")
    time.sleep(60)
