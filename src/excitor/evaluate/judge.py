"""A language model as judge: which of two replies is better, asked in both orders."""

import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE
from rich.progress import Progress
from rich.table import Table

from excitor.errors import ExcitorError
from excitor.evaluate.bootstrap import estimate
from excitor.evaluate.endpoint import Endpoint
from excitor.evaluate.judge_files import read_cache
from excitor.evaluate.side_by_side import conversation_text
from excitor.evaluate.task import Item


Preference = Literal["base", "subject", "tie"]

# What each outcome of a pair counts for the subject, if it says anything about it.
OUTCOMES = {
    "won": 1.0,
    "lost": 0.0,
    "tie": 0.5,
    "orders disagree": 0.5,
    "same reply": 0.5,
    "no verdict": None,
    "not answered": None,
}

INSTRUCTIONS = """\
You compare two replies to the same instruction. Judge how correct, how complete and how helpful each one is, and \
whether it does what was asked and stops there. Neither the order of the replies nor their length is a reason to \
prefer one. A reference answer is given; a reply may differ from it and still be right. Explain in a few sentences, \
then end with a line that is exactly one of: "Verdict: A", "Verdict: B", "Verdict: tie"."""
CASE = """\
<instruction>
{prompt}
</instruction>

<reference>
{answer}
</reference>

<reply_A>
{first}
</reply_A>

<reply_B>
{second}
</reply_B>"""
VERDICT = re.compile(r"(?i:verdict)\W*((?i:(?:a\s+)?tie)|A|B)\b")


@dataclass(frozen=True)
class Question:
    """One request to the judge."""

    key: str
    """Of the cache: the same for the same question to the same model."""
    messages: list[dict[str, str]]
    subject_first: bool


def judge(
    items: dict[str, list[Item]], endpoint: Endpoint, cache: Path, progress: Progress, *, workers: int = 4
) -> dict[str, Any]:
    """Have every subject's replies compared with those of the base, each pair in both orders.

    A pair is won when the subject is preferred in both orders, lost when the base is, and else a tie. Two replies that
    are equal are a tie without asking.

    Args:
        items: Those of ``Instructions.run``, by subject; the base comes first.
        endpoint: The judge.
        cache: A file of JSON lines: every answer is added as it comes, and questions answered there are not asked
            again.
        progress: Where to add a bar.
        workers: Requests at a time.

    Returns:
        What JSON can hold: ``judge``, ``comparisons`` by subject (counts of outcomes; ``win_rate`` in percent with its
        95 % interval, ties as half) and ``tokens``, in ``total`` and of these what was asked ``now``.

    Raises:
        ExcitorError: There is nothing to compare, the judge cannot be asked, the cache is damaged, or no verdict on a
            subject could be read.
    """
    base, *subjects = items
    if not subjects:
        raise ExcitorError(f"there are replies of {base!r} alone; a judge compares an adapter with its base")
    pairs = {name: list(zip(items[base], items[name], strict=True)) for name in subjects}
    questions = {name: [list(_questions(ours, theirs, endpoint)) for theirs, ours in pairs[name]] for name in subjects}
    wanted = {question.key: question for asked in questions.values() for both in asked for question in both}
    answers = read_cache(cache)
    missing = [question for key, question in wanted.items() if key not in answers]
    new = _ask(missing, endpoint, cache, progress, workers)
    answers |= new
    comparisons = {}
    for name in subjects:
        outcomes = [
            _outcome(theirs, ours, [preference(answers[question.key]["text"], question) for question in both])
            for (theirs, ours), both in zip(pairs[name], questions[name], strict=True)
        ]
        comparisons[name] = _summary(name, outcomes)
    return {
        "judge": {"url": endpoint.url, "model": endpoint.model, "parameters": dict(endpoint.parameters)},
        "comparisons": comparisons,
        "tokens": {"total": _tokens([answers[key] for key in wanted]), "now": _tokens(list(new.values()))},
    }


def preference(text: str, question: Question) -> Preference | None:
    """Whom a judge's text prefers by its last verdict; None if it has none."""
    verdicts = VERDICT.findall(text)
    if not verdicts:
        return None
    if verdicts[-1] not in ("A", "B"):
        return "tie"
    return "subject" if (verdicts[-1] == "A") == question.subject_first else "base"


def table(result: dict[str, Any]) -> Table:
    """A result of :func:`judge` for a terminal."""
    found = result["comparisons"]
    rates = [one["win_rate"] for one in found.values()]
    view = Table("", *found, title=f"Judged by {result['judge']['model']}", title_justify="left", box=SIMPLE)
    for column in view.columns[1:]:
        column.justify = "right"
    view.add_row("win rate, ties as half", *(f"{rate['value']:.1f} %" for rate in rates))
    view.add_row("95 % interval", *(_bounds(rate) for rate in rates), end_section=True)
    for outcome in OUTCOMES:
        view.add_row(outcome, *(f"{one['outcomes'][outcome]:,}" for one in found.values()))
    return view


def cost(result: dict[str, Any]) -> str:
    """A sentence on the tokens of a result of :func:`judge`."""
    parts = []
    for label, tokens in (("In all", result["tokens"]["total"]), ("asked now", result["tokens"]["now"])):
        unknown = f" (not counted by the endpoint for {tokens['uncounted']:,})" * bool(tokens["uncounted"])
        parts.append(
            f"{label}: {tokens['requests']:,} requests, {tokens['prompt']:,} prompt and {tokens['completion']:,} "
            f"completion tokens{unknown}"
        )
    return "; ".join(parts) + "."


def _questions(ours: Item, theirs: Item, endpoint: Endpoint) -> Iterator[Question]:
    """The pair in both orders; none where there is nothing to ask."""
    if ours["reply"] is None or theirs["reply"] is None or ours["reply"] == theirs["reply"]:
        return
    for subject_first in (True, False):
        first, second = (ours, theirs) if subject_first else (theirs, ours)
        case = CASE.format(
            prompt=conversation_text(ours["messages"]),
            answer=ours["answer"],
            first=first["reply"],
            second=second["reply"],
        )
        messages = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": case}]
        request = json.dumps([endpoint.model, endpoint.parameters, messages], sort_keys=True)
        yield Question(hashlib.sha256(request.encode()).hexdigest(), messages, subject_first)


def _ask(
    questions: list[Question], endpoint: Endpoint, cache: Path, progress: Progress, workers: int
) -> dict[str, dict[str, Any]]:
    bar = progress.add_task("judge", total=len(questions))
    answers = {}
    with cache.open("a", encoding="utf-8") as file, ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(endpoint.complete, question.messages): question for question in questions}
        try:
            for future in as_completed(futures):
                key = futures[future].key
                answers[key] = {"key": key, "judge": endpoint.model, **asdict(future.result())}
                file.write(json.dumps(answers[key], ensure_ascii=False) + "\n")
                file.flush()
                progress.advance(bar)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # those on their way still end; no others start
            raise
    return answers


def _outcome(theirs: Item, ours: Item, preferences: list[Preference | None]) -> str:
    if theirs["reply"] is None or ours["reply"] is None:
        return "not answered"
    if not preferences:
        return "same reply"
    if None in preferences:
        return "no verdict"
    if preferences[0] != preferences[1]:
        return "orders disagree"
    return {"subject": "won", "base": "lost"}.get(str(preferences[0]), "tie")


def _summary(name: str, outcomes: list[str]) -> dict[str, Any]:
    counts = {outcome: outcomes.count(outcome) for outcome in OUTCOMES}
    values = [100 * value for outcome in outcomes if (value := OUTCOMES[outcome]) is not None]
    if not values:
        found = ", ".join(f"{count:,} {outcome}" for outcome, count in counts.items() if count)
        raise ExcitorError(f"none of the {len(outcomes):,} pairs of {name!r} could be judged: {found}")
    rate = estimate(values, higher_is_better=True, unit="%")
    bounds = (rate.low, rate.high) if len(values) > 1 else (None, None)  # JSON has no infinity
    win_rate = {"value": rate.value, "low": bounds[0], "high": bounds[1]}
    return {"pairs": len(outcomes), "outcomes": counts, "win_rate": win_rate}


def _bounds(rate: dict[str, Any]) -> str:
    return "unknown: one pair" if rate["low"] is None else f"{rate['low']:.1f} to {rate['high']:.1f} %"


def _tokens(answers: list[dict[str, Any]]) -> dict[str, int]:
    """What answers cost; ``uncounted`` are those for which the endpoint gave no number."""
    return {
        "requests": len(answers),
        "prompt": sum(answer["prompt_tokens"] or 0 for answer in answers),
        "completion": sum(answer["completion_tokens"] or 0 for answer in answers),
        "uncounted": sum(answer["prompt_tokens"] is None for answer in answers),
    }
