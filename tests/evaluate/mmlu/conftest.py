import csv
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from excitor.evaluate.mmlu.questions import Question, Topic
from tiny import make_llama


# How byte-level tokenizers may write the space between colon and letter: alone, with every letter (as most models do),
# with one letter only, with the colon.
MERGES = {
    "apart": [],
    "usual": [("Ġ", letter) for letter in "ABCD"],
    "mixed": [("Ġ", "A")],
    "colon": [(":", "Ġ")],
}


@pytest.fixture
def long_llama() -> LlamaForCausalLM:
    """Reads 1,024 bytes: five examples and a question."""
    return make_llama(vocab_size=263, max_position_embeddings=1024)


@pytest.fixture(params=list(MERGES))
def any_tokenizer(request) -> PreTrainedTokenizerFast:
    return make_tokenizer(MERGES[request.param])


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer(MERGES["usual"])


def make_tokenizer(merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    tokens = [
        "<pad>",
        "<s>",
        "</s>",
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *("".join(pair) for pair in merges),
    ]
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    # Unlike GPT-2's, it does not split text into words first: a merge may cross any border.
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def exam(topic: str, count: int, seed: int) -> list[list[str]]:
    """Rows of a CSV file; questions differ in length, and some hold commas, quotes and line breaks."""
    draw = random.Random(f"{topic} {seed}")
    words = ["moon", "sun,", 'the "red" star', "Ärger", "two\nlines", "why", " x "]
    return [
        [
            f"{' '.join(draw.choices(words, k=draw.randint(1, 9)))} {number}?",
            *(draw.choice(words) for _ in range(4)),
            draw.choice("ABCD"),
        ]
        for number in range(count)
    ]


@pytest.fixture
def topic() -> Topic:
    examples, questions = (
        [Question(text, tuple(choices), answer) for text, *choices, answer in exam("astronomy", count, seed)]
        for count, seed in ((5, 0), (6, 1))
    )
    return Topic("astronomy", examples, questions)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two topics with test questions, a third with validation questions only."""
    files = {f"dev/{topic}_dev.csv": exam(topic, 5, 0) for topic in ("astronomy", "management", "virology")}
    files |= {
        f"test/{topic}_test.csv": exam(topic, count, 1) for topic, count in (("astronomy", 7), ("management", 4))
    }
    files["val/virology_val.csv"] = exam("virology", 3, 2)
    for name, rows in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    return tmp_path
