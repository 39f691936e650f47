"""Where the fused kernels can run; imports Triton only when there is a reason to."""

import functools

import torch

from ..folded import Folded


LARGEST_TILE = 16384  # fp32 numbers, 64 KB: what all tokens share of a head has to fit into shared memory
OLDEST_CAPABILITY = (8, 0)


def lacks(folded: Folded, dtype: torch.dtype) -> str | None:
    """What the kernels lack for these tensors; None if they can run.

    Args:
        folded: What an adapter folds to.
        dtype: Of the keys, or of the term.
    """
    if missing := _missing():
        return missing
    device, exact = folded.values.device, folded.values.dtype
    if device.type != "cuda" and not (device.type == "cpu" and interpreted()):
        return (
            f"the tensors are on {device.type}, and Triton's kernels run on CUDA devices (on a CPU only in its "
            "interpreter, with TRITON_INTERPRET=1 set before triton is imported)"
        )
    if device.type == "cuda" and _capability(device) < OLDEST_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is older than compute capability {OLDEST_CAPABILITY}"
    if exact != torch.float32 or dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"keys have to be float32, bfloat16 or float16 and folded adapters float32, not {dtype} and {exact}"
    ranks, rows, features = tile(folded)
    if rows * max(ranks, features) > LARGEST_TILE:
        return (
            f"{folded.values.shape[1]} rows of prompts (num_prompts + num_local_prompts * r) for heads of "
            f"{folded.values.shape[2]} and r={len(folded.scores)} are too many: rows times heads, or times r, each "
            f"rounded up to a power of two, may come to {LARGEST_TILE}"
        )
    return None


def tile(folded: Folded) -> tuple[int, int, int]:
    """Sides of the kernels' tiles for r, J and d: powers of two, 16 at least, as matrix units ask for."""
    sizes = len(folded.scores), *folded.values.shape[1:]
    ranks, rows, features = (max(16, 1 << (size - 1).bit_length()) for size in sizes)
    return ranks, rows, features


def visual_tile(folded: Folded) -> int:
    """Visual prompts that the kernels take at a time: half of what all tokens share of a head's learnable ones."""
    ranks, _, features = tile(folded)
    return max(16, min(64, LARGEST_TILE // 2 // max(ranks, features)))


def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter."""
    from triton import JITFunction

    from .term import forward_kernel

    return not isinstance(forward_kernel, JITFunction)


@functools.cache
def _missing() -> str | None:
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"triton cannot be imported ({error}): it comes with PyTorch's CUDA builds, else run pip install triton"
    return None


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
