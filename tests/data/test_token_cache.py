import datasets
import pytest

from data.odd_tokenizers import CHATML, with_template
from data.rows import ALPACA, write
from excitor.data import Encoded, encode_examples, encoding, load_examples, token_cache
from tiny import make_tokenizer


ROWS = [ALPACA, ALPACA | {"output": ""}, ALPACA | {"instruction": "Name it. " * 40}]


@pytest.fixture
def encodings(monkeypatch, tmp_path) -> list[int]:
    """A cache of the test's own; grows with every batch of rows that is really encoded."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    done: list[int] = []
    original = encoding._encode_batch

    def counting(rows, **options):
        done.append(len(rows["row"]))
        return original(rows, **options)

    monkeypatch.setattr(encoding, "_encode_batch", counting)
    return done


def encode(tmp_path, rows=ROWS, tokenizer=None, name="rows.jsonl", **options) -> Encoded:
    options = {"max_length": 256, "cache": True} | options
    return encode_examples(load_examples([write(tmp_path / name, rows)]), tokenizer or make_tokenizer(), **options)


def test_a_second_run_reads_what_the_first_has_encoded(encodings, tmp_path):
    first = encode(tmp_path)
    second = encode(tmp_path, name="moved.jsonl")
    assert encodings == [3]
    assert (first.cache.startswith("tokens kept in"), second.cache.startswith("tokens read from")) == (True, True)
    fresh = encode(tmp_path, cache=False)
    for encoded in (first, second):
        assert encoded.dataset[:] == fresh.dataset[:]
        assert encoded.dropped == fresh.dropped == {"empty answer": 1, "longer than max_length": 1}
        assert (encoded.supervised_tokens, encoded.rows_read) == (fresh.supervised_tokens, 3)
    assert fresh.cache == ""


def test_nothing_else_is_written_into_the_cache(encodings, tmp_path):
    rows = [ALPACA | {"output": f"Blue {number}."} for number in range(8)]
    for _ in range(2):
        encode(tmp_path, rows).dataset.train_test_split(test_size=2, seed=0)["train"].map(lambda row: row)
    assert len(list((tmp_path / "cache" / "excitor").iterdir())) == 1


@pytest.mark.parametrize("change", ["row", "order", "tokenizer", "chat template", "template", "max_length", "code"])
def test_whatever_decides_the_tokens_makes_other_tokens(encodings, tmp_path, change, monkeypatch):
    tokenizer = with_template(CHATML)
    encode(tmp_path, tokenizer=tokenizer)
    other = {"tokenizer": tokenizer}
    if change == "row":
        other["rows"] = [ROWS[0] | {"output": "Red."}, *ROWS[1:]]
    elif change == "order":
        other["rows"] = ROWS[::-1]
    elif change == "tokenizer":
        tokenizer.add_tokens(["Blue"])
    elif change == "chat template":
        tokenizer.chat_template = CHATML.replace("\n", " ")
    elif change == "template":
        other["template"] = "instruction"
    elif change == "max_length":
        other["max_length"] = 255
    else:
        copy = tmp_path / "package"
        copy.mkdir()
        (copy / "encoding.py").write_text("# a later version\n")
        monkeypatch.setattr(token_cache, "__file__", str(copy / "token_cache.py"))
    changed = encode(tmp_path, **other)
    assert encodings == [3, 3]
    assert changed.dataset[:] == encode(tmp_path, cache=False, **other).dataset[:]


def test_a_damaged_file_is_made_again(encodings, tmp_path):
    fresh = encode(tmp_path).dataset[:]
    (file,) = (tmp_path / "cache" / "excitor").iterdir()
    file.write_bytes(file.read_bytes()[:-200])
    assert encode(tmp_path).dataset[:] == fresh
    assert encodings == [3, 3]
    assert encode(tmp_path).cache == f"tokens read from {file}"


def test_a_cache_that_cannot_be_written_is_done_without(encodings, tmp_path):
    (tmp_path / "cache").write_text("a file stands where the folder should")
    assert "tokens not kept" in encode(tmp_path).cache
    assert len(encode(tmp_path).dataset) == 1


def test_a_tokenizer_of_ones_own_is_not_relied_on(encodings, tmp_path):
    class Own(type(make_tokenizer())):
        pass

    tokenizer = make_tokenizer()
    tokenizer.__class__ = Own
    assert encode(tmp_path, tokenizer=tokenizer).cache == ""


def test_a_template_that_writes_the_date_is_encoded_each_time(encodings, tmp_path):
    tokenizer = with_template("{{ strftime_now('%Y') }}" + CHATML)
    assert encode(tmp_path, tokenizer=tokenizer).cache == ""
    assert encode(tmp_path, tokenizer=with_template(CHATML)).cache


def test_the_librarys_switch_turns_it_off(encodings, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.fingerprint, "_CACHING_ENABLED", False)
    assert encode(tmp_path).cache == encode(tmp_path).cache == ""
    assert encodings == [3, 3]
