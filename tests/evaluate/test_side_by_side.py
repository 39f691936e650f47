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
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        assert not {"src", "href"} & dict(attrs).keys()  # nothing comes from elsewhere

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


def test_markdown_keeps_texts_in_fences_they_cannot_close(items):
    page = markdown_page(items)
    assert page.count(f"````text\n{NASTY}\n````") == 2
    assert page.index("**base**") < page.index("**tuned <b>**") < page.index("**answer in the data**")


def test_a_conversation_names_its_roles(items):
    items["base"][0]["messages"] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert "[system] Be brief.\n\n[user] Hi" in markdown_page({"base": items["base"]})
