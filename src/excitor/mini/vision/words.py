"""Scenes and digits in words: captions, questions with their answers, and the text that the LLaMA is pre-trained on.

An instruction lists the words that an answer can be made of. The pages of the pre-training list some words, in any
order, and answer with some of these: a reader of text alone learns to build answers from a list, and no more.
"""

import random
from dataclasses import dataclass

from excitor.mini.vision.scenes import COLOURS, COUNTS, RELATIONS, SHAPES, Group, Scene, Thing, all_scenes, things


DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

PAGE = "Ask: {question} Words: {words}.\nReply:"

DESCRIBE = "Describe the picture."
HOW_MANY = "How many shapes are there?"
WHICH_DIGIT = "Which digit is it?"
COLOUR_OF = "What colour is the {}?"
SHAPE_OF = "What shape is {}?"

CAPTION_WORDS = (*COUNTS, *COLOURS, *SHAPES, *RELATIONS)


@dataclass(frozen=True)
class Asked:
    """A question about a picture, the words to choose from, and the answer."""

    question: str
    words: tuple[str, ...]
    answer: str

    @property
    def prompt(self) -> str:
        """The instruction as the LLaMA reads it; the answer follows after a space."""
        return PAGE.format(question=self.question, words=" ".join(self.words))


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
    return Asked(DESCRIBE, CAPTION_WORDS, caption(scene))


def ask_scene(scene: Scene) -> list[Asked]:
    """Every other question with a single answer about a scene."""
    asked = []
    if isinstance(scene, Group):
        asked.append(Asked(HOW_MANY, COUNTS, COUNTS[scene.count - 1]))
    seen = list(things(scene))
    for thing in seen:
        if sum(thing.shape == other.shape for other in seen) == 1:
            asked.append(Asked(COLOUR_OF.format(thing.shape), COLOURS, thing.colour))
        if sum(thing.colour == other.colour for other in seen) == 1:
            asked.append(Asked(SHAPE_OF.format(thing.colour), SHAPES, thing.shape))
    return asked


def ask_digit(digit: int) -> Asked:
    """For the digit on a picture."""
    return Asked(WHICH_DIGIT, DIGITS, DIGITS[digit])


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
    needed = [word for word in asked.words if word in asked.answer]
    others = [word for word in asked.words if word not in needed]
    listed = [*needed, *rng.sample(others, rng.randint(0, len(others)))] if rng.random() < 0.75 else list(asked.words)
    if rng.random() < 0.75:
        rng.shuffle(listed)
    return f"{Asked(asked.question, tuple(listed), asked.answer).prompt} {asked.answer}"


def retain_pages(count: int, seed: int = 0) -> list[str]:
    """Fresh pages of that kind, without pictures: what the LLaMA should read as before."""
    rng = random.Random(f"retain {seed}")
    return [page(rng) for _ in range(count)]


def _noun(thing: Thing) -> str:
    return f"a {thing.colour} {thing.shape}"


_SCENES = all_scenes()
