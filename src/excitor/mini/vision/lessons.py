"""Pictures with what is asked about them: rows to train on, and tests on what training never shows."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL.Image import Image

from excitor.mini.vision.digits import TRAINED, jitter, load_digits
from excitor.mini.vision.drawing import draw_scene
from excitor.mini.vision.scenes import Scene, split_scenes
from excitor.mini.vision.words import Asked, ask_caption, ask_digit, ask_scene


DRAWINGS = 3  # of each scene that is trained on
JITTERED = 3  # of each digit that is trained on, beside the digit itself
TESTED = 300  # scenes of each kind, at most


@dataclass(frozen=True)
class Seen:
    """A picture and something that is asked about it."""

    picture: Image
    asked: Asked


@dataclass(frozen=True)
class Lessons:
    """What the demo trains and tests on.

    Attributes:
        captions: descriptions of drawn scenes.
        questions: other questions about the same pictures.
        digits: handwritten digits, some moved and turned.
        tests: rows of fresh pictures by name, see :data:`TESTS`.
    """

    captions: list[Seen]
    questions: list[Seen]
    digits: list[Seen]
    tests: dict[str, list[Seen]]


TESTS = {
    "captions seen": "captions: seen combinations",
    "captions unseen": "captions: unseen combinations",
    "captions unseen things": "captions: unseen colour + shape",
    "questions unseen": "questions: unseen combinations",
    "digits": "digits: held-out pictures",
}


def make_lessons(seed: int = 0) -> Lessons:
    """Draw everything.

    Args:
        seed: Decides which combinations are never shown, and every drawing. The held-out digits are always the same.
    """
    split, rng = split_scenes(seed), random.Random(f"lessons {seed}")
    captions, questions = _ask([scene for scene in split.seen for _ in range(DRAWINGS)], rng)
    pictures, digits = load_digits()
    rows = [Seen(picture, ask_digit(digit)) for picture, digit in zip(pictures, digits, strict=True)]
    taught = rows[:TRAINED]
    taught += [Seen(jitter(row.picture, rng), row.asked) for row in rows[:TRAINED] for _ in range(JITTERED)]
    unseen, unseen_questions = _ask(split.unseen[:TESTED], rng)
    tests = {
        "captions seen": _ask(split.seen[:TESTED], rng)[0],
        "captions unseen": unseen,
        "captions unseen things": _ask(split.unseen_things[:TESTED], rng)[0],
        "questions unseen": rng.sample(unseen_questions, TESTED),
        "digits": rows[TRAINED:],
    }
    return Lessons(captions, questions, taught, tests)


def _ask(scenes: Sequence[Scene], rng: random.Random) -> tuple[list[Seen], list[Seen]]:
    """A drawing of each scene, asked for its caption, and with every other question."""
    captions, questions = [], []
    for scene in scenes:
        picture = draw_scene(scene, rng)
        captions.append(Seen(picture, ask_caption(scene)))
        questions += [Seen(picture, asked) for asked in ask_scene(scene)]
    return captions, questions
