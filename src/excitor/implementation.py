"""Which form of the term on the keys runs: the environment variable ``EXCITOR_IMPL``."""

import functools
import os
from typing import Any, cast

import torch

from .errors import ExcitorError
from .folded import Folded
from .recompute import FOLDED, Backend


VARIABLE = "EXCITOR_IMPL"
IMPLEMENTATIONS = ("auto", "triton", "compile", "eager")


@functools.cache
def chosen() -> str:
    """The value of ``EXCITOR_IMPL``, read once: ``auto`` by default.

    ``eager`` is :mod:`excitor.functional` as it stands; the others are :mod:`excitor.recompute`: ``auto`` in plain
    operations, ``compile`` with ``torch.compile``, ``triton`` with the kernels of :mod:`excitor.kernels`, which
    ``auto`` does not take as long as they have not been measured on a GPU. While a model is being compiled all are
    the equations as they stand.

    Raises:
        ExcitorError: It is none of the choices.
    """
    value = os.environ.get(VARIABLE) or "auto"
    if value not in IMPLEMENTATIONS:
        raise ExcitorError(f"{VARIABLE} must be one of {', '.join(IMPLEMENTATIONS)}, got {value!r}.")
    return value


def as_written() -> bool:
    """Whether the equations run as they stand, for a compiler to see or because it is chosen."""
    # A compiler decides by itself what to keep, and must see the parameters: a cache would outlive a hot swap.
    return torch.compiler.is_compiling() or chosen() == "eager"


def backend(folded: Folded, dtype: torch.dtype) -> Backend:
    """What computes the term of an adapter.

    Args:
        folded: What the adapter folds to.
        dtype: Of the keys it is added to, or of the term alone.

    Raises:
        ExcitorError: The kernels are chosen and cannot run.
    """
    choice = chosen()
    if choice == "compile":
        return _compiled()
    if choice == "auto":
        return FOLDED
    from .kernels.support import lacks

    if lacking := lacks(folded, dtype):
        others = ", ".join(name for name in IMPLEMENTATIONS if name != choice)
        raise ExcitorError(f"{VARIABLE}=triton cannot be had: {lacking}. The other choices are {others}.")
    return _fused()


@functools.cache
def _compiled() -> Backend:
    compiled = cast(Any, torch.compile)  # checkers ask for one signature
    return Backend(*map(compiled, FOLDED))


@functools.cache
def _fused() -> Backend:
    from .kernels import launch, launch_seeing

    return Backend(launch.excited, launch.gradients, launch_seeing.excited, launch_seeing.gradients)
