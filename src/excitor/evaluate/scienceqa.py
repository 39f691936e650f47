"""ScienceQA (Lu et al., NeurIPS 2022, https://arxiv.org/abs/2209.09513): prompts, answers and the table of scores."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
from rich.box import SIMPLE
from rich.table import Table

from excitor.errors import ExcitorError
from excitor.evaluate.bootstrap import RESAMPLES, interval
from excitor.evaluate.names import some


LETTERS = "ABCDE"
SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
GRADES = {f"grade{grade}": "G1-6" if grade <= 6 else "G7-12" for grade in range(1, 13)}
COLUMNS = (*SUBJECTS.values(), "TXT", "IMG", "NO", "G1-6", "G7-12", "Avg")

Format = Literal["QCM-A", "QCM-ALE", "QCM-LEA"]


class Problem(TypedDict):
    """A question of the official ``problems.json``."""

    question: str
    choices: list[str]
    answer: int  # index into choices
    hint: str
    image: str | None  # file name
    grade: str  # "grade1" to "grade12"
    subject: str
    split: str
    lecture: NotRequired[str]
    solution: NotRequired[str]
    caption: NotRequired[str]  # of the image, made by a captioning model


class Score(TypedDict):
    """A cell of the table."""

    correct: int
    total: int
    accuracy: float | None  # in percent; None without questions
    low: float | None  # of the 95 % bootstrap interval over the questions; None if there are not two
    high: float | None


class ScienceQAReport(TypedDict):
    """The scores of a set of predictions. A failed answer, one that names no choice, counts as wrong."""

    columns: dict[str, Score]  # by COLUMNS
    failed: list[str]  # ids of the problems
    expected_if_guessed: (
        float  # percent: the average if failed answers were drawn at random, as the official code does
    )
    predictions: dict[str, int | None]  # index of the choice; None: failed


def build_prompt(problem: Problem, *, caption: bool = False) -> str:
    """The question, its context and its options (QCM), up to where the answer begins.

    The same for every format, as they differ in the answer: :func:`build_target`. Examples for few-shot prompts are
    ``f"{build_prompt(problem)} {build_target(problem, format)}"``, joined by an empty line.

    Args:
        problem: The question.
        caption: Whether the caption of the image joins the hint as context.
    """
    context = " ".join(filter(None, [problem["hint"], problem.get("caption") if caption else None])).strip()
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, problem["choices"], strict=False))
    text = f"Question: {problem['question']}\nContext: {context or 'N/A'}\nOptions: {options}\nAnswer:"
    return text.replace("  ", " ")


def build_target(problem: Problem, format: Format = "QCM-A") -> str:
    r"""The answer to train on: letter alone (A), with lecture and explanation after it (ALE) or before it (LEA).

    As in the official code an answer is one line: line ends within lecture and solution are written as ``\n``.
    """
    answer = f"The answer is {LETTERS[problem['answer']]}."
    because = " ".join(filter(None, [problem.get("lecture"), problem.get("solution")])).replace("\n", "\\n")
    if format == "QCM-ALE" and because:
        answer = f"{answer} BECAUSE: {because}"
    elif format == "QCM-LEA" and because:
        answer = f"{because} {answer}"
    return answer.replace("  ", " ")


def extract_answer(text: str, choices: Sequence[str]) -> int | None:
    """The choice that a model's answer names, by the rules of the literature.

    In this order: the whole text is a letter (``B``), or begins with one and a period or a line end (``B. Iron``), as
    in LLaVA's ``eval_science_qa.py``; it says ``The answer is B`` exactly once, as in the official ``run_gpt3.py``,
    where a text that says it several times has failed, too.

    Returns:
        The index into ``choices``, or None if the text names no letter, or none of the choices' letters.
    """
    if found := _BEGINNING.match(text.strip()):
        letter = found[1]
    elif len(said := _STATEMENT.findall(text)) == 1:
        [letter] = said
    else:
        return None
    index = LETTERS.find(letter)
    return index if 0 <= index < len(choices) else None


_BEGINNING = re.compile(r"([A-E])(?:\.\s|\.?$|\n)")
_STATEMENT = re.compile(r"The answer is ([A-Z])\b")


def score(predictions: Mapping[str, str | int], problems: Mapping[str, Problem]) -> ScienceQAReport:
    """Scores predictions the way the official ``evaluate_acc.py`` does, with counts.

    The columns: subject (NAT, SOC, LAN); problems with a hint (TXT), with an image (IMG; both if both) and with
    neither (NO); grades 1-6 and 7-12; all.

    Args:
        predictions: By problem id the text of an answer, or the index of a choice, -1 for none.
        problems: The problems to score, each of which must have a prediction.

    Raises:
        ExcitorError: A problem has no prediction, a prediction no problem, or an index no choice.
    """
    _check_ids(predictions, problems)
    chosen = {pid: _index(pid, predictions[pid], problem) for pid, problem in problems.items()}
    marks: dict[str, list[bool]] = {column: [] for column in COLUMNS}
    guessed = 0.0
    for pid, problem in problems.items():
        correct = chosen[pid] == problem["answer"]
        guessed += correct if chosen[pid] is not None else 1 / len(problem["choices"])
        for column in _columns(problem):
            marks[column].append(correct)
    return {
        "columns": {column: _cell(correct) for column, correct in marks.items()},
        "failed": [pid for pid, index in chosen.items() if index is None],
        "expected_if_guessed": 100 * guessed / len(problems),
        "predictions": chosen,
    }


def table(report: ScienceQAReport) -> Table:
    """A report for a terminal."""
    columns, failed = report["columns"], len(report["failed"])
    note = f"{columns['Avg']['correct']}/{columns['Avg']['total']} correct, {failed} failed"
    if failed:
        note += (
            " and count as wrong (as in LLaVA); guessing instead, as in the official code, "
            f"gives {report['expected_if_guessed']:.2f} on average"
        )
    note += f". Intervals: bootstrap, {RESAMPLES:,} resamples of a column's questions, seed 0"
    view = Table("", title="ScienceQA", title_justify="left", caption=note, caption_justify="left", box=SIMPLE)
    view.collapse_padding, view.pad_edge = True, False  # fits 80 columns
    for column in COLUMNS:
        view.add_column(column, justify="right")
    cells = [columns[column] for column in COLUMNS]
    for label, key in (("%", "accuracy"), ("95 % from", "low"), ("to", "high")):
        view.add_row(label, *("-" if cell[key] is None else f"{cell[key]:.2f}" for cell in cells))
    view.add_row("correct", *(str(cell["correct"]) for cell in cells))
    view.add_row("total", *(str(cell["total"]) for cell in cells))
    return view


def _cell(correct: list[bool]) -> Score:
    total = len(correct)
    low, high = interval(100 * np.array(correct)) if total > 1 else (None, None)
    return {
        "correct": sum(correct),
        "total": total,
        "accuracy": 100 * sum(correct) / total if total else None,
        "low": low,
        "high": high,
    }


def _check_ids(predictions: Mapping[str, Any], problems: Mapping[str, Any]) -> None:
    if not problems:
        raise ExcitorError("there are no problems to score")
    unknown = [pid for pid in predictions if pid not in problems]
    if unknown:
        raise ExcitorError(
            f"{len(unknown)} of {len(predictions)} predictions are for unknown problem ids: {some(unknown)}"
        )
    missing = [pid for pid in problems if pid not in predictions]
    if missing:
        raise ExcitorError(
            f"{len(missing)} of {len(problems)} problems have no prediction: {some(missing)}. Answer them, with an "
            "empty text if a model said nothing, or name the split that was answered (--split)."
        )


def _index(pid: str, prediction: str | int, problem: Problem) -> int | None:
    choices = problem["choices"]
    if isinstance(prediction, str):
        return extract_answer(prediction, choices)
    if isinstance(prediction, bool) or not isinstance(prediction, int) or not -1 <= prediction < len(choices):
        raise ExcitorError(
            f"problem {pid}: {prediction!r} is neither the text of an answer nor the index of one of its "
            f"{len(choices)} choices (0 to {len(choices) - 1}; -1: no answer)"
        )
    return None if prediction == -1 else prediction


def _columns(problem: Problem) -> list[str]:
    columns = [SUBJECTS[problem["subject"]], GRADES[problem["grade"]], "Avg"]
    if problem["hint"]:
        columns.append("TXT")
    if problem["image"]:
        columns.append("IMG")
    if not problem["hint"] and not problem["image"]:
        columns.append("NO")
    return columns
