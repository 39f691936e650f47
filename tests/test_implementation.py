import pytest
import torch
from torch import nn

from excitor import ExcitorConfig, ExcitorError, ExcitorLayer
from excitor.implementation import VARIABLE, chosen


@pytest.fixture(autouse=True)
def _read_again():
    chosen.cache_clear()
    yield
    chosen.cache_clear()


@pytest.mark.parametrize(("value", "folds"), [("auto", 1), ("", 1), ("eager", 0)])
def test_the_variable_decides_what_runs(monkeypatch, value: str, folds: int) -> None:
    monkeypatch.setenv(VARIABLE, value)
    layer = ExcitorLayer(nn.Linear(10, 12), head_dim=4)
    layer.update_layer("default", ExcitorConfig(init_weights=False))
    generator, processor = layer.parts("default")
    x, seen, fold = torch.randn(2, 7, 10), [], processor.fold
    monkeypatch.setattr(processor, "fold", lambda *args: seen.append(args) or fold(*args))
    torch.testing.assert_close(layer.term("default", x), processor.term(x, generator), atol=1e-5, rtol=1e-5)
    assert len(seen) == folds


def test_another_value_is_refused(monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, "triton")
    with pytest.raises(ExcitorError, match="EXCITOR_IMPL must be one of auto, eager, got 'triton'"):
        chosen()
