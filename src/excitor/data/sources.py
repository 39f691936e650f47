"""Reads rows from files, folders and the hub, and normalises them to one data set of examples."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import datasets

from ..errors import ExcitorError
from .files import READERS, Reader, read_file, suffix_of
from .formats import FORMATS, Format, Row, recognise


Rows = Sequence[Row] | datasets.Dataset

FEATURES = datasets.Features(
    {
        "messages": datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")}),
        "prompt": datasets.Value("string"),
        "completion": datasets.Value("string"),
        "source": datasets.Value("string"),
        "row": datasets.Value("int64"),
    }
)


def load_examples(
    sources: Sequence[str],
    *,
    forms: Sequence[Format] = FORMATS,
    read: Callable[[str], Iterator[tuple[str, Rows]]] | None = None,
    features: datasets.Features = FEATURES,
) -> datasets.Dataset:
    """Read and concatenate sources; nothing is shuffled, removed or repeated.

    Args:
        sources: Each a local file (.json, .jsonl, .csv or .parquet, also with .gz), a folder of such files, a folder
            written by ``Dataset.save_to_disk``, or the id of a data set on the hub (its train split). A trailing
            ``#N`` takes the first N rows, unless a file of that very name exists.
        forms: Of rows that are accepted.
        read: Gives the rows of a source; :func:`read_source` if not given.
        features: Of the data set, where the forms give more than is said below.

    Returns:
        A data set with the columns ``messages`` (list of role and content) *or* ``prompt`` and ``completion`` (the
        others are None), ``source`` (file or hub id) and ``row`` (from 1). ``.info.description`` has a line per file:
        how many rows were read, which form was recognised and which columns were left aside.

    Raises:
        ExcitorError: A source is missing, unreadable or empty, has none of the accepted forms, or holds a row of the
            wrong structure; the message names the source and the row.
    """
    if not sources:
        raise ExcitorError("no data given: name at least one file, folder or hub id")
    examples: list[dict[str, Any]] = []
    notes: list[str] = []
    for source in sources:
        for name, rows in (read or read_source)(source):
            columns = column_names(rows)
            form = recognise(columns, name, forms)
            for number, row in enumerate(cast(Iterable[Row], rows), 1):
                try:
                    example = form.convert(row)
                except ExcitorError as error:
                    raise ExcitorError(f"{name}, row {number}: {error} (read as {form})") from None
                examples.append(dict.fromkeys(features) | example | {"source": name, "row": number})
            ignored = ", ".join(column for column in columns if column not in form.required + form.optional)
            notes.append(
                f"{name}: {len(rows):,} rows, {form.name}" + (f"; ignored columns: {ignored}" * bool(ignored))
            )
    dataset = datasets.Dataset.from_list(examples, features=features)
    dataset.info.description = "\n".join(notes)
    return dataset


def read_source(source: str, readers: Mapping[str, Reader] = READERS) -> Iterator[tuple[str, Rows]]:
    """The rows of one source as they stand in it: ``(name, rows)`` per file, at most N rows in all after ``#N``.

    Raises:
        ExcitorError: The source is missing, unreadable or empty.
    """
    name, left = split_limit(source)
    for table, rows in _open(name, readers):
        if len(rows) == 0:
            raise ExcitorError(f"{table} holds no rows")
        if left is not None:
            rows = rows.take(min(left, len(rows))) if isinstance(rows, datasets.Dataset) else rows[:left]
            left -= len(rows)
        yield table, rows
        if left == 0:
            return


def column_names(rows: Rows) -> list[str]:
    """Every column that occurs, in order of appearance; rows of a JSON file need not agree."""
    if isinstance(rows, datasets.Dataset):
        return rows.column_names
    return list(dict.fromkeys(column for row in rows for column in row))


def split_limit(source: str) -> tuple[str, int | None]:
    """The name of a source, and how many rows to take of it: N after ``#N``, else None.

    Raises:
        ExcitorError: What stands after ``#`` is no number of rows.
    """
    name, mark, limit = source.rpartition("#")
    if not mark or Path(source).exists():
        return source, None
    if not limit.isdecimal() or int(limit) == 0:
        raise ExcitorError(f"{source}: after '#' there must be a number of rows of at least 1, got {limit!r}")
    return name, int(limit)


def _open(name: str, readers: Mapping[str, Reader]) -> Iterator[tuple[str, Rows]]:
    path = Path(name)
    if path.is_file():
        yield name, read_file(path, readers)
    elif (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
        yield name, _load_saved(path)
    elif path.is_dir():
        files = sorted(file for file in path.iterdir() if suffix_of(file) in readers)
        if not files:
            raise ExcitorError(f"the folder {name} holds neither a saved data set nor a file of {', '.join(readers)}")
        for file in files:
            yield str(file), read_file(file, readers)
    elif suffix_of(path) in readers or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        near = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        guess = difflib.get_close_matches(path.name, near, n=1)
        raise ExcitorError(
            f"there is no file {name}" + (f"; did you mean {path.with_name(guess[0])}?" if guess else "")
        )
    else:
        yield name, _load_from_hub(name)


def _load_saved(path: Path) -> datasets.Dataset:
    saved = datasets.load_from_disk(str(path))
    if isinstance(saved, datasets.Dataset):
        return saved
    if "train" not in saved:
        raise ExcitorError(f"{path} has no split 'train'; name the folder of one split: {', '.join(map(str, saved))}")
    return saved["train"]


def _load_from_hub(name: str) -> datasets.Dataset:
    try:
        return datasets.load_dataset(name, split="train")
    except (OSError, ValueError, RuntimeError) as error:  # no network, no such id, no such split, a config is needed
        raise ExcitorError(
            f"{name} is neither a local file or folder nor a data set that could be loaded from the hub: {error}"
        ) from error
