import random

import pytest

from excitor.mini.vision.lessons import TESTS, make_lessons
from excitor.mini.vision.scenes import Group, Pair, Thing, all_scenes
from excitor.mini.vision.words import DIGITS, Asked, ask_caption, ask_digit, ask_scene, caption, page, plural


RING, CROSS = Thing("red", "ring"), Thing("blue", "cross")


@pytest.mark.parametrize(
    ("scene", "words"),
    [
        (Group(1, RING), "one red ring"),
        (Group(3, RING), "three red rings"),
        (Group(2, CROSS), "two blue crosses"),
        (Pair(RING, "left", CROSS), "a red ring left of a blue cross"),
        (Pair(CROSS, "above", RING), "a blue cross above a red ring"),
    ],
)
def test_captions(scene, words):
    assert caption(scene) == words


def test_no_two_scenes_share_a_caption():
    assert len({caption(scene) for scene in all_scenes()}) == len(all_scenes())


def test_questions_have_a_single_answer():
    asked = {each.question: each.answer for each in ask_scene(Pair(RING, "left", CROSS))}
    assert asked == {
        "What colour is the ring?": "red",
        "What shape is red?": "ring",
        "What colour is the cross?": "blue",
        "What shape is blue?": "cross",
    }
    both_red = ask_scene(Pair(RING, "above", Thing("red", "cross")))
    assert [each.answer for each in both_red] == ["red", "red"]
    assert {each.answer for each in ask_scene(Group(4, RING))} == {"four", "red", "ring"}


def test_an_instruction_lists_the_words_of_every_answer():
    for scene in all_scenes():
        for asked in [ask_caption(scene), *ask_scene(scene)]:
            chosen = {word for word in asked.chosen if word is not None}
            known = {*chosen, *map(plural, chosen), "a", "of"}
            assert set(asked.answer.split()) <= known
            for words, word in zip(asked.lists, asked.chosen, strict=True):
                assert word is None or word in words
    assert ask_digit(7) == Asked("Which digit is it?", (DIGITS,), ("seven",), "seven")
    assert ask_digit(7).prompt.endswith("Words: zero one two three four five six seven eight nine.\nReply:")


def test_pages_answer_with_listed_words():
    rng = random.Random(0)
    for _ in range(300):
        asked, reply = page(rng).split(".\nReply: ")
        lists = [words.split() for words in asked.split("Words: ")[1].split(", ")]
        listed = [word for words in lists for word in words]
        assert set(reply.split()) <= {*listed, *map(plural, listed), "a", "of"}
        assert all(len(set(words)) == len(words) for words in lists)


def test_tests_ask_what_training_never_shows():
    lessons = make_lessons(5)
    assert lessons.tests.keys() == TESTS.keys()
    taught = {row.asked.answer for row in lessons.captions}
    assert not taught & {row.asked.answer for name in TESTS if "captions un" in name for row in lessons.tests[name]}
    assert {row.asked.answer for row in lessons.tests["captions seen"]} <= taught
    pictures = {id(row.picture) for row in lessons.captions + lessons.questions + lessons.digits}
    assert not pictures & {id(row.picture) for rows in lessons.tests.values() for row in rows}
    again = make_lessons(5)
    assert [row.asked for row in again.questions] == [row.asked for row in lessons.questions]
    assert again.captions[7].picture.tobytes() == lessons.captions[7].picture.tobytes()
