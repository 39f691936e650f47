import pytest
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy, kl_div

from excitor.errors import ExcitorError
from excitor.evaluate import likelihood
from excitor.evaluate.likelihood import compare_with_base, token_losses


@torch.no_grad()
def logits_of(model, row):
    """Alone in its batch, without padding."""
    return model(torch.tensor([row["input_ids"]])).logits[0, :-1]


def scored(row):
    labels = torch.tensor(row["labels"][1:])
    return labels != -100, labels


def test_token_losses_are_those_of_each_row_alone(llama, documents):
    for row, losses in zip(documents, token_losses(llama, documents, batch_size=4), strict=True):
        where, labels = scored(row)
        expected = cross_entropy(logits_of(llama, row)[where], labels[where], reduction="none")
        torch.testing.assert_close(losses, expected, atol=1e-5, rtol=0)


def test_token_losses_do_not_depend_on_batches_or_chunks(llama, documents, monkeypatch):
    whole = token_losses(llama, documents, batch_size=6)
    monkeypatch.setattr(likelihood, "BATCH_LOGITS", 259 * 35)
    monkeypatch.setattr(likelihood, "CHUNK_LOGITS", 259 * 4)
    for first, second in zip(whole, token_losses(llama, documents, batch_size=6), strict=True):
        torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


def test_batches_stay_within_the_memory_allowed(llama, documents, monkeypatch):
    monkeypatch.setattr(likelihood, "BATCH_LOGITS", 259 * 60)
    sizes = [batch.input_ids.shape for batch in likelihood._batches(llama, documents, 4)]
    assert sizes == [(2, 30), (3, 17), (1, 2)]


def test_comparison_against_plain_formulas(adapted, documents):
    comparison = compare_with_base(adapted, documents, batch_size=4)
    for index, row in enumerate(documents):
        where, labels = scored(row)
        with adapted.disable_adapter():
            base = logits_of(adapted, row)[where].log_softmax(-1)
        adapter = logits_of(adapted, row)[where].log_softmax(-1)
        expected = {
            "base": cross_entropy(base, labels[where], reduction="none"),
            "adapter": cross_entropy(adapter, labels[where], reduction="none"),
            "kl": kl_div(adapter, base, log_target=True, reduction="none").sum(-1),
            "flipped": (base.argmax(-1) != adapter.argmax(-1)).float(),
        }
        for name, values in expected.items():
            torch.testing.assert_close(getattr(comparison, name)[index], values, atol=1e-5, rtol=0)
    assert torch.cat(comparison.kl).mean() > 0.01  # the adapter of these tests does change the model


def test_an_adapter_that_does_nothing_changes_nothing(adapted, documents):
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    comparison = compare_with_base(adapted, documents)
    assert all(torch.equal(a, b) for a, b in zip(comparison.base, comparison.adapter, strict=True))
    assert torch.cat(comparison.kl).abs().max() == 0
    assert torch.cat(comparison.flipped).sum() == 0


def test_repeated_measurement_is_the_same_bit_for_bit(adapted, documents):
    first, second = compare_with_base(adapted, documents), compare_with_base(adapted, documents)
    assert all(torch.equal(a, b) for a, b in zip(first.kl, second.kl, strict=True))


def test_a_row_whose_only_label_is_the_first_token_scores_nothing(llama):
    rows = Dataset.from_dict({"input_ids": [[5, 6], [7]], "labels": [[-100, 6], [7]]})
    assert [len(losses) for losses in token_losses(llama, rows)] == [1, 0]


def test_the_model_keeps_its_mode(adapted, documents):
    adapted.train()
    compare_with_base(adapted, documents)
    assert adapted.training


@pytest.mark.parametrize(("part", "name"), [("lora_A", "adapter"), ("embed_tokens", "base model")])
def test_logits_that_are_not_finite_are_an_error(adapted, documents, part, name):
    for key, parameter in adapted.named_parameters():
        if part in key:
            parameter.data.fill_(float("nan"))
    with pytest.raises(ExcitorError, match=f"The {name} gives logits that are not finite"):
        compare_with_base(adapted, documents)
