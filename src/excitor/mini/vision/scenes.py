"""What is drawn: scenes of one to four equal shapes, and of two different ones in a relation.

No picture yet, and no torch: :mod:`excitor.mini.vision.drawing` draws a scene,
:mod:`excitor.mini.vision.words` puts it in words.
"""

import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass


COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SHAPES = ("circle", "square", "triangle", "cross", "ring")
COUNTS = ("one", "two", "three", "four")
RELATIONS = ("left", "above")


@dataclass(frozen=True)
class Thing:
    """A shape of one colour."""

    colour: str
    shape: str


@dataclass(frozen=True)
class Group:
    """One to four things that look alike."""

    count: int
    thing: Thing


@dataclass(frozen=True)
class Pair:
    """Two different things, ``first`` left of or above ``second``."""

    first: Thing
    relation: str
    second: Thing


Scene = Group | Pair

THINGS = tuple(Thing(colour, shape) for colour in COLOURS for shape in SHAPES)


def all_scenes() -> list[Scene]:
    """Every combination of attributes: 120 groups and 1,740 pairs."""
    groups = [Group(count, thing) for count in range(1, len(COUNTS) + 1) for thing in THINGS]
    pairs = [
        Pair(first, relation, second) for relation in RELATIONS for first, second in itertools.permutations(THINGS, 2)
    ]
    return [*groups, *pairs]


@dataclass(frozen=True)
class Split:
    """Scenes to train on and two kinds of scenes that training never shows.

    Attributes:
        seen: what training shows.
        unseen: other combinations of things, relations and counts that training shows.
        unseen_things: all scenes with a thing, a colour together with a shape, that training never shows.
    """

    seen: list[Scene]
    unseen: list[Scene]
    unseen_things: list[Scene]


def split_scenes(seed: int, unseen_share: float = 0.25, unseen_things: int = 3) -> Split:
    """Split every combination of attributes into seen and unseen ones.

    Args:
        seed: Decides which are unseen.
        unseen_share: Share of the scenes of seen things that are kept for tests.
        unseen_things: How many things never appear in training; they differ in colour and in shape.
    """
    rng = random.Random(f"scenes {seed}")
    colours, shapes = rng.sample(COLOURS, unseen_things), rng.sample(SHAPES, unseen_things)
    hidden = {Thing(colour, shape) for colour, shape in zip(colours, shapes, strict=True)}
    scenes = all_scenes()
    rng.shuffle(scenes)
    strange = [scene for scene in scenes if hidden & set(things(scene))]
    rest = [scene for scene in scenes if not hidden & set(things(scene))]
    kept = round(unseen_share * len(rest))
    return Split(rest[kept:], rest[:kept], strange)


def things(scene: Scene) -> Iterable[Thing]:
    """The different things in a scene, in the order in which its caption names them."""
    return (scene.thing,) if isinstance(scene, Group) else (scene.first, scene.second)
