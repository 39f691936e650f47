"""Which form of the term on the keys runs: the environment variable ``EXCITOR_IMPL``."""

import functools
import os

from ..errors import ExcitorError


VARIABLE = "EXCITOR_IMPL"
IMPLEMENTATIONS = ("auto", "folded", "eager")


@functools.cache
def chosen() -> str:
    """The value of ``EXCITOR_IMPL``, read once: ``auto`` by default.

    ``eager`` is :mod:`excitor.functional` as it stands; ``folded`` is :mod:`excitor.recompute`.

    Raises:
        ExcitorError: It is none of the choices.
    """
    value = os.environ.get(VARIABLE) or "auto"
    if value not in IMPLEMENTATIONS:
        raise ExcitorError(f"{VARIABLE} must be one of {', '.join(IMPLEMENTATIONS)}, got {value!r}.")
    return value
