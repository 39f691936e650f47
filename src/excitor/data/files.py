"""Reads one data file into rows: JSON, JSON lines, CSV and Parquet, each plain or gzipped."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, cast

import pyarrow.parquet

from ..errors import ExcitorError
from .formats import Row, is_row


Reader = Callable[[IO[bytes]], list[Row]]


def suffix_of(path: Path) -> str:
    """The suffix that tells the kind of file, in lower case and without a trailing ``.gz``."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def read_file(path: Path, readers: Mapping[str, Reader]) -> list[Row]:
    """All rows of a file, read by its suffix's reader.

    Raises:
        ExcitorError: No reader for this suffix, or the file cannot be read as what its suffix says.
    """
    reader = readers.get(suffix_of(path))
    if reader is None:
        raise ExcitorError(f"{path}: unknown kind of file; accepted are {', '.join(readers)}, each also with .gz")
    try:
        with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as stream:
            rows = reader(cast(IO[bytes], stream))
    except ExcitorError as error:
        raise ExcitorError(f"{path}: {error}") from None
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, pyarrow.ArrowException) as error:
        raise ExcitorError(f"{path} could not be read: {error}") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ExcitorError(f"{path}, row {number}: expected an object with named columns, got {str(row)[:60]!r}")
    return rows


def decode(stream: IO[bytes]) -> str:
    """The text of a UTF-8 file, without the byte order mark some editors write."""
    return stream.read().decode("utf-8-sig")


def read_json(stream: IO[bytes], layout: Callable[[Any], list[Row] | None] = lambda value: None) -> list[Row]:
    """A list of rows, an object that holds them under one key, a single row, or JSON lines under this suffix.

    Args:
        stream: The file.
        layout: Looks first, and gives the rows of a value that has another layout; None for any other value.

    Raises:
        ExcitorError: It is no JSON, or has none of these layouts.
    """
    text = decode(stream)
    try:
        value: Any = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # a whole value and then another one
            return _parse_lines(text)
        raise ExcitorError(f"not valid JSON: {error}") from None
    if (rows := layout(value)) is not None:
        return rows
    if isinstance(value, dict) and is_row(value):
        return [value]
    if isinstance(value, dict):
        lists = {key: rows for key, rows in value.items() if isinstance(rows, list)}
        if len(lists) != 1:
            few = [*list(lists)[:5], *["..."] * (len(lists) > 5)]
            raise ExcitorError(
                "expected a list of rows, or an object with the rows as its only list; "
                f"this object has {len(lists)} lists{': ' * bool(lists)}{', '.join(few)}"
            )
        return next(iter(lists.values()))
    if not isinstance(value, list):
        raise ExcitorError(f"expected a list of rows, got {text.strip()[:60]!r}")
    return value


def _parse_lines(text: str) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ExcitorError(f"line {number} is not valid JSON: {error}") from None
    return rows


def _csv(stream: IO[bytes]) -> list[Row]:
    csv.field_size_limit(2**31 - 1)  # rows that are too long for a model are counted later, not refused here
    rows = list(csv.DictReader(io.StringIO(decode(stream), newline=""), strict=True))
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise ExcitorError(f"row {number} has more or fewer fields than the header line")
    return cast(list[Row], rows)


READERS: dict[str, Reader] = {
    ".json": read_json,
    ".jsonl": lambda stream: _parse_lines(decode(stream)),
    ".csv": _csv,
    ".parquet": lambda stream: pyarrow.parquet.read_table(stream).to_pylist(),
}
