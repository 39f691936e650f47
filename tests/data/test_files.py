import json

import pytest

from data.rows import ALPACA, MESSAGES, write
from excitor.data import load_examples
from excitor.errors import ExcitorError


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, suffix, packed):
    examples = load_examples([write(tmp_path / f"rows{suffix}{packed}", [ALPACA, ALPACA])])
    assert [example["messages"] for example in examples] == [MESSAGES["messages"]] * 2
    assert examples["row"][:] == [1, 2]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"version": 1, "data": [ALPACA]}),
        json.dumps(ALPACA),
        json.dumps(MESSAGES),
        json.dumps(ALPACA) + "\n\n" + json.dumps(ALPACA),
        "\ufeff" + json.dumps([ALPACA]),
    ],
    ids=["under one key", "one row", "one row with a list", "JSON lines as .json", "byte order mark"],
)
def test_json_layouts(tmp_path, text):
    (tmp_path / "rows.json").write_text(text, encoding="utf-8")
    assert load_examples([str(tmp_path / "rows.json")])[0]["messages"] == MESSAGES["messages"]


def test_csv_keeps_line_breaks_and_odd_separators(tmp_path):
    row = ALPACA | {"output": "one\r\ntwo,\u2028 three"}
    examples = load_examples([write(tmp_path / "rows.csv", [row])])
    assert examples[0]["messages"][1]["content"] == row["output"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.txt", b"text", "unknown kind of file; accepted are .json, .jsonl, .csv, .parquet"),
        ("rows.json", b"[{", "rows.json: not valid JSON"),
        ("rows.json", b'"text"', "expected a list of rows, got '\"text\"'"),
        ("rows.json", b'{"a": [], "b": []}', "2 lists: a, b"),
        ("rows.json", json.dumps({name: [] for name in "abcdefg"}).encode(), "7 lists: a, b, c, d, e, ..."),
        ("rows.json", b"[1]", "row 1: expected an object with named columns, got '1'"),
        ("rows.json", b"[]", "holds no rows"),
        ("rows.jsonl", b'{"a": 1}\n\n{"a":', "line 3 is not valid JSON"),
        ("rows.jsonl", b"\xff\xfe", "could not be read: 'utf-8' codec"),
        ("rows.jsonl.gz", b"not gzip", "could not be read: Not a gzipped file"),
        ("rows.csv", b"instruction,output\nonly one\n", "row 1 has more or fewer fields than the header"),
        ("rows.csv", b'instruction,output\n"open,x\n', "could not be read: unexpected end of data"),
        ("rows.parquet", b"not parquet", "could not be read: Could not open Parquet"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExcitorError, match="rows") as caught:
        load_examples([str(tmp_path / name)])
    assert message in str(caught.value)


def test_half_a_character_is_named(tmp_path):
    (tmp_path / "rows.json").write_text(
        '[{"instruction": "a", "output": "b"}, {"instruction": "\\ud83d", "output": "b"}]'
    )
    with pytest.raises(ExcitorError, match=r"rows.json, row 2: 'instruction' holds half a character .* position 0"):
        load_examples([str(tmp_path / "rows.json")])


def test_a_long_cell_is_a_row_like_others(tmp_path):
    (tmp_path / "rows.csv").write_text("instruction,output\n" + "a" * 200_000 + ",b\n")
    assert len(load_examples([str(tmp_path / "rows.csv")])) == 1
