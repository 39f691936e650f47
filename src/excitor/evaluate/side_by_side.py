"""Replies of several subjects next to each other, for a person to read."""

from collections.abc import Iterator
from html import escape

from excitor.evaluate.task import Item


TITLE = "Replies side by side"

_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d0d4da, #3a4048); --soft: light-dark(#f4f5f7, #1d2126); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 90rem; margin: 0 auto; padding: 1rem;
  color: light-dark(#1b1f24, #e3e6ea); background: light-dark(#fff, #121519); }
article { border-top: 1px solid var(--line); padding: 1rem 0; }
h2, h3 { font-size: .8rem; font-weight: 600; margin: 0 0 .3rem; opacity: .7; overflow-wrap: anywhere; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); gap: .75rem; }
section { background: var(--soft); border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .8rem; }
p { margin: 0 0 .75rem; white-space: pre-wrap; overflow-wrap: anywhere; }
section p { margin: 0; }
"""


def markdown_page(items: dict[str, list[Item]]) -> str:
    """All replies as Markdown.

    Args:
        items: Those of ``Instructions.run``, by subject and in the same order for all.

    Returns:
        The page; every text stands in a code block, so nothing in it is taken for Markdown.
    """
    parts = [f"# {TITLE}"]
    for name, prompt, texts in _entries(items):
        parts += [f"## {name}", _fence(prompt)]
        parts += [f"**{voice}**\n\n{_fence(text)}" for voice, text in texts]
    return "\n\n".join(parts) + "\n"


def html_page(items: dict[str, list[Item]]) -> str:
    """All replies as one self-contained page of HTML; it follows the reader's choice of light or dark.

    Args:
        items: As for `markdown_page`.
    """
    parts = []
    for name, prompt, texts in _entries(items):
        columns = "\n".join(
            f"<section><h3>{escape(voice)}</h3><p>{escape(text)}</p></section>" for voice, text in texts
        )
        parts.append(
            f'<article>\n<h2>{escape(name)}</h2>\n<p>{escape(prompt)}</p>\n<div class="columns">\n{columns}\n'
            "</div>\n</article>"
        )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{TITLE}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{TITLE}</h1>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def conversation_text(messages: list[dict[str, str]]) -> str:
    """A prompt as one text; the roles are named where there is more than one message."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"[{message['role']}] {message['content']}" for message in messages)


def _entries(items: dict[str, list[Item]]) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Of each row: name, prompt, and by voice what each subject and the row itself say."""
    for row in zip(*items.values(), strict=True):
        replies = ["(not answered: too long)" if item["reply"] is None else item["reply"] for item in row]
        texts = [*zip(items, replies, strict=True), ("answer in the data", row[0]["answer"])]
        yield row[0]["id"], conversation_text(row[0]["messages"]), texts


def _fence(text: str) -> str:
    """A code block whose fence does not occur in the text."""
    ticks = "```"
    while ticks in text:
        ticks += "`"
    return f"{ticks}text\n{text}\n{ticks}"
