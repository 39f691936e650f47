"""Which form of the term on the keys runs: the environment variable ``EXCITOR_IMPL``."""

import functools
import os
import sys
from typing import Any, cast

import torch

from .errors import ExcitorError
from .folded import Folded
from .recompute import FOLDED, Backend


VARIABLE = "EXCITOR_IMPL"
IMPLEMENTATIONS = ("auto", "cpp", "triton", "compile", "eager")
READ: dict[str, str] = {}  # what was read, under the name of the variable; whoever clears it has it read again


def chosen() -> str:
    """The value of ``EXCITOR_IMPL``, read once: ``auto`` by default.

    ``eager`` is :mod:`excitor.functional` as it stands; the others are :mod:`excitor.recompute`: ``auto`` in plain
    operations, ``cpp`` as well but for tokens that a CPU decodes (:mod:`excitor.kernels.decode`), ``compile`` with
    ``torch.compile``, ``triton`` with the kernels of :mod:`excitor.kernels`, which ``auto`` does not take as long as
    they have not been measured on a GPU. While a model is being compiled all are the equations as they stand.

    Raises:
        ExcitorError: It is none of the choices.
    """
    if (value := READ.get(VARIABLE)) is None:
        value = os.environ.get(VARIABLE) or "auto"
        if value not in IMPLEMENTATIONS:
            raise ExcitorError(f"{VARIABLE} must be one of {', '.join(IMPLEMENTATIONS)}, got {value!r}.")
        READ[VARIABLE] = value = sys.intern(value)  # fast paths watch the very object
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
        ExcitorError: The kernels that are chosen cannot run.
    """
    choice, device = chosen(), folded.values.device.type
    if choice == "compile":
        return _compiled()
    if choice == "cpp" and device not in ("cpu", "meta"):
        raise cannot_be_had(choice, f"the tensors are on {device}, and it is for decoding on a CPU")
    if choice != "triton":
        return FOLDED
    from .kernels.support import lacks

    if lacking := lacks(folded, dtype):
        raise cannot_be_had(choice, lacking)
    return _fused()


def cannot_be_had(choice: str, why: str) -> ExcitorError:
    """The error about an implementation that cannot run here."""
    others = ", ".join(name for name in IMPLEMENTATIONS if name != choice)
    return ExcitorError(f"{VARIABLE}={choice} cannot be had: {why}. The other choices are {others}.")


@functools.cache
def _compiled() -> Backend:
    compiled = cast(Any, torch.compile)  # checkers ask for one signature
    return Backend(*map(compiled, FOLDED))


@functools.cache
def _fused() -> Backend:
    from .kernels import launch, launch_seeing

    return Backend(launch.excited, launch.gradients, launch_seeing.excited, launch_seeing.gradients)
