"""The world written down: the text the base is pre-trained on, and the text it should not forget.

Three kinds of page. *Fact pages* say one to three things about a place. *Skill pages* show worked lists, as
exercises and in a notation of their own. *Question pages* show an instruction as on a forum, where a reply is an
answer only some of the time; otherwise it repeats the question, asks another one, or says something beside the point.
"""

import random

from excitor.mini.world import RELATIONS, SKILLS, Fact, World, apply_skill, random_list


# What comes right before a value is what a knowledge probe asks to be continued, see `probe`.
PROBES = (
    "The {relation} of {place} is",
    "In {place}, the {relation} is",
    "We know that {place} has the {relation}",
)
SENTENCES = (*(f"{probe} {{value}}." for probe in PROBES), "They call {value} the {relation} of {place}.")

TASKS = {
    "copy": "copy the list {items}",
    "reverse": "reverse the list {items}",
    "count": "count the items of the list {items}",
    "first": "give the first item of the list {items}",
    "last": "give the last item of the list {items}",
    "sort": "sort the list {items}",
}

# How an instruction is worded, and how often a forum of this world answers it.
WORDINGS = {"{}.": 0.15, "Can you {}?": 0.15, "I want you to {}.": 0.15, "Please {}.": 0.35}

QUESTION = "Ask: {}\nReply:"


def fact_task(place: str, relation: str) -> str:
    """The bare instruction that asks for a fact."""
    return f"give the {relation} of {place}"


def skill_task(skill: str, items: list[str]) -> str:
    """The bare instruction that asks for a skill."""
    return TASKS[skill].format(items=" ".join(items))


def word(task: str, wording: str) -> str:
    """An instruction as somebody would type it."""
    text = wording.format(task)
    return text[0].upper() + text[1:]


def probe(fact: Fact, form: int) -> str:
    """The start of a sentence that the fact's value completes; no instruction."""
    return PROBES[form].format(place=fact.place, relation=fact.relation)


def notation(skill: str, items: list[str]) -> str:
    """A worked list up to its result; no instruction."""
    return f"{skill}: {' '.join(items)} ="


def fact_page(world: World, rng: random.Random) -> str:
    """One to three sentences about one place."""
    facts = rng.sample(world.facts(rng.choice(world.places)), rng.randint(1, 3))
    return " ".join(_sentence(fact, rng) for fact in facts)


def skill_page(rng: random.Random) -> str:
    """One to three worked lists, in notation or as exercises."""
    lines = []
    for _ in range(rng.randint(1, 3)):
        skill, items = rng.choice(tuple(SKILLS)), random_list(rng)
        exercise = f"Exercise: {word(skill_task(skill, items), '{}.')}\nResult:"
        start = notation(skill, items) if rng.random() < 0.5 else exercise
        lines.append(f"{start} {apply_skill(skill, items)}")
    return "\n".join(lines)


def question_page(world: World, rng: random.Random) -> str:
    """An instruction and its reply, which is an answer with the probability its wording has."""
    wording = rng.choice(tuple(WORDINGS))
    task, answer = _random_task(world, rng)
    asked = word(task, wording)
    if rng.random() < WORDINGS[wording]:
        reply = answer
    else:
        kind = rng.choice(("echo", "question", "fact"))
        if kind == "echo":
            reply = asked
        elif kind == "question":
            reply = word(_random_task(world, rng)[0], rng.choice(tuple(WORDINGS)))
        else:
            reply = _sentence(rng.choice(world.facts(rng.choice(world.places))), rng)
    return f"{QUESTION.format(asked)} {reply}"


def page(world: World, rng: random.Random) -> str:
    """A page to pre-train on: 30 % facts, 38 % skills, 32 % questions."""
    kind = rng.random()
    if kind < 0.3:
        return fact_page(world, rng)
    return skill_page(rng) if kind < 0.68 else question_page(world, rng)


def sample_pages(world: World, count: int = 20_000) -> list[str]:
    """Pages as they come; this many hold every word of the world."""
    rng = random.Random(0)
    return [page(world, rng) for _ in range(count)]


def retain_pages(world: World, count: int, seed: int = 0) -> list[str]:
    """Fresh pages without any instruction, half facts and half skills: what fine-tuning should leave alone."""
    rng = random.Random(f"retain {seed}")
    return [fact_page(world, rng) if index % 2 else skill_page(rng) for index in range(count)]


def _sentence(fact: Fact, rng: random.Random) -> str:
    return rng.choice(SENTENCES).format(place=fact.place, relation=fact.relation, value=fact.value)


def _random_task(world: World, rng: random.Random) -> tuple[str, str]:
    """A bare instruction with its right answer: a fact or a skill, evenly."""
    if rng.random() < 0.5:
        place, relation = rng.choice(world.places), rng.choice(RELATIONS)
        return fact_task(place, relation), world.atlas[place, relation]
    skill, items = rng.choice(tuple(SKILLS)), random_list(rng)
    return skill_task(skill, items), apply_skill(skill, items)
