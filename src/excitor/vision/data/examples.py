"""Reads rows with pictures from files, folders and the hub, and finds their pictures."""

from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path

import datasets

from excitor.data.files import READERS, read_json
from excitor.data.sources import FEATURES, Rows, load_examples, read_source, split_limit
from excitor.errors import ExcitorError
from excitor.vision.arguments import CAPTION_INSTRUCTION
from excitor.vision.data.coco import caption_rows, numbered_files
from excitor.vision.data.forms import forms
from excitor.vision.data.scienceqa import IMAGES, is_scienceqa, scienceqa_rows
from excitor.vision.images import listed, missing


_READERS = READERS | {".json": partial(read_json, layout=caption_rows)}
_FEATURES = datasets.Features(FEATURES | {"images": datasets.List(datasets.Value("string"))})


def load_image_examples(
    sources: Sequence[str],
    folders: Sequence[str] = (),
    *,
    caption_instruction: str = CAPTION_INSTRUCTION,
    scienceqa_split: str = "train",
    scienceqa_format: str = "QCM-A",
) -> datasets.Dataset:
    """Read and concatenate sources of rows with pictures; nothing is shuffled, removed or repeated.

    Accepted are COCO's captions, ScienceQA's folder, and rows of every form that
    :func:`excitor.data.load_examples` reads, LLaVA's conversations among them, with a column ``image`` or
    ``images``; ``prompt`` and ``output``, and ``caption`` alone, are accepted beside them. docs/vision.md shows each.
    Rows without a picture, and sources without any, may stand among them.

    Args:
        sources: As for :func:`excitor.data.load_examples`, or a folder with ScienceQA.
        folders: Where pictures are that a row names by a relative path or a number, in the order they are looked for.
            The folder of the data file when not given; ScienceQA's are in its own folder ``images``.
        caption_instruction: What is asked where a row is a caption.
        scienceqa_split: Which problems of ScienceQA.
        scienceqa_format: What is answered to them.

    Returns:
        As from :func:`excitor.data.load_examples`, with a column ``images``, paths of files. ``<image>`` is taken out
        of the texts: pictures make no tokens.

    Raises:
        ExcitorError: A source or a row cannot be used, a picture is not there, or two fit its number.
    """

    def read(source: str) -> Iterator[tuple[str, Rows]]:
        name, limit = split_limit(source)
        if is_scienceqa(Path(name)):
            yield name, scienceqa_rows(Path(name), scienceqa_split, scienceqa_format)[:limit]
        else:
            yield from read_source(source, _READERS)

    for folder in folders:
        if not Path(folder).is_dir():
            raise ExcitorError(f"--images {folder} is no folder.")
    examples = load_examples(sources, forms=forms(caption_instruction), read=read, features=_FEATURES)
    found = _find(examples, [Path(folder) for folder in folders])
    description = examples.info.description
    examples = examples.remove_columns("images").add_column("images", found, feature=_FEATURES["images"])  # pyright: ignore
    distinct = len({picture for row in found for picture in row})
    examples.info.description = f"{description}\n{distinct:,} pictures in {sum(map(bool, found)):,} of the rows"
    return examples


def pictures_of(examples: datasets.Dataset) -> dict[str, str]:
    """Every distinct picture by its path, with the first row that asks for it.

    Args:
        examples: Columns ``images``, ``source``, ``row``.
    """
    found: dict[str, str] = {}
    for pictures, source, row in zip(examples["images"], examples["source"], examples["row"], strict=True):
        for picture in pictures:
            found.setdefault(picture, f"{source}, row {row}")
    return found


def _find(examples: datasets.Dataset, folders: list[Path]) -> list[list[str]]:
    """The paths of all rows' pictures.

    Raises:
        ExcitorError: Some are not there; the message counts them and names the first few.
    """
    numbered = cache(numbered_files)

    @cache
    def find(name: str, source: str) -> str:
        own = Path(source) / IMAGES if is_scienceqa(Path(source)) else Path(source).parent
        places = folders or [own]
        if name.isdecimal():
            return str(_by_number(int(name), {place: numbered(place) for place in places}))
        tried = [place / name for place in places]
        for path in tried:
            if path.is_file():
                return str(path)
        raise ExcitorError(f"{' or '.join(map(str, tried))} {missing(tried[0])}")

    found: list[list[str]] = []
    faults: list[str] = []
    for images, source, row in zip(examples["images"], examples["source"], examples["row"], strict=True):
        found.append([])
        for name in images:
            try:
                found[-1].append(find(name, source))
            except ExcitorError as error:
                faults.append(f"{source}, row {row}: {error}")
    if faults:
        raise ExcitorError(
            f"{len(faults):,} pictures of {len(found):,} rows are not there{listed(faults)}\n"
            "Say with --images in which folder they are."
        )
    return found


def _by_number(number: int, folders: dict[Path, dict[int, list[Path]]]) -> Path:
    where = " or ".join(map(str, folders))
    found = [path for files in folders.values() for path in files.get(number, [])]
    if not found:
        raise ExcitorError(f"no picture in {where} has the number {number} at the end of its name")
    if len(found) > 1:
        raise ExcitorError(f"{', '.join(path.name for path in found)} in {where} all end in the number {number}")
    return found[0]
