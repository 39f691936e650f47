"""Keeps encoded rows on disk: the same rows, tokenizer, template and length need no second encoding."""

import hashlib
import json
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import cast

import datasets
import pyarrow
from datasets import config
from transformers import PreTrainedTokenizerBase


_PACKAGES = ("transformers", "tokenizers", "jinja2", "datasets")  # what encoding is done with


def token_file(
    examples: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, template: str, max_length: int
) -> Path | None:
    """The file for the tokens of these examples, whether it exists or not.

    Its name is a hash of everything that decides the tokens: what the rows say (not where they stand), every file that
    the tokenizer would save, the template, ``max_length``, the code of this package and the versions of those it uses.
    It stands in ``excitor`` in the cache folder of ``datasets`` (``HF_DATASETS_CACHE``).

    Args:
        examples: As of ``load_examples``; columns beyond those, such as pictures, count as well.
        tokenizer: The model's.
        template: Its Jinja text.
        max_length: Most tokens a row may have.

    Returns:
        None where there is nothing to rely on: after ``datasets.disable_caching()``, for a tokenizer whose code is not
        a part of transformers, and for a template that writes the date.
    """
    if not datasets.is_caching_enabled() or not type(tokenizer).__module__.startswith("transformers."):
        return None
    if "strftime_now" in template:
        return None
    digest = hashlib.sha256()
    _add(digest, [template, max_length, type(tokenizer).__name__, *map(version, _PACKAGES)])
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        for file in (*files, *sorted(Path(__file__).parent.glob("*.py"))):
            _add(digest, file.name)
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    for batch in examples.remove_columns(["source", "row"]).iter(batch_size=1000):
        _add(digest, batch)
    return Path(config.HF_DATASETS_CACHE) / "excitor" / f"tokens-{digest.hexdigest()}.arrow"


def read_or_make(file: Path, make: Callable[..., datasets.Dataset]) -> tuple[datasets.Dataset, str]:
    """What the file holds; when there is none, or it cannot be read, what ``make`` gives, which is then kept in it.

    Args:
        file: Of ``token_file``.
        make: Given the keyword arguments of ``Dataset.map`` that say where to keep the result.

    Returns:
        The data set, which belongs to no file any more (``datasets`` would write what is made of it next to that), and
        what was done, in words.
    """
    try:
        if file.exists():
            return _detached(datasets.Dataset.from_file(str(file))), f"tokens read from {file}"
    except (OSError, pyarrow.ArrowInvalid):
        file.unlink(missing_ok=True)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        return make(), f"tokens not kept: {file.parent} cannot be written ({error.strerror})"
    made = make(cache_file_name=str(file), load_from_cache_file=False)
    return _detached(made), f"tokens kept in {file}, for the next run"


def _add(digest: "hashlib._Hash", value: object) -> None:
    digest.update(json.dumps(value).encode())


def _detached(dataset: datasets.Dataset) -> datasets.Dataset:
    table = cast(pyarrow.Table, dataset.with_format("arrow")[:])
    return datasets.Dataset(table, info=dataset.info)
