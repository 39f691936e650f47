"""The shapes of rows with pictures: all those of text, and a few more, beside a column that names the pictures."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from excitor.data.formats import FORMATS, Example, Format, Row, question_and_answer
from excitor.errors import ExcitorError
from excitor.vision.processor import IMAGE, strip_placeholders


COLUMNS = ("image", "images", "file_name", "image_id")


def forms(caption_instruction: str) -> tuple[Format, ...]:
    """The accepted forms, each giving ``images`` beside the messages or the text pair: names as they stand in the row.

    A row names its pictures in the column ``image`` or ``images``; in COCO's layouts in ``file_name``, else by
    ``image_id``. A row may have none.

    Args:
        caption_instruction: What is asked where a row is a caption and says no more.
    """

    def caption(row: Row) -> Example:
        asked = {"instruction": caption_instruction, "caption": row.get("caption")}
        return question_and_answer(asked, "instruction", "caption")

    def prompt_output(row: Row) -> Example:
        return question_and_answer(row, "prompt", "output")

    known = (
        *FORMATS,
        Format("prompt/output", ("prompt", "output"), ("input",), prompt_output),
        Format("captions", ("caption",), (), caption),
    )
    return tuple(replace(form, optional=(*form.optional, *COLUMNS), convert=_with_images(form)) for form in known)


def _with_images(form: Format) -> Callable[[Row], Example]:
    def convert(row: Row) -> Example:
        images = image_names(row)
        return _without_placeholders(form.convert(row), len(images)) | {"images": images}

    return convert


def image_names(row: Row) -> list[str]:
    """The pictures that a row names, in order; none where it names none.

    Raises:
        ExcitorError: A column holds something else than names, or two columns name pictures.
    """
    given = {column: row[column] for column in COLUMNS if row.get(column) not in (None, "", [])}
    if "file_name" in given:
        given.pop("image_id", None)
    if len(given) > 1:
        raise ExcitorError(f"{' and '.join(map(repr, given))} both name pictures: keep one of them")
    for column, value in given.items():
        names = value if isinstance(value, list) else [value]
        if column == "image_id":
            names = [str(name) if type(name) is int else name for name in names]
        if not all(isinstance(name, str) and name for name in names):
            raise ExcitorError(_no_names(column, names))
        return names
    return []


def _no_names(column: str, values: list[Any]) -> str:
    value = next(value for value in values if not isinstance(value, str) or not value)
    if isinstance(value, Mapping) or hasattr(value, "getexif"):
        return f"{column!r} holds the picture itself: save pictures as files and name them"
    got = f"{type(value).__name__} {str(value)[:60]!r}"
    return f"{column!r} must be the name of a file or a list of such names, got {got}"


def _without_placeholders(example: Example, pictures: int) -> Example:
    """The example without ``<image>``, of which there must be as many as pictures, or none."""
    if "messages" in example:
        texts = [message["content"] for message in example["messages"]]
    else:
        texts = [example["prompt"], example["completion"]]
    found = [text.count(IMAGE) for text in texts]
    strip_placeholders(IMAGE * sum(found), pictures, "the row")  # all its texts together
    bare = [strip_placeholders(text, count, "the row") for text, count in zip(texts, found, strict=True)]
    if "messages" not in example:
        return {"prompt": bare[0], "completion": bare[1]}
    messages = [message | {"content": text} for message, text in zip(example["messages"], bare, strict=True)]
    return {"messages": messages}
