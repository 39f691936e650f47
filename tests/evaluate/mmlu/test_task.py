import json

import pytest
import torch
from peft import get_peft_model
from rich.progress import Progress

from excitor import ExcitorConfig
from excitor.errors import ExcitorError
from excitor.evaluate.mmlu import Mmlu
from excitor.evaluate.mmlu.prompts import encode_letters
from excitor.evaluate.mmlu.tables import report
from excitor.evaluate.task import Subject
from tiny import make_llama


def run(task, subjects, tokenizer):
    task.check(tokenizer)
    with Progress(disable=True) as progress:
        return task.run(subjects, tokenizer, progress)


def item(topic, category, row, *, correct, shots=5, cut=0):
    choice = "A" if correct else "B"
    return {
        "id": f"{topic}/{row}",
        "topic": topic,
        "category": category,
        "answer": "A",
        "choice": choice,
        "correct": correct,
        "log_likelihoods": [-1.0, -2.0, -3.0, -4.0],
        "shots": shots,
        "cut_tokens": cut,
    }


@pytest.fixture
def answers():
    """Four questions of astronomy, one of which is right, and two of virology, of which both are."""
    return [item("astronomy", "STEM", row, correct=row == 1) for row in range(1, 5)] + [
        item("virology", "other", row, correct=True) for row in (1, 2)
    ]


def test_base_and_adapter_answer_the_same_questions(folder, long_llama, tokenizer):
    model = get_peft_model(long_llama, ExcitorConfig(num_prompts=4, init_weights=False))
    task = Mmlu(str(folder), batch_size=3)
    items = run(task, [Subject("base", model), Subject("mine", model, "default")], tokenizer)
    alone = run(task, [Subject("base", make_llama(vocab_size=263, max_position_embeddings=1024))], tokenizer)
    assert items["base"] == alone["base"] != items["mine"]
    assert [one["id"] for one in items["base"]] == [one["id"] for one in items["mine"]]
    assert [one["id"] for one in items["base"]] == [f"astronomy/{n}" for n in range(1, 8)] + [
        f"management/{n}" for n in range(1, 5)
    ]
    for one in items["mine"]:
        assert one["choice"] == "ABCD"[int(torch.tensor(one["log_likelihoods"]).argmax())]
        assert one["correct"] == (one["choice"] == one["answer"])
    assert json.loads(json.dumps(items)) == items


def test_two_processes_answer_what_one_does(folder, long_llama, tokenizer, monkeypatch):
    """Down to the last bit, as each does whole batches."""
    subjects = [Subject("base", long_llama)]
    whole = run(Mmlu(str(folder), batch_size=2), subjects, tokenizer)["base"]
    parts = {}
    for rank in (0, 1):
        monkeypatch.setattr("excitor.evaluate.mmlu.scoring.share", lambda batches, rank=rank: batches[rank::2])
        found = parts.setdefault(rank, [])
        monkeypatch.setattr(
            "excitor.evaluate.mmlu.scoring.merge",
            lambda own, found=found: found.append(own) or dict.fromkeys(range(99), torch.zeros(4)),
        )
        run(Mmlu(str(folder), batch_size=2), subjects, tokenizer)
    assert all(first.keys().isdisjoint(second) for first, second in zip(parts[0], parts[1], strict=True))
    monkeypatch.setattr("excitor.evaluate.mmlu.scoring.merge", lambda own: own | parts[0].pop(0) | parts[1].pop(0))
    assert run(Mmlu(str(folder), batch_size=2), subjects, tokenizer)["base"] == whole


def test_the_models_context_limits_the_prompts(folder, tokenizer):
    llama = make_llama(vocab_size=263, max_position_embeddings=400)
    items = run(Mmlu(str(folder)), [Subject("base", llama)], tokenizer)["base"]
    assert 0 < min(one["shots"] for one in items) <= max(one["shots"] for one in items) < 5


def test_averages_are_over_questions_and_over_topics(folder, answers):
    task = Mmlu(str(folder))
    metrics = task.summarise(answers, answers)
    assert {name: metric.value for name, metric in metrics.items()} == pytest.approx(
        {"accuracy": 50.0, "macro accuracy": 62.5}
    )
    better = [{**one, "correct": True} for one in answers]
    changes = task.summarise(answers, better)
    assert changes["accuracy change"].value == pytest.approx(50.0)
    assert changes["macro accuracy change"].value == pytest.approx(37.5)
    assert changes["accuracy change"].low < 50 < changes["accuracy change"].high
    assert task.summarise(answers, list(answers))["accuracy change"].high == 0


def test_the_report_says_what_was_measured(answers, tokenizer):
    answers[0] |= {"shots": 3}
    answers[1] |= {"shots": 0, "cut_tokens": 7}
    worse = [{**one, "correct": False} for one in answers]
    text = report(
        {"base": answers, "mine": worse}, split="val", shots=5, letters=encode_letters(tokenizer), asked=None
    )
    assert "5-shot, val split, 6 questions" in text
    assert "the letters differ in one token" in text
    assert "**2 of the 57 topics only**" in text
    assert "these 55 have no val questions here: abstract_algebra, anatomy, business_ethics" in text
    assert "2 questions did not fit into the context with all 5 examples" in text
    assert "1 kept 3, 1 kept 0" in text
    assert "1 questions did not fit even without examples" in text
    for row in (
        "| STEM | 1 | 4 | 25.0 / 25.0 | 0.0 / 0.0 |",
        "| other | 1 | 2 | 100.0 / 100.0 | 0.0 / 0.0 |",
        "| all | 2 | 6 | 50.0 / 62.5 | 0.0 / 0.0 |",
        "| virology | other | 2 | 100.0 | 0.0 |",
    ):
        assert row in text
    assert "humanities" not in text


def test_letters_of_several_tokens_are_declared(any_tokenizer, answers):
    letters = encode_letters(any_tokenizer)
    text = report({"base": answers}, split="test", shots=5, letters=letters, asked=["astronomy", "virology"])
    mixed = len({len(tokens) for tokens in letters.tokens}) > 1
    assert ("log-likelihoods are summed (tokens: A 1, B 2, C 2, D 2)" in text) == mixed
    assert "the others were not asked for" in text


def test_numbers_that_are_none_are_an_error(folder, long_llama, tokenizer):
    long_llama.lm_head.weight.data[7] = float("nan")
    with pytest.raises(ExcitorError, match="by 'broken' are not finite numbers in astronomy, row 1"):
        run(Mmlu(str(folder)), [Subject("broken", long_llama)], tokenizer)


def test_wrong_numbers_of_examples_are_refused(folder, tokenizer):
    with pytest.raises(ExcitorError, match="topic astronomy has 5 few-shot examples, but 6 are asked for"):
        Mmlu(str(folder), shots=6).check(tokenizer)
    with pytest.raises(ExcitorError, match="must not be negative, got -1"):
        Mmlu(str(folder), shots=-1).check(tokenizer)
