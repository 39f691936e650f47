import errno
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

import excitor
from excitor.cli import app, main
from excitor.diagnostics import files
from excitor.errors import ExcitorError


COMMAND = Path(sys.executable).with_name("excitor")


HEAVY = ("torch", "transformers", "datasets", "peft", "trl")
HELP = f"""
import sys, excitor_cli
try:
    excitor_cli.main()
finally:
    print("heavy:", sorted({{*{HEAVY}}} & {{*sys.modules}}))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["chat", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    done = subprocess.run([sys.executable, "-c", HELP, *arguments], capture_output=True, text=True, check=True)
    assert "Usage: excitor" in done.stdout
    assert done.stdout.endswith("heavy: []\n")


@pytest.mark.parametrize("command", [[COMMAND], [sys.executable, "-m", "excitor"]])
def test_both_ways_to_call_it(command, adapter_dir):
    """In a process of its own, where importing the package alone does not import the method."""
    arguments = ["generate", "--adapter", adapter_dir, "--max-new-tokens", "2", "--json", "hi"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith('{"instruction": "hi"')


@pytest.mark.parametrize("name", [info.name for info in app.registered_commands])
def test_every_command_shows_an_example(command, name):
    result = command(name, "--help")
    assert result.code == 0
    assert f"\n    excitor {name}" in result.out


def test_version(command):
    result = command("--version")
    assert result.code == 0
    assert result.out.startswith(f"excitor {excitor.__version__} (torch ")


def test_without_a_command_the_help_is_shown(command):
    result = command()
    assert result.code == 2
    assert "inspect" in result.out + result.err


def raising(error):
    def describe(directory):
        raise error

    return describe


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ExcitorError("[a] is wrong."), "Error: [a] is wrong.\n"),
        (PermissionError(13, "Permission denied", "x.json"), "Error: [Errno 13] Permission denied: 'x.json'\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), "Error: No space left on the disk ("),
        (SafetensorError("IoError(Os { code: 28, No space left on device })"), "Error: No space left on the disk ("),
    ],
)
def test_what_the_user_can_mend_is_one_message(command, monkeypatch, error, message):
    monkeypatch.setattr(files, "describe", raising(error))
    result = command("inspect", "x")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(message)
    assert result.err.count("\n") == 1


def test_debug_keeps_the_traceback(monkeypatch):
    monkeypatch.setattr(files, "describe", raising(ExcitorError("wrong")))
    monkeypatch.setenv("EXCITOR_DEBUG", "1")
    with pytest.raises(ExcitorError, match="wrong"):
        main(["inspect", "x"])


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(files, "describe", raising(KeyError("bug")))
    with pytest.raises(KeyError):
        main(["inspect", "x"])


def test_interrupt(command, monkeypatch):
    monkeypatch.setattr(files, "describe", raising(KeyboardInterrupt()))
    result = command("inspect", "x")
    assert (result.code, result.err) == (130, "Interrupted.\n")


def test_a_reader_that_leaves_early_is_no_error(adapter_dir):
    pipe = subprocess.Popen([COMMAND, "inspect", adapter_dir], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    pipe.stdout.close()
    assert pipe.stderr.read() == b""
    pipe.wait(60)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device without space")
def test_full_disk(adapter_dir):
    with open("/dev/full", "w") as full:
        done = subprocess.run([COMMAND, "inspect", adapter_dir], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: No space left on the disk")
    assert done.stderr.count("\n") == 1
