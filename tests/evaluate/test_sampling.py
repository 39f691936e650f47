import pytest
import torch

from excitor.errors import ExcitorError
from excitor.evaluate.sampling import sample_from_base
from excitor.evaluate.task import Subject


def test_samples_come_from_the_base_and_repeat_with_the_seed(adapted, tokenizer):
    state = torch.get_rng_state()
    settings = {"documents": 5, "length": 12, "batch_size": 2}
    first = sample_from_base(Subject("base", adapted), tokenizer, seed=3, **settings)
    for name, parameter in adapted.named_parameters():
        if "lora" in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(0))  # another adapter, the same base
    again = sample_from_base(Subject("base", adapted), tokenizer, seed=3, **settings)
    other = sample_from_base(Subject("base", adapted), tokenizer, seed=4, **settings)
    assert first["input_ids"] == again["input_ids"] != other["input_ids"]
    assert first["labels"] == first["input_ids"]
    assert len(first) == 5
    assert all(text[0] == tokenizer.bos_token_id and len(text) <= 12 for text in first["input_ids"])
    assert torch.equal(torch.get_rng_state(), state)


def test_tokens_follow_the_base_distribution(adapted, tokenizer):
    texts = sample_from_base(Subject("base", adapted), tokenizer, documents=2000, length=2, seed=0, batch_size=500)[
        "input_ids"
    ]
    counts = torch.bincount(torch.tensor([text[1] for text in texts]), minlength=259) / len(texts)
    with torch.no_grad(), adapted.disable_adapter():
        expected = adapted(torch.tensor([[tokenizer.bos_token_id]])).logits[0, -1].softmax(-1)
    with torch.no_grad():
        adapter = adapted(torch.tensor([[tokenizer.bos_token_id]])).logits[0, -1].softmax(-1)
    assert (counts - expected).abs().sum() < 0.6 * (counts - adapter).abs().sum()


def test_a_text_ends_with_its_first_eos(adapted, tokenizer):
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(100)
    texts = sample_from_base(Subject("base", adapted), tokenizer, documents=40, length=60, seed=0)["input_ids"]
    ended = [text for text in texts if 100 in text]
    assert ended
    assert all(text.index(100) == len(text) - 1 for text in ended)


def test_a_tokenizer_without_bos_starts_with_eos(adapted, tokenizer):
    tokenizer.bos_token = None
    texts = sample_from_base(Subject("base", adapted), tokenizer, documents=3, length=8, seed=0)["input_ids"]
    assert all(text[0] == tokenizer.eos_token_id and len(text) > 1 for text in texts)
    tokenizer.eos_token = None
    with pytest.raises(ExcitorError, match="neither a BOS nor an EOS"):
        sample_from_base(Subject("base", adapted), tokenizer, documents=3, length=8, seed=0)
