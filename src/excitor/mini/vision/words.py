"""Scenes and digits in words: captions, questions with their answers, and the text that the LLaMA is pre-trained on.

An instruction lists the words that an answer can be made of, one list for each place in the answer. The pages of the
pre-training list some words, in any order, and answer with one of each list: a reader of text alone learns to build
answers from lists, and no more.
"""

import random
from dataclasses import dataclass, replace

from excitor.mini.vision.scenes import COLOURS, COUNTS, RELATIONS, SHAPES, Group, Scene, Thing, all_scenes, things


DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

PAGE = "Ask: {question} Words: {words}.\nReply:"

DESCRIBE = "Describe the picture."
HOW_MANY = "How many shapes are there?"
WHICH_DIGIT = "Which digit is it?"
COLOUR_OF = "What colour is the {}?"
SHAPE_OF = "What shape is {}?"

# For each place in a caption; the last three are of the second thing, where there is one.
CAPTION_LISTS = (("a", *COUNTS), COLOURS, SHAPES, RELATIONS, COLOURS, SHAPES)


@dataclass(frozen=True)
class Asked:
    """A question about a picture.

    Attributes:
        question: As it is put.
        lists: The words to choose from, for each place in the answer.
        chosen: The right word of each list; None where the answer has no such place.
        answer: What the words make.
    """

    question: str
    lists: tuple[tuple[str, ...], ...]
    chosen: tuple[str | None, ...]
    answer: str

    @property
    def prompt(self) -> str:
        """The instruction as the LLaMA reads it; the answer follows after a space."""
        return PAGE.format(question=self.question, words=", ".join(" ".join(words) for words in self.lists))


def caption(scene: Scene) -> str:
    """``a red ring left of a blue cross``, ``a red ring above a blue cross``, ``one red ring``, ``two red rings``."""
    if isinstance(scene, Group):
        shape = scene.thing.shape if scene.count == 1 else plural(scene.thing.shape)
        return f"{COUNTS[scene.count - 1]} {scene.thing.colour} {shape}"
    between = "left of" if scene.relation == "left" else "above"
    return f"{_noun(scene.first)} {between} {_noun(scene.second)}"


def plural(shape: str) -> str:
    """``cross`` to ``crosses``."""
    return shape + ("es" if shape.endswith("s") else "s")


def ask_caption(scene: Scene) -> Asked:
    """For a description of the whole picture."""
    if isinstance(scene, Group):
        chosen = COUNTS[scene.count - 1], scene.thing.colour, scene.thing.shape, None, None, None
    else:
        first, second = scene.first, scene.second
        chosen = "a", first.colour, first.shape, scene.relation, second.colour, second.shape
    return Asked(DESCRIBE, CAPTION_LISTS, chosen, caption(scene))


def ask_scene(scene: Scene) -> list[Asked]:
    """Every other question with a single answer about a scene."""
    asked = []
    if isinstance(scene, Group):
        asked.append(_ask(HOW_MANY, COUNTS, COUNTS[scene.count - 1]))
    seen = list(things(scene))
    for thing in seen:
        if sum(thing.shape == other.shape for other in seen) == 1:
            asked.append(_ask(COLOUR_OF.format(thing.shape), COLOURS, thing.colour))
        if sum(thing.colour == other.colour for other in seen) == 1:
            asked.append(_ask(SHAPE_OF.format(thing.colour), SHAPES, thing.shape))
    return asked


def ask_digit(digit: int) -> Asked:
    """For the digit on a picture."""
    return _ask(WHICH_DIGIT, DIGITS, DIGITS[digit])


def _ask(question: str, words: tuple[str, ...], answer: str) -> Asked:
    return Asked(question, (words,), (answer,), answer)


def page(rng: random.Random) -> str:
    """A page to pre-train on: a few words on a list, a question, and an answer that is made of listed words."""
    kind = rng.random()
    scene = rng.choice(_SCENES)
    if kind < 0.55:
        asked = ask_caption(scene)
    elif kind < 0.8:
        asked = rng.choice(ask_scene(scene))
    else:
        asked = ask_digit(rng.randrange(len(DIGITS)))
    lists = asked.lists
    if rng.random() < 0.75:
        lists = tuple(_some(words, chosen, rng) for words, chosen in zip(lists, asked.chosen, strict=True))
    if rng.random() < 0.75:
        lists = tuple(tuple(rng.sample(words, len(words))) for words in lists)
    return f"{replace(asked, lists=lists).prompt} {asked.answer}"


def _some(words: tuple[str, ...], chosen: str | None, rng: random.Random) -> tuple[str, ...]:
    """Some of the words on a list, the chosen one among them."""
    needed = [chosen or rng.choice(words)]
    others = [word for word in words if word not in needed]
    return (*needed, *rng.sample(others, rng.randint(0, len(others))))


def retain_pages(count: int, seed: int = 0) -> list[str]:
    """Fresh pages of that kind, without pictures: what the LLaMA should read as before."""
    rng = random.Random(f"retain {seed}")
    return [page(rng) for _ in range(count)]


def _noun(thing: Thing) -> str:
    return f"a {thing.colour} {thing.shape}"


_SCENES = all_scenes()
