"""Which form of the term on the keys runs: the environment variable ``EXCITOR_IMPL``."""

import functools
import os

from .errors import ExcitorError


VARIABLE = "EXCITOR_IMPL"
IMPLEMENTATIONS = ("auto", "eager")


@functools.cache
def chosen() -> str:
    """The value of ``EXCITOR_IMPL``, read once: ``auto`` by default.

    ``auto`` is :mod:`excitor.recompute`, and under ``torch.compile`` the equations; ``eager`` is
    :mod:`excitor.functional` as it stands, everywhere.

    Raises:
        ExcitorError: It is none of the choices.
    """
    value = os.environ.get(VARIABLE) or "auto"
    if value not in IMPLEMENTATIONS:
        raise ExcitorError(f"{VARIABLE} must be one of {', '.join(IMPLEMENTATIONS)}, got {value!r}.")
    return value
