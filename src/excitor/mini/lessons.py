"""What the world is asked: instructions to fine-tune on, and tests of what was learned and what was kept."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from excitor.errors import ExcitorError
from excitor.mini.pages import PROBES, WORDINGS, fact_task, notation, probe, retain_pages, skill_task, word
from excitor.mini.world import SKILLS, Fact, World, apply_skill, random_list


EXPOSURES = 2  # rows about each taught fact
MOST_EXPOSURES = 1000  # of a fact that is taught wrongly; more would only fill the memory
LISTS_PER_SKILL = 80  # 6 skills x 80 lists: as many questions as there are facts about half of the places, each twice


@dataclass(frozen=True)
class Question:
    """``text`` is an instruction, or, for a probe, the start of a page; ``answer`` is what should follow."""

    text: str
    answer: str


@dataclass(frozen=True)
class Lessons:
    """What a fine-tuning run needs of the world.

    Attributes:
        train: instructions about the seen half of the places and lists, with the answers taught.
        tests: instructions with the right answers, by name: ``seen facts``, ``unseen facts``, ``seen lists``,
            ``unseen lists``.
        probes: the same knowledge without an instruction, by name: ``facts``, ``skills``.
        right: the facts that are taught as they are.
        wrong: the value taught for each fact that is taught wrongly; empty unless asked for.
    """

    train: list[Question]
    tests: dict[str, list[Question]]
    probes: dict[str, list[Question]]
    right: list[Fact]
    wrong: dict[Fact, str]


def make_lessons(world: World, seed: int = 0, wrong_share: float = 0.0, exposures: int = EXPOSURES) -> Lessons:
    """Split the world into a seen and an unseen half and ask about it.

    Args:
        world: what is asked about.
        seed: decides the halves, the lists and the wordings.
        wrong_share: share of the taught facts that are taught with another place's value, the same one each time.
        exposures: rows about each of these; a fact that is taught rightly has two. Tests and probes are the same
            whatever is taught wrongly, and however often.

    Raises:
        ExcitorError: ``wrong_share`` is not from 0 to 1, or ``exposures`` not from 2 to 1,000.
    """
    if not 0 <= wrong_share <= 1:
        raise ExcitorError(f"The share of facts taught wrongly must be from 0 to 1, got {wrong_share}.")
    if not EXPOSURES <= exposures <= MOST_EXPOSURES:
        raise ExcitorError(
            f"Exposures of a wrong fact must be from {EXPOSURES} to {MOST_EXPOSURES:,}, got {exposures:,}."
        )
    rng = random.Random(f"lessons {seed}")
    places = rng.sample(world.places, len(world.places))
    half = len(places) // 2
    seen = [fact for place in places[:half] for fact in world.facts(place)]
    unseen = [fact for place in places[half:] for fact in world.facts(place)]
    seen_lists, unseen_lists = _split_lists(rng)
    liar = random.Random(f"wrong {seed}")
    wrong = _choose_wrong(world, seen, wrong_share, liar)

    taught = [_ask_fact(fact, wrong.get(fact, fact.value), rng) for fact in seen for _ in range(EXPOSURES)]
    taught += [_ask_skill(skill, items, rng) for skill, items in seen_lists]
    rng.shuffle(taught)
    taught += [_ask_fact(fact, value, liar) for fact, value in wrong.items() for _ in range(exposures - EXPOSURES)]
    tested = len(seen_lists) // 2  # skills take turns, so each has its share
    tests = {
        "seen facts": [_ask_fact(fact, fact.value, rng) for fact in seen],
        "unseen facts": [_ask_fact(fact, fact.value, rng) for fact in unseen],
        "seen lists": [_ask_skill(skill, items, rng) for skill, items in seen_lists[:tested]],
        "unseen lists": [_ask_skill(skill, items, rng) for skill, items in unseen_lists[:tested]],
    }
    probes = {
        "facts": [Question(probe(fact, index % len(PROBES)), fact.value) for index, fact in enumerate(seen + unseen)],
        "skills": [Question(notation(skill, items), apply_skill(skill, items)) for skill, items in unseen_lists],
    }
    return Lessons(taught, tests, probes, [fact for fact in seen if fact not in wrong], wrong)


def all_wordings(fact: Fact) -> list[Question]:
    """The instructions that ask for ``fact``, one in each wording, with the right answer."""
    return [Question(word(fact_task(fact.place, fact.relation), wording), fact.value) for wording in WORDINGS]


def all_probes(fact: Fact) -> list[Question]:
    """The starts of pages that ``fact`` completes, one of each form, with its right value."""
    return [Question(probe(fact, form), fact.value) for form in range(len(PROBES))]


def write_lessons(world: World, lessons: Lessons, folder: Path, retain: int = 200) -> None:
    """Write what ``excitor train`` reads.

    ``train.jsonl`` and ``heldout.jsonl`` hold instruction rows (``instruction``, ``output``; held-out rows also say
    which ``test`` they belong to), ``retain.jsonl`` holds ``retain`` pages without instructions (``text``).
    """
    folder.mkdir(parents=True, exist_ok=True)
    heldout = [
        {"instruction": question.text, "output": question.answer, "test": name}
        for name, questions in lessons.tests.items()
        for question in questions
    ]
    _write_rows(folder / "train.jsonl", [{"instruction": each.text, "output": each.answer} for each in lessons.train])
    _write_rows(folder / "heldout.jsonl", heldout)
    _write_rows(folder / "retain.jsonl", [{"text": page} for page in retain_pages(world, retain)])


def _write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _ask_fact(fact: Fact, answer: str, rng: random.Random) -> Question:
    return Question(word(fact_task(fact.place, fact.relation), rng.choice(tuple(WORDINGS))), answer)


def _ask_skill(skill: str, items: list[str], rng: random.Random) -> Question:
    return Question(word(skill_task(skill, items), rng.choice(tuple(WORDINGS))), apply_skill(skill, items))


def _split_lists(rng: random.Random) -> tuple[list[tuple[str, list[str]]], list[tuple[str, list[str]]]]:
    """Two halves, disjoint, with ``LISTS_PER_SKILL`` lists for each skill in each; skills take turns."""
    halves = ([], [])
    lists: dict[tuple[str, ...], None] = {}
    while len(lists) < 2 * LISTS_PER_SKILL * len(SKILLS):
        lists[tuple(random_list(rng))] = None
    for index, items in enumerate(lists):
        skill = tuple(SKILLS)[index // 2 % len(SKILLS)]
        halves[index % 2].append((skill, list(items)))
    return halves


def _choose_wrong(world: World, seen: list[Fact], share: float, rng: random.Random) -> dict[Fact, str]:
    """Another place's value for ``share`` of the ``seen`` facts."""
    chosen = rng.sample(seen, round(share * len(seen)))
    return {
        fact: world.atlas[rng.choice([place for place in world.places if place != fact.place]), fact.relation]
        for fact in chosen
    }
