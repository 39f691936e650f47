import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from excitor.arguments import Arguments
from excitor.errors import ExcitorError


@dataclass
class Baking(Arguments):
    tray_count: float | None = None
    out: str = ""

    def _faults(self) -> Iterator[str]:
        yield from self._at_least(1, "tray_count")
        yield from self._is_folder("out")


@pytest.mark.parametrize("count", [0, -1, float("nan"), float("inf")])
def test_numbers_out_of_range_are_named_as_on_the_command_line(count):
    with pytest.raises(ExcitorError, match=f"^--tray-count must be at least 1, got {count}.$"):
        Baking(tray_count=count).check()


def test_all_faults_are_in_one_message():
    with pytest.raises(ExcitorError, match=r"(?s)--tray-count.*\n--out .* is a file; it must be a folder"):
        Baking(tray_count=0, out=__file__).check()


def test_what_is_not_given_and_what_is_not_there_yet_passes(tmp_path):
    Baking().check()
    Baking(tray_count=1, out=str(tmp_path / "new")).check()


def test_the_dictionary_makes_the_same_arguments():
    baking = Baking(tray_count=2, out="oven")
    assert Baking(**baking.to_dict()) == baking


def test_arguments_of_commands_are_read_without_torch():
    code = "import sys, excitor_cli, excitor.arguments, excitor.evaluate.arguments; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
