import pytest

from excitor.implementation import READ, VARIABLE


@pytest.fixture
def under(monkeypatch: pytest.MonkeyPatch):
    """Chooses an implementation."""

    def choose(implementation: str) -> None:
        monkeypatch.setenv(VARIABLE, implementation)
        READ.clear()

    yield choose
    READ.clear()
