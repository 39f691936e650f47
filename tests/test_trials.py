"""Trials in processes of their own."""

import os
import time

import pytest
from rich.console import Console

from excitor.errors import ExcitorError
from excitor.trials import run_all
from trial_functions import die, fail, note


QUIET = Console(quiet=True)


def test_two_at_a_time_make_all(tmp_path):
    paths = [tmp_path / str(number) for number in range(5)]
    run_all(note, paths, 2, QUIET, "trials")
    makers = {int(path.read_text()) for path in paths}
    assert os.getpid() not in makers
    assert len(makers) <= 2


@pytest.mark.parametrize(("trial", "message"), [(die, "ended without an answer"), (fail, "no such data")])
def test_a_trial_that_fails_ends_all_at_once(tmp_path, trial, message):
    started = time.monotonic()
    with pytest.raises(ExcitorError, match=message):
        run_all(trial, [tmp_path / "0", tmp_path / "1"], 2, QUIET, "trials")
    assert time.monotonic() - started < 50  # the other one sleeps longer
