import random

import pytest

from excitor.data import encode_examples, load_examples
from excitor.mini import BASE_DIR, load_base
from excitor.mini.evaluate import complete, instruction_accuracy, probe_accuracy
from excitor.mini.lessons import make_lessons, write_lessons
from excitor.mini.pages import QUESTION, page, sample_pages
from excitor.mini.tokenizer import make_tokenizer
from excitor.mini.world import make_world


WORLD = make_world()


@pytest.fixture(scope="module")
def base():
    return load_base()


def test_the_base_is_small():
    assert sum(file.stat().st_size for file in BASE_DIR.iterdir()) < 3_000_000


def test_the_shipped_tokenizer_is_the_one_the_script_makes(base):
    made = make_tokenizer(sample_pages(WORLD))
    assert base[1].get_vocab() == made.get_vocab()
    assert base[1].chat_template == made.chat_template
    assert base[1]("The").input_ids == made("The").input_ids


def test_every_page_round_trips_in_a_token_per_word(base):
    _, tokenizer = base
    rng = random.Random(1)
    for _ in range(500):
        text = page(WORLD, rng)
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert len(ids) <= 1 + len(text.split()) + sum(text.count(mark) for mark in ".,:?=\n")


def test_any_text_round_trips(base):
    _, tokenizer = base
    text = "Größe = 3.5\n\n\t¿unknown? \U0001f9ed"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_instruction_rows_are_encoded_as_question_pages(base, tmp_path):
    _, tokenizer = base
    lessons = make_lessons(WORLD)
    write_lessons(WORLD, lessons, tmp_path)
    encoded = encode_examples(load_examples([str(tmp_path / "train.jsonl")]), tokenizer, max_length=64)
    assert encoded.dropped == {}
    for row, question in zip(encoded.dataset, lessons.train, strict=True):
        prompt, answer = QUESTION.format(question.text), f" {question.answer}</s>"
        assert tokenizer.decode(row["input_ids"]) == f"<s>{prompt}{answer}"
        assert tokenizer.decode([token for token in row["labels"] if token != -100]) == answer


def test_the_base_knows_its_world_but_seldom_answers(base):
    model, tokenizer = base
    lessons = make_lessons(WORLD)
    assert probe_accuracy(model, tokenizer, lessons.probes["facts"][::10]) >= 0.95
    assert probe_accuracy(model, tokenizer, lessons.probes["skills"][::10]) >= 0.9
    for name in ("unseen facts", "unseen lists"):
        assert instruction_accuracy(model, tokenizer, lessons.tests[name][::5]) <= 0.35


def test_completions_do_not_depend_on_the_batch(base):
    model, tokenizer = base
    texts = [probe.text for probe in make_lessons(WORLD).probes["skills"][:12]]
    assert complete(model, tokenizer, texts) == [complete(model, tokenizer, [text])[0] for text in texts]
