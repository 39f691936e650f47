import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model

from excitor import ExcitorConfig, ExcitorError
from excitor.evaluate.task import Subject
from excitor.preservation.replay import ReplayText, read_replay, sample_replay
from excitor.preservation.weights import LEVELS, Weights, split_weight


@given(
    lengths=st.lists(st.integers(2, 9), min_size=1, max_size=12), size=st.integers(1, 15), seed=st.integers(0, 2**40)
)
def test_a_batch_holds_documents_padded_and_each_once(lengths, size, seed):
    documents = [[number + 1] * length for number, length in enumerate(lengths)]
    replay = ReplayText(documents, [1.0] * len(documents))
    ids, mask = replay.batch(size, (seed, 0))
    drawn = [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]
    assert len({row[0] for row in drawn}) == len(drawn) == min(size, len(documents))
    assert all(row in documents for row in drawn)
    assert ids[mask == 0].sum() == 0
    assert all(map(torch.equal, replay.batch(size, (seed, 0)), (ids, mask)))


def test_files_are_drawn_by_their_weights_whatever_their_lengths(tmp_path, tokenizer):
    for name, count in (("a", 40), ("b", 10)):
        rows = [json.dumps({"text": name * 5}) for _ in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    replay = read_replay([f"{tmp_path}/a.jsonl#30@3", f"{tmp_path}/b.jsonl"], tokenizer, documents=20, length=64)
    assert len(replay.documents) == 20 + 10
    a = tokenizer("a", add_special_tokens=False).input_ids[0]
    drawn = [replay.batch(1, (0, step))[0] for step in range(1000)]
    assert sum(a in ids for ids in drawn) == pytest.approx(750, abs=50)


def test_the_base_writes_at_several_temperatures(llama, tokenizer):
    model = get_peft_model(llama, ExcitorConfig(init_weights=False))
    settings = {"documents": 91, "length": 40}
    replay = sample_replay(Subject("base", model), tokenizer, seed=1, **settings)
    assert len(replay.documents) == 91
    assert replay == sample_replay(Subject("base", model), tokenizer, seed=1, **settings)
    assert replay.documents != sample_replay(Subject("base", model), tokenizer, seed=2, **settings).documents
    assert ReplayText.from_json(replay.to_json()) == replay

    def surprise(documents):
        losses = []
        with model.disable_adapter(), torch.no_grad():
            for document in documents:
                ids = torch.tensor([document])
                losses.append(model(input_ids=ids, labels=ids).loss)
        return torch.stack(losses).mean().item()

    cold, plain, hot = (surprise(replay.documents[start : start + 30]) for start in (0, 31, 61))
    assert cold < plain < hot


@pytest.mark.parametrize(
    ("source", "expected"),
    [("a.txt", ("a.txt", 1)), ("a.txt@2", ("a.txt", 2)), ("a.jsonl#5@0.5", ("a.jsonl#5", 0.5))],
)
def test_weights_of_files(source, expected):
    assert split_weight(source) == expected


def test_a_file_may_have_an_at_in_its_name(tmp_path):
    path = tmp_path / "a@b.txt"
    path.touch()
    assert split_weight(str(path)) == (str(path), 1)


@pytest.mark.parametrize("weight", ["", "x", "0", "-1", "nan", "inf"])
def test_other_weights_are_refused(weight):
    with pytest.raises(ExcitorError, match="after '@' there must be a weight above 0"):
        split_weight(f"a.txt@{weight}")


def test_weights():
    assert not Weights()
    assert not LEVELS["off"]
    assert LEVELS["light"].kl < LEVELS["strong"].kl
    assert not Weights(prompt_kl=1, gate=1).on_replay
    assert Weights(key_drift=1).on_replay
    assert Weights(1, 1, 1, 1, 1).for_excitor_only == ["key_drift", "gate"]
