"""Fixtures every test may use; the makers behind them are in tiny.py."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from tiny import make_llama, make_tokenizer


torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    set_seed(0)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def llama() -> LlamaForCausalLM:
    return make_llama()


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder in the hub's format with the tiny model and its tokenizer."""
    folder = str(tmp_path_factory.mktemp("base"))
    make_llama().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder
