"""Plain text, not instructions: what forgetting is measured on."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

import datasets
from transformers import PreTrainedTokenizerBase

from ..errors import ExcitorError
from .files import READERS, decode, suffix_of
from .formats import Row, valid_text
from .sources import column_names, read_source
from .templates import adds_bos


SEPARATOR = "\n\n"


def read_text(
    paths: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_length: int, max_documents: int
) -> datasets.Dataset:
    """Read documents of plain text, in order.

    Paragraphs of a .txt file (set apart by blank lines) are joined while they fit into ``max_length``; anywhere else
    each row is a document of its own. What is longer than ``max_length`` is cut into equal pieces.

    Args:
        paths: .txt files, or any source of ``load_examples`` with a column ``text``; ``#N`` takes the first N
            paragraphs or rows.
        tokenizer: Adds its BOS in front of every document if it does so by itself.
        max_length: Most tokens in a document, at least 2.
        max_documents: Most documents returned.

    Returns:
        Columns ``input_ids`` and ``labels`` (lists of int, equal: every token counts).

    Raises:
        ExcitorError: A source is missing, unreadable or empty, or has no column ``text``.
    """
    bos = [cast(int, tokenizer.bos_token_id)] if adds_bos(tokenizer) else []
    size = max_length - len(bos)
    windows: list[list[int]] = []
    for text in _documents(paths, tokenizer, size):
        ids = _ids(text, tokenizer)
        pieces = math.ceil(len(ids) / size)
        length = math.ceil(len(ids) / max(pieces, 1))  # equal pieces leave no odd end of a few tokens
        cut = (bos + ids[number * length : (number + 1) * length] for number in range(pieces))
        windows += [window for window in cut if len(window) > 1]  # a single token predicts nothing
        if len(windows) >= max_documents:
            break
    if not windows:
        raise ExcitorError(f"{', '.join(paths)}: there is no text of at least two tokens")
    windows = windows[:max_documents]
    return datasets.Dataset.from_dict({"input_ids": windows, "labels": windows})


def _documents(paths: Sequence[str], tokenizer: PreTrainedTokenizerBase, size: int) -> Iterator[str]:
    for path in paths:
        for name, rows in read_source(path, READERS | {".txt": _paragraphs}):
            columns = column_names(rows)
            if "text" not in columns:
                raise ExcitorError(f"{name}: expected a column 'text', found {', '.join(columns[:20])}")
            texts = [row["text"] if isinstance(row.get("text"), str) else "" for row in cast(Sequence[Row], rows)]
            for number, text in enumerate(texts, 1):
                valid_text(text, f"{name}, row {number}: 'text'")
            yield from _joined(texts, tokenizer, size) if suffix_of(Path(name)) == ".txt" else texts


def _joined(paragraphs: Sequence[str], tokenizer: PreTrainedTokenizerBase, size: int) -> Iterator[str]:
    """Consecutive paragraphs, as many as fit into ``size`` tokens at a time."""
    gap = len(_ids(SEPARATOR, tokenizer))
    document, length = "", 0
    for paragraph in paragraphs:
        more = len(_ids(paragraph, tokenizer))
        if document and length + gap + more > size:
            yield document
            document, length = "", 0
        document, length = (document + SEPARATOR + paragraph, length + gap + more) if document else (paragraph, more)
    yield document


def _ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False).input_ids


def _paragraphs(stream: IO[bytes]) -> list[Row]:
    """Blocks of lines separated by blank lines."""
    text = "\n" + decode(stream).replace("\r\n", "\n")
    return [{"text": block.strip("\n")} for block in re.split(r"\n(?:[^\S\n]*\n)+", text) if block.strip()]
