"""On what a run was made: versions, machine, data. Enough to tell why two runs differ."""

import hashlib
import os
import platform
from array import array
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset


_PACKAGES = ("excitor", "torch", "transformers", "peft", "trl", "accelerate", "datasets")


def describe_environment(sources: Iterable[str], rows: Dataset, seed: int) -> dict[str, Any]:
    """What a report says about how it came about.

    Args:
        sources: The data and retention sources as given; those that are local files are hashed.
        rows: Encoded rows, ``input_ids`` and ``labels``: the data as the model saw it.
        seed: Of the run.
    """
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "hardware": _hardware(),
        "seed": seed,
        "files_sha256": {Path(path).name: _hash_file(path) for path in map(_file_of, sources) if path},
        "rows_sha256": _hash_rows(rows),
    }


def _hardware() -> dict[str, Any]:
    found = {"machine": platform.machine(), "cpus": os.cpu_count(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        found["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return found


def _file_of(source: str) -> str | None:
    """The local file behind a source, whose name may end in ``#N``."""
    return next((path for path in (source, source.rpartition("#")[0]) if path and Path(path).is_file()), None)


def _hash_file(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_rows(rows: Dataset) -> str:
    digest = hashlib.sha256()
    for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True):
        digest.update(array("q", [len(ids), *ids, *labels]).tobytes())
    return digest.hexdigest()
