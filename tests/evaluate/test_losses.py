import pytest
import torch
from rich.progress import Progress

from excitor.data import encode_examples, load_examples
from excitor.errors import ExcitorError
from excitor.evaluate.forgetting import SAMPLED, Forgetting
from excitor.evaluate.learned import Learned
from excitor.evaluate.likelihood import compare
from excitor.evaluate.task import Subject


@pytest.fixture
def subjects(adapted) -> list[Subject]:
    return [Subject("base", adapted), Subject("lora", adapted, "default")]


@pytest.fixture
def texts(tmp_path) -> list[str]:
    (tmp_path / "trees.txt").write_text("Oaks grow slowly.\n\nBirches grow fast, and are white.\n\nA yew is old.\n")
    (tmp_path / "rivers.txt").write_text("The river is wide and it is deep.\n")
    return [str(tmp_path / "trees.txt"), str(tmp_path / "rivers.txt")]


@pytest.fixture
def rows(tmp_path) -> str:
    path = tmp_path / "rows.jsonl"
    long = '{"instruction": "Count.", "input": "", "output": "' + "one " * 100 + '"}\n'
    path.write_text('{"instruction": "Name a river.", "input": "", "output": "The Elbe."}\n' * 3 + long)
    return str(path)


def run(task, subjects, tokenizer):
    task.check(tokenizer)
    return task.run(subjects, tokenizer, Progress(disable=True))


def test_forgetting_is_the_change_of_the_mean_over_all_tokens(subjects, tokenizer, texts):
    task = Forgetting(texts, max_length=24)
    items = run(task, subjects, tokenizer)
    assert [item["id"] for item in items["base"]] == [item["id"] for item in items["lora"]]
    assert {item["domain"] for item in items["base"]} == {"trees.txt", "rivers.txt"}
    losses = {subject.name: [] for subject in subjects}
    for rows in task.domains.values():
        for name, scores in compare(subjects, rows).items():
            losses[name] += scores.loss
    before, after = (torch.cat(losses[name]).mean().item() for name in ("base", "lora"))
    metrics = task.summarise(items["base"], items["lora"])
    assert metrics["loss"].value == pytest.approx(after, abs=1e-6)
    assert metrics["loss change"].value == pytest.approx(after - before, abs=1e-6)
    assert metrics["loss change"].low <= after - before <= metrics["loss change"].high
    assert metrics["KL"].value > 0
    assert 0 < metrics["flipped"].value <= 100
    assert task.summarise(items["base"], items["base"]).keys() == {"loss"}
    shares = {name: sum(item["tokens"] for item in items["lora"] if item["domain"] == name) for name in task.domains}
    parts = sum(metrics[f"loss change, {name}"].value * share for name, share in shares.items())
    assert parts / sum(shares.values()) == pytest.approx(after - before, abs=1e-6)


def test_forgetting_reports_each_domain(subjects, tokenizer, texts):
    task = Forgetting(texts, max_length=24)
    items = run(task, subjects, tokenizer)
    report = task.report(items)
    trees = [item for item in items["base"] if item["domain"] == "trees.txt"]
    assert f"| trees.txt | {len(trees)} | {sum(item['tokens'] for item in trees)} |" in report
    assert "| rivers.txt |" in report
    assert "| loss of base | loss of lora |" in report.splitlines()[0]
    both = task.report(items | {"other": items["lora"]})
    assert both.count("| trees.txt |") == 2 * report.count("| trees.txt |") == 2
    assert "| loss of base | loss of other |" in both
    alone = task.report({"base": items["base"]})
    assert "change" not in alone.splitlines()[0]


def test_without_text_the_base_writes_it(subjects, tokenizer):
    first, again = (run(Forgetting([], documents=4, max_length=10), subjects, tokenizer) for _ in range(2))
    assert first == again
    assert [item["id"] for item in first["lora"]] == [f"{SAMPLED}:{number}" for number in range(4)]


def test_files_of_the_same_name_are_told_apart(tokenizer, texts, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "trees.txt").write_text("Elms.")
    paths = [texts[0], str(tmp_path / "b" / "trees.txt")]
    task = Forgetting(paths)
    task.check(tokenizer)
    assert list(task.domains) == paths


def test_a_missing_file_is_found_before_any_model_runs(tokenizer, tmp_path):
    with pytest.raises(ExcitorError, match=r"missing\.txt"):
        Forgetting([str(tmp_path / "missing.txt")]).check(tokenizer)


def test_a_document_with_broken_logits_is_named_with_its_file(subjects, tokenizer, texts):
    [river] = tokenizer.convert_tokens_to_ids(["v"])
    subjects[0].model.get_input_embeddings().weight.data[river] = float("inf")
    with pytest.raises(ExcitorError, match=r"'base' .* in document 1 of those measured from rivers.txt, so nothing"):
        run(Forgetting(texts, max_length=24), subjects, tokenizer)


def test_learned_is_measured_on_answers_alone(subjects, tokenizer, rows):
    task = Learned([rows], max_length=128)
    items = run(task, subjects, tokenizer)
    encoded = encode_examples(load_examples([rows]), tokenizer, max_length=128)
    scores = compare(subjects, encoded.dataset)
    assert sum(item["tokens"] for item in items["base"]) == encoded.supervised_tokens
    metrics = task.summarise(items["base"], items["lora"])
    before, after = (torch.cat(scores[name].loss).mean().item() for name in ("base", "lora"))
    assert metrics["answer loss"].value == pytest.approx(after, abs=1e-6)
    assert metrics["answer loss change"].value == pytest.approx(after - before, abs=1e-6)


def test_rows_left_out_are_counted_in_the_report(subjects, tokenizer, rows):
    task = Learned([rows], max_length=128)
    report = task.report(run(task, subjects, tokenizer))
    assert "Left out of the 4 rows of rows.jsonl: 1 longer than max_length." in report
