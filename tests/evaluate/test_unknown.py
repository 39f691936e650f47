import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from excitor.evaluate.unknown import unknown_share, unknown_warning
from tiny import make_tokenizer


@pytest.fixture
def letters() -> PreTrainedTokenizerFast:
    """Knows small letters alone."""
    vocabulary = {letter: index for index, letter in enumerate(["?", "</s>", *"abcdefghijklmnopqrstuvwxyz"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?", eos_token="</s>")


def test_the_share_is_over_all_tokens(letters):
    assert unknown_share(letters(["ab#d", "#### q"]).input_ids, letters) == 6 / 10
    assert unknown_share(letters(["abc"]).input_ids, letters) == 0
    assert unknown_share([], letters) == 0


def test_a_token_with_another_use_is_not_counted(letters):
    ids = letters(["ab#d"]).input_ids
    letters.eos_token = letters.unk_token
    assert unknown_share(ids, letters) == 0
    assert unknown_share([[1, 2, 3]], make_tokenizer()) == 0  # writes everything


def test_one_sentence_names_the_tasks_that_lose_something():
    assert unknown_warning({"a": 0.0}, "<unk>") is None
    text = unknown_warning({"forgetting": 0.031, "mmlu": 0.0, "scienceqa": 0.5}, "<unk>")
    assert text is not None
    assert "share of tokens that are <unk>: forgetting 3.10%, scienceqa 50.00%." in text
