"""Fixtures every test may use; the makers behind them are in tiny.py."""

import os
from collections.abc import Callable
from dataclasses import replace


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch


if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels run on the CPU; read when triton is imported, as below

import datasets
import pytest
from hypothesis import settings
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from excitor.mini.lessons import Lessons, make_lessons
from tiny import make_llama, make_tokenizer


torch.set_num_threads(1)
# The same examples in every run, and no test that fails because the machine was busy.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _seed() -> None:
    set_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is read from, or left in, the user's own cache of data."""
    folder = str(tmp_path_factory.mktemp("cache"))
    os.environ["HF_DATASETS_CACHE"] = datasets.config.HF_DATASETS_CACHE = folder


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


@pytest.fixture
def few_lessons() -> Callable[..., Lessons]:
    """``make_lessons`` with a twentieth of everything that is asked afterwards."""

    def make(*arguments) -> Lessons:
        lessons = make_lessons(*arguments)
        return replace(
            lessons,
            tests={name: questions[::20] for name, questions in lessons.tests.items()},
            probes={name: probes[::20] for name, probes in lessons.probes.items()},
            right=lessons.right[::20],
            wrong=dict(list(lessons.wrong.items())[::20]),
        )

    return make
