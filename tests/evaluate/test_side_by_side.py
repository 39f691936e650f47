from html.parser import HTMLParser

import pytest

from excitor.evaluate.side_by_side import html_page, markdown_page


NASTY = "<script>alert('&')</script>\n```\n# not a heading"


@pytest.fixture
def items() -> dict[str, list[dict]]:
    def item(reply: str | None) -> dict:
        return {"id": "rows.jsonl:1", "messages": [{"role": "user", "content": NASTY}], "answer": "42", "reply": reply}

    return {"base": [item(NASTY)], "tuned <b>": [item(None)]}


class Reader(HTMLParser):
    """Tags and texts of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)
        assert not {"src", "href"} & dict(attrs).keys()  # nothing comes from elsewhere

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.texts.append(data)


def test_html_shows_every_text_and_runs_none(items):
    page = html_page(items)
    reader = Reader()
    reader.feed(page)
    assert "script" not in reader.tags
    assert reader.texts.count(NASTY) == 2  # prompt and reply
    assert {"base", "tuned <b>", "(not answered: too long)", "42"} <= set(reader.texts)
    assert "light dark" in page


def test_html_is_well_formed_whatever_the_texts_are(items):
    """Long, in other scripts, with control characters and tags of their own."""
    nasty = [
        "</p></section></article>",
        "x" * 5000,
        "<!-- ",
        "&amp; &lt;",
        "שלום 你好 🙂",
        "a\x00b\rc",
        "\n" * 50,
        '" onload="x',
    ]
    rows = {voice: [items["base"][0] | {"reply": text} for text in nasty] for voice in ("base", '"><b>')}
    reader = Reader()
    reader.feed(html_page(rows))
    reader.close()
    assert not reader.open
    assert reader.tags.count("article") == len(nasty)
    assert reader.tags.count("section") == 3 * len(nasty)
    assert reader.tags.count("p") == 4 * len(nasty)
    assert set(nasty) <= set(reader.texts)
    assert "overflow-wrap: anywhere" in html_page(rows)  # a word of 5,000 letters stays in its column


def test_markdown_keeps_texts_in_fences_they_cannot_close(items):
    page = markdown_page(items)
    assert page.count(f"````text\n{NASTY}\n````") == 2
    assert page.index("**base**") < page.index("**tuned <b>**") < page.index("**answer in the data**")


def test_a_conversation_names_its_roles(items):
    items["base"][0]["messages"] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert "[system] Be brief.\n\n[user] Hi" in markdown_page({"base": items["base"]})
