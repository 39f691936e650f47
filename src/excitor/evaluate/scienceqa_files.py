"""Reads ScienceQA's official files, and files of predictions for them."""

from collections import Counter
from pathlib import Path
from typing import Any, cast

from excitor.errors import ExcitorError
from excitor.evaluate.json_file import read_json
from excitor.evaluate.names import some
from excitor.evaluate.scienceqa import GRADES, LETTERS, SUBJECTS, Problem


SPLITS_FILE = "pid_splits.json"


def problems_file(folder: Path) -> Path:
    """The file of problems in ScienceQA's folder: ``problems.json``, else the only ``problems*.json``, or gzipped.

    Raises:
        ExcitorError: There is none, or several.
    """
    found = sorted([*folder.glob("problems*.json"), *folder.glob("problems*.json.gz")])
    official = [path for path in found if path.name in ("problems.json", "problems.json.gz")]
    if len(official or found) == 1:
        return (official or found)[0]
    names = ", ".join(path.name for path in found) or "none"
    raise ExcitorError(f"{folder} must be a folder with one problems.json or problems.json.gz; found: {names}")


def read_problems(path: Path) -> dict[str, Problem]:
    """The problems of ``problems.json`` by id.

    Raises:
        ExcitorError: The file cannot be read, or a problem lacks a field or has a value that no problem has.
    """
    problems = read_json(path)
    if not isinstance(problems, dict) or not problems:
        raise ExcitorError(f"{path}: expected the official problems.json, an object of problems by id")
    for pid, problem in problems.items():
        if fault := _fault(problem):
            raise ExcitorError(f"{path}, problem {pid}: {fault}")
    return cast(dict[str, Problem], problems)


def select_split(problems: dict[str, Problem], split: str | None, splits: Path | None = None) -> dict[str, Problem]:
    """The problems of one split.

    Args:
        problems: All problems.
        split: The name of the split; None for all problems.
        splits: The official ``pid_splits.json``, lists of problem ids by split; None to go by the problems' own
            ``split``.

    Raises:
        ExcitorError: The split does not exist, or lists a problem that does not.
    """
    if split is None and splits is None:
        return problems
    if splits is None:
        members: dict[str, list[str]] = {}
        for pid, problem in problems.items():
            members.setdefault(problem["split"], []).append(pid)
    else:
        members = read_json(splits)
        if not isinstance(members, dict) or not all(isinstance(pids, list) for pids in members.values()):
            raise ExcitorError(f"{splits}: expected the official pid_splits.json, lists of problem ids by split")
    if split not in members:
        asked = "--split is missing" if split is None else f"there is no split {split!r}"
        raise ExcitorError(f"{asked}; {splits or 'the problems'} have: {', '.join(members)}")
    pids = [str(pid) for pid in members[split]]
    if repeated := [pid for pid, count in Counter(pids).items() if count > 1]:
        raise ExcitorError(f"{splits}: {len(repeated)} ids stand more than once in split {split!r}: {some(repeated)}")
    unknown = [pid for pid in pids if pid not in problems]
    if unknown:
        raise ExcitorError(f"{splits}: {len(unknown)} ids of split {split!r} are unknown problems: {some(unknown)}")
    return {pid: problems[pid] for pid in pids}


def read_predictions(path: Path) -> dict[str, str | int]:
    """Predictions by problem id: indices where the file has ``results``, which win over ``outputs``; else texts.

    Raises:
        ExcitorError: The file cannot be read or has another layout.
    """
    value = read_json(path)
    layout = 'expected {"12": "The answer is A."}, {"outputs": {"12": "The answer is A."}} or {"results": {"12": 0}}'
    if not isinstance(value, dict):
        raise ExcitorError(f"{path}: {layout}")
    kind, key = (int, "results") if "results" in value else (str, "outputs")
    predictions = value.get(key, value)
    if not isinstance(predictions, dict) or not predictions:
        raise ExcitorError(f"{path} holds no predictions; {layout}")
    for pid, prediction in predictions.items():
        if type(prediction) is not kind:
            raise ExcitorError(f"{path}, problem {pid}: the prediction is {str(prediction)[:60]!r}; {layout}")
    return predictions


def _fault(problem: Any) -> str | None:
    """What is wrong with a problem."""
    if not isinstance(problem, dict):
        return f"expected an object, got {str(problem)[:60]!r}"
    if missing := [field for field in Problem.__required_keys__ if field not in problem]:
        return f"the field {min(missing)!r} is missing"
    for field in ("question", "hint", "split"):
        if not isinstance(problem[field], str):
            return f"{field!r} must be a text, not {problem[field]!r}"
    if not problem["question"].strip():
        return "the question is empty"
    if problem["image"] is not None and not isinstance(problem["image"], str):
        return f"'image' must be the name of a file or null, not {problem['image']!r}"
    choices, answer = problem["choices"], problem["answer"]
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
        return f"'choices' must be a list of 2 to {len(LETTERS)} texts, not {choices!r}"
    if not all(isinstance(choice, str) and choice.strip() for choice in choices):
        return f"every choice must be a text that is not empty, not {choices!r}"
    if type(answer) is not int or not 0 <= answer < len(choices):
        return f"'answer' is {answer!r}, but there are {len(choices)} choices (0 to {len(choices) - 1})"
    for field, known in (("subject", SUBJECTS), ("grade", GRADES)):
        if problem[field] not in known:
            return f"{field!r} is {problem[field]!r}; expected one of {', '.join(known)}"
    return None
