import json
from pathlib import Path

import pytest

from data.odd_tokenizers import with_bos
from data.rows import write
from excitor.data import read_text
from excitor.errors import ExcitorError


TEXT = Path(__file__).parents[3] / "shared" / "data" / "text" / "tinystories_sample.txt"


def texts(paths, tokenizer, max_length=20, max_documents=100):
    documents = read_text(paths, tokenizer, max_length=max_length, max_documents=max_documents)
    assert documents["labels"][:] == documents["input_ids"][:]
    assert all(2 <= len(ids) <= max_length for ids in documents["input_ids"])
    return [tokenizer.decode(ids) for ids in documents["input_ids"]]


def plain(tmp_path, text):
    (tmp_path / "plain.txt").write_text(text)
    return str(tmp_path / "plain.txt")


def test_paragraphs_are_joined_while_they_fit(tmp_path, tokenizer):
    path = plain(tmp_path, "\none\nline\n\n \ntwo\n\n\nthree three three\r\n\r\nfour\n")
    assert texts([path], tokenizer) == ["one\nline\n\ntwo", "three three three", "four"]
    assert texts([f"{path}#2"], tokenizer) == ["one\nline\n\ntwo"]
    assert texts([path], tokenizer, max_documents=1) == ["one\nline\n\ntwo"]


def test_long_text_is_cut_into_equal_pieces(tmp_path, tokenizer):
    path = plain(tmp_path, "abcdefghijklmnopqrstuvwxyz")
    assert texts([path], tokenizer, max_length=25) == ["abcdefghijklm", "nopqrstuvwxyz"]


def test_rows_with_text_stay_apart(tmp_path, tokenizer):
    rows = [{"text": "one", "id": 1}, {"text": "two", "id": 2}, {"text": None, "id": 3}, {"text": "four", "id": 4}]
    for suffix in (".jsonl", ".parquet.gz"):
        path = write(tmp_path / f"rows{suffix}", rows)
        assert texts([path], tokenizer) == ["one", "two", "four"]
    assert texts([f"{path}#1", plain(tmp_path, "five")], tokenizer) == ["one", "five"]


def test_every_document_starts_with_bos_where_the_tokenizer_adds_it(tmp_path):
    assert texts([plain(tmp_path, "a" * 30)], with_bos(), max_length=16) == ["<s>" + "a" * 15] * 2


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("rows.jsonl", [{"story": "x"}], "expected a column 'text', found story"),
        ("rows.jsonl", [{"text": ""}], "there is no text of at least two tokens"),
    ],
)
def test_no_text(tmp_path, tokenizer, name, rows, message):
    with pytest.raises(ExcitorError, match=message):
        texts([write(tmp_path / name, rows)], tokenizer)


def test_mistaken_files(tmp_path, tokenizer):
    with pytest.raises(ExcitorError, match=r"there is no file .*nowhere\.txt"):
        texts([str(tmp_path / "nowhere.txt")], tokenizer)
    with pytest.raises(ExcitorError, match="holds no rows"):
        texts([plain(tmp_path, "\n \n")], tokenizer)


@pytest.mark.skipif(not TEXT.is_file(), reason="the real text is not here")
def test_real_text(tokenizer):
    assert len(texts([str(TEXT)], tokenizer, max_length=256, max_documents=40)) == 40


def test_half_a_character_is_named(tmp_path, tokenizer):
    (tmp_path / "text.json").write_text(json.dumps([{"text": "whole"}, {"text": "half \ud83d"}]))
    with pytest.raises(ExcitorError, match=r"text.json, row 2: 'text' holds half a character .* position 5"):
        read_text([str(tmp_path / "text.json")], tokenizer, max_length=8, max_documents=9)
