import io
import json

import pytest
import torch
from datasets import Dataset
from rich.console import Console

from excitor.errors import ExcitorError
from excitor.evaluate.likelihood import compare
from excitor.evaluate.report import markdown_table, measure, table
from excitor.evaluate.task import Subject


@pytest.fixture
def report(adapted, documents) -> dict:
    return measure(adapted, documents.select(range(4)), documents.select([4, 5]), retain_source="stories.txt")


def test_report_averages_over_tokens_not_documents(adapted, documents, report):
    subjects = [Subject("base", adapted), Subject("adapter", adapted, "default")]
    scores = compare(subjects, documents.select(range(4)))
    base, adapter = (torch.cat(scores[subject.name].loss).mean().item() for subject in subjects)
    learned = report["learned"]
    assert learned["base"] == pytest.approx(base, abs=1e-6)
    assert learned["change"] == pytest.approx(adapter - base, abs=1e-6)
    assert (learned["tokens"], learned["rows"]) == (5 + 15 + 1 + 9, 4)
    assert (report["forgotten"]["tokens"], report["forgotten"]["documents"]) == (15 + 3, 2)
    assert report["forgotten"]["kl"] > 0
    assert report["parameters"]["share"] == report["parameters"]["trainable"] / report["parameters"]["total"]


def test_report_survives_json(report):
    assert json.loads(json.dumps(report)) == report


def test_tables_show_the_numbers(report):
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table(report))
    for text in (console.export_text(), markdown_table(report)):
        for number in (f"{report['learned']['change']:+.4f}", f"{report['forgotten']['kl']:.4f}", "stories.txt"):
            assert number in text


def test_data_without_a_scored_token_is_an_error(adapted, documents):
    empty = Dataset.from_dict({"input_ids": [[4, 5]], "labels": [[-100, -100]]})
    with pytest.raises(ExcitorError, match="No token can be scored in the held-out rows"):
        measure(adapted, empty, documents, retain_source="stories.txt")
