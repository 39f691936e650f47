"""MMLU in Markdown: what was measured and how, accuracy by category and by topic."""

from collections import Counter
from collections.abc import Sequence
from statistics import mean

from excitor.evaluate.markdown import markdown_table
from excitor.evaluate.mmlu.prompts import Letters
from excitor.evaluate.mmlu.questions import LETTERS
from excitor.evaluate.mmlu.topics import CATEGORIES, CATEGORY_OF
from excitor.evaluate.task import Item


def report(
    items: dict[str, list[Item]], *, split: str, shots: int, letters: Letters, asked: Sequence[str] | None
) -> str:
    """A section on one run.

    Args:
        items: Answers by subject, all to the same questions.
        split: That of the questions.
        shots: Few-shot examples asked for.
        letters: How the letters were scored.
        asked: The topics asked for; all when None.
    """
    questions = next(iter(items.values()))
    notes = [
        f"{shots}-shot, {split} split, {len(questions):,} questions, prompts of Hendrycks et al.; chance is 25 %.",
        _letters_note(letters),
        *_topics_note({item["topic"] for item in questions}, split, asked),
        *_length_notes(questions, shots),
    ]
    return "\n\n".join(
        [
            "\n".join(f"- {note}" for note in notes),
            "Accuracy in %, over questions (micro) / as the mean over topics (macro):",
            _category_table(items),
            "Accuracy in % by topic:",
            _topic_table(items),
        ]
    )


def _letters_note(letters: Letters) -> str:
    counts = [len(tokens) for tokens in letters.tokens]
    note = 'A choice is the letter with the largest log-likelihood after "Answer:", a space in front of it; '
    if set(counts) == {1}:
        return note + "the letters differ in one token."
    parts = ", ".join(f"{letter} {count}" for letter, count in zip(LETTERS, counts, strict=True))
    return note + f"they differ in more than one token, over which log-likelihoods are summed (tokens: {parts})."


def _topics_note(present: set[str], split: str, asked: Sequence[str] | None) -> list[str]:
    missing = [topic for topic in sorted(CATEGORY_OF) if topic not in present]
    if not missing:
        return []
    reason = (
        "the others were not asked for"
        if asked is not None
        else f"these {len(missing)} have no {split} questions here: {', '.join(missing)}"
    )
    return [
        f"**{len(present)} of the {len(CATEGORY_OF)} topics only**, so the averages are not those of the whole MMLU; "
        f"{reason}."
    ]


def _length_notes(questions: list[Item], shots: int) -> list[str]:
    notes = []
    fewer = Counter(item["shots"] for item in questions if item["shots"] < shots)
    if fewer:
        counts = ", ".join(f"{count:,} kept {kept}" for kept, count in sorted(fewer.items(), reverse=True))
        notes.append(
            f"{fewer.total():,} questions did not fit into the context with all {shots} examples, and the last were "
            f"dropped one by one: {counts}."
        )
    cut = sum(item["cut_tokens"] > 0 for item in questions)
    if cut:
        notes.append(f"{cut:,} questions did not fit even without examples and were read without their start.")
    return notes


def _category_table(items: dict[str, list[Item]]) -> str:
    rows = []
    for category in (*CATEGORIES, "all"):
        parts = [[item for item in answered if category in (item["category"], "all")] for answered in items.values()]
        if parts[0]:
            topics = {item["topic"] for item in parts[0]}
            cells = (f"{_accuracy(part):.1f} / {_macro_accuracy(part):.1f}" for part in parts)
            rows.append([category, str(len(topics)), f"{len(parts[0]):,}", *cells])
    return markdown_table(["category", "topics", "questions", *items], rows)


def _topic_table(items: dict[str, list[Item]]) -> str:
    by_topic = [_by_topic(answered) for answered in items.values()]
    rows = [
        [topic, CATEGORY_OF[topic], f"{len(part):,}", *(f"{_accuracy(parts[topic]):.1f}" for parts in by_topic)]
        for topic, part in sorted(by_topic[0].items())
    ]
    return markdown_table(["topic", "category", "questions", *items], rows)


def _by_topic(items: list[Item]) -> dict[str, list[Item]]:
    parts: dict[str, list[Item]] = {}
    for item in items:
        parts.setdefault(item["topic"], []).append(item)
    return parts


def _accuracy(items: list[Item]) -> float:
    return 100 * mean(item["correct"] for item in items)


def _macro_accuracy(items: list[Item]) -> float:
    return mean(_accuracy(part) for part in _by_topic(items).values())
