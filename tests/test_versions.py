"""What is said of versions is what ``make test-versions`` and ``make test-quantised`` test."""

import re
import tomllib
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
WINDOW = ("accelerate", "datasets", "peft", "transformers", "trl")


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "constraints" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([\w-]+)==(\S+)$", text, re.MULTILINE))


def dependencies() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return dict(re.match(r"([\w-]+)(.*)", need).groups() for need in project["dependencies"])


def test_the_oldest_versions_are_those_that_are_admitted() -> None:
    oldest = {name: re.match(r">=([^,]+)", bounds)[1] for name, bounds in dependencies().items()}
    del oldest["torch"]  # tested with the one that the Makefile names
    assert pins("oldest") == oldest


def test_the_newest_versions_are_admitted() -> None:
    assert pins("newest").keys() == set(WINDOW)
    for name, pin in pins("newest").items():
        below = re.search(r"<([\d.]+)", dependencies()[name])[1]
        assert key(pins("oldest")[name]) <= key(pin) < key(below)


def key(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


@pytest.mark.parametrize("name", WINDOW)
def test_the_documents_name_both_ends(name: str) -> None:
    row = f"| {name} | {pins('oldest')[name]} | {pins('newest')[name]} |"
    assert row in (ROOT / "docs" / "versions.md").read_text()


@pytest.mark.parametrize("name", pins("quantised"))
def test_the_documents_name_the_backends(name: str) -> None:
    assert f"{name} {pins('quantised')[name]}" in (ROOT / "docs" / "quantised.md").read_text()
