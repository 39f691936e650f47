"""The methods that are compared on the embedded world: a JSON file each, so that adding one is adding a file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from excitor.errors import ExcitorError


@dataclass(frozen=True)
class Method:
    """A way to fine-tune.

    Attributes:
        name: name of its file.
        title: as tables show it.
        adapter: configuration of a PEFT method, as in ``adapter_config.json``.
        train: further fields of :class:`excitor.train.arguments.TrainArguments`.
    """

    name: str
    title: str
    adapter: dict[str, Any]
    train: dict[str, Any]


def load_methods(names: Sequence[str] = ()) -> list[Method]:
    """The methods of these names; all when none is given.

    Raises:
        ExcitorError: There is no method of that name.
    """
    known = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.json"), key=lambda path: path.stem)}
    for name in names:
        if name not in known:
            raise ExcitorError(f"There is no method {name!r}; the methods are {', '.join(known)}.")
    return [
        Method(name, **json.loads(known[name].read_text(encoding="utf-8"))) for name in dict.fromkeys(names or known)
    ]
