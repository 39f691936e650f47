"""What a judge reads: replies that were written down, and its own earlier answers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from excitor.errors import ExcitorError
from excitor.evaluate.task import Item


def read_replies(path: Path) -> dict[str, list[Item]]:
    """The items of ``instructions.jsonl`` by subject, in the order of the file.

    Raises:
        ExcitorError: The file is missing or damaged, or its subjects did not answer the same rows.
    """
    if not path.exists():
        raise ExcitorError(f"there is no {path}; excitor eval writes it when it is given --data")
    items: dict[str, list[Item]] = {}
    for number, item in _lines(path):
        if missing := {"subject", "id", "messages", "answer", "reply"} - item.keys():
            raise ExcitorError(f"{path}, line {number}: {min(missing)!r} is missing; is it a file of excitor eval?")
        items.setdefault(item["subject"], []).append(item)
    rows = {name: [item["id"] for item in answered] for name, answered in items.items()}
    if len({tuple(ids) for ids in rows.values()}) != 1:
        counts = ", ".join(f"{name} {len(ids):,}" for name, ids in rows.items()) or "none"
        raise ExcitorError(f"{path}: every subject must have answered the same rows; it holds: {counts}")
    return items


def read_cache(path: Path) -> dict[str, dict[str, Any]]:
    """The judge's answers so far, by key; a last line that was broken off is removed from the file.

    Raises:
        ExcitorError: A line is not one of the cache.
    """
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    answers = {}
    for number, answer in _lines(path):
        if missing := {"key", "text", "prompt_tokens", "completion_tokens"} - answer.keys():
            raise ExcitorError(f"{path}, line {number}: {min(missing)!r} is missing; remove the line")
        answers[answer["key"]] = answer
    return answers


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                value = json.loads(line)
            except ValueError as error:
                raise ExcitorError(f"{path}, line {number} is no JSON: {error}") from None
            if not isinstance(value, dict):
                raise ExcitorError(f"{path}, line {number}: expected an object, got {line.strip()[:60]!r}")
            yield number, value
