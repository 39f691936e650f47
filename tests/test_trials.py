"""Trials in processes of their own."""

import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from excitor.errors import ExcitorError
from excitor.trials import run_all


QUIET = Console(quiet=True)


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


def test_two_at_a_time_make_all(tmp_path):
    paths = [tmp_path / str(number) for number in range(5)]
    run_all(note, paths, 2, QUIET, "trials")
    makers = {int(path.read_text()) for path in paths}
    assert os.getpid() not in makers
    assert len(makers) <= 2


@pytest.mark.parametrize(
    ("trial", "message"), [(die, "killed, most likely for want of memory"), (fail, "no such data")]
)
def test_a_trial_that_fails_ends_all_at_once(tmp_path, trial, message):
    started = time.monotonic()
    with pytest.raises(ExcitorError, match=message):
        run_all(trial, [tmp_path / "0", tmp_path / "1"], 2, QUIET, "trials")
    assert time.monotonic() - started < 50  # the other one sleeps longer
