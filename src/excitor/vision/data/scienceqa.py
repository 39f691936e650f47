"""ScienceQA's folder as rows."""

from pathlib import Path
from typing import cast

from excitor.data.formats import Row
from excitor.evaluate.scienceqa import Format, Problem, build_prompt, build_target
from excitor.evaluate.scienceqa_files import SPLITS_FILE, problems_file, read_problems, select_split


IMAGES = "images"


def is_scienceqa(folder: Path) -> bool:
    """Whether a folder is ScienceQA's."""
    return (folder / SPLITS_FILE).is_file()


def scienceqa_rows(folder: Path, split: str, format: str) -> list[Row]:
    """The problems of a split, solved.

    Args:
        folder: Holds ``problems.json`` and ``pid_splits.json``.
        split: A split of that file.
        format: What an answer says; see :func:`excitor.evaluate.scienceqa.build_target`.

    Raises:
        ExcitorError: A file is missing or damaged, or a problem has a value that no problem has.
    """
    problems = select_split(read_problems(problems_file(folder)), split, folder / SPLITS_FILE)
    return [
        {
            "image": image_name(pid, problem),
            "instruction": build_prompt(problem),
            "output": build_target(problem, cast(Format, format)),
        }
        for pid, problem in problems.items()
    ]


def image_name(pid: str, problem: Problem) -> str | None:
    """The picture of a problem, relative to the folder ``images``; None if it has none."""
    return f"{problem['split']}/{pid}/{problem['image']}" if problem["image"] else None
