import pytest

from data.rows import ALPACA, MESSAGES, PAIR, PROMPT_COMPLETION_LISTS, SHAREGPT, write
from excitor.data import load_examples
from excitor.data.formats import FORMATS, recognise
from excitor.errors import ExcitorError


@pytest.mark.parametrize("row", [ALPACA, MESSAGES, SHAREGPT, PROMPT_COMPLETION_LISTS])
def test_every_form_becomes_the_same_conversation(tmp_path, row):
    example = load_examples([write(tmp_path / "rows.jsonl", [row])])[0]
    assert example["messages"] == MESSAGES["messages"]
    assert example["prompt"] is None
    assert example["completion"] is None


def test_text_pairs_stay_text(tmp_path):
    example = load_examples([write(tmp_path / "rows.jsonl", [PAIR])])[0]
    assert example["messages"] is None
    assert (example["prompt"], example["completion"]) == ("Sky: ", "blue")


@pytest.mark.parametrize("row", [ALPACA | {"input": ""}, ALPACA | {"input": None}])
def test_alpaca_without_input(tmp_path, row):
    example = load_examples([write(tmp_path / "rows.jsonl", [row])])[0]
    assert example["messages"][0]["content"] == "Name a colour."


def test_content_may_be_text_parts(tmp_path):
    parts = [{"type": "text", "text": "Name "}, {"type": "text", "text": "a colour."}]
    row = {"messages": [{"role": "user", "content": parts}, MESSAGES["messages"][1]]}
    assert load_examples([write(tmp_path / "rows.jsonl", [row])])[0]["messages"][0]["content"] == "Name a colour."


@pytest.mark.parametrize("answer", [{"output": None}, {"output": ""}])
def test_an_absent_answer_is_kept_as_empty_for_the_count(tmp_path, answer):
    example = load_examples([write(tmp_path / "rows.jsonl", [ALPACA, ALPACA | answer])])[1]
    assert example["messages"][1]["content"] == ""


def test_a_message_without_content_is_an_empty_answer(tmp_path):
    row = {"messages": [MESSAGES["messages"][0], {"role": "assistant", "content": None}]}
    assert load_examples([write(tmp_path / "rows.jsonl", [row])])[0]["messages"][1]["content"] == ""


def user(content, **more):
    return {"messages": [{"role": "user", "content": content, **more}]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ALPACA, ALPACA | {"output": 4}], "row 2: 'output' must be text, got int '4' (read as alpaca"),
        ([ALPACA | {"instruction": None}], "row 1: 'instruction' must be text, got nothing"),
        ([{"messages": []}], "'messages' must be a list of {'role', 'content'}, got list '[]'"),
        ([{"messages": "hello"}], "got str 'hello'"),
        ([{"messages": ["hello"]}], "message 1 of 'messages' must be {'role', 'content'}"),
        ([user(None)], "message 1 of 'messages': 'content' must be text or a list of text parts, got nothing"),
        ([user([{"type": "image"}])], "must be text or a list of text parts, got list"),
        ([user("x", tool_calls=[{"name": "f"}])], "'tool_calls', which are not supported"),
        ([{"messages": [{"role": "bot", "content": "x"}]}], "one of system, user, assistant, tool, got str 'bot'"),
        ([{"conversations": [{"from": "alien", "value": "x"}]}], "'from' must be one of human, gpt, system"),
        ([PAIR | {"completion": [{"role": "assistant", "content": "x"}]}], "must both be text or both be lists"),
        ([PAIR | {"prompt": 3}], "'prompt' must be text, got int '3'"),
    ],
)
def test_broken_rows_are_errors_with_their_number(tmp_path, rows, message):
    with pytest.raises(ExcitorError, match=r"rows\.jsonl, row") as caught:
        load_examples([write(tmp_path / "rows.jsonl", rows)])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        (["id", "instruction", "response"], "The nearest is alpaca, for which it lacks output; rename"),
        (["Instruction", "Output"], "lacks instruction (is it 'Instruction'?), output (is it 'Output'?)"),
        (["message"], "The nearest is messages, for which it lacks messages (is it 'message'?)"),
        (["a", "b"], "Rename the columns to those of one form."),
        ([f"c{number}" for number in range(30)], "c19 and 10 more, which is none of the accepted forms"),
    ],
)
def test_wrong_columns_are_explained(columns, hint):
    with pytest.raises(
        ExcitorError, match=r"file has the columns .* prompt/completion \(prompt, completion\)"
    ) as caught:
        recognise(columns, "file", FORMATS)
    assert hint in str(caught.value)


def test_the_first_form_that_fits_is_taken():
    assert recognise(["prompt", "completion", "messages"], "file", FORMATS).name == "messages"
