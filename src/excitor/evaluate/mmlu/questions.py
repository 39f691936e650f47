"""Reads MMLU: the folder of CSV files that Hendrycks et al. published, or the hub's copy."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset

from excitor.errors import ExcitorError
from excitor.evaluate.mmlu.topics import CATEGORY_OF
from excitor.evaluate.names import some


LETTERS = "ABCD"
SPLITS = {"test": "test", "val": "validation"}
"""Splits that hold questions to ask, with the hub's names for them."""
COLUMNS = ["subject", "question", "choices", "answer"]
"""What the hub's rows hold: the topic, the text, four texts, and the index of the right one."""


@dataclass(frozen=True)
class Question:
    """A question with four choices; ``answer`` is the letter of the right one."""

    text: str
    choices: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Topic:
    """One of the 57 topics (MMLU's own word is subject)."""

    name: str
    examples: list[Question]
    """Those shown with their answers in front of every question, in order."""
    questions: list[Question]

    @property
    def category(self) -> str:
        """STEM, humanities, social sciences or other."""
        return CATEGORY_OF[self.name]


def read_topics(source: str, *, split: str = "test", topics: Sequence[str] | None = None) -> list[Topic]:
    """Read questions and their few-shot examples.

    Args:
        source: A folder with ``dev/TOPIC_dev.csv`` and ``test/TOPIC_test.csv`` or ``val/TOPIC_val.csv`` (no header;
            question, four choices, letter of the answer), or a data set of the hub's form, such as ``cais/mmlu``.
        split: ``"test"`` or ``"val"``.
        topics: Their names; all that the split has when not given.

    Returns:
        Topics in alphabetical order.

    Raises:
        ExcitorError: The source or the split does not exist, a topic has no file or is not one of the 57, or a row is
            not a question; the message names file and row.
    """
    if split not in SPLITS:
        raise ExcitorError(f"MMLU has no split {split!r} with questions to ask; choose from {', '.join(SPLITS)}.")
    for name in topics or ():
        _check_name(name, "MMLU has no topic")
    if (Path(source) / "dev").is_dir():
        return _from_folder(Path(source), split, topics)
    return _from_hub(source, split, topics)


def _from_folder(folder: Path, split: str, wanted: Sequence[str] | None) -> list[Topic]:
    ending = f"_{split}.csv"
    present = sorted(path.name.removesuffix(ending) for path in (folder / split).glob(f"*{ending}"))
    if not present:
        raise ExcitorError(f"{folder / split} has no files *{ending}, so there are no questions to ask.")
    for name in present:
        _check_name(name, f"{folder / split / (name + ending)}: MMLU has no topic")
    return [
        Topic(name, _read_csv(folder / "dev" / f"{name}_dev.csv"), _read_csv(folder / split / (name + ending)))
        for name in (present if wanted is None else sorted(set(wanted)))
    ]


def _read_csv(path: Path) -> list[Question]:
    rows: list[list[str]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows.extend(csv.reader(file, strict=True))  # what was read before an error stays
    except FileNotFoundError:
        present = some(sorted(other.name for other in path.parent.glob("*.csv"))) or "no CSV files"
        raise ExcitorError(f"{path} is missing (the folder holds {present}).") from None
    except csv.Error as error:
        raise ExcitorError(f"{path}, row {len(rows) + 1} could not be read: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ExcitorError(f"{path} could not be read: {error}") from error
    return _checked(((f"{path}, row {number}", row) for number, row in enumerate(rows, 1)), str(path))


def _from_hub(name: str, split: str, wanted: Sequence[str] | None) -> list[Topic]:
    try:
        parts = [load_dataset(name, "all", split=part).select_columns(COLUMNS) for part in ("dev", SPLITS[split])]
    except (OSError, ValueError) as error:  # not found, not within reach; no such configuration, split or columns
        raise ExcitorError(
            f"{name} is neither a folder with the CSV files of MMLU (dev/, test/ or val/) nor a data set within reach "
            f"that has a configuration 'all' with the columns {', '.join(COLUMNS)}: {error}"
        ) from error
    examples, questions = (_by_topic(part, f"{name}, {part.split}") for part in parts)
    return [
        Topic(topic, *(_checked(rows.get(topic, ()), f"{name}, {topic}") for rows in (examples, questions)))
        for topic in sorted(questions if wanted is None else set(wanted))
    ]


def _by_topic(part: Dataset, where: str) -> dict[str, list[tuple[str, list[str]]]]:
    """The hub's rows in the form of the CSV files', with the place of each."""
    rows: dict[str, list[tuple[str, list[str]]]] = {}
    for number, row in enumerate(part.to_list(), 1):
        place = f"{where}, row {number}"
        _check_name(row["subject"], f"{place}: MMLU has no topic")
        letter = dict(enumerate(LETTERS)).get(row["answer"], str(row["answer"]))
        rows.setdefault(row["subject"], []).append((place, [row["question"], *row["choices"], letter]))
    return rows


def _checked(rows: Iterable[tuple[str, list[Any]]], where: str) -> list[Question]:
    questions = []
    for place, row in rows:
        if len(row) != 2 + len(LETTERS):
            raise ExcitorError(
                f"{place}: expected question, four choices and the answer's letter, got {len(row)} columns."
            )
        text, *choices, answer = row
        if not text.strip():
            raise ExcitorError(f"{place}: the question is empty.")
        if answer not in list(LETTERS):
            raise ExcitorError(f"{place}: the answer must be one of the letters {', '.join(LETTERS)}, got {answer!r}.")
        questions.append(Question(text, tuple(choices), answer))
    if not questions:
        raise ExcitorError(f"{where} has no rows.")
    return questions


def _check_name(name: str, message: str) -> None:
    if name not in CATEGORY_OF:
        nearest = get_close_matches(name, CATEGORY_OF, n=1)
        raise ExcitorError(f"{message} {name!r}." + (f" Did you mean {nearest[0]!r}?" if nearest else ""))
