"""Items of finished tasks on disk, so that an interrupted evaluation continues with the next task."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from excitor.errors import ExcitorError
from excitor.evaluate.task import Item


@dataclass(frozen=True)
class Measured:
    """When and on what a task was done: it may have been in an earlier call, or elsewhere."""

    created: str
    """ISO 8601, UTC."""
    seconds: float
    environment: dict[str, Any]
    """``versions``, ``hardware``, ``processes``."""


@dataclass(frozen=True)
class Finished:
    """A task that is done."""

    items: dict[str, list[Item]]
    """By subject."""
    measured: Measured


def read_items(folder: Path, task: str, definition: dict[str, Any]) -> Finished | None:
    """What a task has measured, or None if it has not been finished.

    Args:
        folder: Of the evaluation.
        task: Its name.
        definition: What the task's result depends on.

    Raises:
        ExcitorError: The folder holds the items of a task that was defined otherwise.
    """
    path, described = _paths(folder, task)
    if not path.exists():
        return None
    about = json.loads(described.read_text(encoding="utf-8"))
    stored = about.get("definition", {})
    different = sorted(key for key in definition.keys() | stored.keys() if definition.get(key) != stored.get(key))
    if different:
        raise ExcitorError(
            f"{path} holds the results of another evaluation ({', '.join(different)} differ, see {described}): choose "
            "another --out, or replace them with --overwrite."
        )
    items: dict[str, list[Item]] = {name: [] for name in definition["subjects"]}
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:  # splitlines also splits at U+2028
        item = json.loads(line)
        items[item.pop("subject")].append(item)
    return Finished(items, Measured(**about["measured"]))


def write_items(folder: Path, task: str, definition: dict[str, Any], finished: Finished) -> None:
    """Write a finished task: ``TASK.jsonl``, a line per subject and item; ``TASK.json``, what it is and its origin.

    The items appear in one step after the rest: what is there is complete.
    """
    path, described = _paths(folder, task)
    folder.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    about = {"definition": definition, "measured": asdict(finished.measured)}
    described.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    scratch = path.with_suffix(".partial")
    with scratch.open("w", encoding="utf-8") as file:
        for subject, own in finished.items.items():
            file.writelines(json.dumps({"subject": subject, **item}, ensure_ascii=False) + "\n" for item in own)
    os.replace(scratch, path)


def _paths(folder: Path, task: str) -> tuple[Path, Path]:
    return folder / f"{task}.jsonl", folder / f"{task}.json"
