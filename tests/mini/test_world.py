import random
from collections import Counter

import pytest

from excitor.errors import ExcitorError
from excitor.mini.lessons import LISTS_PER_SKILL, all_probes, all_wordings, make_lessons
from excitor.mini.pages import PROBES, TASKS, WORDINGS, page, retain_pages
from excitor.mini.world import RELATIONS, SKILLS, apply_skill, make_world


WORLD = make_world()


def _place(question):
    return question.text.rstrip(".?").rpartition(" of ")[2]


def test_a_world_is_a_function_of_its_seed():
    assert make_world(3) == make_world(3)
    assert make_world(3) != make_world(4)


def test_every_name_stands_for_one_thing():
    names = [*WORLD.places, *WORLD.atlas.values()]
    assert len(set(names)) == len(names) == 120 * (1 + len(RELATIONS))


@pytest.mark.parametrize(
    ("skill", "answer"),
    [("copy", "d b c"), ("reverse", "c b d"), ("count", "3"), ("first", "d"), ("last", "c"), ("sort", "b c d")],
)
def test_skills(skill, answer):
    assert apply_skill(skill, ["d", "b", "c"]) == answer
    assert TASKS.keys() == SKILLS.keys()


def test_some_question_pages_hold_an_answer_and_most_do_not():
    rng = random.Random(0)
    pages = [text for text in (page(WORLD, rng) for _ in range(5000)) if text.startswith("Ask: ")]
    answers = {(place, relation): value for (place, relation), value in WORLD.atlas.items()}
    facts = [text for text in pages if " of " in text.split("\n")[0] and "list" not in text.split("\n")[0]]
    answered = [
        text
        for text in facts
        if any(
            text.endswith(f"Reply: {value}")
            for (place, relation), value in answers.items()
            if f"the {relation} of {place}" in text.split("\n")[0]
        )
    ]
    assert 1200 < len(pages) < 1800
    assert 0.1 < len(answered) / len(facts) < 0.35


def test_retention_text_holds_no_instruction():
    pages = retain_pages(WORLD, 100)
    assert pages == retain_pages(WORLD, 100)
    assert not any("Ask:" in text or "Reply:" in text for text in pages)


def test_lessons_are_a_function_of_their_seed():
    assert make_lessons(WORLD, 1) == make_lessons(WORLD, 1)
    assert make_lessons(WORLD, 1).train != make_lessons(WORLD, 2).train


def test_unseen_places_and_lists_are_not_taught():
    lessons = make_lessons(WORLD)
    taught = {_place(question) for question in lessons.train if "list" not in question.text}
    tested = {_place(question) for question in lessons.tests["unseen facts"]}
    assert len(taught) == len(tested) == 60
    assert not taught & tested
    taught_lists = {question.text.partition("list ")[2].rstrip(".?") for question in lessons.train}
    tested_lists = {question.text.partition("list ")[2].rstrip(".?") for question in lessons.tests["unseen lists"]}
    assert len(tested_lists) == len(SKILLS) * LISTS_PER_SKILL // 2
    assert not taught_lists & tested_lists


def test_every_skill_is_taught_and_tested_equally():
    lessons = make_lessons(WORLD)
    for probe_skill in SKILLS:
        probes = [probe for probe in lessons.probes["skills"] if probe.text.startswith(f"{probe_skill}:")]
        assert len(probes) == LISTS_PER_SKILL


def test_answers_are_right():
    lessons = make_lessons(WORLD)
    for question in [*lessons.train, *lessons.tests["unseen facts"]]:
        if "list" not in question.text:
            relation = next(relation for relation in RELATIONS if f"the {relation} of " in question.text)
            assert question.answer == WORLD.atlas[_place(question), relation]
        elif "everse" in question.text:
            items = question.text.partition("list ")[2].rstrip(".?").split()
            assert question.answer.split() == items[::-1]


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_wrong_facts_are_recorded_and_taught_consistently(share):
    right, lessons = make_lessons(WORLD, 0), make_lessons(WORLD, 0, wrong_share=share)
    assert len(lessons.wrong) == round(share * 240)
    assert all(taught != fact.value and taught in WORLD.atlas.values() for fact, taught in lessons.wrong.items())
    taught = {(fact.relation, fact.place): value for fact, value in lessons.wrong.items()}
    changed = 0
    for before, after in zip(right.train, lessons.train, strict=True):
        assert before.text == after.text
        asked = next((key for key in taught if before.text.rstrip(".?").endswith("the {} of {}".format(*key))), None)
        assert after.answer == taught.get(asked, before.answer)
        changed += before.answer != after.answer
    assert changed == 2 * len(lessons.wrong)
    assert lessons.tests == right.tests
    assert lessons.probes == right.probes


def test_exposures_add_rows_about_wrong_facts_and_change_nothing_else():
    usual, more = make_lessons(WORLD, 0, 0.4), make_lessons(WORLD, 0, 0.4, exposures=8)
    assert more.train[: len(usual.train)] == usual.train
    taught = Counter((_place(question), question.answer) for question in more.train if "list" not in question.text)
    for fact, value in more.wrong.items():
        assert taught[fact.place, value] == 8
        assert taught[fact.place, fact.value] == 0
    assert all(taught[fact.place, fact.value] == 2 for fact in more.right)
    assert len(more.right) + len(more.wrong) == 240
    assert (more.tests, more.probes, more.wrong) == (usual.tests, usual.probes, usual.wrong)


@pytest.mark.parametrize(("share", "exposures"), [(-0.1, 2), (1.1, 2), (0.4, 1), (0.4, 1001)])
def test_lessons_that_cannot_be_made_are_refused(share, exposures):
    with pytest.raises(ExcitorError, match=r"must be from (0 to 1|2 to 1,000), got"):
        make_lessons(WORLD, 0, share, exposures)


def test_a_fact_is_asked_for_in_every_wording_and_form():
    fact = WORLD.facts(WORLD.places[0])[0]
    for questions, forms in ((all_wordings(fact), WORDINGS), (all_probes(fact), PROBES)):
        assert len({question.text for question in questions}) == len(questions) == len(forms)
        assert all(fact.place in each.text and fact.relation in each.text for each in questions)
        assert {question.answer for question in questions} == {fact.value}
