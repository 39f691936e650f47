import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.progress import Progress

from excitor.data.encoding import encode_examples
from excitor.data.sources import load_examples
from excitor.errors import ExcitorError
from excitor.evaluate.instructions import Instructions, exact_match, normalise, token_f1
from excitor.evaluate.task import Subject


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def alpaca(tmp_path) -> str:
    answers = ["Blue.", "", "a red one", "6"]
    rows = [{"instruction": f"Name a colour, number {i}", "output": answer} for i, answer in enumerate(answers)]
    return write(tmp_path / "rows.jsonl", rows)


def run(task: Instructions, model, tokenizer) -> dict:
    task.check(tokenizer)
    subjects = [Subject("base", model), Subject("tuned", model, "default")]
    with Progress(disable=True) as progress:
        return task.run(subjects, tokenizer, progress)


@pytest.mark.parametrize(
    ("reply", "answer", "match", "f1"),
    [
        ("The Cat, sat!", "cat sat", 1, 1),
        ("a cat and a cat", "the cat", 0, 2 / 4),  # cat, and, cat against cat
        ("cat cat", "cat cat dog", 0, 4 / 5),
        ("", "cat", 0, 0),
        ("+", "-", 0, 0),
        (" + ", "+", 1, 1),
        ("U.S.A", "usa", 1, 1),
    ],
)
def test_words_are_compared_as_squad_does(reply, answer, match, f1):
    assert exact_match(reply, answer) == match
    assert token_f1(reply, answer) == pytest.approx(f1)


@given(st.text(), st.text())
def test_f1_is_symmetric_and_1_for_equal_words_alone(first, second):
    assert token_f1(first, second) == token_f1(second, first) <= 1
    assert (token_f1(first, second) == 1) == (sorted(normalise(first)) == sorted(normalise(second)))
    assert token_f1(first, first) == exact_match(first, first) == 1


def test_prompts_are_those_of_training(tmp_path, alpaca, tokenizer):
    pairs = write(tmp_path / "pairs.jsonl", [{"prompt": "<s>Q: 1+1\nA:", "completion": " 2"}])
    turns = [("user", "Hi"), ("assistant", "Hello."), ("user", "2+2?"), ("assistant", "4"), ("user", "thanks")]
    chat = write(tmp_path / "chat.jsonl", [{"messages": [{"role": r, "content": c} for r, c in turns]}])
    task = Instructions([alpaca, pairs, chat])
    task.check(tokenizer)
    encoded = encode_examples(load_examples([alpaca, pairs, chat]), tokenizer, max_length=256).dataset
    trained = []
    for row in encoded:
        last = max(place for place, label in enumerate(row["labels"]) if label == -100)
        trained.append(row["input_ids"][: last + 1])
    assert list(task._prompts.values()) == trained
    assert list(task._prompts) == ["rows.jsonl:1", "rows.jsonl:3", "rows.jsonl:4", "pairs.jsonl:1", "chat.jsonl:1"]


def test_items_summary_and_report(alpaca, adapted, tokenizer):
    task = Instructions([alpaca], max_new_tokens=8, batch_size=2)
    items = run(task, adapted, tokenizer)
    assert items["base"] != items["tuned"]
    json.dumps(items)
    items["tuned"][0] |= {"reply": "Blue", "exact_match": 1.0, "f1": 1.0}
    summary = task.summarise(items["base"], items["tuned"])
    assert summary["exact match"].value == pytest.approx(100 / 3)
    assert summary["exact match change"].value == pytest.approx(100 / 3)
    assert summary["exact match change"].low <= summary["exact match change"].value <= 100
    assert set(task.summarise(items["base"], items["base"])) == {"exact match", "token F1"}
    report = task.report(items)
    assert "| rows.jsonl | tuned | 33.33 |" in report
    assert "3 held-out rows" in report
    assert "1 rows without an answer were not asked" in report


def test_each_source_has_scores_of_its_own(tmp_path, alpaca, adapted, tokenizer):
    other = write(tmp_path / "other.jsonl", [{"instruction": "x", "output": "y"}])
    task = Instructions([alpaca, other], max_new_tokens=4)
    items = run(task, adapted, tokenizer)
    items["base"][-1] |= {"exact_match": 1.0, "f1": 1.0}
    report = task.report(items)
    assert "| other.jsonl | base | 100.00 | 100.00 |" in report
    assert "| rows.jsonl | base | 0.00 |" in report


def test_prompts_that_are_too_long_score_nothing_and_are_counted(tmp_path, adapted, tokenizer):
    long = write(tmp_path / "long.jsonl", [{"instruction": "x" * n, "output": "y"} for n in (5, 230)])
    task = Instructions([long], max_new_tokens=16)
    items = run(task, adapted, tokenizer)
    assert items["base"][1] | {"reply": None, "f1": 0.0} == items["base"][1]
    assert "1 prompts were too long" in task.report(items)
    assert all("too long" in page for page in task.pages(items).values())


def test_bad_rows_are_named(tmp_path, alpaca, tokenizer):
    def check(*sources: str) -> None:
        Instructions(list(sources)).check(tokenizer)

    with pytest.raises(ExcitorError, match="given twice"):
        check(alpaca, alpaca)
    with pytest.raises(ExcitorError, match=r"no row of .* has an answer"):
        check(write(tmp_path / "empty.jsonl", [{"instruction": "x", "output": " "}]))
    bad = [{"messages": [{"role": role, "content": "x"} for role in ("user", "tool", "assistant")]}]
    with pytest.raises(ExcitorError, match=r"bad.jsonl, row 1: .*no place for the role tool"):
        check(write(tmp_path / "bad.jsonl", bad))
