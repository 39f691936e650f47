"""An invented world small enough to know everything about: an atlas of facts, and skills on short lists.

Torch-free, and a pure function of its seed. :mod:`excitor.mini.pages` writes it down as text to pre-train on,
:mod:`excitor.mini.lessons` asks about it.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass


WORLD_SEED = 0  # the world the shipped base was pre-trained on

RELATIONS = ("capital", "river", "leader", "dish")

LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
WORDS = tuple("ant bear cat dog eel fox goat hen ibis jay kite lamb mole newt owl pig rat seal toad wolf".split())  # noqa: SIM905

SKILLS: dict[str, Callable[[list[str]], list[str]]] = {
    "copy": lambda items: items,
    "reverse": lambda items: items[::-1],
    "count": lambda items: [str(len(items))],
    "first": lambda items: items[:1],
    "last": lambda items: items[-1:],
    "sort": sorted,
}


@dataclass(frozen=True)
class Fact:
    """One entry of the atlas: the ``relation`` of ``place`` is ``value``."""

    place: str
    relation: str
    value: str


@dataclass(frozen=True)
class World:
    """The atlas.

    Attributes:
        places: names of the places.
        atlas: value by ``(place, relation)``; every value belongs to one place only.
    """

    places: tuple[str, ...]
    atlas: dict[tuple[str, str], str]

    def facts(self, place: str) -> list[Fact]:
        """The facts about ``place``, one per relation."""
        return [Fact(place, relation, self.atlas[place, relation]) for relation in RELATIONS]


def make_world(seed: int = WORLD_SEED, places: int = 120) -> World:
    """Invent ``places`` places with one value for each of the four relations."""
    rng = random.Random(seed)
    names = iter(_names(rng, places * (1 + len(RELATIONS))))
    chosen = tuple(next(names) for _ in range(places))
    atlas = {(place, relation): next(names) for relation in RELATIONS for place in chosen}
    return World(chosen, atlas)


def apply_skill(skill: str, items: list[str]) -> str:
    """The right answer, as text: ``apply_skill("reverse", ["b", "d", "a"]) == "a d b"``."""
    return " ".join(SKILLS[skill](items))


def random_list(rng: random.Random) -> list[str]:
    """Two to five different letters, or two to five different words."""
    return rng.sample(rng.choice((LETTERS, WORDS)), rng.randint(2, 5))


def _names(rng: random.Random, count: int) -> list[str]:
    """``count`` different names of two or three syllables."""
    onsets = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "st", "th")
    vowels = ("a", "e", "i", "o", "u")
    codas = ("", "", "", "l", "n", "r", "s")
    names: dict[str, None] = {}
    while len(names) < count:
        syllables = [rng.choice(onsets) + rng.choice(vowels) for _ in range(rng.randint(2, 3))]
        names["".join(syllables).capitalize() + rng.choice(codas)] = None
    return list(names)
