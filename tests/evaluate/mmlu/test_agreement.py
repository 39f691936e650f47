"""Our MMLU against lm-evaluation-harness on the same rows with the same prompt, question by question."""

import json

import pytest
import torch
import yaml
from peft import get_peft_model
from rich.progress import Progress

from excitor import ExcitorConfig
from excitor.evaluate.harness import Harness
from excitor.evaluate.mmlu import Mmlu
from excitor.evaluate.mmlu.questions import read_topics
from excitor.evaluate.task import Subject


pytest.importorskip("lm_eval")


@pytest.fixture
def task_path(folder, tmp_path_factory, monkeypatch) -> str:
    """The topics of the CSV files as tasks of the harness."""
    path = tmp_path_factory.mktemp("tasks")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(path / "cache"))
    for topic in read_topics(str(folder)):
        files = {split: str(path / f"{topic.name}_{split}.jsonl") for split in ("dev", "test")}
        for split, questions in (("dev", topic.examples), ("test", topic.questions)):
            with open(files[split], "w") as file:
                for question in questions:
                    row = {
                        "question": question.text,
                        "choices": question.choices,
                        "answer": "ABCD".index(question.answer),
                    }
                    file.write(json.dumps(row) + "\n")
        task = {
            "task": f"own_{topic.name}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files},
            "test_split": "test",
            "fewshot_split": "dev",
            "fewshot_config": {"sampler": "first_n"},
            "num_fewshot": 5,
            "output_type": "multiple_choice",
            "description": f"The following are multiple choice questions (with answers) about  {topic.name}.\n\n",
            "doc_to_text": "{{question}}\n"
            + "".join(f"{letter}. {{{{choices[{place}]}}}}\n" for place, letter in enumerate("ABCD"))
            + "Answer:",
            "doc_to_choice": ["A", "B", "C", "D"],
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc"}],
        }
        (path / f"{topic.name}.yaml").write_text(yaml.safe_dump(task))
    return str(path)


@pytest.mark.parametrize("any_tokenizer", ["usual", "apart", "mixed"], indirect=True)
def test_question_by_question(folder, task_path, long_llama, any_tokenizer):
    model = get_peft_model(long_llama, ExcitorConfig(num_prompts=4, init_weights=False))
    subjects = [Subject("base", model), Subject("mine", model, "default")]
    ours, theirs = Mmlu(str(folder)), Harness(["own_*"], task_path=task_path)
    answers = []
    for task in (ours, theirs):
        task.check(any_tokenizer)
        with Progress(disable=True) as progress:
            answers.append(task.run(subjects, any_tokenizer, progress))
    for subject in ("base", "mine"):
        assert len(answers[0][subject]) == len(answers[1][subject]) == 11
        for own, other in zip(answers[0][subject], answers[1][subject], strict=True):
            their = torch.tensor([log_likelihood for log_likelihood, _ in other["answers"]["none"]])
            assert own["choice"] == "ABCD"[int(their.argmax())]
            assert own["correct"] == bool(other["metrics"]["acc,none"])
            # What all letters share, such as a space that is a token of its own, counts with them there, not here.
            mine = torch.tensor(own["log_likelihoods"])
            torch.testing.assert_close(mine - mine[0], their - their[0], atol=1e-4, rtol=1e-4)
    assert answers[0]["base"] != answers[0]["mine"]
