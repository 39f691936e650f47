"""Items of finished tasks on disk, so that an interrupted evaluation continues with the next task."""

import json
import os
from pathlib import Path
from typing import Any

from excitor.errors import ExcitorError
from excitor.evaluate.task import Item


def read_items(folder: Path, task: str, definition: dict[str, Any]) -> dict[str, list[Item]] | None:
    """The items of a task by subject, or None if it has not been finished.

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
    stored = json.loads(described.read_text(encoding="utf-8"))
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
    return items


def write_items(folder: Path, task: str, definition: dict[str, Any], items: dict[str, list[Item]]) -> None:
    """Write a finished task: ``TASK.jsonl``, a line per subject and item, and ``TASK.json``, its definition.

    The items appear in one step after the definition: what is there is complete.
    """
    path, described = _paths(folder, task)
    folder.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    described.write_text(json.dumps(definition, indent=2) + "\n", encoding="utf-8")
    scratch = path.with_suffix(".partial")
    with scratch.open("w", encoding="utf-8") as file:
        for subject, own in items.items():
            file.writelines(json.dumps({"subject": subject, **item}, ensure_ascii=False) + "\n" for item in own)
    os.replace(scratch, path)


def _paths(folder: Path, task: str) -> tuple[Path, Path]:
    return folder / f"{task}.jsonl", folder / f"{task}.json"
