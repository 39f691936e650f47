"""What the tests of the fused kernels share."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from excitor.folded import Folded


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Largest error of any number, of the largest there is: rounding of the result, of the operands, and of tf32 on a GPU.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 3e-2}


def assert_near(found: Tensor, expected: Tensor, tolerance: float, name: str = "") -> None:
    assert found.shape == expected.shape, name
    assert (found.double() - expected).abs().max() <= tolerance * expected.abs().max(), name


def make_folded(heads: int, head_dim: int, rank: int, prompts: int, local: int, null: bool) -> Folded:
    rows = prompts + local * rank
    return Folded(
        torch.randn(rank, heads * rows, device=DEVICE),
        torch.randn(heads, rows, head_dim, device=DEVICE),
        torch.randn(heads, device=DEVICE) if null else None,
        prompts,
        local,
    )


@contextmanager
def uninitialised_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)  # fills it
    try:
        assert torch.empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def amid_nans(tensor: Tensor) -> Tensor:
    """The same, contiguous, in memory that is NaN on both sides."""
    buffer = tensor.new_full((tensor.numel() + 1024,), torch.nan)
    own = buffer[512 : 512 + tensor.numel()].view(tensor.shape)
    return own.copy_(tensor)
