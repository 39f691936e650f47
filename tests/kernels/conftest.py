import pytest

from excitor.implementation import VARIABLE, chosen


@pytest.fixture
def under(monkeypatch: pytest.MonkeyPatch):
    """Chooses an implementation."""

    def choose(implementation: str) -> None:
        monkeypatch.setenv(VARIABLE, implementation)
        chosen.cache_clear()

    yield choose
    chosen.cache_clear()
