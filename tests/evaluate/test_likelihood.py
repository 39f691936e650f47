import pytest
import torch
from datasets import Dataset
from peft import PromptTuningConfig, get_peft_model
from torch.nn.functional import cross_entropy, kl_div

from excitor.errors import ExcitorError
from excitor.evaluate import likelihood
from excitor.evaluate.likelihood import compare
from excitor.evaluate.task import Subject
from tiny import make_llama


@pytest.fixture
def subjects(adapted) -> list[Subject]:
    return [Subject("base", adapted), Subject("adapter", adapted, "default")]


@torch.no_grad()
def logits_of(model, row):
    """Alone in its batch, without padding."""
    return model(torch.tensor([row["input_ids"]])).logits[0, :-1]


def scored(row):
    labels = torch.tensor(row["labels"][1:])
    return labels != -100, labels


def flat(scores) -> torch.Tensor:
    return torch.cat([*scores.loss, *scores.kl, *scores.flipped])


def test_scores_against_plain_formulas(adapted, subjects, documents):
    scores = compare(subjects, documents, batch_size=4)
    for index, row in enumerate(documents):
        where, labels = scored(row)
        with adapted.disable_adapter():
            base = logits_of(adapted, row)[where].log_softmax(-1)
        adapter = logits_of(adapted, row)[where].log_softmax(-1)
        expected = {
            "loss": cross_entropy(adapter, labels[where], reduction="none"),
            "kl": kl_div(adapter, base, log_target=True, reduction="none").sum(-1),
            "flipped": (base.argmax(-1) != adapter.argmax(-1)).float(),
        }
        for name, values in expected.items():
            torch.testing.assert_close(getattr(scores["adapter"], name)[index], values, atol=1e-5, rtol=0)
        base_loss = cross_entropy(base, labels[where], reduction="none")
        torch.testing.assert_close(scores["base"].loss[index], base_loss, atol=1e-5, rtol=0)
    assert torch.cat(scores["adapter"].kl).mean() > 0.01  # the adapter of these tests does change the model
    assert torch.cat([*scores["base"].kl, *scores["base"].flipped]).abs().max() == 0


def test_scores_do_not_depend_on_batches_or_chunks(subjects, documents, monkeypatch):
    whole = compare(subjects, documents, batch_size=6)
    monkeypatch.setattr(likelihood, "BATCH_LOGITS", 259 * 35)
    monkeypatch.setattr(likelihood, "CHUNK_LOGITS", 259 * 4)
    parts = compare(subjects, documents, batch_size=6)
    for name in whole:
        torch.testing.assert_close(flat(whole[name]), flat(parts[name]), atol=1e-5, rtol=0)


def test_batches_stay_within_the_memory_allowed(subjects, documents, monkeypatch):
    monkeypatch.setattr(likelihood, "BATCH_LOGITS", 259 * 60)
    shapes = []
    forward = likelihood._Batch.logits
    monkeypatch.setattr(
        likelihood._Batch, "logits", lambda batch, *rest: shapes.append(batch.input_ids.shape) or forward(batch, *rest)
    )
    compare(subjects[:1], documents, batch_size=4)
    assert shapes == [(2, 30), (3, 17), (1, 2)]


def test_a_part_of_the_batches_gives_the_same_bits(subjects, documents):
    whole = compare(subjects, documents, batch_size=2)
    part = compare(subjects, documents, batch_size=2, share=lambda batches: batches[1::2])
    done = [place for place, loss in enumerate(part["adapter"].loss) if len(loss)]
    assert sorted(done) == [0, 3]
    assert all(part["adapter"].loss[place].equal(whole["adapter"].loss[place]) for place in done)


def test_the_base_is_computed_once_for_all(adapted, subjects, documents):
    calls = []
    adapted.get_base_model().register_forward_hook(lambda *_: calls.append(None))
    adapters = [Subject(name, adapted, "default") for name in ("a", "b", "c")]
    scores = compare([subjects[0], *adapters], documents, batch_size=6)
    assert len(calls) == 1 + 3
    assert torch.equal(flat(scores["a"]), flat(scores["c"]))


def test_an_adapter_that_does_nothing_changes_nothing(adapted, subjects, documents):
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    scores = compare(subjects, documents)
    assert torch.equal(flat(scores["base"]), flat(scores["adapter"]))


def test_repeated_measurement_is_the_same_bit_for_bit(subjects, documents):
    first, second = compare(subjects, documents), compare(subjects, documents)
    assert torch.equal(flat(first["adapter"]), flat(second["adapter"]))


def test_a_row_whose_only_label_is_the_first_token_scores_nothing(llama):
    rows = Dataset.from_dict({"input_ids": [[5, 6], [7]], "labels": [[-100, 6], [7]]})
    assert [len(losses) for losses in compare([Subject("base", llama)], rows)["base"].loss] == [1, 0]


def test_virtual_tokens_of_a_prompt_method_are_not_scored(documents):
    model = get_peft_model(make_llama(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5))
    scores = compare([Subject("base", model), Subject("prompts", model, "default")], documents)["prompts"]
    for row, losses in zip(documents, scores.loss, strict=True):
        where, labels = scored(row)
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0, 5:-1]
        torch.testing.assert_close(losses, cross_entropy(logits[where], labels[where], reduction="none"))


def test_entries_that_pad_a_vocabulary_are_left_out(documents):
    padded = make_llama()
    padded.resize_token_embeddings(264, mean_resizing=False)
    scores = compare([Subject("base", make_llama()), Subject("padded", padded)], documents)
    torch.testing.assert_close(flat(scores["base"]), flat(scores["padded"]))


def test_the_model_keeps_its_mode(adapted, subjects, documents):
    adapted.train()
    compare(subjects, documents)
    assert adapted.training


@pytest.mark.parametrize(("part", "name"), [("lora_A", "adapter"), ("embed_tokens", "base")])
def test_logits_that_are_not_finite_are_an_error(adapted, subjects, documents, part, name):
    for key, parameter in adapted.named_parameters():
        if part in key:
            parameter.data.fill_(float("nan"))
    with pytest.raises(ExcitorError, match=f"The logits of '{name}' are not finite numbers in document 2,"):  # longest
        compare(subjects, documents)


def test_the_document_with_broken_logits_is_named(adapted, subjects, documents):
    *others, chosen = (documents["input_ids"][place] for place in (0, 1, 2, 4, 5, 3))
    own = next(token for token in chosen if not any(token in other for other in others))
    adapted.get_input_embeddings().weight.data[own] = float("inf")
    with pytest.raises(ExcitorError, match="The logits of 'base' are not finite numbers in number 3,"):
        compare(subjects, documents, name_of=lambda place: f"number {place}")
