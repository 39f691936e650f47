"""What the fused kernels lack is said in words."""

import sys

import pytest
import torch

from excitor.folded import Folded
from excitor.kernels import support


def make_folded(rank: int = 3, rows: int = 5, head_dim: int = 4, dtype: torch.dtype = torch.float32) -> Folded:
    return Folded(torch.zeros(rank, 2 * rows, dtype=dtype), torch.zeros(2, rows, head_dim, dtype=dtype), None, rows, 0)


@pytest.fixture
def without_triton(monkeypatch: pytest.MonkeyPatch):
    support._missing.cache_clear()
    monkeypatch.setitem(sys.modules, "triton", None)
    yield
    support._missing.cache_clear()


def test_without_triton(without_triton) -> None:
    lacking = support.lacks(make_folded(), torch.float32)
    assert lacking is not None
    assert "triton cannot be imported" in lacking
    assert "pip install triton" in lacking


def test_on_a_cpu_without_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(support, "interpreted", lambda: False)
    lacking = support.lacks(make_folded(), torch.float32)
    assert lacking is not None
    assert "the tensors are on cpu" in lacking
    assert "TRITON_INTERPRET=1" in lacking


@pytest.mark.parametrize(
    ("folded", "dtype", "words"),
    [
        (make_folded(), torch.float32, None),
        (make_folded(rank=64, rows=62, head_dim=256), torch.bfloat16, None),
        (make_folded(rows=200, head_dim=128), torch.float32, "200 rows of prompts"),
        (make_folded(), torch.float64, "not torch.float64 and torch.float32"),
        (make_folded(dtype=torch.float64), torch.float32, "not torch.float32 and torch.float64"),
    ],
)
def test_what_they_take(
    monkeypatch: pytest.MonkeyPatch, folded: Folded, dtype: torch.dtype, words: str | None
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(support, "interpreted", lambda: True)
    lacking = support.lacks(folded, dtype)
    assert lacking is None if words is None else words in (lacking or "")
