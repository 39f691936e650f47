"""On what numbers were made: versions, machine, data. Enough to tell why two runs differ."""

import hashlib
import os
import platform
from array import array
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset


_PACKAGES = ("excitor", "torch", "transformers", "peft", "trl", "accelerate", "datasets")


def describe_environment(sources: Iterable[str], rows: Dataset, seed: int) -> dict[str, Any]:
    """What the report of a training run says about how it came about.

    Args:
        sources: The data and retention sources as given; those that are local files are hashed.
        rows: Encoded rows, ``input_ids`` and ``labels``, and numbers of ``pictures``: the data as the model saw it.
        seed: Of the run.
    """
    return describe_machine() | {
        "seed": seed,
        "files_sha256": hash_files(sources),
        "rows_sha256": _hash_rows(rows),
    }


def describe_machine() -> dict[str, Any]:
    """Versions of the packages that compute, and the hardware they compute on."""
    hardware: dict[str, Any] = {
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        hardware["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    versions = {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
    if find_spec("bitsandbytes") is not None:
        versions["bitsandbytes"] = version("bitsandbytes")
    return {"versions": versions, "hardware": hardware}


def hash_files(sources: Iterable[str]) -> dict[str, str]:
    """SHA-256 by name of those sources that are local files, and of all files in those that are folders.

    What Python keeps in ``__pycache__`` is left out: running a task of one's own writes there.

    Args:
        sources: Paths, hub ids or anything else; ``#N`` at the end is not part of a path.
    """
    found: dict[str, str] = {}
    for source in sources:
        path = next((Path(name) for name in (source, source.rpartition("#")[0]) if name and Path(name).exists()), None)
        if path is not None:
            files = [path] if path.is_file() else sorted(filter(_is_source, path.rglob("*")))
            for file in files:
                name = str(file.relative_to(path.parent))
                found[name if name not in found else str(file)] = file_digest(file)
    return found


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file; read again only if it has changed."""
    state = os.stat(path)
    return _digest(Path(path), state.st_size, state.st_mtime_ns)


def _is_source(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts


def _hash_rows(rows: Dataset) -> str:
    digest = hashlib.sha256()
    pictures = rows["pictures"] if "pictures" in rows.column_names else [[]] * len(rows)
    for ids, labels, seen in zip(rows["input_ids"], rows["labels"], pictures, strict=True):
        digest.update(array("q", [len(ids), *ids, *labels, *seen]).tobytes())
    return digest.hexdigest()
