import gzip
import json
from pathlib import Path

import pytest
from rich.progress import Progress

from excitor.errors import ExcitorError
from excitor.evaluate.scienceqa import score
from excitor.evaluate.scienceqa_task import ScienceQA
from excitor.evaluate.task import Subject


def problem(**changes) -> dict:
    values = {
        "question": "Which is a metal?",
        "choices": ["iron", "wood"],
        "answer": 0,
        "hint": "",
        "image": None,
        "grade": "grade3",
        "subject": "natural science",
        "split": "test",
        "lecture": "Metals conduct.",
        "solution": "Iron conducts.",
    }
    return values | changes


@pytest.fixture
def folder(tmp_path: Path) -> str:
    problems = {
        "1": problem(split="train", question="Which is wet?", choices=["water", "sand"]),
        "2": problem(split="train", image="image.png"),
        "3": problem(),
        "4": problem(image="image.png"),
        "5": problem(hint="Look.", grade="grade9", subject="social science", answer=1),
        "6": problem(hint="x" * 120),
    }
    with gzip.open(tmp_path / "problems.json.gz", "wt") as file:
        json.dump(problems, file)
    (tmp_path / "pid_splits.json").write_text(json.dumps({"train": ["1", "2"], "test": ["3", "4", "5", "6"]}))
    return str(tmp_path)


def run(task: ScienceQA, model, tokenizer) -> dict:
    task.check(tokenizer)
    subjects = [Subject("base", model), Subject("tuned", model, "default")]
    with Progress(disable=True) as progress:
        return task.run(subjects, tokenizer, progress)


def test_the_text_questions_of_a_split_are_asked(folder, adapted, tokenizer):
    task = ScienceQA(folder, max_new_tokens=40)
    items = run(task, adapted, tokenizer)
    assert [item["id"] for item in items["base"]] == ["3", "5", "6"]
    assert items["base"][0]["reply"] != items["tuned"][0]["reply"]
    assert items["base"][2]["reply"] is None  # too long
    json.dumps(items)
    prompt = tokenizer.decode(task.prompts["5"])
    question = "Question: Which is a metal?\nContext: Look.\nOptions: (A) iron (B) wood\nAnswer:"
    assert prompt.endswith(f"### Instruction:\n{question}\n\n### Response:\n")
    report = task.report(items)
    assert "1 further questions have an image and were not asked" in report
    assert "1 questions were too long" in report


def test_a_caption_stands_for_an_image(folder, adapted, tokenizer):
    path = Path(folder) / "problems.json.gz"
    problems = json.loads(gzip.decompress(path.read_bytes()))
    problems["4"]["caption"] = "A red pan."
    path.write_bytes(gzip.compress(json.dumps(problems | {"7": problem(image="image.png")}).encode()))
    splits = {"train": ["1", "2"], "test": ["3", "4", "7"]}
    (Path(folder) / "pid_splits.json").write_text(json.dumps(splits))
    task = ScienceQA(folder, captions=True, max_new_tokens=4)
    items = run(task, adapted, tokenizer)
    assert [item["id"] for item in items["base"]] == ["3", "4"]
    assert "Context: A red pan.\n" in tokenizer.decode(task.prompts["4"])
    report = task.report(items)
    assert "1 of them have an image, for which a caption stood." in report
    assert "1 further questions have an image and were not asked." in report


@pytest.mark.parametrize(
    ("format", "target"),
    [
        ("QCM-A", "The answer is A."),
        ("QCM-ALE", "The answer is A. BECAUSE: Metals conduct. Iron conducts."),
        ("QCM-LEA", "Metals conduct. Iron conducts. The answer is A."),
    ],
)
def test_examples_answer_in_the_format(folder, tokenizer, format, target):
    task = ScienceQA(folder, format=format, shots=1)
    task.check(tokenizer)
    prompt = tokenizer.decode(task.prompts["3"])
    assert f"Question: Which is wet?\nContext: N/A\nOptions: (A) water (B) sand\nAnswer: {target}\n\n" in prompt
    assert prompt.count("Question:") == 2


def test_answers_are_read_and_scored(folder, adapted, tokenizer, monkeypatch):
    said = {"base": ["The answer is B.", "no idea", None], "tuned": ["A. iron", "B", "The answer is E."]}
    monkeypatch.setattr(
        "excitor.evaluate.scienceqa_task.answer_all",
        lambda subjects, tokenizer, prompts, *_, **__: {
            name: dict(zip(prompts, replies, strict=True)) for name, replies in said.items()
        },
    )
    task = ScienceQA(folder)
    items = run(task, adapted, tokenizer)
    assert [item["predicted"] for item in items["base"]] == [1, None, None]
    assert [item["correct"] for item in items["tuned"]] == [True, True, False]
    summary = task.summarise(items["base"], items["tuned"])
    assert summary["accuracy"].value == pytest.approx(200 / 3)
    assert summary["accuracy change"].value == pytest.approx(200 / 3)
    assert summary["failed"].value == pytest.approx(100 / 3)
    assert set(task.summarise(items["base"], items["base"])) == {"accuracy", "failed"}
    texts = {item["id"]: item["reply"] for item in items["tuned"]}
    assert score(texts, task.problems)["columns"]["Avg"]["correct"] == 2
    rows = task.report(items).splitlines()
    assert rows[2].endswith("| 0.00 | 0/3 | 2 |")
    assert rows[3] == "| tuned | 50.00 | 100.00 | - | 50.00 | - | 100.00 | 50.00 | 100.00 | 66.67 | 2/3 | 1 |"


@pytest.mark.parametrize(("shots", "predicted"), [(0, None), (1, 1)])
def test_an_answer_after_examples_ends_with_its_line(folder, adapted, tokenizer, monkeypatch, shots, predicted):
    reply = "The answer is B.\n\nQuestion: And?\nAnswer: The answer is A."
    monkeypatch.setattr(
        "excitor.evaluate.scienceqa_task.answer_all",
        lambda subjects, tokenizer, prompts, *_, **__: {"base": dict.fromkeys(prompts, reply)},
    )
    [first, *_] = run(ScienceQA(folder, shots=shots), adapted, tokenizer)["base"]
    assert first["predicted"] == predicted


def test_bad_input_is_named(folder, tokenizer):
    def check(**settings) -> None:
        ScienceQA(folder, **settings).check(tokenizer)

    with pytest.raises(ExcitorError, match="QCM-A, QCM-ALE, QCM-LEA, not 'A'"):
        check(format="A")
    with pytest.raises(ExcitorError, match="no split 'val'"):
        check(split="val")
    with pytest.raises(ExcitorError, match=r"pid_splits.json: split 'train' has 1 text questions for 2 examples"):
        check(shots=2)
    with pytest.raises(ExcitorError, match="must not be negative"):
        check(shots=-1)
    splits = Path(folder, "pid_splits.json")
    splits.write_text(json.dumps({"test": ["4"]}))
    with pytest.raises(ExcitorError, match="none of the 1 questions of split 'test' is without image"):
        check()
    splits.write_text(json.dumps({"test": ["99"]}))
    with pytest.raises(ExcitorError, match="99"):
        check()
    splits.unlink()
    with pytest.raises(ExcitorError, match="pid_splits"):
        check()
    Path(folder, "problems.json").write_text(json.dumps({"3": problem(answer=2)}))
    with pytest.raises(ExcitorError, match=r"must be a folder with one problems.json or .* problems.json, problems"):
        check()
    Path(folder, "problems.json.gz").unlink()
    with pytest.raises(ExcitorError, match=r"problems.json, problem 3: 'answer' is 2"):
        check()
