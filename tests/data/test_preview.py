from data.odd_tokenizers import CHATML, with_template
from data.rows import MESSAGES, write
from excitor.data import encode_examples, load_examples, preview_example


def preview(tmp_path, tokenizer, row=MESSAGES):
    examples = load_examples([write(tmp_path / "rows.jsonl", [row])])
    return preview_example(encode_examples(examples, tokenizer, max_length=10_000).dataset[0], tokenizer)


def test_the_mask_shows_in_plain_text(tmp_path, tokenizer):
    assert preview(tmp_path, tokenizer).plain == (
        "### Instruction:\nName a colour.\n\nIt is the sky's.\n\n### Response:\n⟦Blue.</s>⟧\n"
        "⟦learned⟧: 6 of 71 tokens; the answer ends with </s> (id 2)"
    )


def test_the_mask_shows_in_colours(tmp_path):
    view = preview(tmp_path, with_template(CHATML))
    styles = {str(span.style): view.plain[span.start : span.end] for span in view.spans}
    assert styles["bold green"] == "⟦Blue.<|im_end|>⟧"
    assert styles["dim"].startswith("<|im_start|>user\nName")
    assert styles["magenta"] in ("<|im_end|>", "<|im_start|>")
    assert view.plain.endswith("ends with <|im_end|> (id 260)")


def test_long_stretches_are_shortened_and_say_so(tmp_path, tokenizer):
    row = {"prompt": "p" * 5000, "completion": "c" * 10}
    text = preview(tmp_path, tokenizer, row).plain
    assert text.startswith("p" * 600 + " [... 3,800 characters ...] " + "p" * 600 + "⟦cccccccccc</s>⟧")
