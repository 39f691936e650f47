"""Names for readers."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from excitor.errors import ExcitorError


def short_names(paths: Sequence[str], taken: Sequence[str] = ()) -> dict[str, str]:
    """Paths or hub ids by their last parts, or by themselves where two of these are the same or one is taken.

    Raises:
        ExcitorError: A path is given twice.
    """
    names = [Path(path).resolve().name for path in paths]
    if len({*names, *taken}) < len(names) + len(taken):
        names = list(paths)
    if len(set(names)) < len(names):
        raise ExcitorError(f"{next(name for name in names if names.count(name) > 1)} is given twice")
    return dict(zip(names, paths, strict=True))


def some(names: Iterable[object]) -> str:
    """The first few names, for a message that may have to name thousands."""
    shown = list(names)
    return ", ".join(map(str, shown[:5])) + (", ..." if len(shown) > 5 else "")
