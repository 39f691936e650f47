"""The shapes of rows people have, each turned into one of two example kinds: a conversation, or a text pair."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ExcitorError


ROLES = ("system", "user", "assistant", "tool")
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"} | {role: role for role in ROLES}

Row = Mapping[str, Any]
Example = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """One recognised form of rows.

    Attributes:
        name: What the user is told the form is called.
        required: Columns which must be there; together they identify the form.
        optional: Further columns that are used where they are there.
        convert: Turns a row into ``{"messages": ...}`` or ``{"prompt": ..., "completion": ...}``; raises
            ``ExcitorError`` for a row of the wrong structure. An absent answer becomes an empty one.
    """

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    convert: Callable[[Row], Example]

    def __str__(self) -> str:
        return f"{self.name} ({', '.join([*self.required, *(f'[{name}]' for name in self.optional)])})"


def is_row(value: Row) -> bool:
    """Whether these keys are those of one example in any of the accepted forms."""
    return any(value.keys() >= set(form.required) for form in FORMATS)


def recognise(columns: Sequence[str], source: str, forms: Sequence[Format]) -> Format:
    """The form of a source with these columns; where several fit, the first of ``forms``.

    Args:
        columns: Of the source.
        source: Its name, for messages.
        forms: Those to choose from.

    Raises:
        ExcitorError: No form fits; the message lists the columns, the accepted forms and the nearest one.
    """
    for form in forms:
        if set(form.required) <= set(columns):
            return form
    names = ", ".join(name[:40] for name in columns[:20])
    more = f" and {len(columns) - 20} more" if len(columns) > 20 else ""
    raise ExcitorError(
        f"{source} has the columns {names}{more}, which is none of the accepted forms: "
        f"{'; '.join(map(str, forms))}. {_nearest(columns, forms)}"
    )


def _nearest(columns: Sequence[str], forms: Sequence[Format]) -> str:
    """What to rename or add, for the form that shares or nearly shares most columns."""
    spelled = {name.lower(): name for name in columns}
    matches = {
        form: {name: difflib.get_close_matches(name, spelled, n=1, cutoff=0.8) for name in form.required}
        for form in forms
    }
    nearest = max(forms, key=lambda form: sum(map(bool, matches[form].values())))
    if not any(matches[nearest].values()):
        return "Rename the columns to those of one form."
    lacks = [
        name + (f" (is it {spelled[match[0]]!r}?)" if match else "")
        for name, match in matches[nearest].items()
        if name not in columns
    ]
    return f"The nearest is {nearest.name}, for which it lacks {', '.join(lacks)}; rename or add columns."


def _text(row: Row, column: str, *, absent: str | None = None) -> str:
    """The text of one column; ``absent`` stands for a missing or null value, which is an error without it."""
    value = row.get(column)
    if value is None and absent is not None:
        return absent
    if not isinstance(value, str):
        raise ExcitorError(f"'{column}' must be text, got {_describe(value)}")
    return valid_text(value, f"'{column}'")


def valid_text(text: str, where: str) -> str:
    """Refuse half a character (a lone surrogate): JSON can hold one, such as half an emoji; UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ExcitorError(
            f"{where} holds half a character ({text[error.start]!r} at position {error.start}), as is left where text "
            "was cut in the middle of an emoji: take it out"
        ) from None
    return text


def _describe(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"


def _content(message: Mapping[str, Any], key: str, where: str, *, is_answer: bool) -> str:
    """The text of a message: a string, or the joined text parts; an absent answer is empty."""
    value = message.get(key)
    if message.get("tool_calls"):
        raise ExcitorError(f"{where} has 'tool_calls', which are not supported; write the call as text")
    if value is None and is_answer:
        return ""
    if isinstance(value, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in value):
        value = "".join(_text(part, "text") for part in value)
    if not isinstance(value, str):
        raise ExcitorError(f"{where}: '{key}' must be text or a list of text parts, got {_describe(value)}")
    return valid_text(value, f"{where}: '{key}'")


def _messages(
    row: Row, column: str, *, keys: tuple[str, str] = ("role", "content"), roles: Mapping[str, str] | None = None
) -> list[dict[str, str]]:
    """A column's messages as ``[{"role": ..., "content": ...}, ...]``."""
    role_key, content_key = keys
    roles = roles or {role: role for role in ROLES}
    value = row.get(column)
    if not isinstance(value, list) or not value:
        raise ExcitorError(f"'{column}' must be a list of {{{role_key!r}, {content_key!r}}}, got {_describe(value)}")
    messages = []
    for number, message in enumerate(value, 1):
        where = f"message {number} of '{column}'"
        if not isinstance(message, Mapping):
            raise ExcitorError(f"{where} must be {{{role_key!r}, {content_key!r}}}, got {_describe(message)}")
        role = message.get(role_key)
        if not isinstance(role, str) or role not in roles:
            raise ExcitorError(f"{where}: '{role_key}' must be one of {', '.join(roles)}, got {_describe(role)}")
        content = _content(message, content_key, where, is_answer=roles[role] == "assistant")
        messages.append({"role": roles[role], "content": content})
    return messages


def _from_messages(row: Row) -> Example:
    return {"messages": _messages(row, "messages")}


def _from_sharegpt(row: Row) -> Example:
    return {"messages": _messages(row, "conversations", keys=("from", "value"), roles=SHAREGPT_ROLES)}


def _from_prompt_completion(row: Row) -> Example:
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) and isinstance(completion, list):
        return {"messages": _messages(row, "prompt") + _messages(row, "completion")}
    if isinstance(prompt, list) or isinstance(completion, list):
        raise ExcitorError("'prompt' and 'completion' must both be text or both be lists of messages")
    return {"prompt": _text(row, "prompt"), "completion": _text(row, "completion", absent="")}


def question_and_answer(row: Row, question: str, answer: str) -> Example:
    """The columns of these names and ``input``, which is part of the question where it is there."""
    parts = [_text(row, question), _text(row, "input", absent="")]
    asked = "\n\n".join(part for part in parts if part.strip())
    said = _text(row, answer, absent="")
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}


def _from_alpaca(row: Row) -> Example:
    return question_and_answer(row, "instruction", "output")


FORMATS = (
    Format("messages", ("messages",), (), _from_messages),
    Format("ShareGPT", ("conversations",), (), _from_sharegpt),
    Format("prompt/completion", ("prompt", "completion"), (), _from_prompt_completion),
    Format("alpaca", ("instruction", "output"), ("input",), _from_alpaca),
)
