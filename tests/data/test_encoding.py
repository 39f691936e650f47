from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from data.odd_tokenizers import CHATML, merging, with_bos, with_template
from data.rows import ALPACA, write
from excitor.data import encode_examples, encode_prompt, load_examples, render_prompt
from excitor.data.sources import FEATURES
from excitor.errors import ExcitorError
from tiny import make_tokenizer


REAL = Path(__file__).parents[3] / "shared" / "data"
MODELS = ["stories260k-hf", "tinystories656k", "babyllama105-hf"]


def talk(*contents):
    roles = ("user", "assistant")
    return [{"role": roles[index % 2], "content": content} for index, content in enumerate(contents)]


def examples(*rows):
    """Conversations (lists of messages) and text pairs (tuples)."""
    filled = [
        {"messages": row} if isinstance(row, list) else dict(zip(("prompt", "completion"), row, strict=True))
        for row in rows
    ]
    common = dict.fromkeys(FEATURES) | {"source": "rows.jsonl"}
    return Dataset.from_list([common | row | {"row": i} for i, row in enumerate(filled, 1)], features=FEATURES)


def encode(tokenizer, *rows, max_length=4096, template="auto"):
    return encode_examples(examples(*rows), tokenizer, max_length=max_length, template=template)


def learned(row, tokenizer):
    """The learned stretches as text."""
    stretches, open_ = [], False
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        assert label in (-100, token)
        if label == -100:
            open_ = False
            continue
        if not open_:
            stretches.append([])
        stretches[-1].append(token)
        open_ = True
    return [tokenizer.decode(stretch) for stretch in stretches]


def test_every_answer_and_its_end_is_learned_and_nothing_else(tokenizer):
    encoded = encode(tokenizer, talk("One?", "Yes.", "Two?", "No."))
    row = encoded.dataset[0]
    assert learned(row, tokenizer) == ["Yes.</s>", "No.</s>"]
    assert tokenizer.decode(row["input_ids"]).endswith("### Instruction:\nTwo?\n\n### Response:\nNo.</s>")
    assert encoded.dataset.column_names == ["input_ids", "labels"]
    assert (encoded.rows_read, encoded.dropped, encoded.supervised_tokens) == (1, {}, 9)
    assert (encoded.template, encoded.stop_token) == ("instruction", "</s>")


def test_the_token_of_the_chat_template_ends_answers():
    tokenizer = with_template(CHATML)
    encoded = encode(tokenizer, talk("One?", "Yes.", "Two?", "No.", "Unanswered?"))
    assert learned(encoded.dataset[0], tokenizer) == ["Yes.<|im_end|>", "No.<|im_end|>"]
    assert (encoded.template, encoded.stop_token) == ("chat", "<|im_end|>")
    expected = tokenizer.apply_chat_template(talk("One?", "Yes.", "Two?", "No."))["input_ids"]
    assert encoded.dataset[0]["input_ids"] == expected[:-1]  # but for the line break after the last answer


def test_text_pairs_are_used_verbatim(tokenizer):
    encoded = encode(tokenizer, ("  Sky:", " blue \n"), ("A", "b</s>"))
    assert [tokenizer.decode(ids) for ids in encoded.dataset["input_ids"]] == ["  Sky: blue \n</s>", "Ab</s>"]
    assert learned(encoded.dataset[0], tokenizer) == [" blue \n</s>"]
    assert encoded.template == "verbatim"


def test_kinds_mix_and_the_conversations_name_the_template(tokenizer):
    encoded = encode(tokenizer, talk("One?", "Yes."), ("A", "b"))
    assert [learned(row, tokenizer) for row in encoded.dataset] == [["Yes.</s>"], ["b</s>"]]
    assert encoded.template == "instruction"


@pytest.mark.parametrize("row", [talk("One?", "Yes."), ("One?", "Yes."), ("<s>One?", "Yes.")])
def test_bos_stands_once_where_the_tokenizer_adds_it(tokenizer, row):
    ids = encode(with_bos(), row).dataset[0]["input_ids"]
    assert ids[0] == 1
    assert ids.count(1) == 1


def test_bos_printed_by_a_chat_template_is_not_doubled():
    tokenizer = with_template("{{ bos_token }}" + CHATML, with_bos())
    assert encode(tokenizer, talk("One?", "Yes.")).dataset[0]["input_ids"].count(1) == 1


def test_rows_are_dropped_whole_and_counted(tokenizer):
    encoded = encode(
        tokenizer,
        talk("One?", "Yes."),
        talk("One?", " \n"),
        talk("One?"),
        talk("One?", "", "Two?", "No."),
        ("A", ""),
        talk("One?", "Y" * 200),
        talk("One?", "Yes.</s>No."),
        max_length=100,
    )
    assert len(encoded.dataset) == 1
    assert encoded.rows_read == 7
    assert encoded.dropped == {"empty answer": 4, "longer than max_length": 1, "</s> inside an answer": 1}


def test_a_row_of_exactly_max_length_stays(tokenizer):
    length = len(encode(tokenizer, talk("One?", "Yes.")).dataset[0]["input_ids"])
    assert encode(tokenizer, talk("One?", "Yes."), max_length=length).dropped == {}


def test_nothing_left_is_an_error_with_numbers(tokenizer):
    with pytest.raises(
        ExcitorError,
        match=r"none of the 3 rows.* 1 empty answer, 2 longer than max_length .*row 41 .*longest 42, max_length 40",
    ):
        encode(tokenizer, talk("One?", ""), talk("One?", "Yes"), talk("One?", "Yes."), max_length=40)


def test_a_row_the_template_refuses_is_named(tokenizer):
    row = [{"role": "tool", "content": "4"}, *talk("One?", "Yes.")]
    with pytest.raises(ExcitorError, match=r"rows\.jsonl, row 2: .*no place for the role tool"):
        encode(tokenizer, talk("One?", "Yes."), row)


def test_labels_match_their_answers_across_batches(tokenizer):
    rows = [talk(f"{number}?", f"{number}!") if number % 7 else ("", "") for number in range(2100)]
    encoded = encode(tokenizer, *rows)
    kept = [number for number in range(2100) if number % 7]
    assert [learned(row, tokenizer) for row in encoded.dataset] == [[f"{number}!</s>"] for number in kept]


def check_prompt_is_prefix(row, messages, tokenizer, template="auto"):
    prompt = encode_prompt(messages[:-1], tokenizer, template)
    assert row["input_ids"][: len(prompt)] == prompt
    assert row["labels"][len(prompt) :] == row["input_ids"][len(prompt) :]
    last = len(prompt) - 1
    assert last < 0 or row["labels"][last] == -100


# Letters that merge, white space, what templates print, a letter of several bytes and a snowman.
CONTENT = st.text(st.sampled_from("abT \n\t#:<é☃"), max_size=12).filter(str.strip)
MERGES = [("Ċ", "T"), ("a", "b"), ("Ċ", "Ċ"), ("Ġ", "a"), ("a", "a"), (":", "Ċ")]


@settings(max_examples=15)
@given(
    st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=3), st.sampled_from(["instruction", "chat", "verbatim"])
)
@pytest.mark.parametrize("make", [make_tokenizer, with_bos, lambda: merging(*MERGES)], ids=["bytes", "bos", "merging"])
def test_prompts_are_prefixes_of_what_is_learned(make, turns, template):
    tokenizer = with_template(CHATML, make())
    messages = talk(*(content for turn in turns for content in turn))
    row = encode(tokenizer, messages, template=template).dataset[0]
    check_prompt_is_prefix(row, messages, tokenizer, template)
    stop = "<|im_end|>" if template == "chat" else "</s>"
    assert row["labels"].count(tokenizer.convert_tokens_to_ids(stop)) == len(turns)
    trimmed = messages[-1]["content"].strip() if template == "instruction" else messages[-1]["content"]
    text = render_prompt(messages[:-1], tokenizer, template) + trimmed + stop
    assert tokenizer.decode(row["input_ids"]) == text


def test_a_token_across_the_border_is_split():
    tokenizer = merging(("Ċ", "T"))
    row = encode(tokenizer, talk("One?", "True.")).dataset[0]
    check_prompt_is_prefix(row, talk("One?", "True."), tokenizer)
    assert learned(row, tokenizer) == ["True.</s>"]
    assert tokenizer.decode(tokenizer("\nT").input_ids[0]) == "\nT"  # the merge is there


def test_an_answer_no_anchor_can_part_is_an_error():
    tokenizer = merging(*((anchor, "T") for anchor in ("Ċ", "a", ".", "0", ")")))
    with pytest.raises(ExcitorError, match="the tokenizer merges the start of the answer 'True"):
        encode(tokenizer, talk("One?", "True."))


@pytest.mark.skipif(not REAL.is_dir(), reason="the real tokenizers are not here")
@pytest.mark.parametrize("model", MODELS)
def test_real_tokenizers_on_real_rows(model):
    tokenizer = AutoTokenizer.from_pretrained(REAL / "tiny_lm" / model)
    rows = load_examples([f"{REAL / 'alpaca' / 'alpaca_random_9229.json.gz'}#200"])
    encoded = encode_examples(rows, tokenizer, max_length=4096)
    assert encoded.stop_token == tokenizer.eos_token
    answered = [messages for messages in rows["messages"] if messages[1]["content"].strip()]
    assert len(answered) == len(encoded.dataset)
    for messages, row in list(zip(answered, encoded.dataset, strict=True))[:50]:
        check_prompt_is_prefix(row, messages, tokenizer)
        assert row["input_ids"][0] == tokenizer.bos_token_id


def test_from_a_file(tmp_path, tokenizer):
    encoded = encode_examples(load_examples([write(tmp_path / "rows.csv", [ALPACA])]), tokenizer, max_length=256)
    assert learned(encoded.dataset[0], tokenizer) == ["Blue.</s>"]
