import json
import time

import datasets
import pytest
import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from excitor.errors import ExcitorError
from excitor.train.batches import BatchCosts, GroupedByLength
from excitor.train.prepare import prepare
from excitor.train.run import train

from .conftest import metrics_of
from .test_run import Crash, adapter_of, crash_at


@pytest.fixture
def uneven(tmp_path) -> str:
    """Rows from short to long, enough of them to be grouped."""
    path = tmp_path / "uneven.jsonl"
    rows = [{"prompt": "abc"[i % 3], "completion": "x" * (1 + 7 * i % 60)} for i in range(66)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_order_follows_seed_and_epoch_alone():
    lengths = torch.randint(1, 90, (200,)).tolist()

    def order(seed, epoch):
        sampler = GroupedByLength(4, lengths, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    first = order(0, 0)
    torch.manual_seed(5)
    assert order(0, 0) == first
    assert sorted(first) == list(range(200))
    assert len({tuple(order(*case)) for case in ((0, 0), (0, 1), (1, 0))}) == 3
    batches = [[lengths[index] for index in first[start : start + 4]] for start in range(0, 200, 4)]
    spread = [max(batch) - min(batch) for batch in batches]
    assert sum(spread) / len(spread) < 10  # of 90; they come from stretches of 48 examples


def test_a_grouped_run_resumes_in_its_second_epoch_to_the_same_losses(
    uneven, arguments, console, tmp_path, monkeypatch
):
    changes = {"data": [uneven], "group_by_length": True, "steps": 20, "batch_size": 2, "gradient_accumulation": 2}
    whole = str(tmp_path / "whole")
    train(arguments(out=whole, **changes), console)
    with monkeypatch.context() as patch:
        crash_at(19, patch)  # an epoch has 16 steps
        with pytest.raises(Crash):
            train(arguments(**changes), console)
    train(arguments(resume=True, **changes), console)
    assert metrics_of(tmp_path / "out") == metrics_of(whole)
    assert adapter_of(tmp_path / "out") == adapter_of(whole)


def test_grouping_saves_padding_and_the_report_says_how_much(uneven, arguments, console, tmp_path):
    changes = {"data": [uneven], "steps": 32, "batch_size": 2}
    reports = {
        grouped: train(arguments(group_by_length=grouped, out=str(tmp_path / str(grouped)), **changes), console)
        for grouped in (False, True)
    }
    padding = {grouped: report["training"]["padding"] for grouped, report in reports.items()}
    assert 0.15 < padding[False] < 1
    assert padding[True] < padding[False] / 2
    assert f"{padding[True]:.1%} padding" in console.export_text(clear=False)
    assert f"{padding[True]:.1%} padding" in (tmp_path / "True" / "README.md").read_text()


def test_padding_is_counted_exactly(arguments, console):
    job = prepare(arguments())
    report = train(arguments(batch_size=10, steps=2), console)  # all rows in each batch
    lengths = [len(ids) for ids in job.train["input_ids"]]
    assert report["training"]["padding"] == pytest.approx(1 - sum(lengths) / (10 * max(lengths)))
    packed = train(arguments(batch_size=10, steps=2, packing=True, max_length=200, overwrite=True), console)
    assert packed["training"]["padding"] == 0


def test_the_time_lost_to_data_is_told(arguments, console, tmp_path, monkeypatch):
    original = DataCollatorForLanguageModeling.torch_call

    def slow(self, examples):
        time.sleep(0.4)
        return original(self, examples)

    quick = train(arguments(steps=3), console)["training"]
    monkeypatch.setattr(DataCollatorForLanguageModeling, "torch_call", slow)
    training = train(arguments(steps=3, overwrite=True), console)["training"]
    assert 1.2 <= training["data_share"] * training["seconds"] <= training["seconds"]
    assert quick["data_share"] < training["data_share"] < 1
    assert training["tokens_per_second"] == training["tokens"] / training["seconds"]
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert all(0.2 < record["data_share"] < 1 for record in records[:2])
    printed = console.export_text()
    assert f"{training['data_share']:.1%} of the time waiting for data" in printed
    assert "tok/s  data " in printed


def test_costs_start_again_once_they_are_taken():
    costs = BatchCosts()
    costs.count([{"attention_mask": torch.tensor([[1, 1, 0, 0]])}, {"input_ids": torch.ones(1, 4)}])
    with costs.waiting():
        time.sleep(0.01)
    taken = costs.take()
    assert taken["padding"] == 0.5
    assert taken["data_seconds"] >= 0.01
    assert costs.take() == {"data_seconds": 0.0, "padding": 0.0}


def test_packing_leaves_nothing_to_group(arguments):
    with pytest.raises(ExcitorError, match="--packing leaves none to save: give one of the two"):
        prepare(arguments(packing=True, group_by_length=True))


def test_tokens_are_kept_for_the_next_run_unless_told_otherwise(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert "tokens kept in" in prepare(arguments()).notes
    assert "tokens read from" in prepare(arguments()).notes
    assert "tokens read from" not in prepare(arguments(cache_tokens=False)).notes
